-- Every way in which a row can change is captured, and what is not a change is not; a
-- projection over the events keeps an equal copy of each table meanwhile.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_changes;
create database evsource_capture_changes;
\c evsource_capture_changes
set client_min_messages = warning;
create extension evsource;
create view public.log as
    select stream, version, type, data from evsource.events order by position;

-- The copies: of any table, keyed by id, that is named as the category, and has one.
create schema copied;
create function copied.apply(e evsource.event) returns void language plpgsql as $$
declare
    target text := evsource.category(e.stream);
    columns text;
begin
    if to_regclass(format('copied.%I', target)) is null then
        return;
    end if;
    if e.type like '%Truncated' then
        execute format('delete from copied.%I', target);
        return;
    end if;
    if e.data ? 'old' then
        execute format('delete from copied.%I where id = ($1 ->> ''id'')::int', target) using e.data -> 'old';
    end if;
    if e.data ? 'new' then
        select string_agg(quote_ident(attname), ', ') into columns from pg_attribute
        where attrelid = format('copied.%I', target)::regclass and attnum > 0 and not attisdropped and attgenerated = '';
        execute format('insert into copied.%I (%2$s) overriding system value select %2$s from jsonb_populate_record(null::copied.%1$I, $1)',
            target, columns) using e.data -> 'new';
    end if;
end
$$;
select evsource.create_projection('copied', handler => 'copied.apply');
create function public.differs(name text) returns bigint language plpgsql as $$
declare
    n bigint;
begin
    execute format('select count(*) from public.%1$I a full join copied.%1$I b using (id) where a::text is distinct from b::text', name) into n;
    return n;
end
$$;

-- Identity and generated columns, defaults, and a BEFORE trigger that has the last word.
create table items (id int generated always as identity primary key, name text default 'unnamed',
    price numeric(10,2), gross numeric generated always as (price * 1.19) stored, secret text, note text);
create table copied.items (like items including all);
create function public.trim_name() returns trigger language plpgsql as $$
begin
    new.name := trim(new.name);
    return case when new.name <> 'not wanted' then new end;
end
$$;
create trigger trim before insert or update on items for each row execute function public.trim_name();
select evsource.capture_table('items', exclude_columns => '{secret}');
insert into items (name, price) values ('  pen ', 1.50), ('not wanted', 9), (default, null);
insert into items (id, name) overriding system value values (10, 'ten');
update items set name = ' pen  ' where id = 1;
update items set price = 2 where name = 'pen' returning id, name, gross;
update items set name = 'not wanted' where id = 10;
select * from public.log;

-- ON CONFLICT: what it inserts, what it updates, what it leaves alone.
insert into items (id, name) overriding system value values (10, 'taken'), (11, 'free') on conflict (id) do nothing;
insert into items as i (id, name, price) overriding system value values (10, 'up', 3), (12, 'in', 4), (11, 'free', 5)
on conflict (id) do update set name = excluded.name, price = excluded.price where i.name <> excluded.name;
select stream, version, type, data -> 'changed' as changed from public.log where evsource.category(stream) = 'items' and stream <> 'items-1' order by stream collate "C", version;

-- MERGE, where there is one (since 15), is its inserts, updates and deletes.
create table wanted (id int primary key, name text);
insert into wanted values (10, 'merged'), (11, null), (20, 'new');
select current_setting('server_version_num')::int >= 150000 as merges \gset
\if :merges
merge into items i using wanted w on i.id = w.id
when matched and w.name is null then delete
when matched then update set name = w.name
when not matched then insert (id, name) overriding system value values (w.id, w.name);
\else
delete from items i using wanted w where i.id = w.id and w.name is null;
update items i set name = w.name from wanted w where i.id = w.id;
insert into items (id, name) overriding system value select 20, 'new';
\endif
select stream, type, data -> 'changed' as changed from public.log where data -> 'new' ->> 'name' in ('merged', 'new') or type = 'ItemsDeleted' order by stream collate "C";

