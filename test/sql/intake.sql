-- INSERT and COPY into evsource.events are appends; nothing else may write there.

create function pg_temp.log(category text) returns table (stream text, version bigint, type text, data jsonb, in_order boolean) language sql as $$
    select stream, version, type, data, lag(version, 1, 0::bigint) over (partition by stream order by position) = version - 1
        from evsource.events where evsource.category(stream) = category order by position $$;

-- A row is validated, numbered and timed; RETURNING shows it.
insert into evsource.events (stream, type, data) values ('intake1-a', 'Opened', '{"n": 1}')
    returning version, stream, type, data, metadata, recorded_at <= clock_timestamp() as recorded, position > 0 as position;
-- Several rows, streams mixed: each stream counts for itself.
insert into evsource.events (stream, type, data) values
    ('intake1-a', 'Noted', '2'), ('intake1-b', 'Opened', '1'), ('intake1-a', 'Noted', '3'), ('intake1-b', 'Noted', '2');
-- data has a default; an id and a time are kept.
insert into evsource.events (stream, type, id, occurred_at) values ('intake1-b', 'Closed', '11000000-0000-4000-8000-000000000001', '2001-01-01 00:00+00')
    returning version, data, id, occurred_at at time zone 'UTC' as occurred_at;
-- A query's rows come in its order.
insert into evsource.events (stream, type, data) select 'intake1-c', 'Ticked', to_jsonb(i) from generate_series(1, 5) i order by i desc;
select * from pg_temp.log('intake1');

-- INSERT ... SELECT from the log itself reads what was there before.
insert into evsource.events (stream, type, data)
    select replace(stream, 'intake1', 'intake2'), type, data from evsource.events where stream like 'intake1-_' order by position;
select count(*), bool_and(in_order) from pg_temp.log('intake2');

-- INSERT and append see each other, in one statement and in one transaction.
begin;
with i as (insert into evsource.events (stream, type) values ('intake3-a', 'ByInsert') returning version)
    select version, (evsource.append('intake3-a', 'ByAppend', expected_version => version)).version as appended from i;
select version from evsource.append('intake3-a', 'ByAppend', expected_version => 2);
insert into evsource.events (stream, type) values ('intake3-a', 'ByInsert') returning version;
commit;
insert into evsource.events (stream, type, data)
    select 'intake3-a', 'Copied', to_jsonb((evsource.append('intake3-a', 'ByAppend', to_jsonb(i))).version) from generate_series(1, 2) i;
select * from pg_temp.log('intake3');

-- Two data-modifying parts of one statement.
with a as (insert into evsource.events (stream, type) values ('intake4-a', 'First'), ('intake4-b', 'First') returning stream)
    insert into evsource.events (stream, type) select stream, 'Second' from a;
select * from pg_temp.log('intake4');

-- COPY, with comments of the data's own.
copy evsource.events (stream, type, data) from stdin;
intake5-a	Opened	{"n": 1}
intake5-b	Opened	{"n": 1}
intake5-a	Noted	"tab:\\t"
intake5-a	Noted	null
\.
copy evsource.events (type, stream) from stdin with (format csv);
Closed,intake5-a
\.
select * from pg_temp.log('intake5');

-- What a statement leaves out leaves no hole in the versions.
insert into evsource.events (stream, type, id) values
    ('intake6-a', 'Kept', '11000000-0000-4000-8000-000000000002'),
    ('intake6-a', 'Left out', '11000000-0000-4000-8000-000000000002'),
    ('intake6-a', 'Kept', '11000000-0000-4000-8000-000000000003')
    on conflict do nothing returning version, type;
insert into evsource.events (stream, type, id) select 'intake6-a', 'Left out', '11000000-0000-4000-8000-000000000002'
    on conflict (id) where id is not null do nothing;
insert into evsource.events (stream, type) values ('intake6-a', 'Kept') returning version;
-- ON CONFLICT DO UPDATE would change an event.
insert into evsource.events (stream, type, id) values ('intake6-a', 'Kept', '11000000-0000-4000-8000-000000000003')
    on conflict (id) where id is not null do update set type = 'Changed';
\echo :LAST_ERROR_SQLSTATE

-- MERGE (PostgreSQL 15 and later) inserts as INSERT does.
do $$
begin
    if current_setting('server_version_num')::int >= 150000 then
        execute $merge$
            merge into evsource.events e using (values ('intake7-a', 'One'), ('intake7-a', 'Two')) as v (stream, type)
                on e.stream = v.stream and e.type = v.type
                when not matched then insert (stream, type) values (v.stream, v.type)$merge$;
    else
        insert into evsource.events (stream, type) values ('intake7-a', 'One'), ('intake7-a', 'Two');
    end if;
end $$;
select * from pg_temp.log('intake7');

-- Prepared, and in PL/pgSQL with exceptions: a failed statement stores nothing and is forgotten.
prepare insert_one(text, text) as insert into evsource.events (stream, type) values ($1, $2) returning version;
execute insert_one('intake8-a', 'Prepared');
execute insert_one('intake8-a', 'Prepared');
deallocate insert_one;
do $$
begin
    for i in 1 .. 6 loop
        begin
            insert into evsource.events (stream, type) select 'intake8-a', case when n = i then '' else 'Tried ' || i end from generate_series(1, 5) n;
        exception when invalid_parameter_value then
            null;
        end;
        insert into evsource.events (stream, type) values ('intake8-b', 'Went on');
    end loop;
