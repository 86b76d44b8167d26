# What is shown of the daemon's work is what is: who applies a projection, how
# often others were in the way, how far a rebuild is.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Killing;
use Node;
use Time::HiRes qw(time sleep);

let_daemon_work();

my $node = start_node('daemon_status', q{
shared_preload_libraries = 'evsource'
restart_after_crash = on
evsource.max_workers = 2
});
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
create table sums (stream text primary key, n bigint);
create table obstacles (code text);
-- a handler that takes as long as its event says
create function add_up(e evsource.event) returns void language plpgsql as $$
declare
	state text := (select min(code) from public.obstacles);
begin
	if state is not null then raise exception 'in the way' using errcode = state; end if;
	perform pg_sleep((e.data ->> 'sleep')::float);
	insert into sums values (e.stream, 1) on conflict (stream) do update set n = sums.n + 1;
end $$;
select evsource.create_projection('sums', 'add_up', mode => 'async', tables => '{sums}');
select evsource.create_projection('divided', 'evsource.fold_count', mode => 'async', partitions => 2);
select evsource.create_projection('live', 'evsource.fold_count');
select evsource.create_projection('paused', 'evsource.fold_count', mode => 'async');
select evsource.pause_projection('paused');
select count(evsource.append('account-' || i % 5, 'Paid')) from generate_series(1, 100) i;
});
my $workers = q{select string_agg(s.projection || ' ' || coalesce(a.backend_type, 'nobody'), ', ' order by s.projection)
	from evsource.projection_status s left join pg_stat_activity a on a.pid = s.worker_pid};

# Who is responsible is shown also when there is nothing to do; of paused and inline ones nobody is.
$soon->(qq{select ($workers) = 'divided evsource worker, live nobody, paused nobody, sums evsource worker'}, 'each has its worker');
$soon->(q{select bool_and(lag = 0) from evsource.projection_status where projection <> 'paused'}, 'all is applied');
is($sql->(q{select count(*) from evsource.projection_status where worker_pid is not null and heartbeat between now() - interval '1 min' and clock_timestamp()}), 2, 'which has said that it lives');
is($sql->(q{select count(*) from evsource.projection_status where worker_pid is null and heartbeat is not null}), 0, 'who is not there does not');

# Who applies it now is shown, whoever it is at home with.
$sql->(q{select from evsource.append('account-1', 'Paid', '{"sleep": 60}')});
$soon->(q{select a.wait_event = 'PgSleep' from evsource.projection_status s join pg_stat_activity a on a.pid = s.worker_pid where s.projection = 'sums'}, 'the worker that is at it is shown');
is($sql->(q{select lag from evsource.projection_status where projection = 'sums'}), 1, 'with what it has still to do');

# A dead one never is: whatever ends it, the process that is shown is there.
my $wrong = 0;
my $seen = 0;
my $old = $sql->(q{select worker_pid from evsource.projection_status where projection = 'sums'});
$sql->("select pg_terminate_backend($old)");
for (my $start = time; time - $start < 20 && !$seen;)
{
	my $result = $sql->(q{select concat_ws(' ', s.worker_pid, a.pid is null) from (select worker_pid from evsource.projection_status where projection = 'sums' offset 0) s
		left join pg_stat_activity a on a.pid = s.worker_pid where s.worker_pid is not null});
	next if $result eq '' || $result =~ /^$old /;
	$seen = 1;
	$wrong = 1 if $result =~ / t$/;
}
ok($seen && !$wrong, 'a new one takes its place');
ok(kill_and_wait($node, $sql->(q{select worker_pid from evsource.projection_status where projection = 'sums'})), 'the server is back');
is($sql->(q{select count(*) from evsource.projection_status s where worker_pid is not null and not exists (select from pg_stat_activity a where a.pid = s.worker_pid)}), 0, 'nobody who died with it is shown');
$soon->(q{select count(worker_pid) = 2 from evsource.projection_status}, 'others are');
$sql->('select evsource.stop_daemon()');
is($sql->(q{select count(worker_pid) + count(heartbeat) from evsource.projection_status}), 0, 'nor anybody after stop_daemon');
$sql->(q{create or replace function add_up(e evsource.event) returns void language plpgsql as $$
declare
	state text := (select min(code) from public.obstacles);
begin
	if state is not null then raise exception 'in the way' using errcode = state; end if;
	perform pg_sleep(0.003);    -- so slow that a rebuild can be watched
	insert into sums values (e.stream, 1) on conflict (stream) do update set n = sums.n + 1;
end $$;
select evsource.start_daemon()});
$soon->(q{select bool_and(lag = 0) from evsource.projection_status where projection <> 'paused'}, 'all is applied');