-- A view, a cursor, a rule, a WITH, a function: it is the row that counts.
create view cheap as select id, name, price from items where coalesce(price, 0) < 100;
insert into cheap (name, price) values ('by view', 1);
update cheap set price = 1.10 where name = 'by view';
begin;
declare c cursor for select * from items where name = 'by view' for update;
fetch c;
update items set note = 'by cursor' where current of c;
commit;
create table inbox (name text);
create rule to_items as on insert to inbox do instead insert into items (name) values (new.name);
insert into inbox values ('by rule');
with moved as (delete from items where name = 'by rule' returning name), counted as (update items set note = 'counted' where id = 1)
insert into items (name) select name || ' and with' from moved;
prepare note(text) as update items set note = $1 where id = 2;
execute note('prepared');
execute note('prepared');
copy items (name, price) from stdin with (format csv);
"copied, once",7.10
not wanted,1
\.
delete from items where name = 'ten' or id = 12;
select count(*) filter (where type = 'ItemsInserted') as inserted, count(*) filter (where type = 'ItemsUpdated') as updated,
    count(*) filter (where type = 'ItemsDeleted') as deleted, count(*) filter (where data::text like '%secret%') as secrets
from public.log where evsource.category(stream) = 'items';
select public.differs('items'), count(*) from items;

-- A statement that changes no row, locks rows, or fails at the very end of its
-- transaction, tells nothing.
select count(*) as events from evsource.events \gset
update items set note = 'x' where false;
delete from items where id = -1;
select count(*) from (select from items for update) locked;
create table checked (id int primary key, other int references checked deferrable initially deferred);
select evsource.capture_table('checked');
begin;
insert into checked values (1, 2);
update items set note = 'undone' where id = 1;
commit;
begin;
update items set note = 'undone' where id = 1;
do $$ begin update items set note = 'undone, too'; raise exception 'no' using errcode = 'P0001'; end $$;
commit;
select count(*) - :events as told from evsource.events;

-- Foreign keys: SET NULL and SET DEFAULT are updates of the other table, a cascade goes
-- through several tables, and a truncate empties them all.
create table regions (id int primary key);
create table shops (id int primary key, region int references regions on delete cascade on update cascade);
create table sales (id int primary key, shop int default 0 references shops on delete set default, region int references regions on delete set null on update cascade);
create table copied.regions (like regions including indexes);
create table copied.shops (like shops including indexes);
create table copied.sales (like sales including indexes);
select evsource.capture_table('regions'), evsource.capture_table('shops'), evsource.capture_table('sales');
insert into regions values (1), (2);
insert into shops values (0, 2), (1, 1), (2, 1), (3, 2);
insert into sales values (1, 1, 1), (2, 2, 2), (3, 3, 1);
update regions set id = 4 where id = 2;
delete from regions where id = 1;
select stream, version, type, (data -> 'new') - 'id' as new from public.log where evsource.category(stream) in ('shops', 'sales') and version > 1 order by stream collate "C", version;
select public.differs('regions'), public.differs('shops'), public.differs('sales');
truncate regions cascade;
select stream, type from public.log where type like '%Truncated' order by stream collate "C";
select (select count(*) from copied.regions) as regions, (select count(*) from copied.shops) as shops, (select count(*) from copied.sales) as sales;

