-- rebuild: a read model is built anew beside the old one, which stays what it
-- is: the same table with other rows.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild;
create database evsource_rebuild;
\c evsource_rebuild
create extension evsource;
select count(*) from generate_series(1, 20) i, lateral evsource.append_batch('account-' || i,
    array_fill('Paid'::text, array[100]), array_fill('{"amount": 1}'::jsonb, array[100]));

-- A table with all that can hang on one.
create role rebuild_reader;
create role rebuild_editor;
create schema app;
grant usage on schema app to rebuild_reader;
create table app.balances (
    gone_1  text default 'x',
    id      serial,
    account text not null collate "C",
    balance numeric(20, 2) not null check (balance > 0),
    gone_2  integer,
    events  bigint not null default 0,
    double  numeric generated always as (balance * 2) stored,
    note    text,
    row_id  bigint generated always as identity (start with 1000 increment by 10),
    constraint balances_pkey primary key (account)
) with (fillfactor = 60, toast.autovacuum_enabled = off);
alter table app.balances drop column gone_1;
create unique index balances_lower on app.balances (lower(account)) include (balance) where balance > 0;
create index balances_events on app.balances using hash (events);
alter table app.balances alter column note set storage external;
create statistics app.balances_stats on account, balance from app.balances;
create function app.touch() returns trigger language plpgsql as $$
begin
    new.note := repeat('note of ' || new.account || ' ', 300);
    return new;
end
$$;
create table app.seen_by_trigger (account text);
create function app.tell() returns trigger language plpgsql as $$
begin
    insert into app.seen_by_trigger values (new.account);
    return new;
end
$$;
create trigger touch before insert or update of balance on app.balances for each row when (new.balance > 0) execute function app.touch();
create trigger tell after insert on app.balances for each row execute function app.tell();
comment on table app.balances is 'what everybody has';
comment on column app.balances.balance is 'in euros';
grant select on app.balances to rebuild_reader;
grant select (account), update (note) on app.balances to rebuild_editor;
alter table app.balances enable row level security;
create policy mine on app.balances for select to rebuild_reader using (account = 'account-1');
alter table app.balances replica identity using index balances_pkey;
alter table app.balances cluster on balances_pkey;
alter table app.balances alter column balance set statistics 500;
create view app.rich as select account, balance from app.balances where balance >= 100;
create materialized view app.frozen as select count(*) as accounts from app.balances;
create function app.total() returns numeric language sql as 'select sum(balance) from app.balances';

set search_path = app, public;
select evsource.create_projection('balances', tables => '{balances}', types => '{Paid}', query => $$
    insert into balances as b (account, balance, events)
        select stream, sum((data ->> 'amount')::numeric), count(*) from new_events group by stream order by stream
    on conflict (account) do update set balance = b.balance + excluded.balance, events = b.events + excluded.events $$);
reset search_path;
alter table app.balances drop column gone_2;
alter table app.balances add column later integer not null default 7;

create view everything as
select c.oid, c.relname, c.relowner, c.relacl, c.reloptions, c.relrowsecurity, c.relreplident, c.relhasindex,
    c.relhastriggers, c.relchecks, c.relnatts, obj_description(c.oid) as comment, col_description(c.oid, 4) as column_comment,
    (select array_agg(to_jsonb(a) - 'attmissingval' - 'atthasmissing' order by attnum) from pg_attribute a where attrelid = c.oid) as columns,
    (select array_agg(i::text order by indexrelid) from pg_index i where indrelid = c.oid) as indexes,
    (select array_agg(k::text order by k.oid) from pg_constraint k where conrelid = c.oid) as constraints,
    (select array_agg(t::text order by t.oid) from pg_trigger t where tgrelid = c.oid) as triggers,
    (select array_agg(p::text order by p.oid) from pg_policy p where polrelid = c.oid) as policies,
    (select array_agg(s::text order by s.oid) from pg_statistic_ext s where stxrelid = c.oid) as statistics,
    (select array_agg(d::text order by objid, refobjsubid) from pg_depend d where refobjid = c.oid and objid <> c.reltoastrelid) as dependents
from pg_class c where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'S', 'i', 'v', 'm');
create view read_model as select account, balance, events, double, length(note) as note, later from app.balances;
create table before as select * from everything;
create table files as select oid, relfilenode, reltoastrelid from pg_class where relnamespace = 'app'::regnamespace;

-- The read model is damaged; a rebuild mends it, and it is the same table.
update app.balances set balance = 1 where account < 'account-15';
delete from app.balances where account > 'account-5';
select id, row_id, account from app.balances order by id desc limit 1;
truncate app.seen_by_trigger;
call evsource.rebuild_projection('balances', online => true);
select count(*), sum(balance), sum(events), sum(double), min(note), max(note), min(later) from read_model;
select count(*) from ((table everything except table before) union all (table before except table everything)) d;
select count(*) from files f join pg_class c using (oid) where c.relkind = 'r' and f.relfilenode <> c.relfilenode and f.reltoastrelid <> c.reltoastrelid;
select min(id), max(id), min(row_id), max(row_id) from app.balances;
select count(*) from app.seen_by_trigger;

-- Indexes and the TOAST table are the new one's, and belong to the table.
set enable_seqscan = off;
select count(*) from app.balances where account = 'account-7' and length(note) > 1000;
select count(*) from app.balances where lower(account) = 'account-7' and balance > 0;
select count(*) from app.balances where events = 100;
reset enable_seqscan;
select t.relname = 'pg_toast_' || c.oid as named, x.relname = t.relname || '_index' as index_named, t.relowner = c.relowner as owned
from pg_class c join pg_class t on t.oid = c.reltoastrelid join pg_index i on i.indrelid = t.oid join pg_class x on x.oid = i.indexrelid
where c.oid = 'app.balances'::regclass;

-- What refers to it goes on to do so.
select count(*), sum(balance) from app.rich;
refresh materialized view app.frozen;
table app.frozen;
select app.total();
set role rebuild_reader;
select account from app.balances;
reset role;

-- So do appends, sequences, vacuum, and changes of the table.
select version from evsource.append('account-21', 'Paid', '{"amount": 5}');
select id, row_id, account, balance from app.balances where account = 'account-21';
vacuum full app.balances;
vacuum (freeze, analyze) app.balances;
reindex table app.balances;
alter table app.balances add column last boolean;
select count(*), sum(balance) from read_model;
select state, stale, lag, event_count from evsource.projection_status;

-- Where the session would put new tables is not where the new version goes.
set default_tablespace = pg_global;
call evsource.rebuild_projection('balances', online => true);
select count(*) from evsource.verify_projection('balances');
reset default_tablespace;
select distinct reltablespace from pg_class where relnamespace = 'app'::regnamespace and relkind in ('r', 'i', 't');

-- Nothing is left behind.
select count(*) from evsource.rebuilds;
select count(*) from pg_namespace where nspname like 'evsource_shadow%';
select count(*) from evsource.progress;

\c :home
drop database evsource_rebuild;
drop role rebuild_reader;
drop role rebuild_editor;
