-- table_snapshots: the tables of a projection, saved at a position and restored from there.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_table_snapshots;
create database evsource_table_snapshots;
\c evsource_table_snapshots
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Tables of many types, with keys between them, a trigger, ids of their own.
create table orders (
    id       bigint generated always as identity primary key,
    stream   text unique not null,
    total    numeric not null default 0,
    doubled  numeric generated always as (total * 2) stored,
    ratio    float8, seen timestamptz, took interval, raw bytea, tags text[], doc jsonb, gone int);
alter table orders drop column gone;
create table lines (n serial primary key, "order" bigint not null references orders, "the text" text);
create table fired (what text);
create function fired() returns trigger language plpgsql as $$begin insert into fired values (tg_table_name); return null; end$$;
create trigger fired after insert on lines for each row execute function fired();
create table handled (at bigint);
create function handle(e evsource.event) returns void language plpgsql as $$
begin
    insert into handled values (e.position);
    insert into orders (stream, ratio, seen, took, raw, tags, doc)
        values (e.stream, 1 / 3.0::float8, '2024-02-29 12:00+00', '1 mon 2 days -3:00', '\x00ff', array['a,b', null, '"'], '{"a": [1.0]}')
        on conflict do nothing;
    update orders set total = total + coalesce((e.data ->> 'amount')::numeric, 0) where stream = e.stream;
    insert into lines ("order", "the text") select id, case when e.version % 2 = 0 then e.data ->> 'note' end from orders where stream = e.stream;
end $$;
create function add(n int) returns bigint language sql as
$$select count(*) from generate_series(1, n) i, lateral evsource.append('order-' || i % 3, 'Paid', jsonb_build_object('amount', i * 0.10, 'note', e'a "quoted"\n{text},' || i))$$;
create view hash as select md5(string_agg(o::text, '|' order by id)) as orders, (select md5(string_agg(l::text, '|' order by n)) from lines l) as lines from orders o;

-- As text they come back as they were, whatever the session's settings are.
select evsource.create_projection('orders', 'handle', categories => '{order}', tables => '{lines,orders}');
select add(2500);
create table at_2500 as select * from hash;
set datestyle = 'German'; set intervalstyle = 'iso_8601'; set extra_float_digits = 0; set bytea_output = 'escape';
select evsource.save_snapshot('orders');
reset datestyle; reset intervalstyle; reset extra_float_digits; reset bytea_output;
select projection, event_count, state_version, rows, position = (select max(position) from evsource.events) as at_the_end from evsource.table_snapshots;
-- what is saved already is not saved again
select evsource.save_snapshot('orders');
select add(30);
create table at_2530 as select * from hash;
truncate handled, fired;

-- A restore takes them and applies the events after them; no trigger fires for what comes back.
delete from lines where n % 2 = 0; update orders set total = 17;
select evsource.restore_projection('orders');
select (select count(*) from (table hash except table at_2530) d) as differ;
select count(*) as handled, (select count(*) from fired) as fired from handled;
select evsource.event_count('orders'), state from evsource.projections;
select tgname, tgenabled from pg_trigger where tgrelid = 'lines'::regclass and not tgisinternal;
-- so does a rebuild, in its own transactions or in one
truncate handled;
call evsource.rebuild_projection('orders', from_snapshot => true);
select (select count(*) from (table hash except table at_2530) d) as differ, (select count(*) from handled) as handled;
begin;
call evsource.rebuild_projection('orders', from_snapshot => true);
commit;
select (select count(*) from (table hash except table at_2530) d) as differ, (select count(*) from handled) as handled;
-- ids go on where they were
select add(3);
select max(id) as id, max(n) as n from orders, lines;
select evsource.event_count('orders');

-- One whose definition or tables have changed is not used; the log is.
alter table orders add column extra int;
truncate handled;
set client_min_messages = notice;
select evsource.restore_projection('orders');
set client_min_messages = warning;
select count(*) as handled, evsource.event_count('orders') from handled;
select reason from evsource.snapshot_rejections where projection = 'orders';
-- that has cleared what was saved: it was made by who knows what
select count(*) from evsource.table_snapshots;
select evsource.save_snapshot('orders');
select evsource.alter_projection('orders', state_version => 2);
select evsource.save_snapshot('orders');
truncate handled;
call evsource.rebuild_projection('orders', from_snapshot => true);
select count(*) as handled from handled;
-- unless is_compatible says that it will do
select evsource.save_snapshot('orders');
create function compatible(saved int, current int) returns bool language sql as $$select saved = current - 1$$;
select evsource.alter_projection('orders', state_version => 3, is_compatible => 'compatible');
truncate handled;
call evsource.rebuild_projection('orders', from_snapshot => true);
select count(*) as handled, (select stale from evsource.projections) as stale from handled;
-- a plain rebuild begins at the beginning, and clears them
call evsource.rebuild_projection('orders');
select count(*) > 0 as handled, (select count(*) from evsource.table_snapshots) as saved from handled;

