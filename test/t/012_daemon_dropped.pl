# DROP EXTENSION and DROP DATABASE do not wait for a handler that does not come to
# an end: it is rolled back, and the daemon leaves in good order. Nor does the first
# for who waits for the daemon, or for events.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('dropped' . $preload, "shared_preload_libraries = '$preload'\nmax_worker_processes = 16");
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;

	my $database = 'postgres';
	my $sql = sub { return $node->safe_psql($database, "set client_min_messages = warning; set statement_timeout = '30s'; $_[0]") };
	my $soon = sub { my ($query, $name) = @_; ok($node->poll_query_until($database, $query), "$mode: $name") };

	# The handler waits for as long as somebody else holds the lock.
	my $make = q{
create extension evsource;
create table if not exists applied (position bigint primary key);
create or replace function slow(e evsource.event) returns void language plpgsql as $$
begin
	perform pg_advisory_xact_lock_shared(1);
	insert into public.applied values (e.position);
end $$;
select evsource.create_projection('slow', 'public.slow', mode => 'async');
select from evsource.append('a-1', 'Happened');
};
	my $start = $preload ? '' : 'select evsource.start_daemon();';
	my $drop = 'set evsource.allow_drop = on; drop extension evsource cascade;';
	my $waiting = q{(select coalesce(min(pid), 0) from pg_locks where locktype = 'advisory' and classid = 0 and objid = 1 and objsubid = 1 and not granted)};
	my $at_work = sub { $soon->("select $waiting > 0", $_[0]) };
	my $gone = sub { $soon->(q{select count(*) = 0 from pg_stat_activity where backend_type in ('evsource coordinator', 'evsource worker')}, $_[0]) };
	my $hold = sub {
		my $holder = Session->new(database => $database);
		$holder->must('select pg_advisory_lock(1)');
		return $holder;
	};

	my $holder = $hold->();
	$sql->($make . $start);
	$at_work->('a handler is at work');

	# Who is refused disturbs nobody.
	my $pid = $sql->("select $waiting");
	my ($code, $out, $err) = $node->psql('postgres', 'drop extension evsource cascade');
	like($err, qr/because its log holds events/, "$mode: a drop is refused");
	is($sql->("select $waiting"), $pid, "$mode: the handler goes on");

	# A drop that is rolled back: the daemon comes back.
	$sql->("begin; $drop rollback");
	$at_work->('after a drop that was rolled back another one is at work');
	isnt($sql->("select $waiting"), $pid, "$mode: in another process");
	is($sql->('select count(*) from evsource.projection_failures'), 0, "$mode: it has not failed");

	# Who drops has locks already that the worker would need, and others wait for the worker.
	$sql->(q{select evsource.create_subscription('idle', categories => '{quiet}')});
	my ($waits_for, $fetches) = map { Session->new(database => $database) } 1 .. 2;
	$waits_for->send(q{select evsource.wait_for('slow', timeout => '1min');});
	$fetches->send(q{select count(*) from evsource.fetch_events('idle', wait => '1min');});
	$soon->(q{select count(*) = 2 from pg_stat_activity where query ~ 'evsource\.(wait_for|fetch_events)' and wait_event in ('Extension', 'EvsourceWait', 'EvsourceFetch')}, 'two wait');
	$sql->("begin; lock evsource.crash_marks; lock evsource.checkpoints in share row exclusive mode; $drop commit");
	is(ends($waits_for), '55P03', "$mode: who waits for a projection gives way, with an error");
	is(ends($fetches), '0', "$mode: who waits for events has none");
	$_->close foreach $waits_for, $fetches;
	$gone->('it leaves at once when the extension is dropped');
	is($sql->('select count(*) from applied'), 0, "$mode: what it did is rolled back");

	# Created again.
	$sql->($make . $start);
	$at_work->('the handler of another one is at work');
	$holder->must('select pg_advisory_unlock(1)');
	$soon->('select count(*) = 1 from applied', 'and comes to its end');
	$holder->must('select pg_advisory_lock(1)');

	# In one transaction.
	$sql->(q{select from evsource.append('a-1', 'Happened')});
	$at_work->('at the next event');
	$sql->("begin; $drop truncate applied; $make commit");
	$sql->('select evsource.start_daemon()') unless $preload;
	$at_work->('an extension that replaces it has its own');
	$holder->must('select pg_advisory_unlock(1)');
	$soon->('select count(*) = 1 from applied', 'it is applied');

	# By its schema, and by its owner.
	$holder->must('select pg_advisory_lock(1)');
	$sql->(q{select from evsource.append('a-1', 'Happened')});
	$at_work->('at another event');
	my ($watches, $drops) = map { Session->new(database => $database) } 1 .. 2;
	my $watch = 'select count(*) from evsource.daemon_status';
	$watches->must("begin; $watch");
	$drops->send('set client_min_messages = warning; set evsource.allow_drop = on; drop schema evsource cascade; truncate applied;');
	$soon->(q{select count(*) = 1 from pg_locks where not granted and relation = 'evsource.daemon_status'::regclass}, 'the drop waits for who watches the daemon');
	$gone->('it leaves at once when the schema is dropped');
	$watches->send("$watch; commit;");
	is(ends($watches), '0', "$mode: who watches it sees that");
	is(ends($drops), '', "$mode: and does not wait for who drops it");
	$_->close foreach $watches, $drops;
	$sql->('create role keeper superuser; set role keeper;' . ($make =~ s/;/; reset role;/r) . $start);
	$at_work->('the handler of one that somebody else owns is at work');
	$sql->('set evsource.allow_drop = on; drop owned by keeper cascade');
	$gone->('it leaves at once when what that role owns is dropped');
	is($sql->('select count(*) from applied'), 0, "$mode: what it did is rolled back");

	# From a session that knows nothing of evsource, while a handler is at work that would never be done.
	$node->safe_psql('postgres', 'create database other');
	$database = 'other';
	$sql->(($make =~ s/perform pg_advisory_xact_lock_shared\(1\)/perform pg_sleep(600)/r) . $start);
	$soon->(q{select count(*) = 1 from pg_stat_activity where datname = 'other' and wait_event = 'PgSleep'}, 'a handler is at work in another database');
	$database = 'postgres';

	# No process is started for a database while somebody has it locked, however long:
	# it would wait, and may find that it is gone.
	is($sql->(q{begin; alter database other rename to another; do 'begin perform pg_sleep(3); end';
		select count(*) from pg_locks where locktype = 'object' and classid = 'pg_database'::regclass and not granted; commit}),
		0, "$mode: nobody waits for a database that is locked");
	$soon->(q{select count(*) = 1 from pg_stat_activity where datname = 'another' and wait_event = 'PgSleep'}, 'a handler is at work again under another name');
	$sql->('drop database another');
	is($sql->(q{select count(*) from pg_database where datname = 'another'}), 0, "$mode: that is dropped");

	# In good order: no error but that of the one who was refused, and PostgreSQL's own
	# where a database went away after the launcher had looked, before its process was there.
	my @errors = grep { /(ERROR|PANIC|TRAP|FATAL: )/ && !/log holds events|cannot wait while extension|due to administrator command|FATAL:  database \d+ does not exist$/ } split /\n/, slurp_file($node->logfile);
	is(join("\n", @errors), '', "$mode: nobody has met an error");
	$holder->close;
	$node->stop;
}

done_testing();
