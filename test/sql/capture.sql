-- Rows of a captured table become events: what they hold, where they go, and in
-- which order.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture;
create database evsource_capture;
\c evsource_capture
set client_min_messages = warning;
create extension evsource;
create view public.log as
    select stream, version, type, data from evsource.events order by position;
create function public.forget() returns void language sql as
    'alter table evsource.events disable trigger immutable; delete from evsource.events;
     alter table evsource.events enable always trigger immutable';

create table orders (id int primary key, status text, total numeric(10,2), secret text);
select evsource.capture_table('orders', 'order', exclude_columns => '{secret}');

-- An insert, an update and a delete, each in the stream of the row's key. What is
-- excluded appears nowhere.
insert into orders values (1, 'new', 10.50, 'x');
update orders set status = 'paid', secret = 'y' where id = 1;
delete from orders where id = 1;
select * from public.log;

-- An update that changes nothing, or nothing that is captured, is no event.
insert into orders values (2, 'new', 1, 'x');
update orders set status = 'new';
update orders set secret = 'z';
select count(*) from public.log where stream = 'order-2';

-- A changed key is in both streams: the row leaves one and comes to the other.
update orders set id = 3, status = 'moved';
select * from public.log where stream in ('order-2', 'order-3');

-- TRUNCATE is one event, in the stream that is named as the category. It names the table
-- in one way, whatever the session quotes.
set quote_all_identifiers = on;
truncate orders;
reset quote_all_identifiers;
select * from public.log where stream = 'order';

-- A statement that fails leaves nothing, neither does a savepoint.
insert into orders select i, 'many' from generate_series(1, 3) i;
insert into orders select i, 'fails' from generate_series(4, 1, -1) i;
begin;
insert into orders values (10, 'kept');
savepoint s;
insert into orders values (11, 'lost');
update orders set status = 'lost' where id = 10;
rollback to s;
update orders set status = 'kept too' where id = 10;
savepoint t;
update orders set total = 1 where id = 10;
release t;
commit;
begin;
delete from orders;
rollback;
select stream, version, type, data -> 'new' ->> 'status' as status from public.log where data -> 'new' ->> 'status' in ('many', 'fails', 'lost', 'kept', 'kept too');

-- The events are there when the statement has ended, for a function, too.
create function public.count_after_update() returns bigint language plpgsql as $$
begin
    update orders set total = 2 where id = 1;
    return (select count(*) from evsource.events where stream = 'order-1' and type = 'OrderUpdated');
end
$$;
select public.count_after_update();

-- Upserts, MERGE's like, and statements that do several things at once.
insert into orders values (1, 'upsert'), (20, 'upsert') on conflict (id) do update set status = excluded.status;
with gone as (delete from orders where id = 2 returning *)
insert into orders select 21, 'was ' || id from gone;
select stream, version, type from public.log order by stream collate "C", version;

-- COPY is captured as INSERT is.
select public.forget();
copy orders (id, status) from stdin;
30	copied
31	copied
\.
select stream, version, type, data -> 'new' ->> 'status' as status from public.log;

-- The transaction's metadata is that of its changes.
begin;
select evsource.set_metadata('{"correlation_id": "c-1"}');
update orders set status = 'corrected' where id = 30;
commit;
select metadata from evsource.events where stream = 'order-30' and version = 2;
drop table orders;

