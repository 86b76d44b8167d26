-- Folds that are not keyed by stream, when a stream is truncated: their rows have what its
-- events have come to, and nothing is made up where only the events could tell.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate_keyed;
create database evsource_truncate_keyed;
\c evsource_truncate_keyed
create extension evsource;
set timezone = 'UTC';
\set SHOW_CONTEXT never

create function key_k(e evsource.event) returns text language sql immutable as $$select e.data ->> 'k'$$;
create function add(stream text, type text, k text, day int) returns bigint language sql as
$$select version from evsource.append(stream, type, jsonb_build_object('k', k), occurred_at => '2020-01-01'::timestamptz + (day - 1) * interval '1 day')$$;
select evsource.create_projection('all', 'evsource.fold_count', key => 'global', mode => 'async', categories => '{a}');
select evsource.create_projection('by_k', 'evsource.fold_count', key => 'key_k', mode => 'async', categories => '{a}');
select evsource.create_projection('b', 'evsource.fold_count', key => 'global', mode => 'async', categories => '{a}', types => '{B}');
select add('a-1', 'A', 'x', day) from generate_series(1, 3) day;
select evsource.create_projection('later', 'evsource.fold_count', key => 'global', mode => 'async', categories => '{a}', start_after => max(position)) from evsource.events;
select add('a-1', 'A', 'y', day) from generate_series(4, 6) day;
select add('a-2', 'B', 'z', day) from generate_series(2, 3) day;
create procedure run() language sql as $$select evsource.run_projection(projection) from evsource.projections$$;
call run();
select evsource.state_at_time('all', null, '2020-01-04'), evsource.state_at_time('by_k', 'x', '2020-01-03');
select evsource.truncate_stream('a-1', 4);
call run();

-- States are what they were, also those of a time after all of their events.
select evsource.state('all'), evsource.state_at_time('all', null, 'infinity'), evsource.state_at_time('by_k', 'x', '2020-01-04');
select key, state from evsource.load_states('by_k', '2020-01-08') order by 1;
-- Of an earlier time it is not known which events made them.
select evsource.state_at_time('all', null, '2020-01-04');
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('by_k', 'x', '2020-01-02');
select * from evsource.load_states('all', '2020-01-05');
select key, state from evsource.load_states('by_k', '2020-01-04') order by 1;
select evsource.state_at_time('by_k', 'unknown', '2020-01-02');
-- Whoever took none of these events knows all as ever.
select evsource.state_at_time('b', null, '2020-01-03'), evsource.state_at_time('later', null, '2020-01-06');

-- A state version that cannot be had is refused: the row is all that there is.
select evsource.alter_projection('all', state_version => 2);
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('by_k', state_version => 2);
select evsource.alter_projection('by_k', key => 'global');
select evsource.alter_projection('b', state_version => 2);
create function migrate(state jsonb, saved int) returns jsonb language sql immutable as $$select state || '{"migrated": true}'$$;
select evsource.alter_projection('all', state_version => 2, migrate_state => 'migrate');
select evsource.state('all'), event_count from evsource.load_state('all');
-- What turns out later not to be had is an error, and not the count of what is left.
create or replace function migrate(state jsonb, saved int) returns jsonb language sql immutable as $$select null::jsonb$$;
select evsource.state('all');
\echo :LAST_ERROR_SQLSTATE
select evsource.restore_projection('all');
\echo :LAST_ERROR_SQLSTATE
create or replace function migrate(state jsonb, saved int) returns jsonb language sql immutable as $$select state || '{"migrated": true}'$$;
select evsource.restore_projection('all');
select add('a-1', 'A', 'x', 7);
call run();
select evsource.state('all'), event_count from evsource.load_state('all');

-- What another definition has begun is not a state of the past either.
select evsource.alter_projection('by_k', types => '{A}');
select evsource.state_at_time('by_k', 'x', 'infinity');
-- Rebuilt from what there is they lose nothing.
call evsource.rebuild_projection('all', from_snapshot => true);
select evsource.state('all'), event_count from evsource.load_state('all');
-- Rebuilt, they are made of what is left, which is said, and all of it is known again.
call evsource.rebuild_projection('by_k');
select key, state from evsource.load_states('by_k', '2020-01-06') order by 1;
select evsource.alter_projection('by_k', state_version => 2);
select evsource.state('by_k', 'y');
call evsource.rebuild_projection('by_k');
-- The same of a reset.
begin;
select evsource.reset_projection('all');
select evsource.run_projection('all');
select evsource.state('all');
rollback;
select evsource.state('all');

\c :home
drop database evsource_truncate_keyed;
