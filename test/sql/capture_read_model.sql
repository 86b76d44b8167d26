-- The tables of a read model can be captured: what becomes of them is told, also when it
-- is rebuilt or restored.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_read_model;
create database evsource_capture_read_model;
\c evsource_capture_read_model
set client_min_messages = warning;
create extension evsource;
create table balances (account text primary key, n int not null);
select evsource.create_projection('balances', mode => 'async', categories => '{account}', tables => '{balances}', query => $$
    insert into balances as b select stream, count(*) from new_events group by 1
    on conflict (account) do update set n = b.n + excluded.n $$);
select evsource.capture_table('balances', 'balance');
create view public.told as
    select data -> 'new' ->> 'account' as account, (data -> 'new' ->> 'n')::int as n
    from (select distinct on (stream) stream, type, data from evsource.events
        where evsource.category(stream) = 'balance' and stream <> 'balance' and position >
            coalesce((select max(position) from evsource.events where stream = 'balance'), 0)
        order by stream, version desc) last
    where type <> 'BalanceDeleted';
create view public.differences as
    select count(*) from ((table balances except all table told) union all (table told except all table balances)) d;

select count(*) from generate_series(1, 5) i, lateral evsource.append('account-' || i % 2, 'Paid');
select evsource.run_projection('balances');
select * from told order by 1;
select evsource.save_snapshot('balances') > 0 as saved;

-- Not beside the old version, whose rows would be exchanged behind the events' back.
select evsource.alter_projection('balances', query => $$
    insert into balances as b select stream, 10 * count(*) from new_events group by 1
    on conflict (account) do update set n = b.n + excluded.n $$);
call evsource.rebuild_projection('balances', online => true);
set client_min_messages = notice;
call evsource.rebuild_projection('balances');
set client_min_messages = warning;
select * from told order by 1;
table differences;

-- Saved rows that come back.
select evsource.save_snapshot('balances') > 0 as saved;
select count(*) from evsource.append('account-1', 'Paid');
select evsource.run_projection('balances');
select evsource.restore_projection('balances') > 0 as restored;
table differences;
select evsource.run_projection('balances');
table differences;
select type, count(*) from evsource.events where evsource.category(stream) = 'balance' group by 1 order by 1;

-- The same of partitions.
create table parts (account text, n int, primary key (account, n)) partition by range (n);
create table parts_1 partition of parts for values from (0) to (3);
create table parts_2 partition of parts for values from (3) to (10);
select evsource.create_projection('parts', mode => 'async', categories => '{account}', tables => '{parts}', query =>
    'insert into parts select stream, version from new_events');
select evsource.capture_table('parts', 'part');
select evsource.run_projection('parts');
select evsource.save_snapshot('parts') > 0 as saved;
select evsource.restore_projection('parts') > 0 as restored;
select type, count(*) from evsource.events where evsource.category(stream) = 'part' group by 1 order by 1;
select distinct tgname, tgenabled from pg_trigger where tgrelid in (select relid from pg_partition_tree('parts')) order by 1;

-- A capture that is disabled is none; one that has begun meanwhile is in the way of the old version.
alter table balances disable trigger evsource_capture;
alter table balances disable trigger evsource_capture_truncate;
alter table balances disable trigger evsource_capture_begin;
call evsource.rebuild_projection('balances', online => true, keep_old => true);
alter table balances enable trigger evsource_capture;
select evsource.revert_rebuild('balances');

\c :home
set client_min_messages = warning;
drop database evsource_capture_read_model;
