-- snapshots: saved states, a shortcut that never changes what a state is.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_snapshots;
create database evsource_snapshots;
\c evsource_snapshots
create extension evsource;
\set SHOW_CONTEXT never

-- how many events of a stream are appended, and what is saved of it then
create function pay(stream text, n int) returns bigint language sql as
$$select max(version) from generate_series(1, n) i, lateral evsource.append(stream, 'Paid', jsonb_build_object('amount', 1, 'n', i))$$;
create function saved(out projection text, out key text, out version bigint, out event_count bigint, out state_version int, out state jsonb)
    returns setof record language sql as
$$select projection, key, version, event_count, state_version, state from evsource.snapshots order by projection, key$$;
create function balance(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('balance', coalesce((state ->> 'balance')::numeric, 0) + (e.data ->> 'amount')::numeric)$$;

-- The presets, and what is given besides them.
select evsource.create_projection('plain', 'balance', categories => '{none}');
select evsource.create_projection('p_default', 'balance', categories => '{none}', snapshots => 'default');
select evsource.create_projection('p_fast', 'balance', categories => '{none}', snapshots => 'high_performance');
select evsource.create_projection('p_safe', 'balance', categories => '{none}', snapshots => 'max_durability');
select evsource.create_projection('p_off', 'balance', categories => '{none}', snapshots => 'disabled');
select evsource.create_projection('p_own', 'balance', categories => '{none}', snapshots => 'high_performance', snapshot_every => 7, restore_from_snapshot => false);
select projection, snapshot_every, snapshot_after_batch, restore_from_snapshot from evsource.projections order by 1;
select evsource.create_projection('p_bad', 'balance', snapshots => 'sometimes');
select evsource.create_projection('p_bad', 'balance', snapshot_every => -1);
select evsource.drop_projection(projection) from evsource.projections;

-- An append saves the state when the policy says: every 3 events of a stream, or each state.
select evsource.create_projection('every_3', 'balance', categories => '{a}', snapshot_every => 3);
select evsource.create_projection('each', 'evsource.fold_count', categories => '{a}', snapshot_every => 1);
select pay('a-1', 2), pay('a-2', 1);
select * from saved();
select pay('a-1', 1), pay('a-2', 1);
select * from saved();
select pay('a-1', 5);
select * from saved();
-- a batch saves once; the count begins anew with what was saved
select version from evsource.append_batch('a-2', array_fill('Paid'::text, '{10}'), array_fill('{"amount": 2}'::jsonb, '{10}'));
select * from saved() where projection = 'every_3';
select pay('a-2', 2);
select * from saved() where projection = 'every_3';
-- rolled back with the append
begin;
select pay('a-2', 1);
select * from saved() where key = 'a-2';
rollback;
select * from saved() where key = 'a-2';
select evsource.drop_projection('each');
select evsource.drop_projection('every_3');
select count(*) from evsource.snapshots;

-- Not after a batch: the state that is asked for is saved, if it took many events.
select evsource.create_projection('lazy', 'balance', categories => '{l}', snapshots => 'high_performance', snapshot_every => 5);
select pay('l-1', 12), pay('l-2', 4);
select * from saved();
select evsource.state('lazy', 'l-1'), evsource.state('lazy', 'l-2');
select * from saved();
select pay('l-1', 4), pay('l-2', 1);
select evsource.state('lazy', 'l-1'), evsource.state('lazy', 'l-2');
select * from saved();
-- not by a transaction that may not write, nor by one with a fixed snapshot
select pay('l-1', 10);
begin read only;
select evsource.state('lazy', 'l-1');
commit;
set default_transaction_read_only = on;
select evsource.state('lazy', 'l-1');
reset default_transaction_read_only;
begin isolation level repeatable read;
select evsource.state('lazy', 'l-1');
commit;
select version from saved() where key = 'l-1';
select evsource.state('lazy', 'l-1');
select version from saved() where key = 'l-1';

-- Without a policy nothing is saved but what is told to be.
select evsource.create_projection('off', 'balance', categories => '{o}', snapshots => 'disabled');
select pay('o-1', 250), pay('o-2', 3);
select evsource.state('off', 'o-1');
select evsource.has_snapshot('off', 'o-1');
select evsource.save_snapshot('off', 'o-1');
select evsource.has_snapshot('off', 'o-1'), evsource.has_snapshot('off', 'o-2'), evsource.has_snapshot('off', 'o-3');
select projection, key, version, event_count, state_version, restores, rejections, state,
    last_event_id = (select id from evsource.read_stream('o-1', 250)) as last_event,
    position = (select last_position from evsource.streams where stream = 'o-1') as last_position, saved_at <= clock_timestamp() as saved
from evsource.load_snapshot('off', 'o-1');
select count(*) from evsource.load_snapshot('off', 'o-2');
-- what is saved as it is, is not saved again
select evsource.save_snapshot('off', 'o-1'), evsource.save_snapshot('off'), evsource.save_snapshot('off');
-- a key without events has nothing to save and nothing saved; to ask so is no mistake
select evsource.save_snapshot('off', 'o-9');
select evsource.has_snapshot('off', 'o-9'), (select count(*) from evsource.load_snapshot('off', 'o-9'));
select pay('o-2', 1);
select evsource.save_snapshot('off'), evsource.save_snapshot();
select projection, key, version, event_count, bytes > 0 as bytes from evsource.snapshot_metadata order by 1, 2;
select projection, snapshots, bytes > 0 as bytes, last_saved_at <= clock_timestamp() as saved, rejections from evsource.snapshot_stats order by 1;

-- Cleared, they are computed from the events again.
select evsource.clear_snapshots('off'), evsource.clear_snapshots('off');
select evsource.state('off', 'o-2');
select evsource.clear_snapshots();
select count(*) from evsource.snapshots;
select projection, snapshots, bytes, last_saved_at from evsource.snapshot_stats order by 1;
select evsource.drop_projection('off');

-- What cannot be is refused.
select evsource.save_snapshot(null, 'l-1');
\echo :LAST_ERROR_SQLSTATE
select evsource.save_snapshot('unknown');
\echo :LAST_ERROR_SQLSTATE
select evsource.load_snapshot('lazy', null);
\echo :LAST_ERROR_SQLSTATE
select evsource.restore_projection(null);
\echo :LAST_ERROR_SQLSTATE
create table t (n bigint);
select evsource.create_projection('table', query => 'insert into t select position from new_events', categories => '{t}');
select evsource.save_snapshot('table');
\echo :LAST_ERROR_SQLSTATE
begin read only;
select evsource.save_snapshot('lazy');
\echo :LAST_ERROR_SQLSTATE
rollback;
begin read only;
select evsource.clear_snapshots('lazy');
rollback;

-- A fold that is not keyed by stream has its states in its snapshots: they cannot be cleared.
select evsource.create_projection('all', 'evsource.fold_count', key => 'global', mode => 'async');
select evsource.run_projection('all') > 0;
select evsource.clear_snapshots('all');
\echo :LAST_ERROR_SQLSTATE
select evsource.save_snapshot('lazy') > 0 as saved, evsource.clear_snapshots() > 0 as cleared, evsource.state('all') is not null as kept;
select key, version, event_count = (state ->> 'count')::bigint as counted from evsource.load_snapshot('all');
select evsource.drop_projection('all');
select evsource.drop_projection('lazy');

-- A state version: what was saved by another one is not used, and replaced.
create function report(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('v1', coalesce((state ->> 'v1')::int, 0) + 1)$$;
create function report_2(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('v2', coalesce((state ->> 'v2')::int, 0) + 1)$$;
select evsource.create_projection('report', 'report', categories => '{r}', snapshot_every => 4);
select pay('r-1', 10), pay('r-2', 4), pay('r-3', 1);
select * from saved();
select evsource.alter_projection('report', handler => 'report_2', state_version => 2);
set client_min_messages = debug1;
select evsource.state('report', 'r-1');
select evsource.state('report', 'r-2');
set client_min_messages = warning;
select * from saved();
select key, rejections from evsource.snapshots where projection = 'report' order by key;
-- the next append to it does so, too
select evsource.alter_projection('report', state_version => 3);
select pay('r-2', 1);
select * from saved();
select evsource.state('report', 'r-2'), evsource.state_at_version('report', 'r-1', 9);

-- Unless is_compatible says that it will do
create function next_is_compatible(saved int, current int) returns bool language sql immutable as $$select saved = current - 1$$;
select evsource.alter_projection('report', state_version => 4, is_compatible => 'next_is_compatible');
set client_min_messages = debug1;
select evsource.state('report', 'r-2');
select evsource.state('report', 'r-1');
set client_min_messages = warning;
select evsource.clear_snapshots('report');

-- ... or migrate_state brings it up. (What it makes of a state here no fold
-- could: so it is seen to have been used.)
select pay('r-1', 4), pay('r-2', 4);
select key, state_version, event_count, state from saved();
create function migrate_report(state jsonb, saved int) returns jsonb language plpgsql immutable as
$$begin
    if (state ->> 'v2')::int = 6 then return null; end if;
    if saved = 6 then raise 'never heard of 6'; end if;
    return state || jsonb_build_object('migrated_from', saved, 'v3', state -> 'v2');
end$$;
create function report_3(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select state || jsonb_build_object('v3', coalesce((state ->> 'v3')::int, 0) + 1)$$;
select evsource.alter_projection('report', state_version => 5, handler => 'report_3', migrate_state => 'migrate_report', defaults => '{is_compatible}');
select evsource.state('report', 'r-1');
-- null is "no": the events are folded
set client_min_messages = debug1;
select evsource.state('report', 'r-2');
-- an error is, too
select evsource.alter_projection('report', state_version => 6);
select evsource.save_snapshot('report', 'r-1');
select evsource.alter_projection('report', state_version => 7);
select evsource.state('report', 'r-1');
-- so is a function that is gone
select evsource.alter_projection('report', state_version => 8);
alter function migrate_report(jsonb, int) rename to migrated_report;
select evsource.state('report', 'r-1');
alter function migrated_report(jsonb, int) rename to migrate_report;
set client_min_messages = warning;
-- but being cancelled is not a reason to replay: it takes longer than it may
select evsource.save_snapshot('report') > 0 as saved;
create or replace function migrate_report(state jsonb, saved int) returns jsonb language plpgsql as
$$begin perform pg_sleep(10); return state; end$$;
select evsource.alter_projection('report', state_version => 9);
set statement_timeout = 100;
select evsource.state('report', 'r-1');
\echo :LAST_ERROR_SQLSTATE
reset statement_timeout;
select evsource.drop_projection('report');

-- Of another filter, another handler, another start: not used, whatever the version.
select evsource.create_projection('definition', 'balance', categories => '{d}', types => '{Paid}', snapshot_every => 2);
select pay('d-1', 3);
select version from evsource.append('d-1', 'Refunded', '{"amount": -1}');
select evsource.save_snapshot('definition');
set client_min_messages = debug1;
select evsource.alter_projection('definition', types => '{Paid,Refunded}');
select evsource.state('definition', 'd-1');
select evsource.alter_projection('definition', handler => 'evsource.fold_count');
select evsource.state('definition', 'd-1');
set client_min_messages = warning;
select rejections from evsource.snapshots where projection = 'definition';
select evsource.drop_projection('definition');

-- The new one's last event may come before that of the one it replaces, which need not be looked at.
select evsource.create_projection('narrowed', 'balance', categories => '{n}', types => '{Paid,Refunded}', restore_from_snapshot => false);
select pay('n-1', 3);
select version from evsource.append('n-1', 'Refunded', '{"amount": -1}');
select evsource.save_snapshot('narrowed');
select evsource.alter_projection('narrowed', types => '{Paid}');
select evsource.save_snapshot('narrowed');
select version, state from evsource.load_snapshot('narrowed', 'n-1');
select evsource.drop_projection('narrowed');

-- A snapshot must end with an event that its stream has.
select evsource.create_projection('broken', 'balance', categories => '{b}', snapshot_every => 2);
select pay('b-1', 4), pay('b-2', 4), pay('b-3', 4), pay('b-4', 4);
update evsource.snapshots set version = 40, state = '{"balance": 40}' where key = 'b-1';
update evsource.snapshots set position = position - 1, state = '{"balance": 40}' where key = 'b-2';
update evsource.snapshots set event_count = 0, state = '{"balance": 40}' where key = 'b-3';
update evsource.snapshots set position = position + 1000000, state = '{"balance": 40}' where key = 'b-4';
\c
\set SHOW_CONTEXT never
set client_min_messages = debug1;
select evsource.state('broken', 'b-1');
select evsource.state('broken', 'b-2');
select evsource.state('broken', 'b-3');
select evsource.state('broken', 'b-4');
set client_min_messages = warning;
-- all at once: those that cannot be used are replaced, the others left
update evsource.snapshots set version = 40, state = '{"balance": 40}' where key = 'b-1';
select evsource.save_snapshot('broken');
update evsource.snapshots set version = 40, state = '{"balance": 40}' where key = 'b-1';
select key, version, rejections, state from evsource.snapshots where projection = 'broken' order by key;
select evsource.restore_projection('broken');
select key, version, rejections, state from evsource.snapshots where projection = 'broken' order by key;
-- one projection's snapshots are its own affair
select evsource.create_projection('sound', 'balance', categories => '{b}', snapshot_every => 2);
select count(*) from evsource.snapshots where projection = 'sound';
update evsource.snapshots set version = 40 where projection = 'broken';
select evsource.restore_projection('broken');
select sum(rejections) from evsource.snapshots where projection = 'sound';
-- restored from snapshots that are not to be used: nothing is
select evsource.alter_projection('broken', restore_from_snapshot => false);
update evsource.snapshots set state = '{"balance": 40}' where projection = 'broken';
select key, state from evsource.load_states('broken');
select evsource.drop_projection('broken');
select evsource.drop_projection('sound');

-- Restoring an async fold goes on with the events after the snapshots.
create function actor(e evsource.event) returns text language sql immutable as $$select (e).metadata ->> 'actor'$$;
select evsource.create_projection('by_actor', 'evsource.fold_count', key => 'actor', mode => 'async', categories => '{k}');
select count(*) from generate_series(1, 9) i, lateral evsource.append('k-' || i, 'Done', '{}', jsonb_build_object('actor', 'actor ' || i % 3));
select evsource.run_projection('by_actor');
select count(*) from generate_series(1, 4) i, lateral evsource.append('k-' || i, 'Done', '{}', jsonb_build_object('actor', 'actor ' || i));
update evsource.snapshots set event_count = 0 where key = 'actor 1';
select evsource.state('by_actor', 'actor 1');
select evsource.state('by_actor', 'actor 4');
\echo :LAST_ERROR_SQLSTATE
select evsource.restore_projection('by_actor');
select key, state, event_count from evsource.load_states('by_actor');
select rejections from evsource.snapshots where key = 'actor 1';
-- of another state version: each key's events are read again
select evsource.alter_projection('by_actor', state_version => 2);
select evsource.state('by_actor', 'actor 1');
select version from evsource.append('k-1', 'Done', '{}', '{"actor": "actor 1"}');
select evsource.run_projection('by_actor'), evsource.state('by_actor', 'actor 1');
select key, state_version from evsource.snapshots where projection = 'by_actor' order by key;

-- Rights: who manages snapshots must have the rights of the projection's owner.
create role evsource_snapshots_admin;
create role evsource_snapshots_reader;
select evsource.grant_access('evsource_snapshots_admin', 'admin'), evsource.grant_access('evsource_snapshots_reader', 'reader');
set role evsource_snapshots_admin;
select evsource.save_snapshot('by_actor');
\echo :LAST_ERROR_SQLSTATE
select evsource.clear_snapshots('by_actor');
\echo :LAST_ERROR_SQLSTATE
select evsource.restore_projection('by_actor');
\echo :LAST_ERROR_SQLSTATE
select evsource.create_projection('mine', 'evsource.fold_count', categories => '{k}');
\echo :LAST_ERROR_SQLSTATE
reset role;
create schema mine authorization evsource_snapshots_admin;
set role evsource_snapshots_admin;
create function mine.count(state jsonb, e evsource.event) returns jsonb language sql as $$select jsonb_build_object('n', e.version)$$;
select evsource.create_projection('mine', 'mine.count', categories => '{k}');
-- without a name: those that one may
select evsource.save_snapshot(), evsource.clear_snapshots(), evsource.restore_projection('mine');
reset role;
select projection, count(*) from evsource.snapshots group by 1 order by 1;
-- asking for a state saves it, though the reader may not write
select evsource.alter_projection('mine', snapshot_every => 2, snapshot_after_batch => false);
select pay('k-1', 3);
set role evsource_snapshots_reader;
select evsource.state('mine', 'k-1'), evsource.has_snapshot('mine', 'k-1');
select state from evsource.snapshots where projection = 'mine';
update evsource.snapshots set state = '{}';
\echo :LAST_ERROR_SQLSTATE
reset role;
select evsource.drop_projection('mine');
drop schema mine cascade;
drop owned by evsource_snapshots_admin, evsource_snapshots_reader;
drop role evsource_snapshots_admin, evsource_snapshots_reader;

-- One fold that raises does not keep the others from being saved.
create function raising(state jsonb, e evsource.event) returns jsonb language plpgsql as $$begin raise 'not today'; end$$;
select evsource.clear_snapshots() > 0 as cleared;
select evsource.create_projection('raising', 'raising', categories => '{k}', mode => 'manual');
select evsource.create_projection('saved', 'evsource.fold_count', categories => '{k}');
select evsource.save_snapshot() > 0 as saved;
select distinct projection from evsource.snapshots order by 1;
select evsource.save_snapshot('raising');
select evsource.drop_projection('raising'), evsource.drop_projection('saved');

-- A large state is saved and loaded as any other.
select evsource.create_projection('large', 'evsource.fold_merge', categories => '{large}', snapshot_every => 2);
select version from evsource.append_batch('large-1', array_fill('Set'::text, '{30}'),
    array(select jsonb_build_object('k' || i, repeat(md5(i::text), 1000)) from generate_series(1, 30) i));
\c
select length(evsource.state('large', 'large-1')::text), (select event_count from evsource.load_snapshot('large', 'large-1'));

-- Saved in savepoint after savepoint the row keeps no lock of theirs, and what the session
-- believes to be saved may be gone.
select evsource.create_projection('each', 'evsource.fold_count', categories => '{each}', snapshot_every => 1);
create procedure append_each(streams text[]) language plpgsql as $$
declare
    stream text;
begin
    foreach stream in array streams loop
        begin
            perform evsource.append(stream, 'Happened');
        exception when division_by_zero then
        end;
    end loop;
end $$;
call append_each('{each-1,each-2,each-1,each-1,each-1}');
select key, version, xmax from evsource.snapshots where projection = 'each' order by key;
select evsource.clear_snapshots('each');
call append_each('{each-1}');
select key, version, xmax from evsource.snapshots where projection = 'each' order by key;

-- Plans are kept while the tables grow: none is to read all of one, short as it was.
select evsource.create_projection('kept', 'evsource.fold_count', categories => '{each}', snapshot_every => 1, keep_snapshots => 3);
select count(evsource.append('each-' || i, 'Happened')) from generate_series(1, 40) i, generate_series(1, 5);
analyze evsource.snapshots, evsource.snapshot_history;
\c
begin;
call append_each('{each-1,each-2,each-1,each-3,each-4,each-5,each-1,each-6,each-7,each-8}');
-- of an index each row that is looked for, and old versions of it
select t, pg_stat_get_xact_numscans(t::regclass) as read_whole, pg_stat_get_xact_tuples_returned((t || '_pkey')::regclass) < 300 as few_read
    from unnest('{evsource.snapshots,evsource.snapshot_history}'::text[]) t order by t;
commit;
\c :home
drop database evsource_snapshots;
