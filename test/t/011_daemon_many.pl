# The daemon when a server has far more databases than background processes: each is
# looked at as soon as one before it has been, not after a long wait.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

# the launcher, and three more
my $node = start_node('many', qq{
shared_preload_libraries = 'evsource'
max_worker_processes = 4
max_logical_replication_workers = 0
});
$node->safe_psql('postgres', join "\n", map { "create database d$_;" } 1 .. 30);
$node->safe_psql('d30', q{
create extension evsource;
create table counts (n bigint);
select evsource.create_projection('counts', mode => 'async', query => 'insert into public.counts select count(*) from new_events');
});
my $applied = q{select coalesce(sum(n), 0) = (select count(*) from evsource.events) from counts};
my $worker = q{select count(*) = 1 from evsource.daemon_status where role = 'worker'};
ok($node->poll_query_until('d30', $worker), 'the newest of many databases has its worker');

$node->restart;
my $start = time;
$node->safe_psql('d30', q{select from evsource.append('a-1', 'Counted')});
ok($node->poll_query_until('d30', $applied), 'after a restart as well');
cmp_ok(time - $start, '<', 8, 'soon');
$node->stop;

done_testing();
