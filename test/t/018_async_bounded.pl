# A worker's transaction ends soon after async_batch_time, also when events suddenly become slow.
#
# A slow event takes longer than that, whatever else the machine does: so each is the last of
# its transaction.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('bounded', q{
shared_preload_libraries = 'evsource'
evsource.async_batch_time = 50
evsource.async_attempts = 1
evsource.async_retry_delay = 0
autovacuum = off
});
my ($sql) = asking($node);
my $wait = sub { return $sql->("select from evsource.wait_for('$_[0]', timeout => '2min')") };

$sql->(q{
create extension evsource;
create table taken (projection text, position bigint, type text, transaction xid8 default pg_current_xact_id());
create function tarry(type text) returns void language plpgsql as $$ begin
	if type = 'Slow' then perform pg_sleep(0.1); end if;
end $$;
create function take(e evsource.event) returns void language plpgsql as $$ begin
	if e.type = 'Bad' then raise exception 'bad'; end if;
	perform public.tarry(e.type);
	insert into public.taken values ('each', e.position, e.type);
end $$;
create function take_all(events evsource.event[]) returns void language plpgsql as $$ begin
	if exists (select from unnest(events) e where e.type = 'Bad') then raise exception 'bad'; end if;
	perform public.tarry(max(e.type)) from unnest(events) e;
	insert into public.taken select 'calls', max(e.position), max(e.type) from unnest(events) e;
end $$;
create function fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$ begin
	if e.type = 'Bad' then raise exception 'bad'; end if;
	perform public.tarry(e.type);
	return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1,
		'in', coalesce(state -> 'in', '[]') || case when e.type = 'Slow' then to_jsonb(pg_current_xact_id()::text) else '[]' end);
end $$;
create function key_of(e evsource.event) returns text[] language sql immutable as $$ select array[(e).stream, 'n' || (e).position % 3] $$;
create function stream_of(e evsource.event) returns text language sql immutable as $$ select (e).stream $$;
create view rows as
	select s.projection, s.key, s.event_count, (s.state -> 'n')::int as n, t.transaction
	from evsource.snapshots s left join jsonb_array_elements_text(s.state -> 'in') t (transaction) on true;
create procedure append_all(prefix text, type text, streams int, each int) language sql as $$
	select count(*) from generate_series(1, streams) i,
		evsource.append_batch(prefix || i, array_fill(type, array[each]), array_fill('{}'::jsonb, array[each])) $$;
});

# A fold of one key, of several, of streams.
$sql->(q{
select evsource.create_projection('global', 'fold', mode => 'async', key => 'global');
select evsource.create_projection('keys', 'fold', mode => 'async', key => 'key_of');
select evsource.create_projection('streams', 'fold', mode => 'async', snapshot_every => 1);
call append_all('a-', 'Fast', 20, 200);
});
$wait->($_) for qw(global keys streams);
$sql->(q{
begin;
call append_all('b-', 'Fast', 20, 50);
call append_all('c-', 'Slow', 6, 1);
call append_all('d-', 'Fast', 20, 50);
commit;
});
$wait->($_) for qw(global keys streams);
is($sql->(q{select string_agg(projection || ' ' || events, ', ' order by projection) from
	(select projection, count(distinct transaction) as events from rows group by projection) t}),
	'global 6, keys 6, streams 6', 'the transaction of a fold ends with an event that is slow');
is($sql->(q{select bool_and(event_count = n) from rows}), 't', 'each is folded once');
is($sql->(q{select string_agg(projection || ' ' || sum, ', ' order by projection) from
	(select projection, sum(n) from (select distinct projection, key, n from rows) k group by projection) t}),
	'global 6006, keys 12012, streams 6006', 'and in each of its keys');
is($sql->(q{select string_agg(distinct event_count::text, ' ') from evsource.projection_status}), '6006', 'and counted once');

# With a dead letter.
$sql->(q{
select evsource.drop_projection(projection) from evsource.projections;
select evsource.append('bad-1', 'Bad');
select evsource.create_projection('each', 'take', mode => 'async', on_error => 'dead_letter', tables => '{taken}');
select evsource.create_projection('calls', 'take_all', mode => 'async', on_error => 'dead_letter', tables => '{taken}');
select evsource.create_projection('folded', 'fold', mode => 'async', key => 'stream_of', on_error => 'dead_letter');
});
$wait->($_) for qw(each calls folded);
is($sql->('select count(*), count(distinct projection) from evsource.dead_letters'), '3|3', 'all have a dead letter');
$sql->(q{
truncate taken;
begin;
call append_all('e-', 'Slow', 6, 1);
select evsource.append('bad-1', 'Fast');
call append_all('f-', 'Fast', 3, 1000);
commit;
});
$wait->($_) for qw(each calls folded);
is($sql->(q{select max(n), sum(n) from (select count(*) as n from taken where projection = 'each' and type = 'Slow' group by transaction) t}),
	'1|6', 'an event handler with letters: one slow event a transaction');
