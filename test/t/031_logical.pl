# A second PostgreSQL subscribes to the log: a copy that can be read, in order,
# and not written, until the subscription is dropped and the log goes on there.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Listener;
use Node;

my $origin = start_node('origin', '', allows_streaming => 'logical', extra => ['--encoding=UTF8']);
my $copy = start_node('copy', '', allows_streaming => 'logical', extra => ['--encoding=UTF8']);

sub on_origin { return $origin->safe_psql('postgres', $_[0]) }
sub on_copy { return $copy->safe_psql('postgres', $_[0]) }

sub refused
{
	my ($statement, $message) = @_;
	my ($status, $out, $error) = $copy->psql('postgres', "\\set VERBOSITY verbose\n$statement");
	like($error, $message, "refused on the copy: $statement");
	return;
}

# Nothing of evsource is in the way of a publication of all tables.
on_origin(q{create extension evsource});
is(on_origin(q{
	select string_agg(c.oid::regclass::text, ', ') from pg_class c
	where relnamespace = 'evsource'::regnamespace and relkind = 'r' and relreplident <> 'f'
		and not exists (select from pg_index i where i.indrelid = c.oid and indisprimary)}), '', 'every table has a replica identity');

# --- the copy --------------------------------------------------------------------

on_origin(q{
	select evsource.append_batch('a-1', array_fill('One'::text, '{50}'), array_fill('{"n": 1}'::jsonb, '{50}'));
	select evsource.append('a-2', 'WithId', id => '018f3a60-0000-7000-8000-000000000001');
	select evsource.publish_safe_position();
	create publication log for table evsource.events, evsource.published, evsource.store, evsource.truncations});
on_copy(q{create extension evsource});
my $connection = $origin->connstr . ' dbname=postgres';
on_copy("create subscription log connection '$connection' publication log");
$copy->poll_query_until('postgres', q{select bool_and(srsubstate = 'r') from pg_subscription_rel}) or die 'the copy is not ready';
$origin->wait_for_catchup('log');

sub catch_up
{
	on_origin('select evsource.publish_safe_position()');
	$origin->wait_for_catchup('log');
	return;
}

my $log = q{select string_agg(r::text, E'\n') from evsource.read_all(0, null) r};
is(on_copy($log), on_origin($log), 'the first copy has every event, and can be read');
like(on_copy($log), qr/WithId/, 'to the end');
on_origin(q{
	begin; select evsource.append('lost-1', 'Lost'); rollback;
	insert into evsource.events (stream, type) select 'a-' || i % 3, 'Two' from generate_series(1, 20) i});
catch_up();
is(on_copy($log), on_origin($log), 'what follows arrives: positions, versions, times, and ids that the server made');
is(on_copy(q{select * from evsource.streams order by 1}), on_origin(q{select * from evsource.streams order by 1}), 'streams are there');

# An open append holds the copy back as it holds back the log that it is of.
my $slow = $origin->background_psql('postgres');
$slow->query_safe(q{begin; select evsource.append('b-1', 'Slow')});
on_origin(q{select evsource.append('c-1', 'Fast')});
catch_up();
is(on_copy(q{select count(*) from evsource.events where type = 'Fast'}), 1, 'a later event has come');
is(on_copy(q{select count(*) from evsource.read_all(0, null) where type = 'Fast'}), 0, 'but is not read before the earlier one');
$slow->query_safe('commit');
$slow->quit;
catch_up();
is(on_copy(q{select string_agg(type, ' ' order by position) from evsource.read_all(0, null) where type in ('Slow', 'Fast')}), 'Slow Fast',
	'then both are, in their order');

# Read models of its own.
on_copy(q{
	create table per_type (type text primary key, n int);
	select evsource.create_projection('per_type', mode => 'async', query => $$
		insert into per_type as p select type, count(*) from new_events group by type
		on conflict (type) do update set n = p.n + excluded.n $$);
	create function last(state jsonb, e evsource.event) returns jsonb language sql immutable as $$ select to_jsonb((e).version) $$;
	select evsource.create_projection('last', handler => 'last')});
on_origin(q{select evsource.append('a-1', 'Three')});
catch_up();
on_copy(q{select evsource.run_projection('per_type')});
is(on_copy('select * from per_type order by 1'),
	on_origin('select type, count(*) from evsource.events group by type order by 1'), 'an async projection follows the copy');
is(on_copy(q{select evsource.state('last', 'a-1')}), on_origin(q{select evsource.stream_version('a-1')}), 'a fold does');

# Who listens there is told, though nothing is committed there that would wake the daemon.
{
	local $ENV{PGOPTIONS};
	let_daemon_work();
	my $listener = listener($copy, 'postgres');
	on_copy('select evsource.start_daemon()');
	my $position = on_origin(q{select position from evsource.append('a-1', 'Told')});
	catch_up();
	ok(heard_of($listener, $position), 'who listens is told of what has arrived');
	on_copy('select evsource.stop_daemon()');
	$listener->quit;
}

# What is truncated goes there, too.
on_origin(q{select evsource.truncate_stream('a-1', 10)});
catch_up();
is(on_copy($log), on_origin($log), 'a truncated stream is truncated on the copy');

