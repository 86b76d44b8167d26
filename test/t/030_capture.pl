# Capture in life: the tables of pgbench under concurrent clients are what their
# events say; a dump brings captures back and restoring it captures nothing; what
# replication applies is not captured either.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('main', "shared_preload_libraries = 'evsource'", allows_streaming => 'logical', extra => ['--encoding=UTF8']);

my @tables = map { "pgbench_$_" } qw(accounts branches tellers history);

# How many rows differ between a table and what the last events of its streams
# say; for the history, which has only inserts, between it and all of them.
sub differences
{
	my ($database, $table) = @_;
	my $rows = $table eq 'pgbench_history' ?
		"select data from evsource.events where evsource.category(stream) = '$table'" :
		"select distinct on (stream) data from evsource.events where evsource.category(stream) = '$table' order by stream, version desc";
	return $node->safe_psql($database, qq{
		with told as (
			select r.* from ($rows) e, jsonb_populate_record(null::$table, e.data -> 'new') r where e.data ? 'new')
		select count(*) from ((table told except all table $table) union all (table $table except all table told)) d});
}

# --- pgbench -------------------------------------------------------------------

$node->safe_psql('postgres', 'create database bank');
$node->command_ok([ 'pgbench', '-i', '-q', '-s', '1', 'bank' ], 'pgbench has its tables');
$node->safe_psql('bank', q{
	create extension evsource;
	create role teller;
	grant select, insert, update, delete on pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history to teller;
	delete from pgbench_accounts where aid > 2000});

# with clients at work already, so that the backfill meets them
my $early = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-t', '300', '-D', 'naccounts=2000',
		'-h', $node->host, '-p', $node->port, '-f', script(), 'bank' ], '>', \my $early_out, '2>', \my $early_err);
$node->poll_query_until('bank', 'select count(*) > 20 from pgbench_history') or die 'the clients do not work';
foreach my $table (@tables)
{
	my $key = $table eq 'pgbench_history' ? q{, key_columns => '{aid}'} : '';
	$node->safe_psql('bank', "select evsource.capture_table('$table', backfill => true$key)");
}
ok($early->finish, 'clients go on while their tables are captured') or diag $early_err;
{
	local $ENV{PGOPTIONS} = '-c role=teller';
	$node->command_ok([ 'pgbench', '-n', '-c', '8', '-j', '2', '-T', '3', '-M', 'prepared', '-f', script(), 'bank' ],
		'a role without rights on the log works on captured tables');
}
is(differences('bank', $_), 0, "$_ is what its events say") foreach @tables;
is($node->safe_psql('bank', q{select sum(delta) from pgbench_history}),
	$node->safe_psql('bank', q{select sum(bbalance) from pgbench_branches}), 'and the books balance');
is($node->safe_psql('bank', q{
	select count(*) from (
		select version, row_number() over (partition by stream order by position) as n from evsource.events) v
	where version <> n}), 0, 'versions follow each other in the order of the log');

sub script
{
	my $file = $node->basedir . '/tpcb.sql';
	return $file if -e $file;
	append_to_file($file, <<'END');
\set aid random(1, 2000)
\set tid random(1, 10)
\set delta random(-5000, 5000)
\set undo random(1, 10)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
update pgbench_tellers set tbalance = tbalance + :delta where tid = :tid;
update pgbench_branches set bbalance = bbalance + :delta where bid = 1;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (:tid, 1, :aid, :delta, clock_timestamp());
\if :undo = 1
rollback;
\else
commit;
\endif
END
	return $file;
}

# --- dump and restore ----------------------------------------------------------

$node->safe_psql('bank', q{
	create role registrar;
	select evsource.grant_access('registrar', 'admin');
	create schema shop;
	create table shop.lines (a text, b text, v numeric, secret text, primary key (a, b)) partition by hash (a);
	create table shop.lines_0 partition of shop.lines for values with (modulus 2, remainder 0);
	create table shop.lines_1 partition of shop.lines for values with (modulus 2, remainder 1);
	grant all on schema shop to registrar, teller;
	grant all on shop.lines, shop.lines_0, shop.lines_1 to registrar, teller;
	set role registrar;
	select evsource.capture_table('shop.lines', 'line', exclude_columns => '{secret}');
	set role teller;
	insert into shop.lines select i % 7, i, i, 'x' from generate_series(1, 100) i});
my $count = 'select count(*), max(position) from evsource.events';
my $captures = 'select * from evsource.captured_tables order by 1';
my $events = $node->safe_psql('bank', $count);
my $dump = $node->backup_dir . '/bank';
$node->command_ok([ 'pg_dump', '-Fd', '-f', $dump, 'bank' ], 'a dump');
$node->safe_psql('postgres', 'create database restored template template0');
$node->command_ok([ 'pg_restore', '-j', '2', '-d', 'restored', $dump ], 'is restored');
is($node->safe_psql('restored', $count), $events, 'nothing is captured meanwhile');
is($node->safe_psql('restored', $captures), $node->safe_psql('bank', $captures), 'the captures are there');
$node->safe_psql('restored', q{set role teller; update shop.lines set v = -v, secret = 'y' where b = '3'});
is($node->safe_psql('restored', q{select version, type, data -> 'changed', data::text like '%secret%' from evsource.events where stream = 'line-3+3' order by version}),
	qq{1|LineInserted||f\n2|LineUpdated|["v"]|f}, 'and go on');

