-- append and append_batch: results, expected versions, transactions, bad input.
-- (ids: ids.sql; metadata: metadata.sql; JSON: append_json.sql; INSERT and COPY:
-- intake.sql; rights: append_rights.sql)

-- A stream begins at version 1 and grows by one, its positions ascend.
select version, stored from evsource.append('append-1', 'Opened', '{"n": 1}');
select version, stored from evsource.append('append-1', 'Renamed');
select version, stored from evsource.append('append-1', 'Closed', '[1, "two", null]');
select version, type, data, metadata, occurred_at is null as occurred_when_recorded, id is null as id_of_server,
       position > lag(position) over (order by version) as ascends
    from evsource.events where stream = 'append-1' order by version;

-- The result tells the event's place and id.
select r.version = e.version as version, r.position = e.position as position, r.id = e.id as id
    from evsource.append('append-2', 'Opened') r, lateral evsource.read_stream('append-2') e;

-- Any jsonb is data: an object, an array, each kind of scalar.
select r.version
    from (values ('{"a": {"b": 1}}'::jsonb), ('[]'), ('"text"'), ('1.10'), ('true'), ('null')) as v (data),
         lateral evsource.append('append-data', 'Said', v.data) r;
select version, data from evsource.events where stream = 'append-data' order by version;

-- occurred_at is kept when it is given; recorded_at is the clock's.
select version from evsource.append('append-time', 'Remembered', occurred_at => '1848-03-13 10:00+00');
select version from evsource.append('append-time', 'Remembered', occurred_at => '-infinity');
select version, occurred_at at time zone 'UTC' as occurred_at, recorded_at between now() - interval '1 hour' and clock_timestamp() as recorded_now
    from evsource.events where stream = 'append-time' order by version;

-- A batch is appended as a whole; its result has the first and the last version.
select first_version, version, stored, position = e.last_position as last_position
    from evsource.append_batch('append-batch', array['A', 'B', 'C'], array['1', '2', '3']::jsonb[]),
         lateral (select max(position) as last_position from evsource.read_stream('append-batch')) e;
select first_version, version, stored
    from evsource.append_batch('append-batch', array['D', 'E'], array['4', '5']::jsonb[],
        metadata => array[null, '{"by": "ann"}']::jsonb[],
        occurred_at => array['2001-01-01 00:00+00', null]::timestamptz[]);
select version, type, data, metadata, occurred_at at time zone 'UTC' as occurred_at
    from evsource.events where stream = 'append-batch' order by version;

-- It may be as long as memory allows: beyond a chunk of 256, versions and
-- positions still go up by one.
select first_version, version from evsource.append_batch('append-long',
    array_fill('Ticked'::text, array[1000]), array(select to_jsonb(i) from generate_series(1, 1000) i));
select count(*), min(version), max(version), max(position) - min(position) as distance,
       bool_and(to_jsonb(version) = data) as in_order
    from evsource.events where stream = 'append-long';

-- All arrays may start anywhere.
select first_version, version from evsource.append_batch('append-bounds', '[5:6]={A,B}'::text[], '[0:1]={1,2}'::jsonb[]);

--
-- Expected versions
--

-- null: any. 0: the stream must not exist. n: exactly n. -4: it must exist.
select version from evsource.append('append-v', 'One', expected_version => 0);
select version from evsource.append('append-v', 'Two', expected_version => 1);
select version from evsource.append('append-v', 'Three', expected_version => -4);
select version from evsource.append('append-v', 'Four', expected_version => null);

-- What does not match stores nothing; the detail has one fixed form.
select * from evsource.append('append-v', 'Five', expected_version => 0);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('append-v', 'Five', expected_version => 3);
select * from evsource.append('append-v', 'Five', expected_version => 5);
select * from evsource.append('append-none', 'One', expected_version => 1);
select * from evsource.append('append-none', 'One', expected_version => -4);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('append-v', array['Five', 'Six'], array['{}', '{}']::jsonb[], expected_version => 2);
\echo :LAST_ERROR_SQLSTATE
select evsource.stream_version('append-v'), evsource.stream_version('append-none');

-- Other negative numbers are an error.
select * from evsource.append('append-none', 'One', expected_version => -1);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('append-none', array['One'], array['1']::jsonb[], expected_version => -9223372036854775808);
select evsource.stream_version('append-none');

