# A dump brings back everything that evsource holds, dispatches nothing while it
# is restored, and life goes on in the restored database as it would have in the
# old one.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Holds;
use Node;

my $node = start_node('main', '', extra => ['--encoding=UTF8']);    # the locale may ask for none

# A store with one of everything.  The positions have gaps, the rows of the
# table are not in the order of the log, and the handlers leave traces.
$node->safe_psql('postgres', 'create database shop');
$node->safe_psql(
	'shop', q{
create extension evsource;
create role app_reader;
create role app_writer;
create role app_admin;
create role "Odd ""name""";
select evsource.grant_access('app_reader', 'reader');
select evsource.grant_access('app_writer', 'writer');
select evsource.grant_access('app_admin', 'admin');
select evsource.grant_access('"Odd ""name"""', 'reader');
grant insert (stream, type) on evsource.events to app_reader;
create schema app authorization app_admin;

set role app_admin;
create table app.orders (stream text primary key, n bigint not null);
create function app.count_order(e evsource.event) returns void language sql as $$
    insert into app.orders values ((e).stream, 1)
    on conflict (stream) do update set n = orders.n + 1
$$;
create table app.types (type text primary key, n bigint not null);
create table app.handled (position bigint);
create function app.remember(e evsource.event) returns void language plpgsql as $$
begin
    insert into app.handled values ((e).position);
    raise log 'handler called';
end
$$;
create function app.total(state jsonb, e evsource.event) returns jsonb language sql immutable as $$
    select pg_catalog.jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1, 'last', (e).type)
$$;
select evsource.create_projection('orders', handler => 'app.count_order', categories => array['order'], tables => array['app.orders']);
select evsource.create_projection('types', query => 'insert into app.types select type, count(*) from new_events group by type
    on conflict (type) do update set n = types.n + excluded.n');
select evsource.create_projection('handled', handler => 'app.remember');
select evsource.create_projection('totals', handler => 'app.total', snapshot_every => 2);
select evsource.create_projection('later', handler => 'app.total', mode => 'async', key => 'global');
reset role;

set evsource.metadata = '{"by": "test"}';
select evsource.append('order-' || n % 5, 'Placed', jsonb_build_object('n', n)) from generate_series(1, 20) n;
select evsource.append_batch('meter-1', array_agg('Read'::text), array_agg(to_jsonb(n)),
        ids => array_agg(case when n % 2 = 0 then md5(n::text)::uuid end),
        occurred_at => array_agg(case when n % 3 = 0 then '2020-01-01'::timestamptz + n * interval '1 hour' end))
    from generate_series(1, 300) n;
reset evsource.metadata;
begin;
select evsource.append('order-1', 'Lost');
rollback;
insert into evsource.events (stream, type, data) select 'odd' || n, E'tab\t"quote"\\\\', '"\\u00e9\\n"' from generate_series(1, 3) n;
insert into evsource.events (stream, type, data) values ('null-1', 'Null', 'null');
select evsource.append('big-1', 'Big', jsonb_build_object('text', (select string_agg(md5(n::text), '') from generate_series(1, 3000) n)));
begin;
select evsource.append('order-1', 'Lost');
rollback;

set role app_admin;
create function app.size(data jsonb) returns jsonb language sql immutable as $$
    select pg_catalog.to_jsonb(pg_catalog.length(data ->> 'text'))
$$;
select evsource.define_event_type('Big', 2, '$ > 0', upcaster => 'app.size');
select evsource.append('big-2', 'Big', '7');
create function app.place(state jsonb, command jsonb) returns evsource.new_event[] language sql immutable as $$
    select case when state = '{}' then array[evsource.new_event('Ordered')] end
$$;
select evsource.create_decider('placer', 'app.place', 'totals');
select evsource.execute_command('placer', 'shop-1', '{}', '10000000-0000-4000-8000-000000000001');
select evsource.execute_command('placer', 'shop-1', '{}', '10000000-0000-4000-8000-000000000002');
select evsource.run_projection('later');
select evsource.create_subscription('mailer', categories => '{order}', partitions => 2, max_attempts => 1);
select evsource.nack(receipt, 'unreadable') from evsource.fetch_events('mailer', 1);
select evsource.ack(receipt) from evsource.fetch_events('mailer', 3) order by position limit 1;
select evsource.publish_safe_position();
reset role;
});

