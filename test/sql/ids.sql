-- Idempotency: an append that is sent again, with the same ids, stores nothing.

create function pg_temp.id(n int) returns uuid language sql immutable as $$
    select ('1d000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;

-- The second time returns what the first returned, whatever it expects.
select version, id, stored from evsource.append('ids-1', 'Paid', '{"amount": 10}', expected_version => 0, id => pg_temp.id(1));
select version, id, stored from evsource.append('ids-1', 'Paid', '{"amount": 10}', expected_version => 0, id => pg_temp.id(1));
select version, id, stored from evsource.append('ids-1', 'Paid', '{"amount": 10}', expected_version => 99, id => pg_temp.id(1));
-- Also when the stream has grown since.
select version, id, stored from evsource.append('ids-1', 'Paid', '{"amount": 20}', id => pg_temp.id(2));
select a.version = b.version as version, a.position = b.position as position, a.id = b.id as id, b.stored
    from evsource.append('ids-1', 'Paid', '{"amount": 10}', expected_version => 0, id => pg_temp.id(1)) a,
         lateral evsource.append('ids-1', 'Paid', '{"amount": 10}', id => a.id) b;
select version, data, id from evsource.events where stream = 'ids-1' order by version;
-- Equal data is equal as jsonb is; metadata and times are not compared.
select version, stored from evsource.append('ids-1', 'Paid', '{"amount": 10.00}', '{"retry": 2}', id => pg_temp.id(1), occurred_at => '2001-01-01');

-- An id stands for one event: not for another stream, type or data.
select * from evsource.append('ids-2', 'Paid', '{"amount": 10}', id => pg_temp.id(1));
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('ids-1', 'Refunded', '{"amount": 10}', id => pg_temp.id(1));
select * from evsource.append('ids-1', 'Paid', '{"amount": 11}', id => pg_temp.id(1));
\echo :LAST_ERROR_SQLSTATE
select evsource.stream_version('ids-1'), evsource.stream_version('ids-2');

-- A batch that is sent again.
select first_version, version, stored from evsource.append_batch('ids-3', array['A', 'B', 'C'], array['1', '2', '3']::jsonb[],
    ids => array[pg_temp.id(31), pg_temp.id(32), pg_temp.id(33)]);
select first_version, version, stored from evsource.append_batch('ids-3', array['A', 'B', 'C'], array['1', '2', '3']::jsonb[],
    ids => array[pg_temp.id(31), pg_temp.id(32), pg_temp.id(33)], expected_version => 0);
-- Or a part of one: all of it is stored.
select first_version, version, stored from evsource.append_batch('ids-3', array['B', 'C'], array['2', '3']::jsonb[],
    ids => array[pg_temp.id(32), pg_temp.id(33)]);
-- Only partly stored: at its end, its beginning, between; with an event that has no id.
select * from evsource.append_batch('ids-3', array['C', 'D'], array['3', '4']::jsonb[], ids => array[pg_temp.id(33), pg_temp.id(34)]);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('ids-3', array['D', 'A'], array['4', '1']::jsonb[], ids => array[pg_temp.id(34), pg_temp.id(31)]);
select * from evsource.append_batch('ids-3', array['D', 'A', 'E'], array['4', '1', '5']::jsonb[], ids => array[pg_temp.id(34), pg_temp.id(31), pg_temp.id(35)]);
select * from evsource.append_batch('ids-3', array['A', 'B'], array['1', '2']::jsonb[], ids => array[pg_temp.id(31), null]);
select * from evsource.append_batch('ids-3', array['A', 'B'], array['1', '2']::jsonb[], ids => array[null, pg_temp.id(32)]);
-- In another order, in another stream, with another type or other data.
select * from evsource.append_batch('ids-3', array['B', 'A'], array['2', '1']::jsonb[], ids => array[pg_temp.id(32), pg_temp.id(31)]);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('ids-4', array['A', 'B'], array['1', '2']::jsonb[], ids => array[pg_temp.id(31), pg_temp.id(32)]);
select * from evsource.append_batch('ids-3', array['A', 'X'], array['1', '2']::jsonb[], ids => array[pg_temp.id(31), pg_temp.id(32)]);
select * from evsource.append_batch('ids-3', array['A', 'B'], array['1', '"x"']::jsonb[], ids => array[pg_temp.id(31), pg_temp.id(32)]);
-- An id may not be repeated in a batch.
select * from evsource.append_batch('ids-4', array['A', 'B', 'C'], array['1', '2', '3']::jsonb[], ids => array[pg_temp.id(41), pg_temp.id(42), pg_temp.id(41)]);
\echo :LAST_ERROR_SQLSTATE
select evsource.stream_version('ids-3'), evsource.stream_version('ids-4');
-- Without ids a batch is a new one each time; ids may be given to some.
select first_version, version, stored from evsource.append_batch('ids-4', array['A', 'B'], array['1', '2']::jsonb[], ids => array[null, pg_temp.id(42)]);
select first_version, version, stored from evsource.append_batch('ids-4', array['A', 'B'], array['1', '2']::jsonb[], ids => array[null, null]::uuid[]);
select first_version, version, stored from evsource.append_batch('ids-4', array['A', 'B'], array['1', '2']::jsonb[]);
select version, type, id from evsource.events where stream = 'ids-4' order by version;

--
-- The id that the server makes
--

-- It is a UUIDv7 of its own, and the same whoever reads it.
select id as server_id from evsource.append('ids-5', 'Shipped', '{"to": "Rome"}') \gset
select substr(:'server_id', 15, 1) as version, substr(:'server_id', 20, 1) in ('8', '9', 'a', 'b') as variant;
select s.id = :'server_id' as by_stream, x.version as by_id, evsource.event_id(e) = :'server_id' as by_row
    from evsource.read_stream('ids-5') s, evsource.read_event(:'server_id') x, evsource.events e where e.stream = 'ids-5';
-- Its time is that of the event, its end the position.
select abs(('x' || lpad(left(replace(:'server_id', '-', ''), 12), 16, '0'))::bit(64)::bigint - extract(epoch from recorded_at) * 1000) < 1 as time,
       ('x' || lpad(right(:'server_id', 12), 16, '0'))::bit(64)::bigint = position as position
    from evsource.events where stream = 'ids-5';
-- A client that sends it again is recognised ...
select version, stored, id = :'server_id' as id from evsource.append('ids-5', 'Shipped', '{"to": "Rome"}', id => :'server_id', expected_version => 0);
select first_version, version, stored from evsource.append_batch('ids-5', array['Shipped'], array['{"to": "Rome"}']::jsonb[], ids => array[:'server_id']::uuid[]);
-- ... and so is one that means another event.
\set VERBOSITY sqlstate
select * from evsource.append('ids-5', 'Shipped', '{"to": "Oslo"}', id => :'server_id');
select * from evsource.append('ids-6', 'Shipped', '{"to": "Rome"}', id => :'server_id');
insert into evsource.events (stream, type, id) values ('ids-6', 'Shipped', :'server_id');
\set VERBOSITY default
select evsource.stream_version('ids-5'), evsource.stream_version('ids-6');

-- A UUIDv7 of a client's own is not mistaken for one: the same place in the log,
-- but another time or other bits.
select overlay(:'server_id' placing 'e' from 1) as other_time, overlay(:'server_id' placing case substr(:'server_id', 18, 1) when '0' then '1' else '0' end from 18) as other_bits \gset
select version, stored from evsource.append('ids-6', 'Shipped', id => :'other_time');
select version, stored from evsource.append('ids-6', 'Shipped', id => :'other_bits');
select version, stored from evsource.append('ids-6', 'Shipped', id => :'other_bits');
select count(*), count(distinct id) from evsource.read_category('ids', after_position => (select min(position) - 1 from evsource.events where stream like 'ids-%'));

-- All zeros and all ones are ids as any other.
select version, id, stored from evsource.append('ids-7', 'Odd', id => '00000000-0000-0000-0000-000000000000');
select version, id, stored from evsource.append('ids-7', 'Odd', id => 'ffffffff-ffff-ffff-ffff-ffffffffffff');
select version, id, stored from evsource.append('ids-7', 'Odd', id => '00000000-0000-0000-0000-000000000000');

--
-- Transactions
--

-- What was rolled back was never sent.
begin;
select version, stored from evsource.append('ids-8', 'Tried', id => pg_temp.id(81));
rollback;
select version, stored from evsource.append('ids-8', 'Tried', id => pg_temp.id(81));
begin;
savepoint one;
select version, stored from evsource.append('ids-8', 'Tried', id => pg_temp.id(82));
rollback to one;
select version, stored from evsource.append('ids-8', 'Tried', id => pg_temp.id(83));
select version, stored from evsource.append('ids-8', 'Tried', id => pg_temp.id(82));
select version, stored from evsource.append('ids-8', 'Tried', id => pg_temp.id(83));
commit;
-- One's own uncommitted events are known, also within one statement.
select (evsource.append('ids-9', 'Once', id => pg_temp.id(91))).stored as first, (evsource.append('ids-9', 'Once', id => pg_temp.id(91))).stored as second;
select evsource.stream_version('ids-8'), evsource.stream_version('ids-9');

-- A long import that is repeated stores nothing twice.
select first_version, version, stored from evsource.append_batch('ids-10', array_fill('Imported'::text, array[600]), array_fill('{}'::jsonb, array[600]),
    ids => array(select pg_temp.id(1000 + i) from generate_series(1, 600) i));
select first_version, version, stored from evsource.append_batch('ids-10', array_fill('Imported'::text, array[600]), array_fill('{}'::jsonb, array[600]),
    ids => array(select pg_temp.id(1000 + i) from generate_series(1, 600) i));
select * from evsource.append_batch('ids-10', array_fill('Imported'::text, array[601]), array_fill('{}'::jsonb, array[601]),
    ids => array(select pg_temp.id(1000 + i) from generate_series(1, 601) i));

-- INSERT and COPY keep ids unique too, and leave what to do to the statement.
insert into evsource.events (stream, type, id) values ('ids-11', 'Once', pg_temp.id(111));
\set VERBOSITY terse
insert into evsource.events (stream, type, id) values ('ids-11', 'Once', pg_temp.id(111));
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type, id) values ('ids-11', 'Once', pg_temp.id(111)), ('ids-11', 'Again', pg_temp.id(112)) on conflict do nothing;
insert into evsource.events (stream, type, id) values ('ids-11', 'Once', pg_temp.id(111)) on conflict (id) where id is not null do nothing;
select version, stored from evsource.append('ids-11', 'Once', id => pg_temp.id(111));
select version, type, id from evsource.events where stream = 'ids-11' order by version;
