-- projections: registered, altered, paused, reset and dropped; what is applied
-- is what the log has, each event once.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_projections;
create database evsource_projections;
\c evsource_projections
create extension evsource;

create schema shop;
set search_path = shop;

create table balances (stream text primary key, amount numeric not null, events bigint not null);
create table applied (position bigint primary key, stream text not null, version bigint not null, type text not null);

create function remember(e evsource.event) returns void language sql as
$$insert into shop.applied values ((e).position, (e).stream, (e).version, (e).type)$$;
create function remember_batch(e evsource.event[]) returns void language sql as
$$insert into shop.applied select position, stream, version, type from unnest(e)$$;

-- what a read model must hold: all events of the log, or those of a category
create view missing as
    select position from evsource.events except select position from applied;
create view surplus as
    select position from applied except select position from evsource.events;

select count(*) from generate_series(1, 2500) i,
    lateral evsource.append('account-' || i % 10, 'Paid', jsonb_build_object('amount', i));
select count(*) from generate_series(1, 5) i,
    lateral evsource.append('order-' || i, 'Placed', jsonb_build_object('n', i));

-- Creating a projection applies the history, in order, and returns its name.
select evsource.create_projection('applied', 'remember', tables => '{applied}');
select count(*), count(distinct position) from applied;
select count(*) from missing;

-- From then on every append applies its events in its own transaction.
select version from evsource.append('account-0', 'Paid', '{"amount": 1}');
select stream, version from applied order by position desc limit 1;
begin;
select version from evsource.append('account-0', 'Paid', '{"amount": 1}');
select count(*) from missing;
rollback;
select count(*) from surplus;

-- A query is applied to all events of a batch at once, with a filter.
select evsource.create_projection('balances',
    query => $$
        insert into balances as b
            select stream, sum((data ->> 'amount')::numeric), count(*) from new_events group by stream
        on conflict (stream) do update
            set amount = b.amount + excluded.amount, events = b.events + excluded.events
    $$,
    categories => '{account}', types => '{Paid,Paid}', tables => '{shop.balances}');
select count(*), sum(amount), sum(events) from balances;
select version from evsource.append_batch('account-0', '{Paid,Paid,Closed}',
    array['{"amount": 10}', '{"amount": 20}', '{}']::jsonb[]);
select events from balances where stream = 'account-0';

-- What is stored: names qualified, filters sorted, the schemas of the moment.
select projection, kind, mode, state, handler, categories, types, tables, search_path
    from evsource.projections order by 1;
select projection, mode, kind, state, stale, lag, event_count, state_version
    from evsource.projection_status order by 1;
select s.position = max(e.position) as up_to_date
    from evsource.projection_status s, evsource.events e where projection = 'applied' group by s.position;

-- event_count is exact: own events count, rolled back ones do not.
select evsource.event_count('balances') = (select sum(events) from balances) as exact;
begin;
select version from evsource.append('account-1', 'Paid', '{"amount": 1}');
select evsource.event_count('balances') = (select sum(events) from balances) as exact;
rollback;
select evsource.event_count('balances') = (select sum(events) from balances) as exact;

-- In one transaction: appended before, created, appended after.
begin;
truncate applied;
select evsource.drop_projection('applied');
select version from evsource.append('account-1', 'Paid', '{"amount": 1}');
select evsource.create_projection('applied', 'remember_batch');
select version from evsource.append('account-1', 'Paid', '{"amount": 1}');
insert into evsource.events (stream, type) values ('account-1', 'Closed'), ('order-9', 'Placed');
select count(*) from missing;
select evsource.event_count('applied') = (select count(*) from applied) as exact;
rollback;
select kind from evsource.projections where projection = 'applied';

-- A savepoint takes the registration back, and with it the dispatch.
begin;
savepoint a;
select evsource.create_projection('short_lived', query => 'insert into applied select -position, stream, version, type from new_events', start => 'now');
select version from evsource.append('account-1', 'Paid', '{"amount": 1}');
select count(*) from applied where position < 0;
rollback to a;
select version from evsource.append('account-1', 'Paid', '{"amount": 1}');
select count(*) from applied where position < 0;
select count(*) from missing;
commit;

-- start => 'now' skips what is there, start_after what is at or below it.
create table recent (position bigint primary key);
select evsource.create_projection('recent', query => 'insert into recent select position from new_events', start => 'now');
select version from evsource.append('order-1', 'Paid', '{}');
select count(*) from recent;
select evsource.drop_projection('recent');
truncate recent;
select evsource.create_projection('recent', query => 'insert into recent select position from new_events',
    start_after => (select position from evsource.events order by 1 desc offset 3 limit 1));
select count(*), evsource.event_count('recent') from recent;

-- A pause loses nothing.
select evsource.pause_projection('applied');
select evsource.pause_projection('applied');
select version from evsource.append('order-2', 'Paid', '{}');
select count(*) from missing;
select state, lag, evsource.event_count('applied') = (select count(*) from applied) as exact
    from evsource.projection_status where projection = 'applied';
