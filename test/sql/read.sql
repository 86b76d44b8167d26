-- read: streams, categories, the log and single events; bad input. (Plans:
-- read_plans.sql; rights and policies: read_rights.sql; what other sessions do
-- meanwhile: specs read_*.)

-- A log of its own: positions are part of what is shown.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_read;
create database evsource_read;
\c evsource_read
create extension evsource;
set timezone = 'UTC';

-- An empty log reads as nothing; a stream that is not there has version 0.
select count(*) from evsource.read_all();
select count(*) from evsource.read_category('order');
select count(*) from evsource.read_stream('order-1');
select evsource.stream_version('order-1'), evsource.safe_position();
select * from evsource.streams;

select from evsource.append('order-1', 'Placed', '{"total": 40}');
select from evsource.append('order-1', 'Paid', '{"amount": 40}', '{"by": "ann"}');
select from evsource.append('invoice-7', 'Sent', occurred_at => '2001-02-03 04:05:06+00');
select from evsource.append('order-2', 'Placed', id => '6a6f0000-0000-4000-8000-000000000001');
select from evsource.append('order-1', 'Shipped');
select from evsource.append('order', 'Reorganised');
select from evsource.append('-1', 'Odd');

--
-- What an event looks like
--

-- metadata is {} when there is none, occurred_at is recorded_at when none was given.
select position, stream, version, type, data, metadata,
       occurred_at = recorded_at as when_recorded, recorded_at = e.stored_at as recorded_at
    from evsource.read_all(), lateral (select recorded_at as stored_at from evsource.events e where e.position = read_all.position) e;
select occurred_at from evsource.read_stream('invoice-7');

-- The id is the client's, or the one that append returned.
select id from evsource.read_stream('order-2');
select r.id = a.id as same from evsource.append('order-3', 'Placed') a, lateral evsource.read_stream('order-3') r;

-- evsource.event_id gives it to those who read the table; null for no row.
select count(*), bool_and(r.id = evsource.event_id(e)) as same
    from evsource.read_all() r join evsource.events e using (position);
select evsource.event_id(e) is null as nothing from (values (1)) v (n) left join evsource.events e on e.position = -v.n;

-- It is an ordinary composite value.
select pg_typeof(e), (e).type, e.type from evsource.read_stream('order-1') e limit 1;
select (evsource.read_stream('order-1')).version;
select array_agg(e.type order by e.position) from evsource.read_all() e;

--
-- A stream
--

-- Forward from the first, from a version on, with a limit.
select version, type from evsource.read_stream('order-1');
select version, type from evsource.read_stream('order-1', 2);
select version, type from evsource.read_stream('order-1', from_version => 1, max_count => 2);
select version, type from evsource.read_stream('order-1', from_version => 4);

-- Backward from the last, or from a version back.
select version, type from evsource.read_stream('order-1', backward => true);
select version, type from evsource.read_stream('order-1', 2, backward => true);
select version, type from evsource.read_stream('order-1', max_count => 1, backward => true);
select version, type from evsource.read_stream('order-1', 1000, 1, true);

-- null is the default everywhere; 0 events are none.
select version, type from evsource.read_stream('order-1', null, null, null);
select count(*) from evsource.read_stream('order-1', max_count => 0);
select count(*) from evsource.read_stream('order-1', from_version => 9223372036854775807);

-- A stream's name is taken as a whole: no prefix, no case, no spaces.
select count(*) from evsource.read_stream('order-') union all
select count(*) from evsource.read_stream('ORDER-1') union all
select count(*) from evsource.read_stream('order-1 ') union all
select count(*) from evsource.read_stream('') union all
select count(*) from evsource.read_stream(repeat('x', 100000));

-- The version is fit to be passed as expected_version.
select evsource.stream_version('order-1'), evsource.stream_version('order-9');
select version from evsource.append('order-1', 'Returned', expected_version => evsource.stream_version('order-1'));
select version from evsource.append('order-9', 'Placed', expected_version => evsource.stream_version('order-9'));

--
-- A category, the log
--

-- A category is the part before the first '-'; a name without one is its own.
select position, stream, version from evsource.read_category('order');
select stream from evsource.read_category('invoice');
select stream from evsource.read_category('');
select count(*) from evsource.read_category('order-1');

-- After a position, so many, of some types.
select position, stream from evsource.read_category('order', after_position => 4);
select position, stream from evsource.read_category('order', 2, 2);
select position, type from evsource.read_category('order', types => '{Placed}');
select position, type from evsource.read_category('order', types => '{Returned,Paid,Nothing}');

select position from evsource.read_all(5);
select position from evsource.read_all(max_count => 2);
select position from evsource.read_all(3, 2);
select position, stream from evsource.read_all(categories => '{invoice}');
select position, stream from evsource.read_all(categories => '{invoice,""}');
select position, stream, type from evsource.read_all(categories => array['invoice', 'order'], types => array['Sent', 'Paid']);
select count(*) from evsource.read_all(after_position => 1000000);
select count(*) from evsource.read_all(after_position => 9223372036854775807);