-- As many as keep_snapshots says.
select evsource.alter_projection('orders', keep_snapshots => 2);
select evsource.save_snapshot('orders'), add(1) > 0 as a, evsource.save_snapshot('orders'), add(1) > 0 as a, evsource.save_snapshot('orders');
select count(*), count(distinct r.position) from evsource.table_snapshots s join evsource.table_snapshot_rows r using (projection, position) where tab = 1 and part = 1;
select evsource.clear_snapshots('orders');
select count(*) from evsource.table_snapshot_rows;

-- An async projection is saved as of its checkpoint.
create table sums (stream text primary key, n bigint);
select evsource.create_projection('sums', query => 'insert into sums as s select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = s.n + excluded.n',
    mode => 'async', categories => '{order}', tables => '{sums}');
select evsource.run_projection('sums') > 0 as applied;
select evsource.save_snapshot('sums');
select add(5);
select evsource.run_projection('sums');
create table before as table sums;
update sums set n = 0;
select evsource.restore_projection('sums');
select count(*) from (table before except table sums) d;
select evsource.event_count('sums') = (select sum(n) from sums) as counted;
-- empty tables are saved, too
create table empty (a int);
select evsource.create_projection('none', query => 'insert into empty select 1 from new_events', mode => 'manual', categories => '{nobody}', tables => '{empty}');
select evsource.save_snapshot('none'), evsource.restore_projection('none');

-- a table that refers to itself is filled by one statement
create table tree (id int primary key, parent int references tree, label text);
create index on tree (parent);
insert into tree select i, nullif(i + 1, 2501), repeat('x', i % 50) from generate_series(1, 2500) i;
select evsource.create_projection('tree', query => 'insert into tree select position, null, type from new_events where false', mode => 'manual', tables => '{tree}');
create table tree_before as table tree;
select evsource.save_snapshot('tree');
truncate tree;
select evsource.restore_projection('tree');
select (select count(*) from tree) as rows, (select count(*) from (table tree_before except table tree) d) as differ;
insert into tree values (3000, 2999);
-- also what refers to it
create table leaf (tree int references tree);
insert into leaf select 1;
select evsource.create_projection('leaves', query => 'insert into leaf select 1 from new_events where false', mode => 'manual', tables => '{leaf,tree}');
select evsource.save_snapshot('leaves');
truncate tree, leaf;
select evsource.restore_projection('leaves');
select tree, (select count(*) from tree) from leaf;

-- What cannot be is refused.
select evsource.save_snapshot('orders', 'order-1');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('sums', types => '{Paid}');
select evsource.save_snapshot('sums');
\echo :LAST_ERROR_SQLSTATE
create table elsewhere (id int primary key);
create table referring (id int primary key);
create table referred (id int primary key references referring);
alter table referring add foreign key (id) references referred;
select evsource.create_projection('referring', query => 'insert into referring select 1 from new_events where false', mode => 'manual', tables => '{referring,referred}');
select evsource.save_snapshot('referring');
\echo :LAST_ERROR_SQLSTATE
create function on_reset() returns void language sql as $$delete from elsewhere$$;
select evsource.create_projection('more', query => 'insert into empty select 1 from new_events where false', mode => 'manual', tables => '{empty}', on_reset => 'on_reset');
select evsource.save_snapshot('more');
\echo :LAST_ERROR_SQLSTATE
begin isolation level repeatable read;
select evsource.save_snapshot('none');
\echo :LAST_ERROR_SQLSTATE
rollback;
create role evsource_tables_admin;
select evsource.grant_access('evsource_tables_admin', 'admin');
set role evsource_tables_admin;
select evsource.save_snapshot('none');
\echo :LAST_ERROR_SQLSTATE
select evsource.restore_projection('none');
\echo :LAST_ERROR_SQLSTATE
reset role;
drop owned by evsource_tables_admin;
drop role evsource_tables_admin;

-- Tables that have changed their columns are saved anew, also at the same position;
-- and rows are many or large, not both.
create table wide (stream text, body text);
select evsource.create_projection('wide', query => $$insert into wide select stream, repeat('0123456789', 100000) from new_events$$, categories => '{wide}', tables => '{wide}', keep_snapshots => 2);
select count(evsource.append('wide-1', 'T')) from generate_series(1, 40);
select evsource.save_snapshot('wide');
alter table wide add column more int default 3;
select evsource.save_snapshot('wide');
select count(*), max(part) > 1 as parts from evsource.table_snapshot_rows where projection = 'wide' and tab = 1 group by position;
truncate wide;
select evsource.restore_projection('wide');
select count(*), sum(length(body)), sum(more) from wide;

\c :home
drop database evsource_table_snapshots;
