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

\c :home
drop database evsource_truncate_past;