# Conflicts are counted, and no attempt is.
is($sql->(q{select sum(conflicts) from evsource.projection_status}), 0, 'no conflict yet');
foreach my $code ('40001', '40P01', '55P03')
{
	my $before = $sql->(q{select conflicts from evsource.projection_status where projection = 'sums'});
	$sql->("insert into obstacles values ('$code'); select from evsource.append('account-1', 'Paid')");
	$soon->("select conflicts > $before and last_error = 'in the way' from evsource.projection_status where projection = 'sums'", "$code is a conflict");
	is($sql->(q{select state from evsource.projection_status where projection = 'sums'}), 'active', 'and no failure');
	$sql->('truncate obstacles');
	$soon->(q{select lag = 0 and last_error is null from evsource.projection_status where projection = 'sums'}, 'it goes on');
}
is($sql->(q{select conflicts from evsource.projection_status where projection = 'divided'}), 0, 'the other had none');

# A rebuild shows how far it is, how fast and how long it takes, in place and beside.
$sql->(q{select count(evsource.append('account-' || i % 5, 'Paid')) from generate_series(1, 1000) i});
$soon->(q{select lag = 0 from evsource.projection_status where projection = 'sums'}, 'many events');
foreach my $online ('false', 'true')
{
	my $total = $sql->(q{select count(*) from evsource.events});
	my %seen;
	my $bad = '';
	my $last = 0;
	$sql->("select evsource.request_rebuild('sums', online => $online)");
	for (my $start = time; time - $start < 30; sleep 0.05)
	{
		my $row = $sql->(q{select concat_ws(' ', state, online, events_done, events_total, percent > 0 and percent < 100, events_per_second between 10 and 1000,
			extract(epoch from time_left) between 0 and 60) from evsource.progress where projection = 'sums'});
		last if $row eq '';
		my ($state, $beside, $done, $of, @rest) = split / /, $row;
		next if $state ne 'rebuilding';
		$bad .= "$row\n" if $of != $total || $done < $last || $beside ne ($online eq 'true' ? 't' : 'f');
		$bad .= "$row\n" if $done > 0 && $done < $total && "@rest" ne 't t t' && "@rest" ne 't';
		$seen{$done} = 1 if $done > 0 && $done < $total && "@rest" eq 't t t';
		$last = $done;
	}
	is($bad, '', "online => $online: what is shown is so");
	cmp_ok(scalar(keys %seen), '>=', 2, "online => $online: and grows as it runs");
	$soon->(qq{select state = 'active' and event_count = $total from evsource.projection_status where projection = 'sums'}, "online => $online: to the end");
}

# What inline projections have applied is noted now and then, so that nobody has to count it all.
$sql->(q{select evsource.pause_projection('sums')});

# The worker that rebuilds holds it, and is nobody else, also where it has nothing to apply.
$sql->(q{select evsource.pause_projection('divided'); select evsource.request_rebuild('sums', online => false)});
my $held = '';
for (my $start = time; time - $start < 30 && $sql->('select count(*) from evsource.progress'); sleep 0.05)
{
	$held .= $sql->(q{select held_by from evsource.projection_status where projection = 'sums'});
}
is($held, '', 'who rebuilds is not shown as somebody else');
is($sql->('select count(*) from evsource.progress'), 0, 'until it is done');
$sql->(q{select evsource.resume_projection('divided')});

$sql->(q{select count(evsource.append_batch('account-9', array_fill('Paid'::text, array[1000]), array_fill('{}'::jsonb, array[1000]))) from generate_series(1, 11)});
$soon->(q{select event_count > 10000 from evsource.checkpoints where projection = 'live'}, 'the count of an inline projection is noted');
is($sql->(q{select event_count = (select count(*) from evsource.events) from evsource.projection_status where projection = 'live'}), 't', 'and is right');
$node->stop;

done_testing();
