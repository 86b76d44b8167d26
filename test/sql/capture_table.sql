-- Which tables can be captured, by whom, with whose rights; partitions; what is
-- there already; and how it ends.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_table;
create database evsource_capture_table;
\c evsource_capture_table
set client_min_messages = warning;
create extension evsource;
create role regress_capture_admin;
create role regress_capture_app;
create role regress_capture_other;
select evsource.grant_access('regress_capture_admin', 'admin');
select evsource.grant_access('regress_capture_other', 'admin');
create view public.log as
    select stream, version, type, data from evsource.events order by position;
create schema app authorization regress_capture_app;
grant usage on schema app to regress_capture_admin, regress_capture_other;

-- The category is the table's name, the key its primary key, in its order.
create table notes (body text, page int, book text, primary key (book, page));
select evsource.capture_table('notes');
insert into notes values ('x', 7, 'b');
select stream, type from public.log;
select * from evsource.captured_tables;

-- A captured table is captured once; a migration that runs again says what it wants.
select evsource.capture_table('public.notes', 'other');
select evsource.capture_table('notes', 'other', if_exists => 'keep');
select category, key_columns, exclude_columns from evsource.captured_tables;
select evsource.capture_table('notes', 'note', '{page}', '{body}', if_exists => 'alter');
select category, key_columns, exclude_columns from evsource.captured_tables;
select evsource.capture_table('notes', if_exists => 'maybe');
select evsource.release_table('notes');
select * from evsource.captured_tables;
insert into notes values ('x', 8, 'b');
select evsource.release_table('notes');
select count(*) from public.log;

-- Captures of one table end together, whatever their triggers are called, and with the
-- last of them nothing is left.
create table twice (id int primary key, n int);
select evsource.capture_table('twice');
create trigger also after insert or update or delete on twice for each row execute function evsource.capture('other', 'id');
insert into twice values (1, 0);
select stream, type from public.log where stream ~ '^(twice|other)-';
select evsource.release_table('twice');
insert into twice values (2, 0);
select evsource.capture_table('twice');
create trigger also after insert or update or delete on twice for each row execute function evsource.capture('other', 'id');
select evsource.capture_table('twice', 'third', if_exists => 'alter');
insert into twice values (3, 0);
truncate twice;
select stream, type from public.log where stream ~ '^(twice|other|third)';
select tgname from pg_trigger where tgrelid = 'twice'::regclass order by tgname;
drop table twice;

-- What cannot be captured.
create view a_view as select 1 as id;
create table no_key (id int, j jsonb);
create table "with-dash" (id int primary key);
select evsource.capture_table('no_such_table');
select evsource.capture_table(null);
select evsource.capture_table('a_view');
select evsource.capture_table('evsource.events');
select evsource.capture_table('pg_class');
select evsource.capture_table('no_key');
select evsource.capture_table('no_key', key_columns => '{nothing}');
select evsource.capture_table('no_key', key_columns => '{id,id}');
select evsource.capture_table('no_key', key_columns => '{j}');
select evsource.capture_table('no_key', key_columns => '{ctid}');
select evsource.capture_table('no_key', key_columns => '{null}');
select evsource.capture_table('no_key', key_columns => '{id}', exclude_columns => '{id}');
select evsource.capture_table('no_key', key_columns => '{id}', exclude_columns => '{nothing}');
select evsource.capture_table('"with-dash"');
select evsource.capture_table('"with-dash"', 'with_dash');
insert into "with-dash" values (1);
select stream, type from public.log where stream like 'with%';
drop table no_key, "with-dash", notes;
-- Nor where somebody's own trigger has a name that is needed, on the table
create function public.own() returns trigger language plpgsql as 'begin return null; end';
create table own_trigger (id int primary key);
create trigger evsource_capture_truncate after truncate on own_trigger execute function public.own();
select evsource.capture_table('own_trigger');
\echo :LAST_ERROR_SQLSTATE
alter trigger evsource_capture_truncate on own_trigger rename to mine;
select evsource.capture_table('own_trigger');
drop table own_trigger;
-- or on a partition.
create table own_trigger (id int primary key) partition by range (id);
create table own_trigger_part partition of own_trigger for values from (0) to (9);
create trigger evsource_capture after insert on own_trigger_part for each row execute function public.own();
select evsource.capture_table('own_trigger');
alter trigger evsource_capture on own_trigger_part rename to evsource_capture_partition;
select evsource.capture_table('own_trigger');
select * from evsource.captured_tables where table_name ~ 'own_trigger';
drop table own_trigger;
drop function public.own;
drop view a_view;