# --- nobody else writes it -------------------------------------------------------

refused($_, qr/25006: cannot append in a copy of the log/) foreach
	q{select evsource.append('a-1', 'Four')},
	q{select evsource.append_json('new-1', '[{"type": "Four"}]')},
	q{insert into evsource.events (stream, type) values ('a-1', 'Four')};
refused(q{select evsource.truncate_stream('a-1', 20)}, qr/25006: cannot truncate a stream in a copy of the log/);
refused(q{insert into evsource.events (position, version, recorded_at, stream, type) values (100000, 1, now(), 'r-1', 'Restored')},
	qr/25006: cannot restore events in a copy of the log/);
refused('select evsource.publish_safe_position()', qr/25006: cannot publish the safe position in a copy/);
refused(q{select evsource.create_projection('inline', query => 'select from new_events')}, qr/55000: cannot register an inline projection in a copy/);
refused('delete from evsource.events', qr/VE003/);

# What was done to the original by hand follows.
on_origin(q{
	begin;
	alter table evsource.events disable trigger immutable;
	update evsource.events set data = '{"n": 2}' where stream = 'a-2';
	delete from evsource.events where stream = 'a-1';
	alter table evsource.events enable always trigger immutable;
	commit});
catch_up();
is(on_copy($log), on_origin($log), 'changed and removed events are on the copy, too');
on_origin(q{
	begin;
	alter table evsource.events disable trigger immutable;
	truncate evsource.events;
	alter table evsource.events enable always trigger immutable;
	commit;
	select evsource.append_batch('a-1', array_fill('New'::text, '{3}'), array_fill('{}'::jsonb, '{3}'));
	select evsource.append('b-1', 'New')});
catch_up();
is(on_copy($log), on_origin($log), 'so is a log that was emptied');

# --- the log goes on there -------------------------------------------------------

# a session that knows of the subscription from before
my $session = $copy->background_psql('postgres', on_error_stop => 0);
$session->query(q{select evsource.append('a-1', 'Four')});
my $before = on_copy($log);
my $last = on_copy('select max(position) from evsource.events');
on_copy('drop subscription log');
is(on_copy($log), $before, 'without the subscription the log reads the same');
is(on_copy('select max(position) <= evsource.safe_position() from evsource.events'), 't', 'and is safe to its end');
$session->query(q{select evsource.append('a-1', 'Five')});
$session->quit;
is(on_copy("select position - $last > 16777216 from evsource.read_all(0, null) where type = 'Five'"), 't',
	'the session that was refused appends, far above what the origin may have drawn');
is(on_copy(q{select version = 1 + (select max(version) from evsource.events where stream = 'a-1' and type <> 'Five') from evsource.read_all(0, null) where type = 'Five'}),
	't', 'with the next version of the stream');
is(on_copy(q{select e.position + 1 = a.position from (select max(position) as position from evsource.events) e, evsource.append('b-1', 'Six') a}), 't', 'and leaves the gap once');
on_copy(q{select evsource.publish_safe_position()});

# --- wal2json --------------------------------------------------------------------

SKIP:
{
	skip 'wal2json is not installed', 2 unless -e $origin->config_data('--pkglibdir') . '/wal2json.so';

	# Newer minor versions load those plugins only that the configuration names.
	my $plugins = on_origin(q{select concat_ws(', ', nullif(setting, ''), 'wal2json') from pg_settings where name = 'output_plugin_libraries'});
	if ($plugins ne '')
	{
		$origin->append_conf('postgresql.conf', "output_plugin_libraries = '$plugins'");
		$origin->reload;
		$origin->poll_query_until('postgres', q{select current_setting('output_plugin_libraries') ~ 'wal2json'})
			or die 'the plugin is not allowed';
	}
	on_origin(q{select from pg_create_logical_replication_slot('json', 'wal2json')});
	on_origin(q{
		begin; select evsource.append('w-1', 'Rolled'); rollback;
		select evsource.append('w-1', 'Written', '{"n": 1}', '{"by": "me"}');
		insert into evsource.events (stream, type) values ('w-1', 'Inserted');
		select evsource.append_batch('w-2', array_fill('Many'::text, '{10}'), array_fill('{}'::jsonb, '{10}'))});
	my $changes = q{
		from pg_logical_slot_peek_changes('json', null, null, 'format-version', '2', 'add-tables', 'evsource.events',
			'include-transaction', 'false') c,
		lateral (select jsonb_object_agg(column_ ->> 'name', column_ -> 'value') as e
			from jsonb_array_elements(c.data::jsonb -> 'columns') column_) r};
	is(on_origin("select string_agg(e ->> 'type', ' ' order by (e ->> 'position')::bigint) $changes"),
		'Written Inserted' . ' Many' x 10, 'wal2json tells each committed event');
	is(on_origin(qq{select count(*) $changes join evsource.events s on s.position = (e ->> 'position')::bigint
			and s.stream = e ->> 'stream' and s.version = (e ->> 'version')::bigint and s.data = (e ->> 'data')::jsonb
			and s.metadata is not distinct from (e ->> 'metadata')::jsonb}), 12, 'as it is stored');
	on_origin(q{select pg_drop_replication_slot('json')});
}

done_testing();
