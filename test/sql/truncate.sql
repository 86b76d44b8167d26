-- truncate: the begin of a stream goes, and what it has come to stays.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate;
create database evsource_truncate;
\c evsource_truncate
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never

create function fold(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1, 'sum', coalesce((state ->> 'sum')::int, 0) + e.version)$$;
create function add(stream text, n int, at timestamptz default '2024-01-01') returns bigint language sql as
$$select max(a.version) from generate_series(1, n) i, lateral evsource.append(stream, case when i % 2 = 0 then 'Even' else 'Odd' end, occurred_at => at + i * interval '1 hour') a$$;
create table seen (stream text primary key, events bigint);
select evsource.create_projection('state', 'fold', categories => '{s}', snapshot_every => 10);
select evsource.create_projection('odd', 'fold', types => '{Odd}', categories => '{s}', snapshot_every => 4);
select evsource.create_projection('other', 'fold', categories => '{o}');
select evsource.create_projection('seen', query => 'insert into seen as s select stream, count(*) from new_events group by 1 on conflict (stream) do update set events = s.events + excluded.events',
    categories => '{s}', tables => '{seen}');
select evsource.create_projection('late', 'evsource.fold_count', categories => '{s}', key => 'global', mode => 'async');
select evsource.create_projection('all', 'evsource.fold_count', mode => 'async', snapshot_every => 1);
select add('s-1', 35), add('s-2', 5), add('o-1', 5);

-- Refused unless each fold has a snapshot that is late enough, and the others have applied what goes.
\set VERBOSITY default
select evsource.truncate_stream('s-1', 34);
select evsource.run_projection('late') > 0 as applied, evsource.run_projection('all') > 0 as applied;
select evsource.truncate_stream('s-1', 34);
\set VERBOSITY terse
select evsource.stream_version('s-1'), count(*) from evsource.read_stream('s-1');
select evsource.save_snapshot('state', 's-1') as saved;
select evsource.clear_snapshots('odd') > 0 as cleared;
select evsource.truncate_stream('s-1', 34);
select evsource.save_snapshot('odd', 's-1') as saved;
create table before as select p.projection, v, evsource.state_at_version(p.projection, 's-1', v) as state from evsource.projections p, generate_series(1, 35) v
    where projection in ('state', 'odd');
create table counts as select projection, evsource.event_count(projection) as events from evsource.projections;
create table ids as select e.id, e.version from evsource.read_stream('s-1') e;
select evsource.truncate_stream('s-1', 34);

-- The stream keeps its last version, its name and the ids of what is left.
select evsource.stream_version('s-1'), min(version), count(*) from evsource.read_stream('s-1');
select stream, version, first_recorded_at <= last_recorded_at as in_order from evsource.streams order by 1;
select count(*) from evsource.read_stream('s-1') join ids using (id, version);
select version from evsource.append('s-1', 'Odd', expected_version => 35);
insert into evsource.events (stream, type) values ('s-1', 'Even');
select evsource.stream_version('s-1');
-- It is itself an event, which readers and projections see.
select stream, type, data from evsource.read_category('evsource');

-- States are what they were, and go on.
select p.projection, evsource.state(p.projection, 's-1'), l.version, l.event_count
from (values ('state'), ('odd')) p (projection), lateral evsource.load_state(p.projection, 's-1') l;
select count(*) as differ from before b where v >= 33 and state is distinct from evsource.state_at_version(projection, 's-1', v);
-- in another session, without snapshots, and computed anew
\c
\set VERBOSITY terse
\set SHOW_CONTEXT never
set client_min_messages = warning;
select evsource.state('state', 's-1'), evsource.state('odd', 's-1');
select evsource.clear_snapshots('state') > 0 as cleared;
select evsource.state('state', 's-1'), evsource.state('odd', 's-1');
call evsource.rebuild_projection('state');
call evsource.rebuild_projection('odd');
select evsource.state('state', 's-1'), evsource.state('odd', 's-1');
select key, state, version from evsource.load_states('state');
select evsource.alter_projection('state', restore_from_snapshot => false);
select evsource.state('state', 's-1');
select evsource.alter_projection('state', restore_from_snapshot => true);

-- What was before is gone.
select evsource.state_at_version('state', 's-1', 32);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('state', 's-1', 33) = state as same from before where projection = 'state' and v = 33;
select evsource.state_at_time('state', 's-1', '2024-01-02');
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('state', 's-1', '2024-01-02 10:00') = state as same from before where projection = 'state' and v = 33;
select evsource.state_at_version('state', 's-1', 99);

-- Read models and counts are what they were: with the two events since.
select * from seen order by 1;
select projection, evsource.event_count(projection) - c.events as since from counts c where projection in ('seen', 'late', 'all', 'other') order by 1;
select evsource.run_projection('late'), evsource.run_projection('all');
select evsource.state('late'), evsource.state('all', 's-1'), evsource.event_count('all');

-- Again, further on; and what is gone already is nothing to do.
select evsource.truncate_stream('s-1', 34), evsource.truncate_stream('s-1', 10);
select add('s-1', 20, '2025-01-01');
select evsource.run_projection('late') > 0 as applied, evsource.run_projection('all') > 0 as applied;
select count(*) from evsource.projections p, lateral evsource.save_snapshot(p.projection, 's-1') where kind = 'fold' and key = 'stream';
create table again as select projection, evsource.state(projection, 's-1') as state from evsource.projections where projection in ('state', 'odd', 'all');
select evsource.truncate_stream('s-1', 57);
select count(*) from evsource.read_stream('s-1');
select count(*) filter (where state = evsource.state(projection, 's-1')) as same, count(*) from again;
select projection, key, upto, event_count from evsource.snapshot_history where upto is not null order by 1, 2;
-- a projection that is made now knows what is left
select evsource.create_projection('new', 'fold', categories => '{s}');
select evsource.state('new', 's-1'), evsource.state('new', 's-2');

