# A database that allows no connections, for a while: the daemon leaves it alone,
# is back soon after it is opened again, and stops nobody from dropping it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $make = q{
create extension evsource;
create table counts (stream text primary key, n bigint);
select evsource.create_projection('counts', mode => 'async', tables => '{counts}', query =>
	'insert into public.counts select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = counts.n + excluded.n');
};
my ($node, $sql, $soon);

my $start = sub {
	my ($name, $preload) = @_;
	$node = start_node($name, "shared_preload_libraries = '$preload'\nmax_worker_processes = 24");
	($sql, $soon) = asking($node, $preload ? 'preloaded' : 'not preloaded');
};
my $applied = sub {
	my ($database, $name) = @_;
	$node->safe_psql($database, q{select from evsource.append('a-1', 'Counted')});
	ok($node->poll_query_until($database, 'select sum(n) = (select count(*) from evsource.events) from counts'), $name);
};
my $close = sub { $sql->("alter database $_[0] allow_connections false") };
my $open = sub { $sql->("alter database $_[0] allow_connections true") };

# The launcher has seen that it is closed: the place of its team is free (see crew.c).
my $left = sub {
	my ($database) = @_;
	$soon->(qq{select count(*) = 0 from pg_locks where locktype = 'advisory' and objsubid = x'EA'::int
		and database = (select oid from pg_database where datname = '$database')}, "$database is left alone");
};
my $empty = sub {
	my ($database) = @_;
	$close->($database);
	$sql->("select pg_terminate_backend(pid) from pg_stat_activity where datname = '$database'");
	$left->($database);
};
my $untried = sub { unlike(slurp_file($node->logfile), qr/FATAL:.*(not currently accepting connections|connect to invalid database)/, 'nobody has tried to connect to it') };

$start->('closed', 'evsource');
foreach my $database (qw(one two))
{
	$sql->("create database $database");
	$node->safe_psql($database, $make);
	$applied->($database, "the daemon is in $database");
}

# Closed, emptied, and opened.
$empty->('one');
$applied->('two', 'the others go on');
$open->('one');
$applied->('one', 'it is back');

# Several in a transaction; what is rolled back opens nothing.
$empty->($_) foreach qw(one two);
$sql->('begin', 'alter database one allow_connections true', 'rollback');
$sql->('begin', 'alter database one allow_connections true', 'alter database two allow_connections true', 'commit');
$applied->($_, "it is back in $_, too") foreach qw(one two);

# Left for who copies it.
$close->('one');
$sql->('create database copy template one');
$left->('one');
$open->('one');
$applied->('one', 'it is back after it was copied');

# As a template.
$sql->('alter database one is_template true');
$empty->('one');
$open->('one');
$applied->('one', 'it is back in a template');
$sql->('alter database one is_template false');

# Opened by who has PostgreSQL itself in hand: nobody says so.
$empty->('one');
$sql->(q{update pg_database set datallowconn = true where datname = 'one'});
$applied->('one', 'it is back though nobody has told');

# The server is started meanwhile.
$empty->($_) foreach qw(one two);
$node->restart;
$open->('one');
$applied->('one', 'it comes when it is opened after the start');
$sql->(q{update pg_database set datallowconn = true where datname = 'two'});
$applied->('two', 'or by itself');

# Those who are there may stay; others of them do not try to come.
$close->('one');
my $worker = $sql->(q{select pg_terminate_backend(pid) from pg_stat_activity where datname = 'one' and backend_type = 'evsource worker'});
is($worker, 't', 'a worker is killed');
$soon->(q{select count(*) = 1 from pg_stat_activity where datname = 'one'}, 'the coordinator is alone');
$empty->('two');
$open->('one');
$applied->('one', 'it has a worker again');

# Who is still in it, and calls the daemon, is told why it cannot come.
my ($status, $out, $error) = $node->psql('one', q{
\set VERBOSITY verbose
update pg_database set datallowconn = false where datname = 'one';
select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = 'one' and pid <> pg_backend_pid();
select evsource.start_daemon()});
like($error, qr/55000: cannot start evsource's daemon in a database that allows no connections/, 'start_daemon() says so');
$open->('one');
$applied->('one', 'it is back');

# It is in nobody's way.
$sql->('drop database two');
$empty->('one');
$node->restart;
$sql->('drop database one');
is($sql->(q{select string_agg(backend_type, ' ') from pg_stat_activity where backend_type ~ '^evsource'}), 'evsource launcher', 'only the launcher is left');

# Nobody will ever connect to one that DROP DATABASE has left half dropped.
$sql->('create database half');
$sql->(q{update pg_database set datconnlimit = -2 where datname = 'half'});
$node->restart;
$sql->('create database three');
$node->safe_psql('three', $make);
$applied->('three', 'the daemon has come since');
$sql->('drop database half');
$untried->();
$node->stop;

# One that was started by hand is back, too.
$start->('closed_by_hand', '');
$sql->('create database one');
$node->safe_psql('one', $make . 'select evsource.start_daemon();');
$applied->('one', 'it is there');
$close->('one');
$sql->(q{select pg_terminate_backend(pid) from pg_stat_activity where datname = 'one'});
$soon->(q{select count(*) = 0 from pg_stat_activity where datname = 'one'}, 'it is gone');
$open->('one');
$applied->('one', 'it is back');
is($node->safe_psql('one', 'select evsource.stop_daemon()'), 't', 'and is stopped by hand');
$untried->();
$node->stop;

done_testing();
