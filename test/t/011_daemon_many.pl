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

# Where as many want a coordinator as there is room for, some get a worker yet.
$node->safe_psql("d$_", q{
create extension evsource;
create table counts (n bigint);
select evsource.create_projection('counts', mode => 'async', query => 'insert into public.counts select count(*) from new_events');
}) foreach 26 .. 29;
$node->restart;
my $at_work = q{select count(*) = 1 from pg_stat_activity where backend_type = 'evsource worker'};
ok($node->poll_query_until('postgres', $at_work), 'coordinators leave room for a worker');

# Where it leaves, another one gets its place.
my $served = q{select datname from pg_stat_activity where backend_type = 'evsource worker'};
my $first = $node->safe_psql('postgres', $served);
$node->safe_psql($first, 'select evsource.stop_daemon()');
ok($node->poll_query_until('postgres', $at_work), 'another database gets the place of one that has left');
isnt($node->safe_psql('postgres', $served), $first, 'another one');
$node->stop;

done_testing();