$node->safe_psql('restored', q{set role teller; truncate shop.lines_0});
is($node->safe_psql('restored', q{
	select count(*) from (select distinct on (stream) type from evsource.events where evsource.category(stream) = 'line' order by stream, version desc) e
	where type <> 'LineDeleted'}),
	$node->safe_psql('restored', 'select count(*) from shop.lines'), 'also when a partition is truncated');

# A dump may lack a table that is captured, or be restored where a role is missing: what
# can be captured still is, and the rest is refused.
$node->safe_psql('bank', q{
	create role fleeting;
	select evsource.grant_access('fleeting', 'admin');
	create table shop.left_out (id int primary key);
	create table shop.by_hand (id int primary key);
	create table shop.orphaned (id int primary key);
	grant trigger on shop.orphaned to fleeting;
	grant usage on schema shop to fleeting;
	alter table shop.by_hand owner to registrar;
	create trigger capture after insert on shop.by_hand for each row execute function evsource.capture('hand', 'id');
	alter table shop.by_hand owner to postgres;
	select evsource.capture_table('shop.left_out');
	set role fleeting;
	select evsource.capture_table('shop.orphaned')});
$captures = q{select table_name, captured_by from evsource.captured_tables where table_name like 'shop.%' order by 1};
my $captured = $node->safe_psql('bank', $captures);
is($captured, "shop.by_hand|registrar\nshop.left_out|postgres\nshop.lines|registrar\nshop.orphaned|fleeting", 'captures of several roles');
my @dump = ([ 'pg_dump', '-Fc', '-f', "$dump.part", '-T', 'shop.left_out', 'bank' ], [ 'pg_dump', '-s', '-f', "$dump.schema", 'bank' ]);
$node->command_ok($_, 'a dump: ' . join(' ', @$_[ 1, 3 .. $#$_ ])) foreach @dump;
$node->safe_psql('bank', q{alter role fleeting rename to away});
is($node->safe_psql('bank', $captures), $captured =~ s/fleeting/away/r, 'a role keeps its captures when it is renamed');
$node->safe_psql('postgres', 'create database part template template0; create database schema_only template template0');
$node->command_ok([ 'pg_restore', '-O', '-x', '-e', '-d', 'part', "$dump.part" ], 'the part is restored');
is($node->safe_psql('part', $captures), "shop.by_hand|registrar\nshop.lines|registrar\nshop.orphaned|", 'with its captures');
my (undef, undef, $why) = $node->psql('part', 'insert into shop.orphaned values (1)');
like($why, qr/permission denied to capture changes of table "orphaned"/, 'what nobody captures is refused');

# A dump of the schema has no records: whoever restores it registers the triggers.
$node->safe_psql('bank', q{alter role away rename to fleeting});
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.schema", '-d', 'schema_only' ], 'the schema is restored');
is($node->safe_psql('schema_only', $captures), $captured =~ s/by_hand.registrar/by_hand|postgres/r, 'with its captures, too');

# --- logical replication -------------------------------------------------------

my $subscriber = start_node('subscriber', '', extra => ['--encoding=UTF8']);
$subscriber->safe_psql('postgres', q{
	create extension evsource;
	create table stock (id int primary key, n int);
	select evsource.capture_table('stock')});
$node->safe_psql('postgres', 'create table stock (id int primary key, n int); insert into stock values (1, 1); create publication p for table stock');
my $connection = $node->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres', "create subscription s connection '$connection' publication p");
$subscriber->wait_for_subscription_sync($node, 's') if $subscriber->can('wait_for_subscription_sync');
$node->safe_psql('postgres', 'insert into stock values (2, 2); update stock set n = 3; delete from stock where id = 1; truncate stock; insert into stock values (4, 4)');
$node->wait_for_catchup('s');
is($subscriber->safe_psql('postgres', 'select * from stock'), '4|4', 'the table is replicated');
is($subscriber->safe_psql('postgres', 'select count(*) from evsource.events'), 0, 'and nothing of it captured');
$subscriber->safe_psql('postgres', 'update stock set n = 5');
is($subscriber->safe_psql('postgres', 'select type from evsource.events'), 'StockUpdated', 'what is done there is');

# unless it is asked for
$subscriber->safe_psql('postgres', 'alter table stock enable always trigger evsource_capture; alter table stock enable always trigger evsource_capture_truncate');
$node->safe_psql('postgres', q{
	begin; insert into stock values (5, 1), (6, 1); update stock set n = n + 1 where id >= 5; savepoint s; delete from stock; rollback to s;
	update stock set id = 7 where id = 6; commit;
	delete from stock where id = 5; truncate stock; insert into stock values (8, 8)});
$node->wait_for_catchup('s');
is($subscriber->safe_psql('postgres', q{
	select string_agg(stream || ' ' || version || ' ' || type, ', ' order by position) from evsource.events where stream <> 'stock-4'}),
	'stock-5 1 StockInserted, stock-6 1 StockInserted, stock-5 2 StockUpdated, stock-6 2 StockUpdated, stock-6 3 StockDeleted, '
	. 'stock-7 1 StockInserted, stock-5 3 StockDeleted, stock 1 StockTruncated, stock-8 1 StockInserted',
	'an ALWAYS trigger captures what replication applies, in its order');
is($subscriber->safe_psql('postgres', q{select count(*) from evsource.read_all(0, null)}),
	$subscriber->safe_psql('postgres', q{select count(*) from evsource.events}), 'and nothing of it is held back');

done_testing();
