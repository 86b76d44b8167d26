-- commands_truncated: a command that was executed is not executed again because the
-- events that tell of it were truncated in part.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_commands_truncated;
create database evsource_commands_truncated;
\c evsource_commands_truncated
create extension evsource;
set client_min_messages = warning;

select evsource.create_projection('sum', 'evsource.fold_merge');
create function decide(state jsonb, command jsonb) returns evsource.new_event[] language sql as $$
select array_agg(evsource.new_event('T', d, id => (command ->> 'id')::uuid)) from jsonb_array_elements(command -> 'data') d $$;
select evsource.create_decider('merge', 'decide', 'sum');
create view result as select null::jsonb as state, null::bigint as version, null::bigint as position, null::boolean as stored, null::text as events;
create function run(stream text, command jsonb, id uuid) returns setof result language sql as $$
select r.state, r.version, r.position, r.stored,
    (select string_agg(e.version || ' ' || e.data, ', ' order by e.version) from unnest(r.events) e)
from evsource.execute_command('merge', stream, command, id) r $$;
\set SHOW_CONTEXT never

-- Cut in the middle: its answer has the events that are left.
\set one '''10000000-0000-4000-8000-000000000001'''
\set two '''10000000-0000-4000-8000-000000000002'''
select * from run('a-1', '{"data": [{"a": 1}, {"b": 2}, {"c": 3}]}', :one);
select * from run('a-1', '{"data": [{"d": 4}]}', :two);
select evsource.truncate_stream('a-1', 3, force => true);
select * from run('a-1', '{"data": [{"a": 1}, {"b": 2}, {"c": 3}]}', :one);
select * from run('a-1', '{"data": [{"d": 4}]}', :two);
-- its id stands for it all the same
select * from run('a-1', '{"data": [{"a": 1}]}', :one);
\echo :LAST_ERROR_SQLSTATE
-- another command is executed
select * from run('a-1', '{"data": [{"e": 5}]}', '10000000-0000-4000-8000-000000000003');
-- one of another stream is not taken for it
select * from run('a-2', '{"data": [{"a": 1}]}', '10000000-0000-4000-8000-000000000004');

-- All events are gone, but there is a row: the state that it made is not known any more.
\set five '''10000000-0000-4000-8000-000000000005'''
\set six '''10000000-0000-4000-8000-000000000006'''
\set seven '''10000000-0000-4000-8000-000000000007'''
select * from run('a-3', '{"data": []}', :seven);
select * from run('a-3', '{"id": "20000000-0000-4000-8000-000000000001", "data": [{"a": 1}]}', :five);
select * from run('a-3', '{"id": "20000000-0000-4000-8000-000000000002", "data": [{"a": 2}]}', :six);
select * from run('a-3', '{"data": [{"a": 3}, {"a": 4}]}', '10000000-0000-4000-8000-000000000008');
select evsource.truncate_stream('a-3', 3, force => true);
select * from run('a-3', '{"id": "20000000-0000-4000-8000-000000000001", "data": [{"a": 1}]}', :five);
select command_id, version, event_count from evsource.commands order by 1;
-- after the last one that is gone it is, and so is that before the first
select * from run('a-3', '{"id": "20000000-0000-4000-8000-000000000002", "data": [{"a": 2}]}', :six);
select * from run('a-3', '{"data": []}', :seven);
select evsource.state('sum', 'a-3'), evsource.stream_version('a-3');
-- A projection that was created later has nothing in place of what is gone.
select evsource.create_projection('later', 'evsource.fold_merge');
select evsource.create_decider('merge', 'decide', 'later', if_exists => 'alter');
select * from run('a-3', '{"id": "20000000-0000-4000-8000-000000000001", "data": [{"a": 1}]}', :five);
select * from run('a-3', '{"data": [{"a": 3}, {"a": 4}]}', '10000000-0000-4000-8000-000000000008');
select evsource.state('later', 'a-3');

\c :home
set client_min_messages = warning;
drop database evsource_commands_truncated;
