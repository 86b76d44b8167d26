-- What truncated events have come to is not lost by the way: a projection that has
-- it is not dropped, and one that is made later says what it lacks.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate_dropped;
create database evsource_truncate_dropped;
\c evsource_truncate_dropped
create extension evsource;
set timezone = 'UTC';
\set SHOW_CONTEXT never

select evsource.create_projection('p', 'evsource.fold_count', categories => '{s}');
select evsource.create_projection('q', 'evsource.fold_count', categories => '{o}');
select max(a.version) from generate_series(1, 5) i, unnest('{s-1,s-2,s-3,o-1}'::text[]) s, lateral evsource.append(s, 'T', occurred_at => '2024-01-01'::timestamptz + i * interval '1 day') a;
select evsource.truncate_stream('s-2', 4, force => true);
select evsource.drop_projection('p');
\echo :LAST_ERROR_SQLSTATE
select evsource.truncate_stream('s-3', 3, force => true);
select evsource.drop_projection('p');
select evsource.drop_projection('q');
select * from evsource.load_states('p');

-- who creates one is told
select evsource.create_projection('late', 'evsource.fold_count', categories => '{s,o}');
select evsource.create_projection('async', 'evsource.fold_count', categories => '{s}', key => 'global', mode => 'async');
-- unless it takes no such events
select evsource.create_projection('now', 'evsource.fold_count', categories => '{s}', start => 'now');
select evsource.create_projection('after', 'evsource.fold_count', categories => '{s}', start_after => max(position)) from evsource.events;
select evsource.create_projection('other', 'evsource.fold_count', categories => '{o}');

-- Its states begin with the events that are left; of what was before it says so.
select * from evsource.load_states('late');
select evsource.state_at_version('late', 's-2', 4);
select evsource.state_at_version('late', 's-2', 3);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('p', 's-2', 3);
select evsource.state_at_version('late', 's-2', 6);
select evsource.state_at_version('late', 's-9', 1);
select evsource.state_at_time('late', 's-2', '2024-01-04');
-- when there is nothing to lose it is dropped as ever
select evsource.drop_projection('late');

-- With force all of it goes.
select evsource.drop_projection('p', force => true);
select count(*) from evsource.snapshot_history;
select evsource.drop_projection('p', if_exists => true);

-- A decider needs its projection.
create function decide(state jsonb, command jsonb) returns evsource.new_event[] language sql as $$ select array[evsource.new_event('T')] $$;
select evsource.create_decider('d', 'decide', 'other');
select evsource.drop_projection('other');
\echo :LAST_ERROR_SQLSTATE
select evsource.drop_decider('d');
select evsource.drop_projection('other');

-- Who alters one so that it takes events from such a stream is told as well.
select evsource.create_projection('altered', 'evsource.fold_count', categories => '{o}', types => '{T}');
select evsource.alter_projection('altered', categories => '{o,s}');
select evsource.alter_projection('altered', types => '{T,U}');
-- not who has it take fewer, or changes something else
select evsource.alter_projection('altered', types => '{U}');
select evsource.alter_projection('altered', categories => '{s}');
select evsource.alter_projection('altered', handler => 'evsource.fold_merge');

\c :home
drop database evsource_truncate_dropped;
