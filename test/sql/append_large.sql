\set SHOW_CONTEXT never
-- Large events, many streams, long batches: what they take and what they leave.

-- Data of megabytes, compressible or not, comes back as it went in.
select version from evsource.append('large-1', 'Padded', jsonb_build_object('pad', repeat('x', 5000000)));
select version from evsource.append('large-1', 'Random', (select jsonb_agg(md5(i::text)) from generate_series(1, 60000) i));
select first_version, version from evsource.append_batch('large-1', array_fill('Random'::text, array[10]),
    array(select jsonb_build_object('n', n, 'pad', (select string_agg(md5((n * i)::text), '') from generate_series(1, 5000) i)) from generate_series(1, 10) n),
    metadata => array(select jsonb_build_object('pad', (select string_agg(md5(i::text), '') from generate_series(1, 500) i)) from generate_series(1, 10) n));
insert into evsource.events (stream, type, data) select stream, 'Again', data from evsource.events where stream = 'large-1' and type = 'Random' order by version;
select type, count(*), sum(length(data::text)), sum(length(metadata::text)), count(distinct md5(data::text))
    from evsource.read_stream('large-1') group by type order by type;
-- An event is what it is when it is sent again, though it lies in another table.
select version, stored from evsource.append('large-2', 'Padded', jsonb_build_object('pad', repeat('x', 100000)), id => '1a000000-0000-4000-8000-000000000001');
select version, stored from evsource.append('large-2', 'Padded', jsonb_build_object('pad', repeat('x', 100000)), id => '1a000000-0000-4000-8000-000000000001');

-- A thousand streams in one statement or one transaction take 64 locks and one.
begin;
insert into evsource.events (stream, type, data) select 'large3-' || i % 1000, 'Inserted', to_jsonb(i) from generate_series(1, 3000) i;
select count(*) from pg_locks where locktype = 'advisory' and objsubid = 229 and pid = pg_backend_pid();
select max(r.version) from generate_series(1, 3000) i, lateral evsource.append('large3-' || i % 1000, 'Appended', to_jsonb(i)) r;
savepoint one;
select max(r.version) from generate_series(1, 3000) i, lateral evsource.append('large3-' || i % 1000, 'Lost', to_jsonb(i)) r;
select max(r.version) from generate_series(1, 300) i, lateral evsource.append('large4-' || i, 'Lost', to_jsonb(i)) r;
rollback to one;
select max(r.version) from generate_series(1, 300) i, lateral evsource.append('large4-' || i, 'Appended', expected_version => 0) r;
select max(r.version) from generate_series(1, 300) i, lateral evsource.append('large4-' || i, 'Appended', expected_version => 1) r;
select count(*) from pg_locks where locktype = 'advisory' and objsubid = 229 and pid = pg_backend_pid();
commit;
select evsource.category(stream) as category, count(distinct stream) as streams, count(*) as events, max(version),
       bool_and(in_order) as in_order, count(*) filter (where type = 'Lost') as lost
    from (select *, lag(version, 1, 0::bigint) over (partition by stream order by position) = version - 1 as in_order
              from evsource.events where evsource.category(stream) in ('large3', 'large4')) e
    group by category order by category;
select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid();

-- A batch that is cancelled while it is stored leaves nothing behind, and the
-- session goes on. An index that takes its time makes it last.
create function large_slowly(type text) returns text language plpgsql immutable as $$
begin
    if type = 'Slow' then
        perform pg_sleep(0.01);
    end if;
    return type;
end $$;
create index large_slow_idx on evsource.events (large_slowly(type)) where evsource.category(stream) = 'largeslow';
set statement_timeout = '200ms';
select * from evsource.append_batch('largeslow-1', array_fill('Slow'::text, array[1000]), array_fill('{}'::jsonb, array[1000]), expected_version => 0);
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type) select 'largeslow-1', 'Slow' from generate_series(1, 1000);
\echo :LAST_ERROR_SQLSTATE
reset statement_timeout;
select evsource.stream_version('largeslow-1'), (select last_value from evsource.position_seq) = evsource.safe_position() as nothing_in_flight;
select first_version, version from evsource.append_batch('largeslow-1', array_fill('Quick'::text, array[1000]), array_fill('{}'::jsonb, array[1000]), expected_version => 0);
drop index evsource.large_slow_idx;
drop function large_slowly;

-- However many events a session appends, it needs no more memory (a view that
-- tells is there from PostgreSQL 14 on).
create function pg_temp.memory() returns bigint language plpgsql as $$
declare
    bytes bigint := 0;
begin
    if current_setting('server_version_num')::int >= 140000 then
        execute 'select sum(total_bytes) from pg_backend_memory_contexts' into bytes;
    end if;
    return bytes;
end $$;
create procedure pg_temp.append_often(count int) language plpgsql as $$
begin
    for i in 1 .. count loop
        perform evsource.append_batch('large5-' || i % 10, array_fill('Ticked'::text, array[500]), array_fill('{"a": 1}'::jsonb, array[500]), metadata => array_fill('{"b": 1}'::jsonb, array[500]));
        perform evsource.append('large5-' || n, 'Ticked', id => gen_random_uuid()) from generate_series(1, 50) n;
        perform evsource.append_json('large5-1', (select jsonb_agg('{"type": "Ticked", "data": {"n": 1}}'::jsonb) from generate_series(1, 50)));
        insert into evsource.events (stream, type) select 'large5-' || n, 'Ticked' from generate_series(1, 100) n;
        if i % 10 = 0 then
            commit;
        end if;
    end loop;
end $$;
call pg_temp.append_often(10);
select pg_temp.memory() as before \gset
call pg_temp.append_often(50);
select pg_temp.memory() - :before < 300000 as constant;
select count(*) from evsource.events where evsource.category(stream) = 'large5';
