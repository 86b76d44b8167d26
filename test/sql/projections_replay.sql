-- projections_replay: rebuild, activation and run apply the log in batches, can
-- be interrupted and go on, and end with exactly what the log has.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_projections_replay;
create database evsource_projections_replay;
\c evsource_projections_replay
create extension evsource;

create table applied (position bigint primary key, stream text not null);
create table obstacle (position bigint);
create view difference as
    select (select count(*) from (select position from evsource.events except select position from applied) m) as missing,
           (select count(*) from (select position from applied except select position from evsource.events) s) as surplus;
create function remember(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from obstacle o where o.position = (e).position) then
        raise exception 'stopped at position %', (e).position;
    end if;
    insert into applied values ((e).position, (e).stream);
end
$$;
select count(*) from generate_series(1, 25) i, lateral evsource.append_batch('account-' || i,
    array_fill('Paid'::text, array[100]), array_fill('{}'::jsonb, array[100]));

-- Registered concurrently a projection is not applied until it is activated.
select evsource.create_projection('applied', 'remember', tables => '{applied}', concurrently => true);
select state, lag, event_count from evsource.projection_status;
select version from evsource.append('order-1', 'Placed');
select count(*) from applied;

-- Each batch commits: an error on the way keeps what was applied before it.
insert into obstacle values (1500);
call evsource.activate_projection('applied');
select state, position, lag, event_count from evsource.projection_status;
select projection, state, events_done, events_total, percent, position from evsource.progress;
select count(*) from applied;

-- The next call goes on from there, and appends are dispatched ever after.
truncate obstacle;
call evsource.activate_projection('applied');
select state, position, lag, event_count from evsource.projection_status;
select count(*) from evsource.progress;
select version from evsource.append('order-1', 'Placed');
table difference;

-- So does an interrupted rebuild: not emptied again, not dispatched to meanwhile.
insert into obstacle values (1500);
call evsource.rebuild_projection('applied', online => false);
select state, position, event_count from evsource.projection_status;
select projection, state, events_done, events_total, percent from evsource.progress;
select version from evsource.append('order-1', 'Placed');
select count(*) from applied;
truncate obstacle;
insert into obstacle values (1);
call evsource.rebuild_projection('applied', online => false);
table difference;
select state, event_count from evsource.projection_status;
truncate obstacle;

-- Altered while it is rebuilt it starts over.
insert into obstacle values (1500);
call evsource.rebuild_projection('applied', online => false);
truncate obstacle;
select evsource.alter_projection('applied', categories => '{order}');
call evsource.rebuild_projection('applied', online => false);
select stream, count(*) from applied group by 1;
select state, stale, event_count from evsource.projection_status;
select evsource.alter_projection('applied', defaults => '{categories}');

-- Inside a transaction block all happens in that one, and rolls back with it.
begin;
call evsource.rebuild_projection('applied', online => false);
table difference;
select version from evsource.append('order-1', 'Placed');
table difference;
select state, stale, event_count from evsource.projection_status;
rollback;
select state, stale, event_count from evsource.projection_status;

-- From PL/pgSQL, and whatever the session's default isolation level is.
set default_transaction_isolation = 'repeatable read';
do $$
begin
    call evsource.rebuild_projection('applied', online => false);
end
$$;
reset default_transaction_isolation;
table difference;
begin isolation level repeatable read;
call evsource.rebuild_projection('applied', online => false);
rollback;

-- Where a commit is not possible it is all one transaction as well.
do $$
begin
    begin
        call evsource.rebuild_projection('applied', online => false);
        raise division_by_zero;
    exception when division_by_zero then null;
    end;
end
$$;
table difference;
select state, event_count from evsource.projection_status;

-- Async: up to where the log is complete, in as many batches as wanted.
select evsource.alter_projection('applied', mode => 'async');
select evsource.reset_projection('applied');
select state, position, lag, event_count from evsource.projection_status;
select evsource.run_projection('applied', max_batches => 2);
select position, lag, event_count from evsource.projection_status;
begin;
select evsource.run_projection();
table difference;
rollback;
select evsource.run_projection();
select evsource.run_projection();
table difference;
select event_count from evsource.projection_status;

-- What has applied nothing yet is not stale: it begins with what it is now.
create table later (position bigint primary key);
select evsource.create_projection('later', query => 'insert into later select position from new_events',
    types => '{Refunded}', concurrently => true, tables => '{later}');
select evsource.alter_projection('later', types => '{Placed}');
select stale, lag from evsource.projection_status where projection = 'later';
call evsource.activate_projection('later');
select count(*), (select stale from evsource.projection_status where projection = 'later') as stale from later;
select evsource.alter_projection('later', mode => 'async', types => '{Refunded}');
select evsource.reset_projection('later');
select evsource.run_projection('later');
select evsource.alter_projection('later', types => '{Placed}');
select evsource.run_projection('later');
select count(*), (select stale from evsource.projection_status where projection = 'later') as stale from later;
select evsource.drop_projection('later');