-- null is the beginning, and all; 0 events are none.
select count(*) from evsource.read_all(null, null, null, null);
select count(*) from evsource.read_category('order', null, null, null);
select count(*) from evsource.read_all(max_count => 0);

-- A consumer that asks again for what comes after the last event it received
-- sees every event once; 1000 are read by default.
select from evsource.append_batch('bulk-1', array_fill('Ticked'::text, array[2500]), array(select to_jsonb(i) from generate_series(1, 2500) i));
do $$
declare
    after bigint := 0;
    seen bigint[];
    batch bigint[];
begin
    loop
        batch := array(select e.position from evsource.read_all(after) e);
        exit when cardinality(batch) = 0;
        seen := seen || batch;
        after := batch[cardinality(batch)];
    end loop;
    raise warning 'in order: %, read: %, stored: %',
        seen = array(select unnest(seen) order by 1), cardinality(seen), (select count(*) from evsource.events);
end
$$;

-- More than work_mem holds is read as well.
set work_mem = '64kB';
select count(*), sum((data #>> '{}')::int), bool_and(version = (data #>> '{}')::bigint) from evsource.read_stream('bulk-1');
select count(*), sum((data #>> '{}')::int) from evsource.read_category('bulk', max_count => null);
reset work_mem;

-- A rollback leaves a gap in the positions, and is nothing to wait for.
begin;
select from evsource.append('order-10', 'Placed');
rollback;
select from evsource.append('order-10', 'Placed');
select evsource.safe_position() = max(position) as all_safe from evsource.events;
select stream, version from evsource.read_all(2500) where stream like 'order%';

--
-- One event
--

select stream, version from evsource.read_event('6a6f0000-0000-4000-8000-000000000001');
select count(*) as read, bool_and(r.stream = e.stream and r.version = e.version and r.data = e.data) as same
    from evsource.events e, lateral evsource.read_event(evsource.event_id(e)) r;

-- An id that nobody gave and the server did not make is no event's: not even
-- one that differs from an event's in a bit, or points to a client's own id.
select count(*) from evsource.read_event('6a6f0000-0000-4000-8000-000000000002');
select count(*) from evsource.events e,
    lateral evsource.read_event(overlay(evsource.event_id(e)::text placing
        case substr(evsource.event_id(e)::text, 20, 1) when '8' then '9' else '8' end from 20 for 1)::uuid) r;
select count(*) from evsource.read_event(evsource._event_id(4, (select recorded_at from evsource.events where position = 4)));
select count(*) from evsource.read_event(evsource._event_id(1000000, now()));
select count(*) from evsource.read_event('00000000-0000-0000-0000-000000000000');
select count(*) from evsource.read_event('ffffffff-ffff-ffff-ffff-ffffffffffff');

--
-- Large events
--

-- Compressed in the row, or out of line: they come back as they were stored.
select from evsource.append('large-1', 'Compressed', to_jsonb(repeat('evsource ', 1000)), jsonb_build_object('note', repeat('x', 5000)));
select from evsource.append('large-1', 'External', (select jsonb_agg(md5(i::text)) from generate_series(1, 10000) i));
select from evsource.append('large-1', repeat('T', 1000), to_jsonb(repeat('s', 60)));
select pg_column_size(data) < 1000 as compressed, pg_column_size(data) > 100000 as external from evsource.events where stream = 'large-1' order by version;
select r.version, r.type = e.type as type, r.data = e.data as data, r.metadata = coalesce(e.metadata, '{}') as metadata
    from evsource.read_stream('large-1') r join evsource.events e using (position);
select version, length(type), length(data::text), length(metadata::text) from evsource.read_category('large', types => array['External', repeat('T', 1000)]);

-- As rows that are put together and taken apart, and stored elsewhere.
create table kept as select e from evsource.read_stream('large-1') e;
select (e).version, length((e).data::text) from kept;
create table kept_columns as select * from evsource.read_category('large');
select version, length(data::text) from kept_columns;
select length(array_agg(e)::text) > 300000 as whole from evsource.read_stream('large-1') e;
select (evsource.read_stream('large-1', 2, 1)).type;

-- A procedure may commit in the middle of reading.
create procedure read_and_commit(inout read int) language plpgsql as $$
declare
    e record;
begin
    for e in select * from evsource.read_stream('large-1') loop
        read := read + length(e.data::text);
        commit;
    end loop;
end
$$;
call read_and_commit(0);

--
-- In one transaction
--

-- A stream shows the transaction's own events, each as soon as its statement is
-- through, and within a statement as soon as the call is. The log shows them
-- when they are committed: they could still be rolled back.
begin;
select a.version, (select count(*) from evsource.read_stream('own-1', max_count => a.version::int)) as read
    from generate_series(1, 3) i, lateral evsource.append('own-1', 'Ticked', to_jsonb(i)) a;
select evsource.stream_version('own-1'), count(*) from evsource.read_stream('own-1');
select count(*) from evsource.read_category('own');
savepoint before;
select from evsource.append('own-1', 'Undone');
select evsource.stream_version('own-1');
rollback to before;
select evsource.stream_version('own-1'), count(*) from evsource.read_stream('own-1');
select position = evsource.safe_position() as up_to_the_last_committed from evsource.events where stream = 'large-1' and version = 3;
select count(*) from evsource.read_stream('own-1') r, lateral evsource.read_event(r.id) e;
commit;
select count(*) from evsource.read_category('own');

-- The same under the levels that keep one snapshot.
begin isolation level repeatable read;
select count(*) from evsource.read_category('own');
select from evsource.append('own-1', 'Ticked');
select evsource.stream_version('own-1'), count(*) from evsource.read_stream('own-1');
select version from evsource.read_stream('own-1', backward => true);
select count(*) from evsource.read_category('own');
rollback;
begin isolation level serializable;
select from evsource.append('own-1', 'Ticked');
select evsource.stream_version('own-1'), count(*) from evsource.read_stream('own-1');
select count(*) from evsource.read_category('own');
select stream from evsource.read_event('6a6f0000-0000-4000-8000-000000000001');
rollback;

-- Reading writes nothing.
begin read only;
select count(*) from evsource.read_stream('own-1');
select count(*) from evsource.read_category('own');
select stream from evsource.read_event('6a6f0000-0000-4000-8000-000000000001');
select evsource.stream_version('own-1'), evsource.safe_position() > 0 as safe;
commit;

-- A reader is not run in parallel, and no plan takes it for constant.
select proname, provolatile, proparallel from pg_proc
    where pronamespace = 'evsource'::regnamespace and (proname like 'read\_%' or proname in ('stream_version', 'safe_position', 'event_id'))
    order by proname;

--
-- Streams
--

-- A row a stream: its name, its category, its version, and its two ends.
select stream, category, s.version, last_position = e.position as last_position,
       first_recorded_at = f.recorded_at as first_recorded_at, last_recorded_at = e.recorded_at as last_recorded_at
    from evsource.streams s
        join evsource.events e using (stream)
        join evsource.events f using (stream)
    where e.version = s.version and f.version = 1
    order by stream;
select category, count(*), sum(version) from evsource.streams group by category order by category;

--
-- Bad input
--

\set VERBOSITY default
select * from evsource.read_stream(null);
\echo :SQLSTATE
select * from evsource.read_stream('order-1', from_version => 0);
\echo :SQLSTATE
select * from evsource.read_stream('order-1', from_version => -1, backward => true);
select * from evsource.read_stream('order-1', max_count => -1);
\echo :SQLSTATE
select evsource.stream_version(null);
\echo :SQLSTATE
select * from evsource.read_category(null);
\echo :SQLSTATE
select * from evsource.read_category('order', after_position => -1);
\echo :SQLSTATE
select * from evsource.read_category('order', types => '{}');
\echo :SQLSTATE
select * from evsource.read_category('order', max_count => -5);
select * from evsource.read_all(-1);
\echo :SQLSTATE
select * from evsource.read_all(max_count => -1);
\echo :SQLSTATE
select * from evsource.read_all(categories => '{}');
\echo :SQLSTATE
select * from evsource.read_all(categories => '{order,null}');
\echo :SQLSTATE
select * from evsource.read_all(types => '{null}');
\echo :SQLSTATE
select * from evsource.read_all(types => '{{Placed,Paid},{Sent,Odd}}');
\echo :SQLSTATE
select * from evsource.read_event(null);
\echo :SQLSTATE
select * from evsource.read_event('no uuid');
\echo :SQLSTATE

-- Ids in a parallel plan, of a session that has not looked at the store yet.
\c
select set_config(name, 'on', false) from pg_settings where name in ('force_parallel_mode', 'debug_parallel_query');
select count(distinct evsource.event_id(e)) = count(*) as all_different from evsource.events e;
select count(distinct id) = count(*) as all_different from evsource.events_raw;

-- A reader is not run in a parallel plan, whatever the function that calls it is labelled.
create function labelled(call text) returns text language plpgsql parallel safe as $$
declare result text; begin execute call into result; return result; end $$;
do $$
declare
    call text; code text; message text; detail text; hint text;
begin
    foreach call in array array['stream_version(''order-1'')', 'read_stream(''order-1'')', 'read_category(''order'')',
                                'read_all()', 'read_event(''00000000-0000-0000-0000-000000000001'')', 'safe_position()',
                                'state(''none'', ''order-1'')', 'load_state(''none'', ''order-1'')', 'load_states(''none'')',
                                'state_at_version(''none'', ''order-1'', 1)', 'state_at_time(''none'', ''order-1'', now())',
                                'wait_for(''none'')']
    loop
        begin
            execute format('select labelled(%L)', 'select evsource.' || call);
            raise notice '%: no error', call;
        exception when others then
            get stacked diagnostics code = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
            raise notice '% %', code, message;
        end;
    end loop;
    raise notice '%', detail;
    raise notice '%', hint;
end $$;

\c :home
drop database evsource_read;