-- The events are appended with the rights of who captured the table: the role that
-- changes it needs none on the log, and cannot even see it.
set role regress_capture_app;
create table app.orders (id int primary key, status text);
grant trigger, select on app.orders to regress_capture_admin;
insert into app.orders values (1, 'old');
set role regress_capture_admin;
select evsource.capture_table('app.orders', 'order', backfill => true);
set role regress_capture_app;
insert into app.orders values (2, 'new');
update app.orders set status = 'changed';
select * from evsource.events;
reset role;
select stream, version, type from public.log where stream like 'order%';
select table_name, captured_by from evsource.captured_tables;

-- Without the right to append they are refused, with the statement.
revoke insert on evsource.events from regress_capture_admin;
set role regress_capture_app;
insert into app.orders values (3, 'refused');
reset role;
select evsource.grant_access('regress_capture_admin', 'writer');

-- Who may not create triggers on the table may not capture it.
set role regress_capture_other;
select evsource.capture_table('app.orders', 'mine', if_exists => 'alter');
select evsource.release_table('app.orders');
reset role;

-- Who owns the table may release it, and needs no right in evsource but to call.
set role regress_capture_app;
select evsource.release_table('app.orders');
reset role;
grant usage on schema evsource to regress_capture_app;
grant execute on function evsource.release_table to regress_capture_app;
set role regress_capture_app;
select evsource.release_table('app.orders');
reset role;

-- Nobody captures by a trigger of their own with rights that are not theirs: not with
-- those of the role that it names, nor of the table's owner.
grant execute on function evsource.capture to regress_capture_app;
set role regress_capture_app;
create table app.mine (id int primary key);
create trigger forged after insert on app.mine for each row
    execute function evsource.capture('order', 'id', '--as', 'regress_capture_admin');
create trigger honest after insert on app.mine for each row
    execute function evsource.capture('order', 'id');
insert into app.mine values (1);
grant trigger on app.mine to regress_capture_other;
set role regress_capture_other;
create trigger forged after insert on app.mine for each row
    execute function evsource.capture('order', 'id');
reset role;
revoke execute on function evsource.capture from regress_capture_app;
set role regress_capture_app;
create trigger forbidden after insert on app.mine for each row
    execute function evsource.capture('order', 'id');
reset role;

-- Nothing runs with the rights of who captured but the append: a handler has its
-- owner's, an output function its caller's.
create table public.users (who text);
create function public.remember() returns trigger language plpgsql as $$
begin
    insert into public.users values (current_user || ' on ' || tg_table_name);
    return null;
end
$$;
grant insert on public.users to public;
set role regress_capture_app;
grant trigger on app.orders to regress_capture_admin;
set role regress_capture_admin;
select evsource.capture_table('app.orders', 'order');
reset role;
create trigger a_user_of_theirs after update on app.orders for each row execute function public.remember();
set role regress_capture_app;
update app.orders set status = 'who am I' where id = 1;
select current_user;
reset role;
select distinct who from public.users;

-- When the role is gone, so are its rights.
create role regress_capture_gone superuser;
set role regress_capture_gone;
select evsource.capture_table('app.orders', 'order', if_exists => 'alter');
reset role;
drop role regress_capture_gone;
\set here :DBNAME
\c :home
drop role regress_capture_gone;     -- in another database nobody knows of it
\c :here
set client_min_messages = warning;
update app.orders set status = 'who was it' where id = 1;
drop table app.orders, app.mine;

-- Partitioned tables: the partitions that are there, and those that come, added by
-- an owner who has no other right here. A row that moves is deleted and inserted.
set role regress_capture_app;
create table app.parts (region text, id int, v int, primary key (region, id)) partition by list (region);
create table app.parts_a (v int, id int not null, region text not null);
alter table app.parts attach partition app.parts_a for values in ('a');
insert into app.parts values ('a', 1, 0), ('a', 2, 0);
grant trigger, select on app.parts, app.parts_a to regress_capture_admin;
set role regress_capture_admin;
select evsource.capture_table('app.parts', 'part', backfill => true);
set role regress_capture_app;
create table app.parts_b partition of app.parts for values in ('b', 'c') partition by list (region);
create table app.parts_b1 partition of app.parts_b for values in ('b');
create table app.parts_b2 partition of app.parts_b default;
insert into app.parts values ('b', 1, 1), ('c', 1, 1);
insert into app.parts_a values (5, 3, 'a');
update app.parts set region = 'b' where region = 'a' and id = 2;
update app.parts set v = v + 1 where region = 'b';
truncate app.parts;
reset role;
select stream, version, type, data -> 'new' -> 'v' as v from public.log where evsource.category(stream) = 'part';
select table_name, key_columns from evsource.captured_tables;
select evsource.capture_table('app.parts_a', 'again');
select evsource.release_table('app.parts_a');
create trigger of_its_own after insert on app.parts_a for each row execute function evsource.capture('own', 'id');
select evsource.release_table('app.parts_a');
insert into app.parts values ('a', 9, 0);
select stream from public.log where stream ~ '9$' order by stream;
drop table app.parts;

