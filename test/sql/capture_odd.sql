-- Captures where one would not look for them: deferred, always, under other names, of
-- values that are kept out of line, and of statements that end in the middle.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_odd;
create database evsource_capture_odd;
\c evsource_capture_odd
set client_min_messages = warning;
create extension evsource;
create view public.log as
    select stream, version, type, data from evsource.events order by position;

-- A trigger by hand may be deferred: then the events come with the commit, or when the
-- constraints are made immediate, in the order in which it happened.
create table late (id int primary key, n int);
create constraint trigger late after insert or update or delete on late deferrable initially deferred
    for each row execute function evsource.capture('late', 'id');
begin;
insert into late values (1, 0), (2, 0);
update late set n = n + 1 where id = 1;
delete from late where id = 2;
select count(*) from public.log;
savepoint s;
update late set n = n + 100;
rollback to s;
set constraints all immediate;
select count(*) from public.log;
update late set n = n + 1 where id = 1;
select count(*) from public.log;
set constraints all deferred;
update late set n = n + 1, id = 3 where id = 1;
commit;
select * from public.log;

-- Two rows may have one key until the commit, if that is when it is checked. Their
-- stream tells what happened, in its order; "old" says which of them left.
create table seats (seat int primary key deferrable initially deferred, who text);
select evsource.capture_table('seats', 'seat');
insert into seats values (1, 'ann'), (2, 'bob');
begin;
update seats set seat = 2 where who = 'ann';
update seats set seat = 1 where who = 'bob';
commit;
select stream, version, type, coalesce(data -> 'new', data -> 'old') ->> 'who' as who from public.log
where stream like 'seat-%' order by stream collate "C", version;

-- An ALWAYS trigger captures what replication applies, and TRUNCATE with it if that one is, too.
create table applied (id int primary key);
select evsource.capture_table('applied');
alter table applied enable always trigger evsource_capture;
set session_replication_role = replica;
insert into applied values (1);
truncate applied;
alter table applied enable always trigger evsource_capture_truncate;
truncate applied;
reset session_replication_role;
select stream, type from public.log where evsource.category(stream) = 'applied';

-- Names that need quotes, in every place; columns named as the parts of an event.
create schema "Odd. Schema";
create table "Odd. Schema"."Table ""x""" ("Key, 1" int, "new" text, "old" jsonb, "changed" bool, "a.b" int,
    "späte Änderung" text, primary key ("Key, 1"));
select evsource.capture_table('"Odd. Schema"."Table ""x"""', 'odd', exclude_columns => '{"a.b"}');
insert into "Odd. Schema"."Table ""x""" values (1, 'n', '{"old": 1}', true, 5, 'x');
update "Odd. Schema"."Table ""x""" set "späte Änderung" = 'y', "a.b" = 6, "changed" = null;
truncate "Odd. Schema"."Table ""x""";
select stream, type, data from public.log where evsource.category(stream) = 'odd';
select table_name, key_columns, exclude_columns from evsource.captured_tables where category = 'odd' \gset
\echo :table_name :key_columns :exclude_columns
select evsource.release_table(:'table_name');

-- A value of 10 MB that no update touches is the same in each event, whatever the
-- replica identity; it is compressed or not, and one that changes is told.
create table huge (id int primary key, n int, packed text, plain bytea);
alter table huge alter plain set storage external;
select evsource.capture_table('huge');
insert into huge values (1, 0, repeat('0123456789', 1000000), decode(repeat('00ff', 2500000), 'hex'));
update huge set n = 1;
alter table huge replica identity full;
update huge set n = 2;
alter table huge replica identity nothing;
update huge set n = 3, packed = packed || 'x';
select version, type, data -> 'changed' as changed, length(data -> 'new' ->> 'packed') as packed,
    md5((data -> 'new' ->> 'plain')::bytea) = (select md5(plain) from huge) as plain,
    data -> 'old' -> 'plain' = data -> 'new' -> 'plain' as same
from public.log where stream = 'huge-1';
drop table huge;

-- A table that is written anew on disk goes on as it was.
create table moved (id int primary key, n int, gone text);
select evsource.capture_table('moved');
insert into moved select i, 0, 'x' from generate_series(1, 3) i;
vacuum full moved;
cluster moved using moved_pkey;
alter table moved drop column gone, alter n type numeric(10,2);
alter table moved set unlogged;
alter table moved set schema "Odd. Schema";
update "Odd. Schema".moved set n = n + 0.5 where id = 2;
select stream, version, data -> 'new' as new from public.log where type = 'MovedUpdated';