is($sql->(q{select count(distinct transaction) from rows where key like 'e-%'}), '6', 'a fold with letters, too');
is($sql->(q{select max(n) from (select count(*) as n from taken where projection = 'calls' and type = 'Slow' group by transaction) t}),
	'1', 'a batch handler with letters: one slow call a transaction');
is($sql->('select count(*), count(distinct projection) from evsource.dead_letters'), '6|3', 'what waits behind the letter is parked');
is($sql->(q{select string_agg(distinct event_count::text, ' ') from evsource.projection_status}), '9012', 'and each of the others counted once');

# Calls of a batch handler: each takes what the array may have, and the transaction ends between two.
$sql->(q{
truncate taken;
begin;
call append_all('g-', 'Fast', 10, 1000);
call append_all('h-', 'Slow', 10, 1000);
commit;
});
$wait->('calls');
is($sql->(q{select max(n) from (select count(*) as n from taken where projection = 'calls' and type = 'Slow' group by transaction) t}),
	'1', 'a batch handler: one slow call a transaction');

# A batch of run_projection, too.
$sql->(q{select evsource.create_projection('manual', 'take', mode => 'manual', types => '{Slow}', tables => '{taken}')});
is($sql->(q{select string_agg(evsource.run_projection('manual', max_batches => 1)::text, ' ') from generate_series(1, 3)}),
	'1 1 1', 'a batch of run_projection ends with a slow event');

# Upcasters that are slow.
$sql->(q{
create function upcast(data jsonb) returns jsonb language plpgsql as $$ begin
	perform pg_sleep(0.1);
	return data;
end $$;
call append_all('old-', 'Old', 4, 1);
select evsource.define_event_type('Old', 2, upcaster => 'upcast');
create function count_xids(state jsonb, e evsource.event) returns jsonb language sql as
	$$ select coalesce(state, '{}') || jsonb_build_object(pg_current_xact_id()::text, 1, e.stream, 1) $$;
select evsource.create_projection('upcast', 'count_xids', mode => 'async', key => 'global', types => '{Old}');
select evsource.create_projection('upcast query', mode => 'async', types => '{Old}', tables => '{taken}',
	query => $$insert into taken (projection, position, type) select 'upcast query', position, type from new_events$$);
});
$wait->($_) for 'upcast', 'upcast query';
is($sql->(q{select count(*) from evsource.snapshots s, jsonb_object_keys(state) where projection = 'upcast'}), '8', 'a fold of what takes long to read');
is($sql->(q{select count(distinct transaction) from taken where projection = 'upcast query'}), '4', 'and a query');

# A worker that is new to it does not know how long its events will take, and asks with one.
# What takes too long gets no more than two of them from then on.
$sql->(q{
create function take_each(events evsource.event[]) returns void language plpgsql as $$ begin
	perform pg_sleep(0.1 * cardinality(events));
	insert into public.taken select 'new calls', position, type from unnest(events);
end $$;
create function take_row(type text) returns text language plpgsql as $$ begin
	perform pg_sleep(0.1);
	return type;
end $$;
call append_all('i-', 'New', 10, 1);
select evsource.create_projection('new calls', 'take_each', mode => 'async', types => '{New}', tables => '{taken}');
select evsource.create_projection('new query', mode => 'async', types => '{New}', tables => '{taken}',
	query => $$insert into taken (projection, position, type) select 'new query', position, take_row(type) from new_events$$);
});
$wait->($_) for 'new calls', 'new query';
is($sql->(q{select string_agg(projection || ' ' || first || ' ' || bounded || ' ' || sum, ', ' order by projection) from
	(select projection, (array_agg(n order by transaction))[1] as first, max(n) <= 2 as bounded, sum(n) from
		(select projection, transaction, count(*) as n from taken where type = 'New' and projection like 'new %' group by 1, 2) t group by projection) t}),
	'new calls 1 true 10, new query 1 true 10', 'a new worker begins with an event, and does not go on with many that are slow');

# After a call that was slow the next one is as small as that says.
$sql->(q{
create or replace function take_each(events evsource.event[]) returns void language plpgsql as $$ begin
	perform pg_sleep(0.002 * (select count(*) from unnest(events) where type = 'Late'));
	insert into public.taken select 'paced', position, type from unnest(events);
end $$;
truncate taken;
call append_all('j-', 'Even', 10, 1000);
select evsource.create_projection('paced', 'take_each', mode => 'async', types => '{Even,Late}', tables => '{taken}');
});
$wait->('paced');
$sql->(q{call append_all('k-', 'Late', 2, 1000)});
$wait->('paced');
is($sql->(q{select n <= 50 from (select count(*) as n, transaction from taken where projection = 'paced' and type = 'Late' group by transaction) t
	order by transaction limit 1 offset 1}), 't', 'a batch after a slow one is small at once');
is($sql->(q{select count(*), count(distinct position) from taken where projection = 'paced'}), '12000|12000', 'and each event is applied once');

$node->stop;
done_testing();
