# A dump that is restored over a log in use, by a tool that goes on after errors, and a log
# that is used before its restore is through: positions never go back, the store keeps its
# identity, nothing of what follows another log comes in, and whoever follows this one gets
# every event.

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

# The log of another application: none of its names is taken here, and nothing of it comes.
$node->safe_psql('postgres', 'create database pets template template0');
$node->safe_psql(
	'pets', q{
create extension evsource;
create table fed (position bigint primary key);
select evsource.create_projection('fed', mode => 'async', tables => '{fed}',
    query => 'insert into fed select position from new_events');
select evsource.create_projection('groomed', 'evsource._noop');
select evsource.create_subscription('feeder', partitions => 3);
select evsource.append('pet-1', 'T') from generate_series(1, 50);
select evsource.run_projection('fed');
});
my $followers = q{
select 'checkpoint', projection from evsource.checkpoints union all select 'projection', projection from evsource.projections
union all select 'cursor', subscription from evsource.cursors union all select 'subscription', subscription from evsource.subscriptions
union all select 'original', database::text from evsource.store order by 1, 2};
my $before_pets = $node->safe_psql('small', $followers);
foreach my $how ([ 'COPY' ], [ 'INSERTs', '--inserts' ])
{
	my ($name, @options) = @$how;
	$node->command_ok([ 'pg_dump', '-Fc', @options, '-f', "$dump/pets$name", 'pets' ], "dump of another application, by $name");
	$node->command_checks_all(
		[ 'pg_restore', '--clean', '--if-exists', '-d', 'small', "$dump/pets$name" ],
		1,
		[qr/^$/],
		[ map { qr/cannot restore evsource\.$_ into a log in use/ } qw(checkpoints cursors projections store subscriptions) ],
		"it is restored over this one, by $name");
	is($node->safe_psql('small', $followers), $before_pets, "nobody follows the log who did not, by $name");
}

# An older dump of the same database: the partitions that there were do not come back.
create_shop('divided', 5);
is($node->safe_psql('divided', $fetched), 5, 'a subscription in one partition');
$node->command_ok([ 'pg_dump', '-f', "$dump/divided.sql", 'divided' ], 'dump');
$node->safe_psql('divided', q{select evsource.alter_subscription('mailer', partitions => 3); select evsource.append('s-1', 'T')});
is($node->safe_psql('divided', $fetched), 1, 'is divided into three');
$node->safe_psql('divided', q{select evsource.run_projection('seen')});
$node->command_ok([ 'psql', '-X', '-f', "$dump/divided.sql", '-d', 'divided' ], 'the dump is restored over it');
goes_on('divided', 'a dump with fewer partitions', 6);
is($node->safe_psql('divided', q{select lag from evsource.subscription_status}), 0, 'nothing is left that was not fetched');

# A log has an identity however it began: with an import, also one that was rolled back, or
# with a restore, of which the row of evsource.store came or did not.
$node->safe_psql('postgres', 'create database bare template template0');
$node->safe_psql('bare', q{create extension evsource; select evsource.append('b-1', 'T') from generate_series(1, 20)});
$node->command_ok([ 'pg_dump', '-a', '-f', "$dump/bare.sql", 'bare' ], 'dump of the data');
my ($events) = slurp_file("$dump/bare.sql") =~ /^(COPY evsource\.events .*?^\\\.$)/ms;
append_to_file("$dump/events.sql", "$events\n");
append_to_file("$dump/fails.sql", "select 1 / 0;\n");
append_to_file("$dump/import.sql", q{insert into evsource.events (stream, type, position, version, recorded_at)
select 'old-1', 'T', n, n, now() from generate_series(1, 10) n;});
sub began
{
	my ($name, $file, $fails) = @_;

	$node->safe_psql('postgres', "create database $name template template0");
	$node->safe_psql($name, 'create extension evsource');
	my @command = ([ 'psql', '-X', '-1', '-v', 'ON_ERROR_STOP=1', '-d', $name, '-f', "$dump/$file.sql", $fails ? ('-f', "$dump/fails.sql") : () ],
		"$name: " . ($fails ? 'it is rolled back' : 'it comes'));
	$fails ? $node->command_fails(@command) : $node->command_ok(@command);
	$node->safe_psql($name, q{select setval('evsource.position_seq', 1, false)}) if $fails;    # somebody is tidy
	return;
}