-- TRUNCATE of a partition deletes its rows; so does that of what has partitions itself.
-- TRUNCATE of the whole is one event, whatever else the statement names.
create table cut (id int, v int, primary key (id)) partition by range (id);
create table cut_1 partition of cut for values from (0) to (10);
create table cut_2 partition of cut for values from (10) to (30) partition by range (id);
create table cut_2a partition of cut_2 for values from (10) to (20);
select evsource.capture_table('cut');
create table cut_2b partition of cut_2 for values from (20) to (30);
create table cut_3 (v int, id int primary key);
alter table cut attach partition cut_3 for values from (30) to (40);
create schema added create table cut_4 partition of public.cut default;
insert into cut values (1, 1), (2, 2), (11, 11), (21, 21), (31, 31), (99, 99);
select max(position) as told from evsource.events \gset
begin;
update cut set v = 5 where id = 1;
savepoint s;
truncate cut;
rollback to s;
savepoint s;
truncate cut_1;
rollback to s;
truncate cut_1;
commit;
truncate cut_2;
truncate only cut_3;
truncate added.cut_4;
truncate cut_1;
select stream, type, data from evsource.events where position > :told order by position;
insert into cut values (1, 1), (11, 11), (31, 31);
select max(position) as told from evsource.events \gset
truncate cut;
insert into cut values (1, 1), (11, 11);
truncate cut_2, cut;
select stream, type from evsource.events where position > :told order by position;
-- A partition that is captured by itself tells that, too; one that is detached is none.
create trigger piece after insert or update or delete on cut_1 for each row execute function evsource.capture('piece', 'id');
create trigger piece_cut after truncate on cut_1 for each statement execute function evsource.capture('piece', 'id');
insert into cut values (1, 1), (31, 31);
alter table cut detach partition cut_3;
select max(position) as told from evsource.events \gset
truncate cut_1;
truncate cut_3;
select stream, type from evsource.events where position > :told order by position;
select evsource.release_table('cut'), evsource.release_table('cut_1');
select tgrelid::regclass, tgname from pg_trigger t join pg_proc p on p.oid = t.tgfoid
where p.proname ~ 'capture' and tgrelid::regclass::text ~ 'cut' and tgrelid <> 'cut_3'::regclass order by 1, 2;
drop table cut, cut_3;
drop schema added;

-- A partition may be captured by itself, and is shown then. It is not captured with its
-- table as well by accident.
create table whole (id int primary key) partition by range (id);
create table whole_1 partition of whole for values from (0) to (10);
select evsource.capture_table('whole_1', 'piece');
select table_name, category from evsource.captured_tables where table_name ~ 'whole' order by 1;
select evsource.capture_table('whole', 'all');
select evsource.release_table('whole_1');
select evsource.capture_table('whole', 'all');
create table whole_2 partition of whole for values from (10) to (20);
select table_name, category from evsource.captured_tables where table_name ~ 'whole' order by 1;
-- Who keeps a capture is told that nothing is backfilled.
set client_min_messages = notice;
select evsource.capture_table('whole', 'all', if_exists => 'keep');
select evsource.capture_table('whole', 'all', if_exists => 'keep', backfill => true);
set client_min_messages = warning;
drop table whole;

-- A backfill is an insert for each row, and says so; when the category has events,
-- the table was captured before, and begins anew.
create table stock (id int primary key, n int);
insert into stock select i, i from generate_series(1, 3) i;
begin isolation level repeatable read;
select count(*) from stock;
select evsource.capture_table('stock', backfill => true);
commit;
select evsource.release_table('stock');
delete from stock where id = 2;
select evsource.capture_table('stock', backfill => true);
select stream, version, type, metadata from evsource.events where evsource.category(stream) = 'stock' order by position;
select evsource.release_table('stock');