-- A table that changes: what is added is captured with its default, what is dropped is
-- not, a new type is told in its form, a renamed column by its new name.
insert into regions select generate_series(1, 3);
insert into shops values (1, 1), (2, 1), (3, 2);
alter table shops add column opened date default '2026-01-01', add column old_fashioned text;
alter table copied.shops add column opened date default '2026-01-01', add column old_fashioned text;
update shops set region = 2 where id = 1;
begin;
alter table shops drop column old_fashioned, add column size int default 5;
alter table copied.shops drop column old_fashioned, add column size int default 5;
insert into shops values (4, 3, '2026-02-02');
alter table shops alter size type numeric using size * 1.5, alter opened type timestamptz using '2026-01-01 00:00+00'::timestamptz;
alter table copied.shops alter size type numeric using size * 1.5, alter opened type timestamptz using '2026-01-01 00:00+00'::timestamptz;
insert into shops values (5, 3, '2026-02-02 00:00+00');
commit;
alter table shops rename column size to area;
alter table copied.shops rename column size to area;
update shops set area = area + 0.25 where id > 3;
select stream, version, type, data -> 'new' as new from public.log where evsource.category(stream) = 'shops' and data -> 'new' ? 'opened';
select public.differs('shops');
-- A key column of another type keeps its streams while its text is the same.
alter table shops alter id type bigint;
update shops set area = 0 where id = 5;
select max(version) from public.log where stream = 'shops-5';

-- Triggers of partitions come and go with them. A row that is in a partition while it is
-- attached is captured, and what is done to it before and after is not.
create table logs (id int not null, day date not null, what text, primary key (id, day)) partition by range (day);
select evsource.capture_table('logs', 'entry', key_columns => '{id}');
create table logs_1 (what text, day date not null, id int not null);
insert into logs_1 values ('before', '2026-01-01', 1);
alter table logs attach partition logs_1 for values from ('2026-01-01') to ('2026-02-01');
create table logs_2 partition of logs for values from ('2026-02-01') to ('2026-03-01') partition by list (id);
create table logs_2_even partition of logs_2 for values in (2, 4);
create table logs_2_rest partition of logs_2 default;
update logs set what = 'attached' where id = 1;
insert into logs values (2, '2026-02-02', 'two'), (3, '2026-02-02', 'three');
insert into logs_2_rest (id, day, what) values (5, '2026-02-03', 'straight');
update logs set day = '2026-02-01' where id = 1;
update logs_2 set id = 4 where id = 3;
alter table logs detach partition logs_2;
update logs_2 set what = 'detached';
insert into logs_2 values (2, '2026-02-20', 'detached');
alter table logs attach partition logs_2 for values from ('2026-02-01') to ('2026-03-01');
delete from logs where id = 2;
select stream, version, type, coalesce(data -> 'new', data -> 'old') as row from public.log where evsource.category(stream) = 'entry';
select tgrelid::regclass as partition, count(*) from pg_trigger where tgfoid = 'evsource.capture'::regproc and tgrelid::regclass::text like 'logs%' group by 1 order by tgrelid::regclass::text collate "C";
select evsource.release_table('logs');
select count(*) from pg_trigger where tgfoid = 'evsource.capture'::regproc and tgrelid::regclass::text like 'logs%';

-- Tables that inherit are tables of their own: a statement on the parent that changes
-- a child's row is captured where the child is.
create table vehicles (id int primary key, wheels int);
create table trucks (load int, primary key (id)) inherits (vehicles);
select evsource.capture_table('vehicles', 'vehicle');
insert into vehicles values (1, 2);
insert into trucks values (2, 4, 1000);
update vehicles set wheels = wheels + 2;
select evsource.capture_table('trucks', 'truck', backfill => true);
update vehicles set wheels = wheels * 2;
delete from vehicles;
select stream, version, type, coalesce(data -> 'new', data -> 'old') as row from public.log where stream like '%-1' and evsource.category(stream) = 'vehicle' or evsource.category(stream) = 'truck' order by stream collate "C", version;

-- A trigger that is disabled captures nothing.
alter table regions disable trigger user;
insert into regions values (100);
alter table regions enable trigger user;
insert into regions values (101);
select stream from public.log where stream like 'regions-10%';

-- Temporary tables and unlogged ones are tables.
create temporary table passing (id int primary key);
select evsource.capture_table('passing');
insert into passing values (1);
create unlogged table quick (id int primary key);
select evsource.capture_table('quick');
insert into quick values (1);
select stream from public.log where stream like 'passing%' or stream like 'quick%';

\c :home
set client_min_messages = warning;
drop database evsource_capture_changes;
