# The daemon when max_worker_processes has no room for all of it: what found none
# comes as soon as there is some, not after a long wait.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Listener;
use Node;

let_daemon_work();

# the launcher, a coordinator in each of two databases, and one worker
my $node = start_node('room', qq{
shared_preload_libraries = 'evsource'
max_worker_processes = 4
max_logical_replication_workers = 0
});
$node->safe_psql('postgres', 'create database other');

my $setup = q{
create extension evsource;
create table counts (n bigint);
select evsource.create_projection('counts', mode => 'async', query => 'insert into public.counts select count(*) from new_events');
};
my $worker = q{select count(*) = 1 from evsource.daemon_status where role = 'worker'};
$node->safe_psql('postgres', $setup);
ok($node->poll_query_until('postgres', $worker), 'one database has its worker');

my $log = -s $node->logfile;
$node->safe_psql('other', $setup);
$node->wait_for_log(qr/could not start worker 1 of 1 for database "other"/, $log);
is($node->safe_psql('other', $worker), 'f', 'for another one there is no room');
my $waits = q{select count(*) = 1 from evsource.daemon_status where state = 'waiting for a process'};
ok($node->poll_query_until('other', $waits), 'its status says so');
is($node->safe_psql('postgres', $waits), 'f', 'that of the first one does not');
my (undef, undef, $late) = $node->psql('other', q{
select evsource.append('a-1', 'Happened', '{}');
select evsource.wait_for('counts', timeout => '100 ms')});
like($late, qr/HINT:  The daemon waits for a process: all 4 background worker processes of the server are in use/, 'and so does who has waited for a projection');

# Who asks for it is told so. (Where somebody listens a coordinator stays without a worker.)
my $listener = listener($node, 'other');
$node->safe_psql('postgres', 'create database third');
$node->safe_psql('third', q{set evsource.daemon = off; create extension evsource; select evsource.create_projection('fold', 'evsource.fold_count', mode => 'async')});
my (undef, undef, $error) = $node->psql('third', "\\set VERBOSITY sqlstate\nselect evsource.start_daemon()");
like($error, qr/ERROR:  53400/, 'start_daemon does not say that it is there');
ok($node->poll_query_until('third', $waits), 'nor does its status');

# While it waits, it stands in nobody's way.
foreach my $command ('alter extension evsource update', 'drop extension evsource')
{
	my $starter = $node->background_psql('third', on_error_stop => 0);
	$starter->query_until(qr/asked/, "\\set VERBOSITY sqlstate\n\\echo asked\nselect evsource.start_daemon();\n\\echo answered\n");
	ok($node->poll_query_until('third', q{select count(*) = 1 from pg_stat_activity a join pg_locks l using (pid)
		where l.relation = 'evsource.projections'::regclass and a.query ~ '^select evsource.start_daemon'}), 'one waits for the daemon');
	my $changer = $node->background_psql('third');
	$changer->query("begin; $command");
	$starter->query_until(qr/answered/, '');
	like($starter->{stderr}, qr/ERROR:  55P03/, "$command: who waits for the daemon gives way");
	$changer->query('rollback');
	$starter->quit;
	$changer->quit;
}

$node->safe_psql('postgres', 'alter database third set evsource.daemon = off');
my (undef, undef, $off) = $node->psql('third', q{
select evsource.append('a-1', 'Happened', '{}');
select evsource.wait_for('fold', timeout => '100 ms')});
like($off, qr/has not reached position .*HINT:  The daemon is off/s, 'a daemon that is off waits for no process');
$node->safe_psql('postgres', 'alter database third reset evsource.daemon');
$node->safe_psql('third', 'select evsource.stop_daemon()');

$node->safe_psql('postgres', 'select evsource.stop_daemon()');
my $start = time;
ok($node->poll_query_until('other', $worker), 'when the first one leaves the other gets its own');
cmp_ok(time - $start, '<', 8, 'soon');
$listener->quit;
$node->stop;

# Also where even the launcher's list of databases is full, which holds one here.
my $full = start_node('full', q{
shared_preload_libraries = 'evsource'
max_worker_processes = 1
max_logical_replication_workers = 0
});
$full->wait_for_log(qr/could not start a coordinator/);
$full->safe_psql('postgres', 'create database other');
$full->safe_psql('other', q{set evsource.daemon = off; create extension evsource; select evsource.create_projection('fold', 'evsource.fold_count', mode => 'async')});
(undef, undef, $error) = $full->psql('other', "\\set VERBOSITY sqlstate\nselect evsource.start_daemon()");
like($error, qr/ERROR:  53400/, 'a full list is want of room, too');
$full->stop;

done_testing();