-- A backfill has to see every row.
alter table stock enable row level security;
grant trigger on stock to regress_capture_admin;
set role regress_capture_admin;
select evsource.capture_table('stock', backfill => true);
reset role;
grant select on stock to regress_capture_admin;
set role regress_capture_admin;
select evsource.capture_table('stock', backfill => true);
reset role;
drop table stock;

-- Triggers and policies of others on the log are honoured.
create function public.watch() returns trigger language plpgsql as $$
begin
    new.metadata := jsonb_build_object('watched', true);
    return new;
end
$$;
create table watched (id int primary key, n int);
select evsource.capture_table('watched');
create trigger watch before insert on evsource.events for each row execute function public.watch();
insert into watched select i, 0 from generate_series(1, 3) i;
update watched set n = 1;
drop trigger watch on evsource.events;
select stream, version, metadata from evsource.events where evsource.category(stream) = 'watched' order by position;
drop table watched;

-- The four tables of TPC-B, rebuilt from their events alone.
create table branches (bid int primary key, bbalance int, filler char(88));
create table tellers (tid int primary key, bid int, tbalance int, filler char(84));
create table accounts (aid int primary key, bid int, abalance int, filler char(84));
create table history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
insert into branches select i, 0 from generate_series(1, 2) i;
insert into tellers select i, 1 + i % 2, 0 from generate_series(1, 10) i;
insert into accounts select i, 1 + i % 2, 0, '' from generate_series(1, 100) i;
select t, evsource.capture_table(t, key_columns => case t when 'history' then '{aid}'::text[] end, backfill => true)
from unnest('{branches,tellers,accounts,history}'::text[]) t;
do $$
begin
    for i in 1 .. 200 loop
        begin
            update accounts set abalance = abalance + i where aid = 1 + i * 7 % 100;
            update tellers set tbalance = tbalance + i where tid = 1 + i % 10;
            update branches set bbalance = bbalance + i where bid = 1 + i % 2;
            insert into history values (1 + i % 10, 1 + i % 2, 1 + i * 7 % 100, i, '2026-01-01'::timestamp + i * interval '1.000001 s');
            if i % 10 = 0 then
                raise exception 'undo';
            end if;
        exception when raise_exception then null;
        end;
    end loop;
    delete from accounts where aid = 50;
    update accounts set aid = 1000 where aid = 51;
end
$$;
create schema rebuilt;
create table rebuilt.branches (like branches including all);
create table rebuilt.tellers (like tellers including all);
create table rebuilt.accounts (like accounts including all);
create table rebuilt.history (like history including all);
-- Any captured table with a primary key named as the first column here.
create function rebuilt.apply(e evsource.event) returns void language plpgsql as $$
declare
    target text := evsource.category(e.stream);
    key text := case target when 'branches' then 'bid' when 'tellers' then 'tid' when 'accounts' then 'aid' end;
begin
    if e.type like '%Truncated' then
        execute format('delete from rebuilt.%I', target);
        return;
    end if;
    if e.data ? 'old' then
        execute format('delete from rebuilt.%I where %I = ($1 ->> %L)::int', target, key, key) using e.data -> 'old';
    end if;
    if e.data ? 'new' then
        execute format('insert into rebuilt.%I select * from jsonb_populate_record(null::rebuilt.%I, $1)', target, target) using e.data -> 'new';
    end if;
end
$$;
select evsource.create_projection('rebuilt', handler => 'rebuilt.apply', mode => 'manual',
    categories => '{branches,tellers,accounts,history}');
select evsource.run_projection('rebuilt') > 0 as applied;
create function public.differs(name text) returns bigint language plpgsql as $$
declare
    n bigint;
begin
    execute format('select count(*) from ((table public.%1$I except all table rebuilt.%1$I) union all (table rebuilt.%1$I except all table public.%1$I)) d', name) into n;
    return n;
end
$$;
select t, public.differs(t) from unnest('{branches,tellers,accounts,history}'::text[]) t;
select (select count(*) from history), (select sum(delta) from history) = (select sum(bbalance) from rebuilt.branches) as balanced;
select evsource.drop_projection('rebuilt');
drop schema rebuilt cascade;
drop function public.differs;
drop table branches, tellers, accounts, history;

drop view public.log;
drop table public.users;
drop function public.remember, public.watch;
drop schema app cascade;
revoke all on schema evsource from regress_capture_app;
revoke all on function evsource.release_table, evsource.capture from regress_capture_app;
select evsource.revoke_access('regress_capture_admin'), evsource.revoke_access('regress_capture_other');

\c :home
set client_min_messages = warning;
drop database evsource_capture_table;
drop role regress_capture_admin, regress_capture_app, regress_capture_other;