-- An empty batch checks, stores nothing, and tells the version.
select * from evsource.append_batch('append-v', '{}', '{}', expected_version => 4);
select * from evsource.append_batch('append-v', '{}', '{}');
select * from evsource.append_batch('append-none', '{}', '{}', expected_version => 0);
select * from evsource.append_batch('append-v', '{}', '{}', expected_version => 3);

--
-- Statements and transactions
--

-- Calls in one statement see each other, whichever way they are written.
select evsource.append('append-s', 'A', expected_version => 0) is not null as a,
       evsource.append('append-s', 'B', expected_version => 1) is not null as b,
       (select count(*) from evsource.append_batch('append-s', array['C', 'D'], array['1', '2']::jsonb[], expected_version => 2)) as cd,
       evsource.append('append-s', 'E', expected_version => 4) is not null as e;
select i, r.version from generate_series(1, 3) i, lateral evsource.append('append-s', 'F', to_jsonb(i), expected_version => 4 + i) r;
with first as (select * from evsource.append('append-s', 'G')),
     second as (select * from evsource.append('append-s', 'H') where exists (select from first))
    select (select version from first) as first, (select version from second) as second;
select string_agg(type, '' order by version) from evsource.events where stream = 'append-s';

-- A function in PL/pgSQL, called over and over with a cached plan.
create function pg_temp.append_many(stream text, count int) returns bigint language plpgsql as $$
declare
    last bigint := evsource.stream_version(stream);
begin
    for i in 1 .. count loop
        select version into last from evsource.append(stream, 'Step', jsonb_build_object('i', i), expected_version => last);
    end loop;
    return last;
end $$;
select pg_temp.append_many('append-p', 300), pg_temp.append_many('append-p', 300);

-- Prepared statements, more often than it takes to choose a generic plan.
prepare append_one(text, text, jsonb, bigint) as select version from evsource.append($1, $2, $3, expected_version => $4);
execute append_one('append-q', 'Asked', '1', 0);
execute append_one('append-q', 'Asked', '2', 1);
execute append_one('append-q', 'Asked', '3', 2);
execute append_one('append-q', 'Asked', '4', 3);
execute append_one('append-q', 'Asked', '5', 4);
execute append_one('append-q', 'Asked', '6', 5);
execute append_one('append-q', 'Asked', '7', 6);
execute append_one('append-q', 'Asked', '7', 6);
deallocate append_one;

-- Several streams commit together ...
begin;
select version from evsource.append('append-t1', 'Debited', '10', expected_version => 0);
select version from evsource.append('append-t2', 'Credited', '10', expected_version => 0);
select version from evsource.append('append-t1', 'Debited', '20', expected_version => 1);
commit;
-- ... or not at all.
begin;
select version from evsource.append('append-t1', 'Debited', '30', expected_version => 2);
select version from evsource.append('append-t2', 'Credited', '30', expected_version => 7);
commit;
select stream, version, data from evsource.events where stream in ('append-t1', 'append-t2') order by stream, version;

-- What a savepoint takes back leaves no hole in the versions, only in the positions.
begin;
select version from evsource.append('append-sp', 'Kept', '1');
savepoint one;
select version from evsource.append('append-sp', 'Dropped', '2');
select version from evsource.append('append-sp2', 'Dropped', '2');
rollback to one;
select version from evsource.append('append-sp', 'Kept', '3', expected_version => 1);
savepoint two;
select version from evsource.append('append-sp', 'Kept', '4', expected_version => 2);
release two;
savepoint three;
select version from evsource.append('append-sp', 'Failed', '5', expected_version => 1);
rollback to three;
select version from evsource.append('append-sp', 'Kept', '5', expected_version => 3);
commit;
select version, type, data from evsource.events where stream = 'append-sp' order by version;
select evsource.stream_version('append-sp2');

-- An exception block is a savepoint too.
do $$
begin
    for i in 1 .. 10 loop
        begin
            perform evsource.append('append-x', 'Tried', to_jsonb(i));
            if i % 3 = 0 then
                raise exception 'changed my mind';
            end if;
        exception when raise_exception then
            null;
        end;
    end loop;
end $$;
select jsonb_agg(data order by version) as kept, max(version) from evsource.events where stream = 'append-x';

