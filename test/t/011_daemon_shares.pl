# The daemon where max_worker_processes has no room for all of it: what one database can
# do without goes to another one, and the log says so now and then.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Listener;
use Node;

let_daemon_work();

my $node;

# A server with room for the launcher and so many more.
sub start_with_room_for
{
	my ($name, $room) = @_;

	$node = start_node($name, q{
shared_preload_libraries = 'evsource'
max_logical_replication_workers = 0
max_worker_processes = } . ($room + 1));
	return;
}

# A database with so many async projections.
sub make_database
{
	my ($name, $projections) = @_;

	$node->safe_psql('postgres', "create database $name");
	$node->safe_psql($name, qq{
create extension evsource;
create table counts (n bigint);
select evsource.create_projection('counts' || i, mode => 'async', query => 'insert into public.counts select count(*) from new_events') from generate_series(1, $projections) i;
});
	return;
}

# What soon runs, as "database kind number, ...", the kind being c or w.
sub soon_runs
{
	my ($expected, $name) = @_;
	my $runs = q{
select string_agg(concat_ws(' ', datname, kind, n), ', ' order by datname, kind) from (
	select datname, substr(backend_type, 10, 1) as kind, count(*) as n from pg_stat_activity
	where backend_type in ('evsource coordinator', 'evsource worker') group by 1, 2) as running};

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "select coalesce(($runs), '') = '$expected'"), $name);
}

# Two databases share room for two, and a session listens in each. A coordinator that has taken
# a worker's place gives it back.
start_with_room_for('pair', 2);
make_database('a', 1);
soon_runs('a c 1, a w 1', 'one of two databases is served');
make_database('b', 1);
my @listeners = map { listener($node, $_) } qw(a b);
foreach my $time (1 .. 2)
{
	my $served = $node->safe_psql('postgres', q{select datname from pg_stat_activity where backend_type = 'evsource worker'});
	$node->safe_psql($served, q{select evsource.pause_projection('counts1')});
	soon_runs('a c 1, b c 1', "the other one takes the place of the only worker ($time)");
	$node->safe_psql($served, q{select evsource.resume_projection('counts1')});
	ok($node->poll_query_until('postgres', q{select count(*) = 1 from pg_stat_activity where backend_type = 'evsource worker'}), "and one of them has a worker ($time)");
}
$_->quit for @listeners;
my %said;
$said{$_}++ for slurp_file($node->logfile) =~ /could not start worker 1 of 1 for database "(\w+)"/g;
is(join(', ', map { "$_ $said{$_}" } sort keys %said), 'a 1, b 1', 'the log says it once a minute of each');
$node->stop;

# A coordinator without a worker leaves its place to a database that needs no worker, and takes
# it back.
start_with_room_for('listeners', 3);
make_database('a', 1);
soon_runs('a c 1, a w 1', 'the first of two databases is served');
make_database('b', 1);
soon_runs('a c 1, a w 1, b c 1', 'the second one waits for its worker');
make_database('c', 0);
my $listener = listener($node, 'c');
soon_runs('a c 1, a w 1, c c 1', 'and lets one go first that needs none');
my $append = q{select position from evsource.append('a-1', 'Heard')};
ok(heard_of($listener, $node->safe_psql('c', $append)), 'who listens there hears of events');
$listener->quit;
$node->safe_psql('c', $append);
soon_runs('a c 1, a w 1, b c 1', 'when that has left it is there again');
$listener = listener($node, 'b');
ok(heard_of($listener, $node->safe_psql('b', $append)), 'and tells those who listen to it');
$listener->quit;
$node->stop;

# No database has a second worker while another one has none, or no coordinator.
start_with_room_for('workers', 6);
make_database('a', 4);
soon_runs('a c 1, a w 4', 'a database has as many workers as it has projections');
make_database('b', 1);
soon_runs('a c 1, a w 3, b c 1, b w 1', 'it leaves one to another database');
make_database('c', 1);
soon_runs('a c 1, a w 1, b c 1, b w 1, c c 1, c w 1', 'and what a third one needs');
$node->safe_psql('a', q{select from evsource.append('a-1', 'Counted')});
ok($node->poll_query_until('a', 'select sum(lag) = 0 from evsource.projection_status'), 'the one that it keeps applies all');
$node->safe_psql('c', 'select evsource.stop_daemon()');
soon_runs('a c 1, a w 3, b c 1, b w 1', 'others come back when there is room');
$node->restart;
soon_runs('a c 1, a w 1, b c 1, b w 1, c c 1, c w 1', 'so it is after a restart');

# Of the databases that wait in line none stays there that is dropped or closed.
my $in_line = sub { return qq{select count(*) = $_[1] from pg_locks where locktype = 'advisory' and database = (select oid from names where name = '$_[0]')} };
$node->safe_psql('postgres', 'create table names (name name, oid oid)');
foreach my $database (qw(d e f))
{
	make_database($database, 1);
	$node->safe_psql('postgres', "insert into names select datname, oid from pg_database where datname = '$database'");
	ok($node->poll_query_until('postgres', $in_line->($database, 1)), "$database waits in line");
}
$node->safe_psql('postgres', 'drop database e');
ok($node->poll_query_until('postgres', $in_line->('e', 0)), 'not any more when it is dropped');
$node->safe_psql('postgres', 'alter database f allow_connections false');
ok($node->poll_query_until('postgres', $in_line->('f', 0)), 'nor when it is closed');
$node->stop;

# A database that cannot be entered because it is locked waits for that, not for room: nobody
# makes do with fewer workers.
start_with_room_for('locked', 20);
make_database($_, 3) foreach qw(a b);
soon_runs('a c 1, a w 3, b c 1, b w 3', 'two databases have all of their workers');
$node->safe_psql('postgres', 'create database other');
$node->safe_psql('postgres', 'alter system set evsource.daemon = off');
$node->reload;
soon_runs('', 'they leave when the daemon is turned off');
my $holder = $node->background_psql('postgres');
$holder->query_safe('begin; alter database other rename to another');
$node->safe_psql('postgres', 'alter system reset evsource.daemon');
$node->reload;
soon_runs('a c 1, a w 3, b c 1, b w 3', 'turned on again all come back while a third database is locked');
$holder->query_safe('rollback');
$holder->quit;
$node->stop;

done_testing();
