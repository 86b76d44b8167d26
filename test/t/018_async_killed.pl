# Workers that are killed in the middle of a batch, and the server with them: each
# read model is what a replay of the log makes of it, and so is each state, whether
# its fold saves it with each batch or, keyed by stream, when its policy says.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Killing;
use Node;

let_daemon_work();

my $node = start_node('killed', q{
shared_preload_libraries = 'evsource'
restart_after_crash = on
evsource.max_workers = 3
});
my ($sql) = asking($node);

# A batch stops where it is told to, with part of it written, until it is killed.
$sql->(q{
create extension evsource;
create table stop_at (position bigint);
create table sums (stream text primary key, n bigint not null, last bigint not null);
create table types (type text primary key, n bigint not null);
create function add_up(e evsource.event) returns void language plpgsql as $$
begin
	insert into sums values (e.stream, 1, e.position) on conflict (stream) do update set n = sums.n + 1, last = excluded.last;
	if exists (select from public.stop_at s where s.position = e.position) then
		perform pg_sleep(60);
	end if;
end $$;
select evsource.create_projection('sums', 'add_up', mode => 'async', tables => '{sums}', partitions => 2);
select evsource.create_projection('types', mode => 'async', tables => '{types}',
	query => 'insert into types select type, count(*) from new_events group by 1 on conflict (type) do update set n = types.n + excluded.n');
select evsource.create_projection('fold', 'evsource.fold_count', key => 'global', mode => 'async');
create function chain(before text, n bigint) returns text language sql immutable as $$ select md5(coalesce(before, '') || n) $$;
create aggregate chain(bigint) (sfunc = chain, stype = text);
create function follow(state jsonb, e evsource.event) returns jsonb language sql immutable as $$
	select jsonb_build_object('chain', public.chain(state ->> 'chain', (e).position)) $$;
select evsource.create_projection('states', 'follow', mode => 'async');
select count(evsource.append('account-' || i % 7, 'Type' || i % 3)) from generate_series(1, 500) i;
});
ok($node->poll_query_until('postgres', 'select bool_and(lag = 0) from evsource.projection_status'), 'all is applied');

foreach my $round (1 .. 5)
{
	$sql->(q{
begin;
select count(evsource.append('account-' || i % 7, 'Type' || i % 3)) from generate_series(1, 300) i;
delete from stop_at;
insert into stop_at select max(position) - 100 from evsource.events;
commit});
	ok($node->poll_query_until('postgres', q{select count(*) = 1 from pg_stat_activity where backend_type = 'evsource worker' and wait_event = 'PgSleep'}),
		"round $round: a worker is in the middle of a batch");
	my $pid = $sql->(q{select pid from pg_stat_activity where backend_type = 'evsource worker' and wait_event = 'PgSleep'});
	# as an orderly end, or with all of the server
	if ($round % 2)
	{
		kill_and_wait($node, $pid);
	}
	else
	{
		$sql->("delete from stop_at; select pg_terminate_backend($pid)");
		$node->poll_query_until('postgres', "select not exists (select from pg_stat_activity where pid = $pid)")
			or die 'the worker does not end';
	}
	$sql->('delete from stop_at');
	# whoever has begun with it again is woken
	$sql->(q{select pg_cancel_backend(pid) from pg_stat_activity where backend_type = 'evsource worker' and wait_event = 'PgSleep'});
	ok($node->poll_query_until('postgres', 'select bool_and(lag = 0) from evsource.projection_status'), "round $round: it goes on to the end");
}
is($sql->(q{select count(*) from evsource.projections p, lateral evsource.verify_projection(p.projection, max_differences => null) v}), 0, 'each read model is what a replay makes of it');
is($sql->(q{select string_agg(projection || ' ' || (event_count = (select count(*) from evsource.events)), ', ' order by projection) from evsource.projection_status}),
	'fold true, states true, sums true, types true', 'and each event is counted once');

# What the policy saves: not each batch's states, and no other than those of the log.
my $folded = q{select key, state ->> 'chain' as chain, event_count from %s where projection = 'states'};
my $replayed = q{select e.stream, chain(e.position order by e.position), count(*) from evsource.events e %s group by e.stream};
is($sql->(sprintf "($folded) except ($replayed)", 'evsource.states', ''), '', 'a state that the policy saves is a replay of its stream');
is($sql->(sprintf "($replayed) except ($folded)", '', 'evsource.states'), '', 'and none is missing');
is($sql->(sprintf "($folded) except ($replayed)", 'evsource.snapshots',
		q{join evsource.snapshots s on s.projection = 'states' and s.key = e.stream and e.position <= s.position}), '', 'so is each snapshot, of its events');
is($sql->(q{select count(*) filter (where s.event_count >= 100) > 0 and count(*) filter (where s.event_count < l.event_count) > 0
	from evsource.load_states('states') l join evsource.snapshots s on s.projection = 'states' and s.key = l.key}), 't', 'which are not all of the last batch');
$node->stop;

done_testing();
