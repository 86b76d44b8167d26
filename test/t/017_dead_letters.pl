# Dead letters go through a dump, and are tried again where it was restored; those
# that belong to tables which no dump has stay behind.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('letters');
$node->safe_psql('postgres', 'create database old');
$node->safe_psql('postgres', 'create database new');

$node->safe_psql('old', q{
create extension evsource;
set client_min_messages = error;
set evsource.async_attempts = 1;
create table obstacles (position bigint);
create table sums (stream text primary key, seen bigint[] not null);
create function add_up(e evsource.event) returns void language plpgsql as $$
begin
	if exists (select from public.obstacles o where o.position = e.position) then
		raise exception 'no way past position %', e.position using errcode = 'VX001', detail = 'It is closed.', hint = 'Open it.';
	end if;
	insert into sums values (e.stream, array[e.position]) on conflict (stream) do update set seen = sums.seen || e.position;
end $$;
create function pair(e evsource.event) returns text[] language sql immutable as $$ select array[e.stream, e.type] $$;
create function by_fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
	if exists (select from public.obstacles o where o.position = e.position) then raise exception 'no way'; end if;
	return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
select evsource.create_projection('sums', 'add_up', mode => 'async', on_error => 'dead_letter', tables => '{sums}', partitions => 2);
select evsource.create_projection('pairs', 'by_fold', key => 'pair', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('stopped', 'by_fold', mode => 'async');
select count(evsource.append('account-' || i % 4, 'Type' || i % 3)) from generate_series(1, 40) i;
insert into obstacles values (9), (14);
select evsource.run_projection();
insert into obstacles values (23);
call evsource.rebuild_projection('sums', online => true, keep_old => true);
});

my $troubles = q{
select 'letter ' || d::text from evsource.dead_letters d where projection in (select projection from evsource.projections)
union all select 'key ' || k::text from evsource.parked_keys k where projection in (select projection from evsource.projections)
union all select 'failure ' || f::text from evsource.projection_failures f
union all select 'partition ' || p::text from evsource.partitions p
union all select 'status ' || (projection, state, position, lag, event_count, last_error)::text from evsource.projection_status
union all select 'sum ' || s::text from sums s
order by 1};
my $expected = $node->safe_psql('old', $troubles);
like($expected, qr/^letter \(sums,9,/m, 'there are dead letters');
like($expected, qr/^failure \(stopped,0,9,1,P0001,/m, 'and failures');
is($node->safe_psql('old', 'select count(distinct projection) from evsource.dead_letters'), 3, 'those of an old version among them');

my $file = $node->basedir . '/old.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'old' ], 'dump');
$node->command_ok([ 'pg_restore', '-d', 'new', $file ], 'restore');
is($node->safe_psql('new', $troubles), $expected, 'everything is where it was');
is($node->safe_psql('new', 'select count(distinct projection) from evsource.dead_letters'), 2, 'but what belonged to an old version');
is($node->safe_psql('new', 'select count(*) from evsource.parked_keys k where not exists (select from evsource.dead_letters d where (d.projection, d.position) = (k.projection, k.position))'), 0, 'nor are its keys there');

# Nothing passes them; then they are tried again, in order.
$node->safe_psql('new', q{select count(evsource.append('account-' || i % 4, 'Type1')) from generate_series(1, 8) i; truncate obstacles; select evsource.run_projection('sums')});
is($node->safe_psql('new', q{select count(*) from evsource.dead_letters d where projection = 'sums' and position > 40}), 6, 'what comes later waits behind them');
$node->safe_psql('new', q{
select evsource.retry_dead_letters(projection) from (select distinct projection from evsource.dead_letters) p;
select evsource.resume_projection('stopped');
select evsource.run_projection();
});
is($node->safe_psql('new', q{select count(*) from evsource.dead_letters}), 0, 'all are applied');
is($node->safe_psql('new', q{select bool_and(seen = (select array_agg(position order by position) from evsource.events e where e.stream = s.stream)) from sums s}), 't', 'in the order of each stream');
is($node->safe_psql('new', q{select count(*) from evsource.projections p, lateral evsource.verify_projection(p.projection, max_differences => null) v}), 0, 'and each read model is what the log makes of it');
$node->stop;

done_testing();