-- Nor is one that appends have brought nothing, unless its new filter takes what is there.
select evsource.create_projection('later', query => 'insert into later select position from new_events',
    types => '{Never}', tables => '{later}');
select evsource.alter_projection('later', query => 'insert into later select position + 0 from new_events');
select stale, event_count from evsource.projection_status where projection = 'later';
select evsource.alter_projection('later', types => '{Placed}');
select stale from evsource.projection_status where projection = 'later';
select evsource.drop_projection('later');

-- Own events are applied after the commit only, or in a test that rolls back.
begin;
select version from evsource.append('order-1', 'Placed');
select evsource.run_projection('applied');
select evsource.run_projection('applied', include_own => true);
select evsource.run_projection('applied', include_own => true);
table difference;
rollback;
table difference;
begin;
select version from evsource.append('order-1', 'Placed');
savepoint s;
select evsource.run_projection('applied', include_own => true);
rollback to s;
commit;
begin;
select version from evsource.append('order-1', 'Placed');
savepoint s;
select evsource.run_projection('applied', include_own => true);
release s;
commit;
select evsource.run_projection('applied', include_own => true);
table difference;

-- Rebuilt, an async projection ends where the log is complete.
call evsource.rebuild_projection('applied', online => false);
table difference;
select state, lag, event_count from evsource.projection_status;

-- A manual one is run when it is named.
select evsource.alter_projection('applied', mode => 'manual');
select version from evsource.append('order-1', 'Placed');
select evsource.run_projection();
select evsource.run_projection('applied');

-- A handler that appends: replayed, it meets its own events as well, once.
create function follow(e evsource.event) returns void language sql as $$
    insert into applied values (-(e).position, (e).stream);
    select evsource.append('follow-1', 'Followed') where (e).type = 'Placed';
$$;
select evsource.create_projection('follow', 'follow', types => '{Placed,Followed}');
select type, count(*) from evsource.events where type in ('Placed', 'Followed') group by 1 order by 1;
select count(*), evsource.event_count('follow') from applied where position < 0;
create function echo(e evsource.event) returns void language sql as
    $$ select evsource.append('echo-1', 'Echo') where (e).type = 'Echo' $$;
select version from evsource.append('echo-1', 'Echo');
select evsource.create_projection('echo', 'echo', types => '{Echo}');

-- Folds. From snapshots only what they do not hold is computed; the states are
-- those of a full rebuild, and so is the count.
create function total(state jsonb, e evsource.event) returns jsonb language sql as
    $$ select state || jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1) $$;
create function total_of_pairs(state jsonb, e evsource.event) returns jsonb language sql as
    $$ select state || jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 2) $$;
create function migrated(state jsonb, saved integer) returns jsonb language sql as
    $$ select state || '{"migrated": true}' $$;
select evsource.create_projection('streams', 'total', categories => '{account}', snapshot_every => 10);
select count(*) from evsource.load_states('streams') where state = '{"n": 100}';
select evsource.alter_projection('streams', handler => 'total_of_pairs');
select stale, event_count from evsource.projection_status where projection = 'streams';
call evsource.rebuild_projection('streams', from_snapshot => true);
select count(*) from evsource.load_states('streams') where state = '{"n": 200}';
select state, stale, event_count from evsource.projection_status where projection = 'streams';
select evsource.alter_projection('streams', state_version => 2, migrate_state => 'migrated');
call evsource.rebuild_projection('streams', from_snapshot => true);
select count(*) from evsource.load_states('streams') where state = '{"n": 200, "migrated": true}';
begin;
select version from evsource.append('account-1', 'Paid');
select evsource.state('streams', 'account-1');
call evsource.rebuild_projection('streams');
select evsource.state('streams', 'account-1');
select stale, event_count from evsource.projection_status where projection = 'streams';
rollback;

-- A fold with another key has its states as of the checkpoint.
select evsource.create_projection('everything', 'total', mode => 'async', key => 'global');
select evsource.run_projection('everything', max_batches => 1) > 0 as applied;
select evsource.alter_projection('everything', state_version => 2, migrate_state => 'migrated');
select version from evsource.append('account-1', 'Paid');
call evsource.rebuild_projection('everything', from_snapshot => true);
select (evsource.state('everything') ->> 'n')::int - count(*) as difference, evsource.state('everything') ? 'migrated' as migrated from evsource.events;
select evsource.event_count('everything') - count(*) as difference from evsource.events;
select evsource.alter_projection('everything', handler => 'total_of_pairs');
set client_min_messages = notice;
call evsource.rebuild_projection('everything', from_snapshot => true);
call evsource.rebuild_projection('applied', from_snapshot => true);
reset client_min_messages;
select (evsource.state('everything') ->> 'n')::int - 2 * count(*) as difference from evsource.events;
table difference;

\c :home
drop database evsource_projections_replay;