-- A statement that is appended in parts, and fails after some of them, leaves nothing;
-- nor does a COPY whose last row is wrong.
set work_mem = '64kB';
create table parts (id int primary key, n int check (n < 3000));
select evsource.capture_table('parts');
select count(*) as events from evsource.events \gset
insert into parts select i, i from generate_series(1, 3000) i;
do $$
begin
    insert into parts select i, i from generate_series(1, 3000) i;
exception when check_violation then
    insert into parts values (1, 1);
end
$$;
copy parts from stdin;
2	2
3	3
4	wrong
\.
begin;
insert into parts select i, 0 from generate_series(10, 2500) i;
savepoint s;
update parts set n = 1;
delete from parts where id > 20;
rollback to s;
update parts set n = 2 where id <= 11;
commit;
reset work_mem;
select count(*) - :events as told from evsource.events;
select stream, version, type, data -> 'new' -> 'n' as n from public.log where stream in ('parts-1', 'parts-11', 'parts-20');

-- A wide table, and one that is nothing but its key.
do $$
begin
    execute (select format('create table wide (id int primary key, %s)', string_agg('c' || i || ' int', ', ')) from generate_series(1, 1000) i);
end
$$;
select evsource.capture_table('wide');
insert into wide (id, c7) values (1, 7);
update wide set c1000 = 0, c7 = null;
select type, data -> 'changed' as changed, (select count(*) from jsonb_object_keys(data -> 'new')) as columns
from public.log where stream = 'wide-1';
create table thin (id int primary key);
select evsource.capture_table('thin');
insert into thin values (1), (2) on conflict do nothing;
insert into thin values (2), (3) on conflict (id) do update set id = thin.id + 10;
select stream, version, type from public.log where evsource.category(stream) = 'thin';

-- MERGE that also deletes what its source does not have (since 17) tells that.
create table wanted (id int primary key);
insert into wanted values (3), (12), (13);
select current_setting('server_version_num')::int >= 170000 as by_source \gset
\if :by_source
merge into thin t using wanted w on t.id = w.id
when not matched by source then delete
when not matched then insert values (w.id);
\else
delete from thin t where not exists (select from wanted w where w.id = t.id);
insert into thin select id from wanted on conflict do nothing;
\endif
select stream, type from public.log where evsource.category(stream) = 'thin' and version > 1 or stream = 'thin-13' order by stream collate "C", version;

-- What a session knows of a captured table goes with the table.
select current_setting('server_version_num')::int >= 140000 as tells_memory \gset
do $$
begin
    for i in 1 .. 100 loop
        create temp table passing (id int primary key, v text);
        perform evsource.capture_table('passing');
        insert into passing values (1, 'x');
        drop table passing;
    end loop;
end
$$;
create temp table passing (id int primary key);
select evsource.capture_table('passing');
insert into passing values (1);
\if :tells_memory
select count(*) < 20 as few from pg_backend_memory_contexts where name = 'evsource capture plan' \gset
\else
\set few t
\endif
\echo :few

-- Nor a statement that fails in a savepoint: where a trigger, a handler or TRUNCATE fails.
create table refused (id int primary key, v text);
select evsource.capture_table('refused');
create function public.refuse() returns trigger language plpgsql as $$
begin
    if tg_op = 'TRUNCATE' or new.v = 'bad' then
        raise exception 'refused';
    end if;
    return null;
end
$$;
create trigger a_first after insert on refused for each row when (new.id % 2 = 0) execute function refuse();
create trigger z_last after insert on refused for each row execute function refuse();
create trigger z_truncate after truncate on refused execute function refuse();
create function public.refuse_event(e evsource.event) returns void language plpgsql as $$
begin
    if (e).data -> 'new' ->> 'v' = 'worse' then
        raise exception 'refused';
    end if;
end
$$;
select evsource.create_projection('refused', handler => 'refuse_event', categories => '{refused}');
begin;
do $$
begin
    for i in 1 .. 400 loop
        begin
            if i % 4 = 3 then
                truncate refused;
            else
                insert into refused values (i, (array['bad', 'bad', '', 'worse', 'good'])[1 + i % 5]);
            end if;
        exception when raise_exception then
        end;
    end loop;
end
$$;
\if :tells_memory
select count(*) < 10 as few from pg_backend_memory_contexts where name ~ '^evsource (captured|dispatch|event)' \gset
\endif
commit;
\echo :few
select v, count(*) from refused group by 1 order by 1;
select count(*) from evsource.events where evsource.category(stream) = 'refused';

\c :home
set client_min_messages = warning;
drop database evsource_capture_odd;
