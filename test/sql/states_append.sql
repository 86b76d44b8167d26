-- states_append: what computes a state does not append: whoever may read could write
-- so, as the projection's owner, and each question would append again.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_states_append;
create database evsource_states_append;
\c evsource_states_append
create extension evsource;
\set SHOW_CONTEXT never
set timezone = 'UTC';
set client_min_messages = warning;

-- A fold that appends is refused when its first event is applied: the append fails.
create function tells(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if e.type = 'Told' then perform evsource.append('log-1', 'Noted'); end if;
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
select evsource.create_projection('tells', 'tells', categories => '{a}');
select version from evsource.append('a-1', 'Said');
\set SHOW_CONTEXT errors
select version from evsource.append('a-1', 'Told');
\set SHOW_CONTEXT never
\echo :LAST_ERROR_SQLSTATE
select evsource.stream_version('log-1'), evsource.state('tells', 'a-1');

-- Nor does one that has the events behind it, in whatever way its state is asked for:
-- neither by whoever may read nor by its owner.
select evsource.pause_projection('tells');
select max((evsource.append('a-1', 'Told', to_jsonb(i))).version) from generate_series(1, 3) i;
create role evsource_states_append_reader;
select evsource.grant_access('evsource_states_append_reader', 'reader');
set role evsource_states_append_reader;
\set VERBOSITY terse
select evsource.state('tells', 'a-1');
select evsource.state_at_version('tells', 'a-1', 2);
select evsource.state_at_time('tells', 'a-1', 'infinity');
select * from evsource.load_state('tells', 'a-1');
select * from evsource.load_states('tells');
select * from evsource.load_states('tells', 'infinity');
reset role;
select evsource.state('tells', 'a-1');
select evsource.save_snapshot('tells', 'a-1');
select evsource.stream_version('log-1'), evsource.stream_version('a-1');

-- By INSERT, or by a command, it is the same.
create or replace function tells(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    insert into evsource.events (stream, type) values ('log-1', 'Noted');
    return state;
end $$;
select evsource.state('tells', 'a-1');
create or replace function tells(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    insert into evsource.events (stream, type, version, position, recorded_at) values ('log-1', 'Noted', 1, 1000, '2024-01-01');
    return state;
end $$;
select evsource.state('tells', 'a-1');
create function decides(state jsonb, command jsonb) returns evsource.new_event[] language sql as $$ select array[evsource.new_event('Noted')] $$;
select evsource.create_projection('counts', 'evsource.fold_count');
select evsource.create_decider('decides', 'decides', 'counts');
create or replace function tells(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    perform evsource.execute_command('decides', 'log-1', '{}');
    return state;
end $$;
select evsource.state('tells', 'a-1');

-- What it catches has not happened, and afterwards one may append.
create or replace function tells(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    perform evsource.append('log-1', 'Noted');
    return state;
exception when object_not_in_prerequisite_state then return state || '{"refused": true}';
end $$;
select evsource.state('tells', 'a-1');
select evsource.stream_version('log-1');
select evsource.drop_projection('tells');
select version from evsource.append('a-1', 'Said');

-- A key function, whenever it is called.
create function whose(e evsource.event) returns text language plpgsql as $$
begin
    if e.type = 'Told' then perform evsource.append('log-1', 'Noted'); end if;
    return e.stream;
end $$;
select evsource.create_projection('whose', 'evsource.fold_count', key => 'whose', mode => 'manual', categories => '{a}');
select evsource.state_at_time('whose', 'a-1', 'infinity');
select evsource.run_projection('whose');

-- Functions that speak for snapshots: those are of no use then.
create function plus(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$ select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1) $$;
select evsource.create_projection('plus', 'plus', categories => '{a}');
select evsource.save_snapshot('plus');
create function will_do(saved int, current int) returns bool language plpgsql as
$$ begin perform evsource.append('log-1', 'Noted'); return true; end $$;
create function brings_up(state jsonb, saved int) returns jsonb language plpgsql as
$$ begin perform evsource.append('log-1', 'Noted'); return state || '{"brought": "up"}'; end $$;
select evsource.alter_projection('plus', state_version => 2, migrate_state => 'brings_up');
select evsource.state('plus', 'a-1');
select evsource.alter_projection('plus', state_version => 3, is_compatible => 'will_do');
select evsource.state('plus', 'a-1');
select reason, message from evsource.snapshot_rejections where projection = 'plus' order by 1;
select evsource.stream_version('log-1');

\c :home
drop database evsource_states_append;
drop role evsource_states_append_reader;
