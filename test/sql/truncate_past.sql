-- The states of all keys as of a time, where streams have been truncated: what has
-- an answer is answered.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate_past;
create database evsource_truncate_past;
\c evsource_truncate_past
create extension evsource;

select evsource.create_projection('p', 'evsource.fold_count', categories => '{s}');
create function add(stream text, n int) returns bigint language sql as
$$select max(a.version) from generate_series(1, n) i, lateral evsource.append(stream, 'T', occurred_at => '2024-01-01 00:00+00'::timestamptz + i * interval '1 day') a$$;
set timezone = 'UTC';
select add('s-1', 5), add('s-2', 5), add('s-3', 2), add('s-4', 5);
select evsource.truncate_stream('s-2', 4, force => true), evsource.truncate_stream('s-4', 3, force => true);
select * from evsource.load_states('p', '2024-01-04 12:00');
-- those of which it is not known are left out, and that is told; asked for, they are an error
select * from evsource.load_states('p', '2024-01-03 12:00');
select * from evsource.load_states('p', '2024-01-02 12:00');
select evsource.state_at_time('p', 's-2', '2024-01-03 12:00');
select evsource.state_at_time('p', 's-4', '2024-01-03 12:00');
select * from evsource.load_states('p', '2023-01-01');
select key, state from evsource.load_states('p');

-- A fold that takes none of the events that are gone has lost none of its states.
select evsource.create_projection('z', 'evsource.fold_count', categories => '{t}', types => '{Z}');
select version from evsource.append_batch('t-1', '{A,A,A,A,Z,Z}', array_fill('{}'::jsonb, '{6}'), occurred_at => array_fill('2024-01-02'::timestamptz, '{6}'));
select evsource.truncate_stream('t-1', 4);
select v, evsource.state_at_version('z', 't-1', v) from generate_series(3, 6) v;
select * from evsource.diff_state('z', 't-1', 3, 5);
select evsource.truncate_stream('t-1', 5);
select v, evsource.state_at_version('z', 't-1', v) from generate_series(4, 6) v;
select evsource.state_at_version('z', 't-1', 3);
\echo :LAST_ERROR_SQLSTATE
select version, event_count, occurred_at, upto, state from evsource.snapshot_history where projection = 'z';
select evsource.state_at_version('z', 't-1', 7);
\echo :LAST_ERROR_SQLSTATE
select evsource.state('z', 't-1'), evsource.event_count('z');
select evsource.state_at_time('z', 't-1', 'infinity');
select evsource.state_at_time('z', 't-1', '2024-01-01');
select * from evsource.load_states('z', '-infinity');
\c
-- one that takes others now knows nothing of these
select evsource.alter_projection('z', types => '{A,Z}');
select evsource.state_at_version('z', 't-1', 4);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('z', 't-1', 5);
select evsource.alter_projection('z', types => '{Z}');
select evsource.state_at_version('z', 't-1', 4) is null as none;
-- another handler or state version is no loss, and what there was not does not hold it
select evsource.alter_projection('z', 'evsource.fold_merge', state_version => 2);
select evsource.state_at_version('z', 't-1', 4) is null as none;
begin;
select evsource.drop_projection('z');
rollback;
-- what has come to something is kept as ever
select evsource.truncate_stream('t-1', 6, force => true);
select evsource.state_at_version('z', 't-1', 5), evsource.state('z', 't-1'), evsource.event_count('z');
select evsource.state_at_version('z', 't-1', 4);
\echo :LAST_ERROR_SQLSTATE
select evsource.drop_projection('z');
\echo :LAST_ERROR_SQLSTATE

\c :home
drop database evsource_truncate_past;
