# What a launcher leaves behind that is terminated: its teams go at once, and who needs a
# database meanwhile finds them, whether it has been idle or at work.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

# no process to spare: the launcher, and two for each database
my $node = start_node('orphans', q{
shared_preload_libraries = 'evsource'
max_worker_processes = 7
max_logical_replication_workers = 0
});
my $worker = q{select count(*) = 1 from evsource.daemon_status where role = 'worker'};
my $at_work = q{select count(*) = 1 from evsource.daemon_status where state = 'applying'};
my $launcher = q{select pid from pg_stat_activity where backend_type = 'evsource launcher'};
my $team = q{select count(*) from pg_stat_activity where datname = 'kept' and backend_type in ('evsource coordinator', 'evsource worker')};

for my $name (qw(idle busy kept))
{
	$node->safe_psql('postgres', "create database $name");
	$node->safe_psql($name, q{
create extension evsource;
create function handle(e evsource.event) returns void language sql as $$ select pg_sleep((e.data ->> 'seconds')::int) $$;
select evsource.create_projection('slow', 'handle', mode => 'async')});
	ok($node->poll_query_until($name, $worker), "$name has its worker");
}
$node->safe_psql('busy', q{select evsource.append('a-1', 'Happened', '{"seconds": 600}')});
ok($node->poll_query_until('busy', $at_work), 'one is at work');

# Nothing is appended, so nothing but the launcher's end wakes them.
sub end_launcher
{
	my $pid = $node->safe_psql('postgres', $launcher);
	$node->safe_psql('postgres', "select pg_terminate_backend($pid)");
	ok($node->poll_query_until('postgres', "select not exists (select from pg_stat_activity where pid = $pid)"), 'the launcher has gone');
}
end_launcher();
my $start = time;
$node->safe_psql('postgres', 'drop database busy');
$node->safe_psql('postgres', 'drop database idle');
pass('databases can be dropped meanwhile');

ok($node->poll_query_until('kept', $worker), 'its successor brings another team');
cmp_ok(time - $start, '<', 25, 'and does so before they would have looked');

# And without anybody to drop them.
end_launcher();
ok($node->poll_query_until('postgres', "select ($team) = 0"), 'its team goes by itself');
ok($node->poll_query_until('kept', $worker), 'and another one comes');

is($node->safe_psql('kept', 'select evsource.stop_daemon()'), 't', 'which can be stopped');
is($node->safe_psql('postgres', $team), '0', 'and has gone then');
$node->stop;

done_testing();