select evsource.resume_projection('applied');
select count(*) from missing;
select state, lag, event_count = (select count(*) from applied) as exact
    from evsource.projection_status where projection = 'applied';
select evsource.resume_projection('applied');

-- Neither does a change of the filter: it holds from then on, and shows as stale.
select evsource.alter_projection('applied', categories => '{order}');
select version from evsource.append('order-2', 'Paid', '{}');
select version from evsource.append('account-2', 'Paid', '{"amount": 2}');
select count(*) from missing;
select state, stale, event_count = (select count(*) from applied) as exact
    from evsource.projection_status where projection = 'applied';

-- A rebuild ends it.
call evsource.rebuild_projection('applied');
select stream ~ '^order-' as orders, count(*) from applied group by 1;
select state, stale, event_count = (select count(*) from applied) as exact
    from evsource.projection_status where projection = 'applied';

-- What can be left out is set back by its name.
select evsource.alter_projection('applied', defaults => '{categories}');
call evsource.rebuild_projection('applied');
select count(*) from missing;

-- if_exists: an error, left alone, or changed if it is another definition.
select evsource.create_projection('applied', 'remember');
select evsource.create_projection('applied', 'nonsense', if_exists => 'keep');
select xmin as before from evsource.projections where projection = 'applied' \gset
select evsource.create_projection('applied', 'shop.remember(evsource.event)', tables => '{applied}', if_exists => 'alter');
select xmin = :'before'::xid as unchanged, stale from evsource.projections where projection = 'applied';
select evsource.create_projection('applied', 'remember', tables => '{applied}', state_version => 2, if_exists => 'alter');
select stale, state_version from evsource.projections where projection = 'applied';
select evsource.create_projection('applied', 'remember_batch', tables => '{applied}', state_version => 2, if_exists => 'alter');
select kind, handler, state from evsource.projections where projection = 'applied';
select version from evsource.append('order-2', 'Paid', '{}');
select count(*) from missing;

-- Another mode: from inline to async and back.
select evsource.alter_projection('applied', mode => 'async');
select version from evsource.append('order-3', 'Paid', '{}');
select lag, lag_seconds >= 0 as has_lag from evsource.projection_status where projection = 'applied';
select evsource.run_projection('applied');
select version from evsource.append('order-3', 'Paid', '{}');
select evsource.alter_projection('applied', mode => 'inline');
select version from evsource.append('order-3', 'Paid', '{}');
select count(*) from missing;
select evsource.event_count('applied') - count(*) as difference from applied;

-- A reset empties the read model; an inline projection then has to catch up.
select evsource.reset_projection('applied');
select count(*) from applied;
select state, event_count, stale from evsource.projection_status where projection = 'applied';
select version from evsource.append('order-3', 'Paid', '{}');
select count(*) from applied;
call evsource.activate_projection('applied');
call evsource.activate_projection('applied');
select count(*) from missing;
select state, event_count = (select count(*) from applied) as exact
    from evsource.projection_status where projection = 'applied';

-- What tables cannot say a function can: on_reset.
create function forget() returns void language sql as 'delete from shop.recent';
select evsource.reset_projection('recent');
select evsource.alter_projection('recent', on_reset => 'forget');
call evsource.rebuild_projection('recent');
select count(*), evsource.event_count('recent') from recent;

-- What a projection uses cannot be dropped under it.
drop function remember_batch(evsource.event[]);
drop function forget();
set client_min_messages = warning;
drop table applied cascade;
drop schema shop cascade;
reset client_min_messages;

-- It can be renamed; whatever needs it by its name says so.
select evsource.alter_projection('applied', tables => '{applied}');
alter table applied rename to away;
select evsource.reset_projection('applied');
\echo :LAST_ERROR_SQLSTATE
call evsource.rebuild_projection('applied');
call evsource.rebuild_projection('applied', online => true);
select count(*) from evsource.verify_projection('applied');
select evsource.save_snapshot('applied');
select evsource.restore_projection('applied');
select evsource.alter_projection('applied', state_version => 2);
select evsource.alter_projection('applied', tables => '{away}');
set client_min_messages = warning;
drop table away cascade;
reset client_min_messages;
alter table away rename to applied;
select evsource.alter_projection('applied', tables => '{applied}');

-- A crash would empty an unlogged table, or such a partition, behind the projection's back.
create unlogged table quick (position bigint);
create table parted (position bigint) partition by range (position);
create unlogged table parted_quick partition of parted default;
select evsource.create_projection('quick', query => 'insert into quick select position from new_events', mode => 'manual', tables => '{applied, quick}');
select evsource.alter_projection('quick', tables => '{parted}');
alter table quick set logged;
select evsource.alter_projection('quick', tables => '{quick}');
select evsource.drop_projection('quick');

-- Dropping a projection leaves its tables.
select evsource.drop_projection('recent');
drop function forget();
select count(*) from recent;
select evsource.drop_projection('recent');
select evsource.drop_projection('recent', if_exists => true);
select evsource.drop_projection('applied');
select evsource.drop_projection('balances');
select count(*) from evsource.projections;
select count(*) from evsource.checkpoints;
\c :home
drop database evsource_projections;
