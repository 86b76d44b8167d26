# While a synchronous standby is away, and whoever waits for it waits for ever, the
# daemon goes on: none of its commits waits. A session that does keeps its setting.
# Nor does the daemon wait for a session that has published and does not end.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Listener;
use Node;

let_daemon_work();

# A first commit that waits would end the test late, and never say what waits.
$ENV{PGOPTIONS} = '-c synchronous_commit=local -c statement_timeout=30s';

my $node = start_node('no_standby', q{
shared_preload_libraries = 'evsource'
synchronous_standby_names = 'nobody'
evsource.publish_interval = 10
}, allows_streaming => 1);
my ($sql, $soon) = asking($node);
my $applied = q{select bool_and(lag = 0 and state = 'active' and worker_pid is not null) from evsource.projection_status};
my $append = sub { return $sql->("select position from evsource.append('a-1', 'Counted')") };
my $make = q{
create extension evsource;
create table counts (stream text primary key, n bigint);
create function count_event(e evsource.event) returns void language plpgsql as $$
begin
	insert into counts values (e.stream, 1) on conflict (stream) do update set n = counts.n + 1;
end $$;
select evsource.create_projection('counts', 'count_event', mode => 'async', notify => false, tables => '{counts}');
};

# For the whole server: nothing of the daemon's is in such a wait.
my $nobody_waits = q{select not exists (select from pg_stat_activity where backend_type ~ '^evsource' and wait_event = 'SyncRep')};

my $kill = sub {
	my ($what, $role) = @_;
	my $pids = $sql->("select string_agg(pid::text, ',') from evsource.daemon_status where role = '$role'");
	$sql->("select pg_terminate_backend(pid) from unnest('{$pids}'::int[]) pid");
	$append->();
	$soon->("select count(*) > 0 from evsource.daemon_status where role = '$role' and pid not in ($pids)", "$what: one that was killed, a $role, is replaced");
	$soon->($applied, "$what: and all is applied");
};

$sql->($make);
$append->();
$soon->($applied, 'it applies');
$soon->('select safe_position = (select max(position) from evsource.events) from evsource.published', 'and publishes');
$kill->('no standby', 'worker');
$kill->('no standby', 'coordinator');

my $listener = listener($node, 'postgres');
heard_of($listener, $append->());
ok(1, 'who listens hears of it');
$listener->quit;

$sql->(q{
create table totals (n bigint);
select evsource.create_projection('totals', mode => 'async', notify => false, tables => '{totals}', query => 'insert into public.totals select position from new_events')});
$soon->($applied, 'a new projection gets its worker');

$sql->(q{call evsource.rebuild_projection('counts')});
$soon->($applied, 'who rebuilds comes to an end');
foreach my $online ('false', 'true')
{
	$sql->("select evsource.request_rebuild('counts', online => $online)");
	$soon->('select not exists (select from evsource.progress)', "and so does the daemon, online $online");
}
is($sql->('select n = (select count(*) from evsource.events) from counts'), 't', 'what is rebuilt is right');

# A function that raises: attempts, failures and dead letters are written down.
$sql->(q{
create function fail(e evsource.event) returns void language plpgsql as $$ begin raise 'no'; end $$;
alter system set evsource.async_attempts = 2;
alter system set evsource.async_retry_delay = '1ms';
select pg_reload_conf();
select evsource.create_projection('letters', 'fail', mode => 'async', notify => false, on_error => 'dead_letter', types => '{Bad}');
select from evsource.append('a-1', 'Bad')});
$soon->(q{select dead_letters = 1 from evsource.projection_status where projection = 'letters'}, 'what fails is parked');
$soon->($nobody_waits, 'nobody has waited for the standby');

$sql->('create database gone');
$node->safe_psql('gone', $make . q{select from evsource.append('a-1', 'Counted')});
ok($node->poll_query_until('gone', $applied), 'it applies in another database');
my ($status, undef, $error) = $node->psql('postgres', 'drop database gone');
is("$status $error", '0 ', 'and is not in the way of who drops it');

is($sql->('select evsource.stop_daemon()'), 't', 'it stops');
is($sql->('select evsource.start_daemon()'), 't', 'and starts');

# A session that wants the standby to have what it commits waits for it.
my $session = $node->background_psql('postgres');
$session->query_safe('set synchronous_commit = on');
$session->query_safe('set statement_timeout = 0');
$session->query_until(qr/called/, "\\echo called\ncall evsource.rebuild_projection('totals');\n\\echo returned\n");
$soon->(q{select count(*) = 1 from pg_stat_activity where backend_type = 'client backend' and wait_event = 'SyncRep'}, 'a session waits as it has asked to');
$sql->(q{select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'});
$session->query_until(qr/returned/, '');
$session->quit;
$soon->($applied, 'the daemon did not, and goes on');

# Who notifies takes turns with others who do.
$listener = listener($node, 'postgres');
$session = $node->background_psql('postgres');
$session->query_safe('set synchronous_commit = on');
$session->query_safe('set statement_timeout = 0');
$session->query_until(qr/called/, "\\echo called\nbegin; create table something (); notify something; commit;\n\\echo returned\n");
$soon->(q{select count(*) = 1 from pg_stat_activity where backend_type = 'client backend' and wait_event = 'SyncRep'}, 'one who notifies waits as well');
$kill->('notify', 'worker');
is($sql->('select evsource.stop_daemon()'), 't', 'notify: it stops');
is($sql->('select evsource.start_daemon()'), 't', 'notify: and starts');
$sql->(q{select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'});
$session->query_until(qr/returned/, '');
$session->quit;
heard_of($listener, $append->());
ok(1, 'notify: then it is heard of events again');
$listener->quit;

# Who publishes holds the table.
$session = $node->background_psql('postgres');
$session->query_safe('begin');
$session->query_safe('set local idle_in_transaction_session_timeout = 0');
$session->query_safe('select evsource.publish_safe_position()');
$append->();
$soon->($applied, 'beside one who publishes it applies');
$kill->('published', 'worker');
is($sql->('select evsource.stop_daemon()'), 't', 'published: it stops');
$session->query_safe('rollback');
$session->quit;
is($sql->('select evsource.start_daemon()'), 't', 'published: and starts');
$append->();
$soon->('select safe_position = (select max(position) from evsource.events) from evsource.published', 'published: and publishes again');

# What fails for other reasons does not end it.
my $coordinator = $sql->(q{select pid from evsource.daemon_status where role = 'coordinator'});
$sql->('alter table evsource.published add check (safe_position < 0) not valid');
my $log = -s $node->logfile;
$append->();
ok($node->wait_for_log(qr/violates check constraint "published/, $log), 'it cannot publish');
$append->();
$soon->($applied, 'and applies');
is($sql->(q{select pid from evsource.daemon_status where role = 'coordinator'}), $coordinator, 'the coordinator has stayed');
$sql->('alter table evsource.published drop constraint published_safe_position_check');
$append->();
$soon->('select safe_position = (select max(position) from evsource.events) from evsource.published', 'and publishes when it can');

# It can be stopped also while the coordinator waits for a lock.
$session = $node->background_psql('postgres');
$session->query_safe('begin');
$session->query_safe('lock table evsource.store');
$sql->(q{select evsource.pause_projection('letters')});
$soon->(q{select count(*) > 0 from pg_locks join pg_stat_activity using (pid) where backend_type = 'evsource coordinator' and not granted}, 'the coordinator waits');
is($sql->('select evsource.stop_daemon()'), 't', 'it stops all the same');
$session->query_safe('rollback');
$session->quit;

$node->stop;
done_testing();