-- Events that are gone are counted, also after a rebuild.
select evsource.run_projection('all') > 0 as applied;
create table counted as select projection, evsource.event_count(projection) from evsource.projections where projection in ('state', 'all');
call evsource.rebuild_projection('state');
call evsource.rebuild_projection('all');
call evsource.rebuild_projection('state', from_snapshot => true);
select count(*) filter (where event_count = evsource.event_count(projection)) as same, count(*) from counted;
select sum(event_count) = evsource.event_count('state') as adds_up from evsource.load_states('state');

-- No change makes a base useless: see also snapshot_vouched.
select evsource.alter_projection('state', state_version => 2);
\echo :LAST_ERROR_SQLSTATE
-- migrate_state and is_compatible are asked
create function migrate_none(state jsonb, saved int) returns jsonb language sql immutable as $$select null::jsonb$$;
create function migrate_not(state jsonb, saved int) returns jsonb language plpgsql immutable as $$begin raise 'no: %', state ->> 'n'; end$$;
create function compatible_not(saved int, current int) returns bool language sql immutable as $$select false$$;
create function handle(e evsource.event) returns void language sql as $$select null$$;
\set VERBOSITY default
select evsource.alter_projection('state', state_version => 2, migrate_state => 'migrate_none');
select evsource.alter_projection('state', state_version => 2, migrate_state => 'migrate_not');
select evsource.alter_projection('state', state_version => 2, is_compatible => 'compatible_not');
select evsource.alter_projection('state', 'handle', state_version => 2, migrate_state => 'migrate_none');
\set VERBOSITY terse
-- One that cannot be used all the same is no reason to make a state up ...
create function migrate_later(state jsonb, saved int) returns jsonb language sql immutable as $$select state$$;
select evsource.alter_projection('state', state_version => 2, migrate_state => 'migrate_later');
create or replace function migrate_later(state jsonb, saved int) returns jsonb language sql immutable as $$select null::jsonb$$;
\c
set client_min_messages = warning;
\set VERBOSITY default
\set SHOW_CONTEXT never
select evsource.state('state', 's-1');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
select evsource.state('state', 's-2');
-- ... but it can be brought up
create function migrate(state jsonb, saved int) returns jsonb language sql immutable as $$select state || jsonb_build_object('from', saved)$$;
select evsource.alter_projection('state', migrate_state => 'migrate');
select evsource.state('state', 's-1');
select version from evsource.append('s-1', 'Odd');
select evsource.state('state', 's-1');

-- With force: what has not been applied never will be, but states stay.
select evsource.pause_projection('seen');
select add('s-2', 5, '2025-01-01');
select evsource.truncate_stream('s-2', 10);
select evsource.truncate_stream('s-2', 10, force => true);
select data ->> 'forced' as forced from evsource.read_category('evsource', 0, 100) order by position desc limit 1;
select evsource.state('state', 's-2'), evsource.state('odd', 's-2');
select evsource.resume_projection('seen');
select * from seen where stream = 's-2';

-- Rolled back, nothing has happened.
begin;
select evsource.save_snapshot('other', 'o-1'), evsource.run_projection('all') > 0 as applied;
select evsource.truncate_stream('o-1', 5, true);
select count(*) from evsource.read_stream('o-1');
rollback;
select count(*) from evsource.read_stream('o-1');
select count(*) from evsource.truncations;
-- Nobody else may change what happened, not even then.
begin;
select evsource.truncate_stream('o-1', 3, true);
delete from evsource.events where stream = 'o-1';
\echo :LAST_ERROR_SQLSTATE
rollback;

-- What cannot be is refused.
select evsource.truncate_stream(null, 1);
\echo :LAST_ERROR_SQLSTATE
select evsource.truncate_stream('s-1', null);
\echo :LAST_ERROR_SQLSTATE
select evsource.truncate_stream('s-1', 0);
\echo :LAST_ERROR_SQLSTATE
select evsource.truncate_stream('s-1', 60);
\echo :LAST_ERROR_SQLSTATE
select evsource.truncate_stream('s-9', 1);
\echo :LAST_ERROR_SQLSTATE
begin isolation level repeatable read;
select evsource.truncate_stream('o-1', 3);
\echo :LAST_ERROR_SQLSTATE
rollback;
begin read only;
select evsource.truncate_stream('o-1', 3);
\echo :LAST_ERROR_SQLSTATE
rollback;
-- evsource.stats counts streams that were truncated, too.
select s.events = (select count(*) from evsource.events) as events, s.streams = (select count(*) from evsource.streams) as streams
from evsource.stats s;
create role evsource_truncate_admin;
select evsource.grant_access('evsource_truncate_admin', 'admin');
set role evsource_truncate_admin;
select evsource.truncate_stream('o-1', 3);
\echo :LAST_ERROR_SQLSTATE
select stream, version from evsource.streams where stream = 's-1';
reset role;
drop owned by evsource_truncate_admin;
drop role evsource_truncate_admin;

\c :home
drop database evsource_truncate;
