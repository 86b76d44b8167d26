-- dead_letter_keys: while a projection has dead letters the keys of each event are looked at.
-- Where its key function fails, what comes before that event is applied, and it goes no further.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_dead_letter_keys;
create database evsource_dead_letter_keys;
\c evsource_dead_letter_keys
create extension evsource;
set evsource.async_attempts = 1;
set evsource.daemon = off;
set client_min_messages = warning;
\set SHOW_CONTEXT never

create function keys_of(e evsource.event) returns text language sql immutable as
    $$ select ((e.data ->> 'k')::int)::text $$;
create function sum_up(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if e.type = 'Bad' then raise exception 'cannot take it'; end if;
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
select evsource.create_projection('keyed', 'sum_up', mode => 'async', key => 'keys_of', on_error => 'dead_letter');
select evsource.append('x', 'Bad', '{"k": 1}') is not null;
select evsource.run_projection();

-- At the second of several events, and at the last.
select count(evsource.append('x', 'T', data)) from unnest(array[
    '{"k": 2}', '{"k": "oops"}', '{"k": 3}']::jsonb[]) data;
select evsource.run_projection();
select state, lag, dead_letters, last_error_position, last_error from evsource.projection_status;
select key, state from evsource.states where projection = 'keyed' order by key;
create or replace function keys_of(e evsource.event) returns text language sql immutable as
    $$ select (case e.data ->> 'k' when 'oops' then 0 else (e.data ->> 'k')::int end)::text $$;
select count(evsource.append('x', 'T', data)) from unnest(array['{"k": 1}', '{"k": "no"}']::jsonb[]) data;
select evsource.resume_projection('keyed');
select evsource.run_projection();
select state, lag, dead_letters, last_error_position, last_error from evsource.projection_status;
select key, state from evsource.states where projection = 'keyed' order by key;
select position, keys, attempts, message from evsource.dead_letters order by position;

\c :home
set client_min_messages = warning;
drop database evsource_dead_letter_keys;
