# The daemon: it applies async projections by itself, at once and exactly once; it
# sleeps when there is nothing to do; it comes back whatever ends it.

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

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('daemon' . $preload, qq{
shared_preload_libraries = '$preload'
max_worker_processes = 16
max_prepared_transactions = 5
evsource.max_workers = 2
restart_after_crash = on
});

	my ($sql, $soon) = asking($node, $mode);
	my $pids = sub { return $sql->("select string_agg(pid::text, ',' order by pid) from evsource.daemon_status where role ~ '$_[0]'") };
	my $model = q{(select coalesce(sum(n), 0) from counts)};
	my $log = q{(select count(*) from evsource.events where type = 'Counted')};
	my $applied = sub { $soon->("select $model = $log", $_[0]) };

	$sql->(q{
create extension evsource;
create table counts (stream text primary key, n bigint);
create table slow (position bigint);
-- a handler that takes as long as its event says
create function sleepy(e evsource.event) returns void language plpgsql as
	$$ begin perform pg_sleep(coalesce((e.data ->> 'sleep')::float, 0)); insert into public.slow values (e.position); end $$;
select evsource.append('a-1', 'Counted');
select evsource.create_projection('counts', mode => 'async', types => '{Counted}', tables => '{counts}', query =>
	'insert into public.counts select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = counts.n + excluded.n');
});
	is($sql->('select evsource.start_daemon()'), 't', "$mode: the daemon is started") unless $preload;
	$applied->('what the log has is applied by itself');
	is($sql->('select evsource.start_daemon()'), 'f', "$mode: it is started once");
	$soon->(q{select array_agg(role || ' ' || state order by role) = '{coordinator idle,worker idle}' from evsource.daemon_status}, 'a coordinator and a worker, as there is one projection');

	# A committed append is applied at once: long before anybody would look unasked.
	my $asleep = q{select bool_and(wait_event in ('Extension', 'EvsourceIdle')) from pg_stat_activity where backend_type in ('evsource coordinator', 'evsource worker')};
	my $late = 0;
	foreach my $i (1 .. 10)
	{
		$node->poll_query_until('postgres', $asleep) or die 'the daemon does not sleep';
		$late += $sql->(qq{
select from evsource.append('a-1', 'Counted');
do \$\$ begin for i in 1 .. 600 loop exit when $model = $log; perform pg_sleep(0.001); end loop; end \$\$;
select ($model <> $log)::int;
});
	}
	cmp_ok($late, '<=', 1, "$mode: an append wakes the worker");

	# So does a prepared one, when it is committed.
	$sql->(q{begin; select from evsource.append('p-1', 'Counted'); prepare transaction 'p'});
	$sql->(q{select from evsource.append('a-1', 'Counted')});
	is($sql->(q{select coalesce(sum(n), 0) from counts where stream = 'p-1'}), 0, "$mode: a prepared append is not applied");
	$sql->(q{commit prepared 'p'});
	$applied->('until it is committed; then what was behind it is, too');
	$sql->(q{begin; select from evsource.append('p-1', 'Counted'); prepare transaction 'p'});
	$sql->(q{select from evsource.append('a-1', 'Counted')});
	$sql->(q{rollback prepared 'p'});
	$applied->('and also when it is rolled back');

	# With nothing to do it sleeps.
	my @pids = split /,/, $pids->('.');
	$soon->($asleep, 'all of the daemon sleeps');
	my $ticks = sub { my $sum = 0; foreach (@pids) { my @stat = split / /, slurp_file("/proc/$_/stat") =~ s/^.*\) //sr; $sum += $stat[11] + $stat[12] } return $sum };
	my $switches = sub { my $sum = 0; foreach (@pids) { $sum += $1 if slurp_file("/proc/$_/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m } return $sum };
	my $before = $ticks->();
	my $slept = $switches->();
	sleep 1.5;    # what it does in this time is measured
	cmp_ok($ticks->() - $before, '<=', 1, "$mode: an idle daemon uses no CPU");

	# Who may be needed by a session that does not know of it looks once a second; twice what that makes is little still.
	cmp_ok($switches->() - $slept, '<=', 12, "$mode: and does not poll");
	is($sql->(q{select count(*) from pg_stat_activity where backend_type ~ '^evsource' and (backend_xmin is not null or backend_xid is not null)}), 0, "$mode: it holds no snapshot");
	$soon->(q{select bool_and(xact_start is null or xact_start > backend_start + interval '1 s') from pg_stat_activity where backend_type in ('evsource coordinator', 'evsource worker')}, 'nor does it seem to be in a transaction since it began');
	is($sql->(q{select count(*) from pg_locks l join pg_stat_activity a using (pid) where backend_type ~ '^evsource' and locktype not in ('advisory', 'virtualxid')}), 0, "$mode: and no lock but its own");

	# A rebuild that was requested is done by a worker.
	$sql->(q{update counts set n = n + 1000; select evsource.request_rebuild('counts')});
	$applied->('a rebuild that was requested is done');

	# A slow projection does not hold up others, also when there are more of them than workers.
	$sql->(q{
select evsource.create_projection('slow', 'public.sleepy', mode => 'async', types => '{Counted,Slow}');
select evsource.create_projection('third', mode => 'async', types => '{Other}', query => 'insert into public.slow select 0 from new_events');
});
	$soon->(q{select count(*) = 2 from evsource.daemon_status where role = 'worker'}, 'there are no more workers than evsource.max_workers');
	$soon->(q{select count(*) = 3 and bool_and(lag = 0) from evsource.projection_status}, 'all projections are applied');
	$sql->(q{select from evsource.append('s-1', 'Slow', '{"sleep": 60}')});
	$soon->(q{select count(*) = 1 from evsource.daemon_status where projection = 'slow'}, 'one of them is held up');
	$sql->(q{select from evsource.append('a-1', 'Counted') ; select from evsource.append('o-1', 'Other')});
	$soon->(qq{select $model = $log and (select count(*) from slow where position = 0) = 1}, 'the others go on');
	is($sql->(q{select state || ' ' || projection from evsource.daemon_status where projection = 'slow'}), 'applying slow', "$mode: meanwhile");

	# What it is doing when it is stopped is rolled back.
	my $start = time;
	is($sql->('select evsource.stop_daemon()'), 't', "$mode: it can be stopped");
	cmp_ok(time - $start, '<', 20, "$mode: without waiting for what it is doing");
	is($sql->(q{select count(*) from pg_stat_activity where backend_type in ('evsource coordinator', 'evsource worker')}), 0, "$mode: and is gone then");
	is($sql->('select evsource.stop_daemon()'), 'f', "$mode: once");
	$sql->(q{select from evsource.append('a-1', 'Counted')});
	$sql->(q{alter database postgres set evsource.daemon = off});
	is($node->psql('postgres', 'select evsource.start_daemon()'), 3, "$mode: a database can be without it");
	$sql->(q{set evsource.daemon = off; select evsource.drop_projection('slow'); alter database postgres reset evsource.daemon});
	# preloaded it comes by itself, and may have done so already
	$sql->('select evsource.start_daemon()');
	is($sql->(q{select count(*) from evsource.daemon_status where role = 'coordinator' and pid is not null}), 1, "$mode: and started again");
	$applied->('it goes on where it was');

	# Whoever of them is killed comes back.
	foreach my $role ('worker', 'coordinator')
	{
		my $old = $pids->($role);
		$sql->("select pg_terminate_backend(pid) from evsource.daemon_status where role = '$role'");
		$sql->(q{select count(evsource.append('a-1', 'Counted')) from generate_series(1, 10)});
		$soon->("select count(*) >= 1 from evsource.daemon_status where role = '$role' and pid <> all ('{$old}')", "a killed $role comes back");
		$applied->('and every event is applied once');
	}

	# A change of the number of workers is heard.
	$node->append_conf('postgresql.conf', 'evsource.max_workers = 1');
	$node->reload;
	$soon->(q{select count(*) = 1 from evsource.daemon_status where role = 'worker'}, 'a reload changes the number of workers');

	# Without a projection to apply there is no worker.
	$sql->(q{select evsource.drop_projection('third'); select evsource.pause_projection('counts')});
	$soon->(q{select count(*) = 0 from evsource.daemon_status where role = 'worker'}, 'no worker for a paused projection');
	$sql->(q{select from evsource.append('a-1', 'Counted'); select evsource.resume_projection('counts')});
	$applied->('it goes on when it is resumed');

	# It survives a crash of the server, in the middle of its work.
	$sql->(q{select count(evsource.append('a-1', 'Counted')) from generate_series(1, 1000)});
	ok(kill_and_wait($node, split /,/, $pids->('worker')), "$mode: the server comes back after a crash");
	$applied->('and the daemon, and every event is applied once');
	$sql->(q{select from evsource.append('a-1', 'Counted')});
	$applied->('and what comes then');

	# And a restart, if it is preloaded.
	$node->restart;
	$sql->(q{select from evsource.append('a-1', 'Counted')});
	$sql->('select evsource.start_daemon()') unless $preload;
	$applied->('after a restart');
	$node->stop;
}

done_testing();