my @tables = qw(app.orders app.types app.handled);
my $expected = holds($node, 'shop', @tables);
my $last_position = $node->safe_psql('shop', 'select max(position) from evsource.events');
is($node->safe_psql('shop', 'select count(*) from evsource.events'), 327, 'the store has its events');
cmp_ok(() = $expected =~ /^right\|/mg, '>', 100, 'and its grants');
like($expected, qr/^snapshot\|\(totals,order-1,4,/m, 'and snapshots');
like($expected, qr/^cursor\|\(mailer,/m, 'and cursors of subscriptions');
like($expected, qr/^subscription_dead_letter\|\(mailer,/m, 'and their dead letters');
like($expected, qr/^checkpoint\|\(later,/m, 'and checkpoints');

my $dump = $node->backup_dir;
mkdir $dump;

sub handler_calls
{
	return () = slurp_file($node->logfile) =~ /LOG:  handler called/g;
}

# Restore by the commands given, each a list, into a database of the name, and
# see that all is there and works.
sub restored_ok
{
	my ($name, @commands) = @_;
	my $calls = handler_calls();

	$node->safe_psql('postgres', "create database $name template template0");
	foreach my $command (@commands)
	{
		$node->command_ok($command, "$name: " . join(' ', @$command[ 0 .. 1 ]));
	}
	is(handler_calls(), $calls, "$name: nothing was dispatched");
	works_ok($name);
	return;
}

sub works_ok
{
	my ($name) = @_;
	my $sql = sub { return $node->safe_psql($name, $_[0]) };

	same_ok(holds($node, $name, @tables), $expected, "$name: everything is there");

	# Appends go on, where the streams and the log ended.
	is($sql->(q{select version, stored, position > } . $last_position
			  . q{ from evsource.append('order-1', 'Paid', expected_version => 4)}),
		'5|t|t', "$name: an append goes on");
	is($sql->(q{insert into evsource.events (stream, type) values ('order-1', 'Packed') returning version}),
		6, "$name: an INSERT goes on");

	# They are dispatched: to a read model, to a fold, and to nothing twice.
	is($sql->(q{select n from app.orders where stream = 'order-1'}), 6, "$name: the event handler goes on");
	is($sql->(q{select n from app.types where type in ('Packed', 'Placed', 'Read') order by type}),
		"1\n20\n300", "$name: the query goes on");
	is($sql->(q{select count(*), count(distinct position) from app.handled}), '329|329',
		"$name: each event was handled once");
	is($sql->(q{select evsource.state('totals', 'order-1')}), '{"n": 6, "last": "Packed"}', "$name: the fold goes on");
	is($sql->(q{select evsource.run_projection('later'), evsource.state('later')}),
		'2|{"n": 329, "last": "Packed"}', "$name: the async projection goes on");

	# Event types and deciders work, and a command is known.
	is($sql->(q{select string_agg(data::text, ' ' order by position) from evsource.read_category('big')}), '96000 7',
		"$name: an old event is upcast");
	my ($refused, undef, $why) = $node->psql($name, q{select evsource.append('big-1', 'Big', '0')});
	like($why, qr/data of event type "Big" is not valid/, "$name: a new one is validated");
	is($sql->(q{select version, stored, cardinality(events) from evsource.execute_command('placer', 'shop-1', '{}', '10000000-0000-4000-8000-000000000001')}),
		'1|f|1', "$name: a command is not executed twice");
	is($sql->(q{select version, stored, cardinality(events) from evsource.execute_command('placer', 'shop-1', '{}', '10000000-0000-4000-8000-000000000002')}),
		'1|f|0', "$name: nor one without events");

	# An id that the server made before the dump is still the event's.
	is($sql->(q{
select a.version, a.stored, (r).type
from evsource.events e,
    evsource.append('order-2', 'Placed', e.data, e.metadata, id => evsource.event_id(e)) a,
    evsource.read_event(evsource.event_id(e)) r
where e.stream = 'order-2' and e.version = 3}),
		'3|f|Placed', "$name: an id is still the event's");

	# The grants are in force.
	is($sql->(q{set role app_writer; select version from evsource.append('order-1', 'Sent')}), 7, "$name: a writer writes");
	is($sql->(q{set role app_reader; select count(*) from evsource.read_category('meter')}), 300, "$name: a reader reads");

	# The guard stands.
	my ($status, $out, $error) = $node->psql($name, 'drop extension evsource cascade');
	like($error, qr/cannot drop extension evsource because its log holds events/, "$name: the guard stands");

	$node->safe_psql('postgres', "drop database $name");
	return;
}

# Plain text
$node->command_ok([ 'pg_dump', '-f', "$dump/plain.sql", 'shop' ], 'dump as text');
restored_ok('plain', [ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-1', '-f', "$dump/plain.sql", '-d', 'plain' ]);

# The custom format, in one process and in two
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump/custom", 'shop' ], 'dump in the custom format');
restored_ok('custom', [ 'pg_restore', '--exit-on-error', '-d', 'custom', "$dump/custom" ]);
restored_ok('jobs', [ 'pg_restore', '-j2', '--exit-on-error', '-d', 'jobs', "$dump/custom" ]);

# A folder, written and read by two processes
$node->command_ok([ 'pg_dump', '-Fd', '-j2', '-f', "$dump/folder", 'shop' ], 'dump into a folder');
restored_ok('folder', [ 'pg_restore', '-j2', '--exit-on-error', '-d', 'folder', "$dump/folder" ]);

# INSERTs in place of COPY
$node->command_ok([ 'pg_dump', '--rows-per-insert=100', '-f', "$dump/inserts.sql", 'shop' ], 'dump as INSERTs');
restored_ok('inserts', [ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/inserts.sql", '-d', 'inserts' ]);

# Section by section
restored_ok(
	'sections',
	map { [ 'pg_restore', "--section=$_", '--exit-on-error', '-d', 'sections', "$dump/custom" ] }
	  qw(pre-data data post-data));

# The schema first, the data later: rows go into an extension that is there
$node->command_ok([ 'pg_dump', '-s', '-f', "$dump/schema.sql", 'shop' ], 'dump of the schema');
$node->command_ok([ 'pg_dump', '-a', '-f', "$dump/data.sql", 'shop' ], 'dump of the data');
restored_ok(
	'parts',
	[ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/schema.sql", '-d', 'parts' ],
	[ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/data.sql", '-d', 'parts' ]);

# The whole server
$node->command_ok([ 'pg_dumpall', '-f', "$dump/all.sql" ], 'dump of the server');
my $other = start_node('other');
$other->command_ok([ 'psql', '-X', '-f', "$dump/all.sql", '-d', 'postgres' ], 'restore of the server');
same_ok(holds($other, 'shop', @tables), $expected, 'another server: everything is there');
unlike(slurp_file($other->logfile), qr/LOG:  handler called/, 'another server: nothing was dispatched');
$other->stop;

# Into a database where somebody has created the extension already, and used it
# in a session that stays: the log is empty, so the dump fits; its ids are the
# dumped ones, in that session too.
$node->safe_psql('postgres', 'create database already template template0');
$node->safe_psql('already', 'create extension evsource');
my $session = $node->background_psql('already');
$session->query_safe(q{begin; select evsource.append('x-1', 'X'); select id from evsource.read_stream('x-1'); rollback});
$node->command_checks_all(
	[ 'pg_restore', '-d', 'already', "$dump/custom" ],
	1,
	[qr/^$/],
	[ qr/schema "evsource" already exists/, qr/errors ignored on restore: 1$/m ],
	'restore over an empty extension: only its schema is there already');
is( $session->query_safe(q{select string_agg(id::text, ' ' order by position) from evsource.read_all(0, null)}),
	$node->safe_psql('shop', q{select string_agg(id::text, ' ' order by position) from evsource.read_all(0, null)}),
	'a session that is older than the restore computes the restored ids');
$session->quit;
works_ok('already');

# Onto a log that is in use nothing is restored: the positions are taken.
my ($status, $out, $error) =
  run_command([ 'psql', '-X', '-d', $node->connstr('shop'), '-v', 'ON_ERROR_STOP=1', '-1', '-f', "$dump/data.sql" ]);
like($out . $error, qr/duplicate key value/, 'no restore into a log in use');
same_ok(holds($node, 'shop', @tables), $expected, 'which is as it was');

# A column of one's own: the rows of the dump have it, its CREATE EXTENSION does not.
$node->safe_psql(
	'shop', q{
alter table evsource.events add column tenant text;
insert into evsource.events (stream, type, tenant) values ('order-1', 'Moved', 'acme');
});
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump/column", 'shop' ], 'dump with a column of one\'s own');
$node->safe_psql('postgres', 'create database has_column template template0');
$node->command_ok([ 'pg_restore', '--section=pre-data', '--exit-on-error', '-d', 'has_column', "$dump/column" ],
	'restore what comes before the data');
$node->safe_psql('has_column', 'alter table evsource.events add column tenant text');
$node->command_ok(
	[ 'pg_restore', '--section=data', '--section=post-data', '--exit-on-error', '-d', 'has_column', "$dump/column" ],
	'and the rest, where the column is there');
is($node->safe_psql('has_column', q{select count(*), count(tenant) from evsource.events}),
	$node->safe_psql('shop', q{select count(*), count(tenant) from evsource.events}), 'all events come back');

# What a dump brings has followed the log, up to its end: events are imported behind that,
# not below, and the projections that are not told of them are stale.  At once: nobody has
# come to a position of the restored log yet.
$node->safe_psql('postgres', 'create database imported template template0');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'imported', "$dump/custom" ], 'restore before an import');
my $import = 'insert into evsource.events (position, version, recorded_at, stream, type)';
my $gap = $node->safe_psql('imported',
	'select min(position) + 1 from evsource.events e where not exists (select from evsource.events n where n.position = e.position + 1)');
(undef, $out, $error) = $node->psql('imported', "$import values ($gap, 1, now(), 'import-1', 'Imported')");
like($error, qr/cannot restore an event at position $gap, which readers of the log may have passed/,
	'nothing is imported where a restored checkpoint has passed');
$node->safe_psql('imported', "$import values ($last_position + 1000, 1, now(), 'import-1', 'Imported')");
is($node->safe_psql('imported', q{select string_agg(projection, ' ' order by projection) from evsource.projections where stale and kind <> 'fold'}),
	'handled types', 'the inline projections that take an imported event are stale');
is($node->safe_psql('imported', q{select evsource.run_projection('later')}), 1, 'an async one meets it');
$node->safe_psql('postgres', 'drop database imported');

# A log in which an append was tried is open: it takes a dump as one COPY (above), and
# statement by statement only when it is made anew.  The manual says so.
$node->safe_psql('shop', 'alter table evsource.events drop column tenant');
$node->safe_psql('postgres', 'create database again template template0');
$node->safe_psql('again', 'create extension evsource');
$node->safe_psql('again', q{begin; select evsource.append('x-1', 'X'); rollback; drop extension evsource; drop schema if exists evsource});
$node->command_ok([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/inserts.sql", '-d', 'again' ],
	'INSERTs where the extension was dropped');
works_ok('again');

# What others have put on the tables of an extension is in no dump of
# PostgreSQL's: an index, a trigger, a policy.  The manual says so.
$node->safe_psql(
	'shop', q{
create index mine on evsource.events (type);
alter table evsource.events enable row level security;
create policy mine on evsource.events for select using (true);
create function app.mine() returns trigger language plpgsql as 'begin return null; end';
create trigger mine after insert on evsource.events for each statement execute function app.mine();
});
$node->command_ok([ 'pg_dump', '-s', '-f', "$dump/mine.sql", 'shop' ], 'dump with things on the tables');
unlike(slurp_file("$dump/mine.sql"), qr/(INDEX|TRIGGER|POLICY) mine|ROW LEVEL/, 'which are not in it');

$node->stop;

done_testing();