-- A client catches a wrong expected version by its SQLSTATE and goes on.
do $$
declare
    detail text;
begin
    perform evsource.append('append-x', 'Tried', expected_version => 1);
exception when sqlstate 'VE001' then
    get stacked diagnostics detail = pg_exception_detail;
    raise notice '%', detail;
end $$;

-- In a procedure that commits, each transaction is one of its own.
create procedure pg_temp.append_and_commit() language plpgsql as $$
begin
    for i in 1 .. 3 loop
        perform evsource.append('append-c', 'Step', to_jsonb(i), expected_version => i - 1);
        commit;
    end loop;
    perform evsource.append('append-c', 'Lost');
    rollback;
end $$;
call pg_temp.append_and_commit();
select version, type from evsource.events where stream = 'append-c' order by version;

-- Under REPEATABLE READ and SERIALIZABLE one's own events are one's own to follow.
begin isolation level repeatable read;
select version from evsource.append('append-rr', 'One', expected_version => 0);
select version from evsource.append('append-rr', 'Two', expected_version => 1);
commit;
begin isolation level serializable;
select version from evsource.append('append-rr', 'Three', expected_version => 2);
select version from evsource.append('append-rr', 'Four', expected_version => 3);
commit;

-- A transaction that only reads cannot append.
begin read only;
select * from evsource.append('append-none', 'One');
\echo :LAST_ERROR_SQLSTATE
rollback;

--
-- Bad input stores nothing
--

create function pg_temp.counts() returns text language sql as $$
    select count(*) || ' events' from evsource.events where stream = '' or stream like 'append-bad%' $$;

-- streams
select * from evsource.append(null, 'One');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('', 'One');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('append-bad' || repeat('x', 1015), 'One');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('append-bad' || repeat(U&'\00FC', 508), 'One');
select * from evsource.append_batch(null, array['One'], array['1']::jsonb[]);
select * from evsource.append_batch('', array['One'], array['1']::jsonb[]);
select * from evsource.append_batch('', '{}', '{}');

-- A name of 1024 bytes is stored, also when it does not compress.
select version from evsource.append(rpad('append-max', 1024, 'x'), 'One');
select version from evsource.append(rpad('append-max', 1024, 'x'), rpad('One', 1024, 'x'), expected_version => 1);
select length(string_agg(md5(i::text), '')), (evsource.append('append-max' || left(string_agg(md5(i::text), ''), 1014), 'One')).version
    from generate_series(1, 32) i;

-- types
select * from evsource.append('append-bad', null);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('append-bad', '');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('append-bad', repeat('x', 1025));
select * from evsource.append_batch('append-bad', array['One', ''], array['1', '2']::jsonb[]);

-- data
select * from evsource.append('append-bad', 'One', null);
\echo :LAST_ERROR_SQLSTATE

-- metadata
select * from evsource.append('append-bad', 'One', metadata => '[1]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('append-bad', 'One', metadata => 'null');
select * from evsource.append_batch('append-bad', array['One', 'Two'], array['1', '2']::jsonb[], metadata => array['{}', '"x"']::jsonb[]);

-- arrays
select * from evsource.append_batch('append-bad', null, array['1']::jsonb[]);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('append-bad', array['One'], null);
select * from evsource.append_batch('append-bad', array['One', null], array['1', '2']::jsonb[]);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('append-bad', array['One', 'Two'], array[null, '2']::jsonb[]);
select * from evsource.append_batch('append-bad', array['One', 'Two'], array['1']::jsonb[]);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('append-bad', array['One'], array['1', '2']::jsonb[]);
select * from evsource.append_batch('append-bad', array['One'], array['1']::jsonb[], metadata => array['{}', '{}']::jsonb[]);
select * from evsource.append_batch('append-bad', array['One'], array['1']::jsonb[], metadata => '{}');
select * from evsource.append_batch('append-bad', array['One'], array['1']::jsonb[], ids => array[gen_random_uuid(), gen_random_uuid()]);
select * from evsource.append_batch('append-bad', array['One'], array['1']::jsonb[], occurred_at => array[now(), now()]);
select * from evsource.append_batch('append-bad', array[['One', 'Two']], array['1', '2']::jsonb[]);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('append-bad', array['One', 'Two'], array[['1', '2']]::jsonb[]);

select pg_temp.counts();