sub keeps_identity
{
	my ($name) = @_;
	my $store = $node->safe_psql($name, 'table evsource.store');
	my $ids = $node->safe_psql($name, 'select id from evsource.read_all(0, null)');

	run_command([ 'pg_restore', '--clean', '--if-exists', '-d', $node->connstr($name), "$dump/big" ]);
	is($node->safe_psql($name, 'table evsource.store'), $store, "$name: the store is who it was");
	is($node->safe_psql($name, 'select id from evsource.read_all(0, null)'), $ids, "$name: the events have the ids that they had");
	return;
}

foreach my $how ([ 'imported', 'import' ], [ 'import_tried', 'import', 1 ], [ 'restored', 'bare' ], [ 'restore_tried', 'bare', 1 ],
	[ 'half_restored', 'events' ])
{
	began(@$how);
	$node->safe_psql($how->[0], q{select evsource.append('s-1', 'Paid')});
	keeps_identity($how->[0]);
}
# One that is only read has, too, when it has come.
began('only_read', 'bare');
is($node->safe_psql('only_read', 'select count(*) from evsource.read_all()'), 20, 'a log is read');
keeps_identity('only_read');

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

# A dump made with --inserts brings its events one by one. Somebody may read meanwhile: it is
# the same restore after that. Not so once an event of one's own is among them.
my $event = sub { return "insert into evsource.events (stream, type, position, version, recorded_at) values ('$_[0]', 'T', $_[1], 1, now())" };
my $store = q{insert into evsource.store values ('00000000-0000-4000-8000-000000000001', 1, 1)};
$node->safe_psql('postgres', "create database $_ template template0") for qw(read_meanwhile own_among);
$node->safe_psql($_, 'create extension evsource') for qw(read_meanwhile own_among);
$node->safe_psql('read_meanwhile', $event->('s-1', 1));
is($node->safe_psql('read_meanwhile', 'select count(*) from evsource.read_all()'), 1, 'a log is read before its restore is through');
$node->safe_psql('read_meanwhile', $_) for $event->('s-2', 2), q{insert into evsource.published values (2, now())}, $store;
is($node->safe_psql('read_meanwhile', 'select origin, database from evsource.store'), '00000000-0000-4000-8000-000000000001|0', 'the rest comes');
$node->safe_psql('own_among', join(';', 'begin', $event->('s-1', 1), q{select evsource.append('s-2', 'T')}, $event->('s-3', 500), 'commit'));
my ($failed, undef, $stderr) = $node->psql('own_among', $store, on_error_die => 0);
like($stderr, qr/cannot restore evsource.store into a log in use/, 'an event of its own among them is known');

# Nor where it is committed only after events were imported above it.
$node->safe_psql('postgres', 'create database own_below template template0');
$node->safe_psql('own_below', 'create extension evsource');
$node->safe_psql('own_below', $event->('s-1', 1));
$node->safe_psql('own_below', 'select count(*) from evsource.read_all()');
my $appends = $node->background_psql('own_below');
$appends->query_safe('begin');
$appends->query_safe(q{select evsource.append('s-2', 'T')});
$node->safe_psql('own_below', $event->('s-3', 500));
$appends->query_safe('commit');
$appends->quit;
(undef, undef, $stderr) = $node->psql('own_below', $store, on_error_die => 0);
like($stderr, qr/cannot restore evsource.store into a log in use/, 'one of its own that was open is known, too');

$node->stop;

done_testing();