-- Keys of several columns are escaped: no two keys share a stream.
select public.forget();
create table lines (a text, b text, n int, primary key (a, b));
select evsource.capture_table('lines', 'line');
insert into lines values ('a', 'b', 1), ('a+b', 'c', 2), ('a', 'b+c', 3), ('a\', '+', 4), ('', '', 5), ('x-1', ' ', 6);
select stream, data -> 'new' ->> 'n' as n, evsource.category(stream) from public.log;
drop table lines;

-- A key of one column is its value, whatever it holds.
create table things (id uuid primary key, v int);
select evsource.capture_table('things', 'thing');
insert into things values ('550e8400-e29b-41d4-a716-446655440000', 1);
select stream from public.log where evsource.category(stream) = 'thing';
drop table things;

-- Keys that are moved on by one: every stream loses its old row before it gets
-- the new one, so that replaying the events in order gives the table.
select public.forget();
create table queue (place int primary key deferrable, who text);
select evsource.capture_table('queue');
insert into queue values (1, 'ann'), (2, 'bob'), (3, 'cid');
update queue set place = place + 1;
select stream, version, type, coalesce(data -> 'new', data -> 'old') ->> 'who' as who from public.log where version > 1 or stream = 'queue-4';
drop table queue;

-- A row that an AFTER trigger changes again has its events in the order in which
-- it happened, though PostgreSQL fires the triggers of the second change first.
select public.forget();
create table nested (id int primary key, n int);
select evsource.capture_table('nested');
insert into nested values (1, 0), (2, 0);
create function public.touch_the_other() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() = 1 then
        update nested set n = n + 10 where id = 3 - new.id;
    end if;
    return null;
end
$$;
create trigger a_first after update on nested for each row execute function public.touch_the_other();
create trigger z_last after update on nested for each row execute function public.touch_the_other();
update nested set n = n + 1;
select * from nested order by id;
select stream, version, data -> 'old' -> 'n' as old, data -> 'new' -> 'n' as new from public.log where type = 'NestedUpdated' order by stream, version;

-- What a trigger does and takes back is not captured.
create or replace function public.touch_the_other() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() = 1 then
        begin
            update nested set n = -1;
            raise exception 'no';
        exception when others then null;
        end;
    end if;
    return null;
end
$$;
select public.forget();
update nested set n = 5 where id = 1;
select stream, version, data -> 'changed' as changed, data -> 'new' -> 'n' as new from public.log;
drop table nested;

-- What foreign keys do to other tables is captured there.
select public.forget();
create table parents (id int primary key);
create table children (id int primary key, parent int references parents on delete cascade on update cascade);
select evsource.capture_table('parents', 'parent'), evsource.capture_table('children', 'child');
insert into parents values (1), (2);
insert into children values (1, 1), (2, 1), (3, 2);
update parents set id = 5 where id = 1;
delete from parents;
select stream, version, type from public.log where stream like 'child%' order by stream, version;
drop table children, parents;

-- A statement with more rows than fit into memory is appended in parts; those
-- that leave a stream still do so before others come.
select public.forget();
set work_mem = '64kB';
create table big (id int primary key deferrable, n int);
select evsource.capture_table('big');
insert into big select i, 0 from generate_series(1, 3000) i;
update big set n = 1;
update big set id = id + 1;
delete from big where id <= 1001;
reset work_mem;
select count(*), count(distinct stream), max(version) from evsource.events where evsource.category(stream) = 'big';
with last as (
    select distinct on (stream) stream, type, data -> 'new' as row
    from evsource.events where evsource.category(stream) = 'big' order by stream, version desc)
select count(*) filter (where b.id is null) as missing, count(*) as rows
from last l left join big b on b.id = (l.row ->> 'id')::int and b.n = (l.row ->> 'n')::int
where l.type <> 'BigDeleted';
drop table big;

-- Beyond 64 streams in one transaction versions go on, and meet those that are there.
begin;
create table wide (id int primary key, n int);
select evsource.capture_table('wide');
insert into wide select i, 0 from generate_series(1, 200) i;
update wide set n = n + 1;
select evsource.append('wide-7', 'Other') is not null as appended;
update wide set n = n + 1 where id between 1 and 150;
commit;
select count(*), sum(version) from evsource.events where evsource.category(stream) = 'wide';
select version, type from evsource.events where stream = 'wide-7' order by version;
drop table wide;

-- A key that is null, or a stream's name that is too long, is refused.
create table loose (k text, v int);
select evsource.capture_table('loose', key_columns => '{k}');
insert into loose values (null, 1);
insert into loose values (repeat('x', 2000), 1);
insert into loose values ('ok', 1);
update loose set k = null;
select * from loose;

-- A table that changes is captured as it is then; a key that is gone is an error.
alter table loose add column w int default 7;
update loose set v = 2;
alter table loose rename column v to value;
update loose set w = 8;
select data -> 'new' as new from public.log where stream = 'loose-ok';
alter table loose rename column k to key;
update loose set w = 9;
select evsource.capture_table('loose', key_columns => '{key}', if_exists => 'alter');
update loose set w = 9;
alter table loose rename to renamed;
update renamed set w = 10;
select count(*) from public.log where stream = 'loose-ok';
drop table renamed;

-- The trigger by hand.
create table by_hand (id int, v int);
create trigger capture after insert or update or delete on by_hand
    for each row execute function evsource.capture('hand', 'id');
insert into by_hand values (1, 1);
select * from public.log where stream = 'hand-1';
create trigger wrong before insert on by_hand for each row execute function evsource.capture('hand', 'id');
insert into by_hand values (2, 1);
drop trigger wrong on by_hand;
create trigger wrong after insert on by_hand for each row execute function evsource.capture();
create trigger wrong after insert on by_hand for each row execute function evsource.capture('hand');
create trigger wrong after insert on by_hand for each row execute function evsource.capture('a-b', 'id');
create trigger wrong after insert on by_hand for each row execute function evsource.capture('hand', 'id', '--as');
create trigger wrong after insert on by_hand for each row execute function evsource.capture('hand', 'id', '--what');
create trigger wrong after insert on by_hand for each row execute function evsource.capture('hand', 'other');
insert into by_hand values (2, 1);
drop table by_hand;

-- Projections see the batch of a statement.
select public.forget();
create table totals (id int primary key, v int);
create table seen (n bigint, kinds text);
select evsource.create_projection('seen', query => 'insert into public.seen select count(*), string_agg(distinct type, '','') from new_events');
select evsource.capture_table('totals');
insert into totals select i, i from generate_series(1, 100) i;
update totals set v = v + 1;
select * from seen;
select evsource.drop_projection('seen');
drop table totals, seen;

-- Replication's own writes are not captured.
select public.forget();
create table applied (id int primary key);
select evsource.capture_table('applied');
set session_replication_role = replica;
insert into applied values (1);
truncate applied;
reset session_replication_role;
select count(*) from public.log;
drop table applied;

select public.forget();
drop view public.log;
drop function public.forget, public.count_after_update, public.touch_the_other;

\c :home
set client_min_messages = warning;
drop database evsource_capture;
