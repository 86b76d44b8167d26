# The daemon when several start it at the same time, when its launcher is killed,
# with more partitions than workers, and when it is stopped while a handler is at
# work, also by a role that may not signal its processes.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('starters' . $preload, qq{
shared_preload_libraries = '$preload'
max_worker_processes = 24
evsource.max_workers = 2
evsource.max_partitions = 4
log_min_messages = debug1
});

	my ($sql, $soon) = asking($node, $mode);
	my $applied = sub { $soon->('select coalesce(sum(n), 0) = (select count(*) from evsource.events) from counts', $_[0]) };
	my $append = sub { $sql->(q{select count(evsource.append('a-' || n, 'Counted')) from generate_series(1, 50) n}) };
	my $one = sub { $soon->(q{select array_agg(backend_type order by backend_type) = '{evsource coordinator,evsource launcher,evsource worker,evsource worker}' from pg_stat_activity where backend_type ~ '^evsource'}, $_[0]) };

	# Partitions: no more than the setting allows, each applied whoever is free.
	$sql->(q{
create extension evsource;
create table counts (stream text primary key, n bigint);
create function count_stream(e evsource.event) returns void language sql as
	$$ insert into public.counts as c values ((e).stream, 1) on conflict (stream) do update set n = c.n + 1 $$;
});
	my ($status, $out, $error) = $node->psql('postgres', q{select evsource.create_projection('counts', 'count_stream', mode => 'async', tables => '{counts}', partitions => 5)});
	like($error, qr/partitions must be between 1 and 4/, "$mode: evsource.max_partitions is the most");
	$sql->(q{select evsource.create_projection('counts', 'count_stream', mode => 'async', tables => '{counts}', partitions => 4)});

	# Started by many at the same time there is one of it.
	$sql->('select evsource.stop_daemon()');
	my $script = PostgreSQL::Test::Utils::tempdir() . '/start.sql';
	append_to_file($script, "select evsource.start_daemon();\n");
	$node->command_ok([ 'pgbench', '-n', '-c', 6, '-j', 2, '-t', 2, '-f', $script, 'postgres' ], "$mode: six sessions start it");
	$append->();
	$one->('there is one daemon');
	$applied->('four partitions are applied by two workers');
	is($sql->('select evsource.start_daemon()'), 'f', "$mode: it is there");
	is($sql->('select count(*), sum(event_count) from evsource.partitions'), '4|50', "$mode: each event counts once");

	# Who waits hears that there is none, where none comes by itself.
	if (!$preload)
	{
		$sql->('select evsource.stop_daemon()');
		$append->();
		($status, $out, $error) = $node->psql('postgres', q{select evsource.wait_for('counts', timeout => '100 ms')});
		like($error, qr/HINT:  No daemon runs for this database: call evsource.start_daemon\(\)/, "$mode: who waits is told to start it");
		$sql->('select evsource.start_daemon()');
	}

	# Its launcher is killed: it comes back, and no two daemons are there.
	my $launcher = $sql->(q{select pid from pg_stat_activity where backend_type = 'evsource launcher'});
	$sql->("select pg_terminate_backend($launcher)");
	$append->();
	$soon->("select count(*) = 1 from pg_stat_activity where backend_type = 'evsource launcher' and pid <> $launcher", 'a killed launcher comes back');
	$one->('with all of the daemon');
	$append->();
	$applied->('and every event is applied once');

	# Killed and started by hand before it comes back: one stays. (The server log
	# tells when it has come back; without preloading, the one by hand is in it, too.)
	my $log = -s $node->logfile;
	my $launchers = $preload ? 1 : 2;
	$sql->(q{select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'evsource launcher'});
	# (Without preloading it is started only when the coordinator has seen that its launcher died.)
	$preload ? $sql->('select evsource.start_daemon()') : $soon->('select evsource.start_daemon()', 'another one is started');
	$append->();
	$applied->('started by hand it goes on');
	$node->wait_for_log(qr/(starting background worker process "evsource launcher.*){$launchers}/s, $log);
	$one->('and stays one when the launcher comes back');

	# Stopped, and dropped, while a handler is at work: nobody waits for the handler,
	# and who wants to pause its projection has its turn before a new worker.
	$sql->(q{
create role keeper;
grant create, usage on schema public to keeper;
select evsource.grant_access('keeper', 'admin');
set role keeper;
create table slow (position bigint);
create function sleepy(e evsource.event) returns void language plpgsql as $$ begin perform pg_sleep(60); insert into public.slow values (e.position); end $$;
select evsource.create_projection('slow', 'public.sleepy', mode => 'async');
});
	$soon->(q{select count(*) = 1 from evsource.daemon_status where projection = 'slow'}, 'a handler is at work');
	my $keeper = $node->background_psql('postgres');
	$keeper->query_safe('set role keeper');
	$keeper->query_until(qr/asked/, "\\echo asked\nselect evsource.pause_projection('slow');\n\\echo paused\n");
	$soon->(q{select count(*) = 1 from pg_stat_activity where query ~ '^select evsource.pause' and wait_event_type = 'Lock'}, 'who pauses it waits for the handler');
	is($sql->('set role keeper', 'select evsource.stop_daemon()'), 't', "$mode: stopped");
	$keeper->query_until(qr/paused/, '');
	is($sql->(q{select state from evsource.projection_status where projection = 'slow'}), 'paused', "$mode: and it is paused");
	$keeper->quit;
	$sql->('set evsource.allow_drop = on; drop extension evsource cascade');
	is($sql->('select count(*) from slow'), 0, "$mode: what it did is rolled back");
	is($sql->(q{select count(*) from pg_stat_activity where backend_type in ('evsource worker', 'evsource coordinator')}), 0, "$mode: nobody is left");

	# It cannot see an extension that is not committed yet.
	(undef, undef, $error) = $node->psql('postgres', q{\set VERBOSITY sqlstate
set statement_timeout = '5s'; begin; create extension evsource; select evsource.start_daemon(); commit});
	like($error, $preload ? qr/NOTICE:  00000/ : qr/ERROR:  55000/, "$mode: in the transaction that creates the extension nobody waits for it");
	$node->stop;
}

done_testing();
