# A dump that is restored over a log in use, by a tool that goes on after errors, and a log
# that is used before its restore is through: positions never go back, the store keeps its
# identity, and whoever follows the log gets every event.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('main', 'evsource.daemon = off', extra => ['--encoding=UTF8']);
my $dump = $node->backup_dir;
mkdir $dump;

# What the mailer gets, acknowledged.
my $fetched = q{
select count(*) from (select evsource.ack(receipt) from evsource.fetch_events('mailer', 100) order by position) x};

sub create_shop
{
	my ($name, $count) = @_;

	$node->safe_psql('postgres', "create database $name template template0");
	$node->safe_psql(
		$name, qq{
create extension evsource;
create table seen (position bigint primary key);
select evsource.create_projection('seen', mode => 'async', tables => '{seen}',
    query => 'insert into seen select position from new_events');
select evsource.create_subscription('mailer');
select evsource.append('s-1', 'T') from generate_series(1, $count);
});
	return;
}

sub rolled_back
{
	my ($count) = @_;
	return qq{
begin;
select evsource.append_batch('s-2', array_fill('T'::text, array[$count]), array_fill('{}'::jsonb, array[$count]));
rollback;};
}

# Appends succeed at once, behind all that there is; who follows the log gets them.
sub goes_on
{
	my ($name, $case, $passed) = @_;
	my $sql = sub { return $node->safe_psql($name, $_[0]) };

	is($sql->("select count(*) from generate_series(1, 3) n, evsource.append('s-1', 'T' || n) where position > $passed"),
		3, "$case: appends get positions that nobody has passed");
	is($sql->("insert into evsource.events (stream, type) values ('s-3', 'T') returning position > $passed"), 't', "$case: so does an INSERT");
	is($sql->("select count(*) from evsource.read_all($passed)"), 4, "$case: a reader gets them");
	is($sql->(q{select evsource.run_projection('seen')}), 4, "$case: an async projection, too");
	is($sql->($fetched), 4, "$case: and a subscription");
	is($sql->('select count(*) from evsource.check_log()'), 0, "$case: the log is sound");
	return;
}

# An older dump of the same database, by psql, which goes on after an error.
create_shop('shop', 5);
$node->command_ok([ 'pg_dump', '-f', "$dump/old.sql", 'shop' ], 'dump');
$node->safe_psql('shop',
	q{select evsource.append('s-1', 'T') from generate_series(1, 5);} . rolled_back(20) . q{select evsource.append('s-1', 'T');}
	  . rolled_back(40));
is($node->safe_psql('shop', q{select evsource.run_projection('seen')}), 11, 'an async projection has come to the end');
is($node->safe_psql('shop', $fetched), 11, 'so has a subscription');
my $furthest = q{select greatest((select max(position) from evsource.checkpoints), (select max(position) from evsource.cursors),
    (select max(position) from evsource.events))};
my $passed = $node->safe_psql('shop', $furthest);
cmp_ok($passed, '>', 31, 'behind the last event');
my $origin = $node->safe_psql('shop', 'select origin, database from evsource.store');
$node->command_ok([ 'psql', '-X', '-f', "$dump/old.sql", '-d', 'shop' ], 'the dump is restored over it');
is($node->safe_psql('shop', 'select count(*) from evsource.events'), 11, 'no event comes');
is($node->safe_psql('shop', 'select evsource.safe_position() >= ' . $passed), 't', 'the end of the log is where it was');
goes_on('shop', 'an old dump', $passed);

# The same when the server has crashed meanwhile.
$node->safe_psql('shop', q{select setval('evsource.position_seq', 1, false)});
$node->stop('immediate');
$node->start;
goes_on('shop', 'a sequence set back, and a crash', $node->safe_psql('shop', $furthest));

# The dump of another store, by pg_restore --clean as scripts call it.
create_shop('big', 500);
$node->safe_psql('big', 'select evsource.publish_safe_position()');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump/big", 'big' ], 'dump of another store');
create_shop('small', 3);
$node->safe_psql('small', 'select evsource.publish_safe_position()');
$origin = $node->safe_psql('small', 'select * from evsource.store');
my $id = $node->safe_psql('small', q{select id from evsource.append('s-1', 'Paid', '{"n": 1}')});
$node->command_checks_all(
	[ 'pg_restore', '--clean', '--if-exists', '-d', 'small', "$dump/big" ],
	1,
	[qr/^$/],
	[ qr/cannot restore evsource\.store into a log in use/, qr/cannot restore evsource\.published into a log in use/, qr/errors ignored on restore/ ],
	'it is restored over this one');
is($node->safe_psql('small', 'select * from evsource.store'), $origin, 'the store is who it was');
is($node->safe_psql('small', 'select safe_position from evsource.published'), 3, 'and published what it was');
is($node->safe_psql('small', qq{select stored from evsource.append('s-1', 'Paid', '{"n": 1}', id => '$id')}),
	'f', 'an event that is sent again is recognised');

# An application is let in before the restore is through: the dump sets the sequence last.
my ($before, $after) = slurp_file("$dump/old.sql") =~ s/^\\(un)?restrict .*$//mgr =~ /^(.*?)(^SELECT pg_catalog\.setval\('evsource\.position_seq'.*)$/ms;
append_to_file("$dump/before.sql", $before);
append_to_file("$dump/after.sql", $after);
$node->safe_psql('postgres', 'create database early template template0');
$node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/before.sql", '-d', 'early' ], 'half a restore');
$node->safe_psql('early', q{select evsource.append('s-1', 'T');} . rolled_back(3) . q{select evsource.append('s-1', 'T')});
is($node->safe_psql('early', 'select max(position) from evsource.read_all()'), 10, 'the log is used');
is($node->safe_psql('early', q{select evsource.run_projection('seen')}), 7, 'and followed');
is($node->safe_psql('early', $fetched), 7, 'by two');
$node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/after.sql", '-d', 'early' ], 'the rest of the restore');
goes_on('early', 'used too early', 10);

$node->stop;

done_testing();