end $$;
select stream, type, count(*), bool_and(in_order) as in_order from pg_temp.log('intake8') group by stream, type order by stream, type;

-- Inline projections see the events of a statement in order, also those that a
-- function or a trigger appends while it runs.
create table intake_seen (n int generated always as identity, stream text, version bigint, type text);
create function intake_see(e evsource.event) returns void language sql as $$
    insert into intake_seen (stream, version, type) values (e.stream, e.version, e.type) $$;
select evsource.create_projection('intake_see', 'intake_see', categories => array['intake10'], start => 'now');
insert into evsource.events (stream, type, data)
    select 'intake10-a', 'Inserted', to_jsonb((evsource.append('intake10-a', 'Appended')).version) from generate_series(1, 2) i;
create function intake_echo() returns trigger language plpgsql as $$
begin
    if new.type <> 'Echoed' then
        perform evsource.append('intake10-' || tg_name, 'Echoed', to_jsonb(new.type));
        insert into evsource.events (stream, type) values (new.stream, 'Echoed');
    end if;
    return new;
end $$;
create trigger after after insert on evsource.events for each row execute function intake_echo();
insert into evsource.events (stream, type) values ('intake10-b', 'One'), ('intake10-b', 'Two');
select version from evsource.append('intake10-b', 'Three');
drop trigger after on evsource.events;
create trigger before before insert on evsource.events for each row execute function intake_echo();
insert into evsource.events (stream, type) values ('intake10-c', 'One'), ('intake10-c', 'Two');
select first_version, version from evsource.append_batch('intake10-c', array['Three', 'Four'], array['3', '4']::jsonb[]);
drop trigger before on evsource.events;
select s.n, s.stream, s.version, s.type from intake_seen s order by n;
select count(*) as all_seen, bool_and(s.position > s.before) as in_order
    from (select e.position, lag(e.position, 1, 0::bigint) over (order by s.n) as before from intake_seen s join evsource.events e using (stream, version)) s
    having count(*) = (select count(*) from evsource.events where evsource.category(stream) = 'intake10');
-- What an error takes back in between is not dispatched.
create function intake_append_and_fail() returns text language plpgsql as $$
begin
    begin
        perform evsource.append('intake10-d', 'Lost');
        insert into evsource.events (stream, type) values ('intake10-d', 'Lost'), ('intake10-d', '');
    exception when invalid_parameter_value then
        null;
    end;
    perform evsource.append('intake10-d', 'Kept');
    return 'Inserted';
end $$;
insert into evsource.events (stream, type) select 'intake10-d', intake_append_and_fail() from generate_series(1, 2);
select version, type from intake_seen where stream = 'intake10-d' order by n;
select evsource.drop_projection('intake_see');
drop function intake_see, intake_echo, intake_append_and_fail;
drop table intake_seen;

-- Bad rows are refused, with all that came before them in the statement.
insert into evsource.events (stream, type) values ('intake-bad', 'One'), (null, 'Two');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type) values ('', 'One');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (type) values ('One');
insert into evsource.events (stream) values ('intake-bad');
insert into evsource.events (stream, type) values ('intake-bad', '');
insert into evsource.events (stream, type) values (repeat('x', 1025), 'One');
\set VERBOSITY terse
insert into evsource.events (stream, type, data) values ('intake-bad', 'One', null);
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
copy evsource.events (stream, type) from stdin;
intake-bad	One
intake-bad	\N
\.
insert into evsource.events default values;
begin read only;
insert into evsource.events (stream, type) values ('intake-bad', 'One');
rollback;
select count(*) from evsource.events where stream = 'intake-bad' or stream = '';

--
-- Events are immutable
--
update evsource.events set data = '{}' where stream = 'intake1-a';
\echo :LAST_ERROR_SQLSTATE
update evsource.events set data = '{}' where false;
delete from evsource.events where stream = 'intake1-a';
\echo :LAST_ERROR_SQLSTATE
truncate evsource.events;
\echo :LAST_ERROR_SQLSTATE
with gone as (delete from evsource.events returning *) select count(*) from gone;
select evsource.stream_version('intake1-a');
-- Who has one snapshot may follow the rows of the same statement, which it does not show.
begin isolation level repeatable read;
insert into evsource.events (stream, type) select 'intake1-one-snapshot', 'Happened' from generate_series(1, 3);
commit;
select array_agg(version order by position) from evsource.events where stream = 'intake1-one-snapshot';
-- Reading them with a lock changes nothing.
select version from evsource.events where stream = 'intake1-b' order by version for key share;

-- The functions of the triggers are for these triggers only.
create table pg_temp.other (position bigint, version bigint);
create trigger t before insert on pg_temp.other for each row execute function evsource._intake_row();
insert into pg_temp.other values (1, 1);
\echo :LAST_ERROR_SQLSTATE
select evsource._intake_row();
-- So are those of evsource's other tables, and of captures.
select evsource._replicated_row();
select evsource._refuse_in_use();
\echo :LAST_ERROR_SQLSTATE
select evsource._changed();
select evsource.capture();
select evsource._capture_partition();
