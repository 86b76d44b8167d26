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

-- What is parked already is no failure more for max_dead_letters, however much of it fails when
-- it is its turn: it stays where it is. The next event that would be set aside stops the projection.
select evsource.drop_projection('keyed');
create function all_keys(e evsource.event) returns text[] language sql immutable as
    $$ select array(select jsonb_array_elements_text(e.data -> 'k')) $$;
create function sum_up_all(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if e.type = any (string_to_array(current_setting('bad.types'), ',')) then raise exception 'cannot take it'; end if;
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
set bad.types = 'First';
select evsource.create_projection('many', 'sum_up_all', mode => 'async', key => 'all_keys', start => 'now', on_error => 'dead_letter');
set evsource.max_dead_letters = 1;
select count(evsource.append(stream, type, data)) from (values
    ('first-1', 'First', '{"k": [1, 2, 3]}'::jsonb), ('x', 'Then', '{"k": [1]}'), ('x', 'Then', '{"k": [2]}'), ('x', 'Then', '{"k": [3]}'),
    ('first-1', 'Other', '{"k": [4]}')) e (stream, type, data);
select evsource.run_projection('many');
select attempts, message from evsource.dead_letters order by position;
begin;
-- By retry_dead_letters,
set local bad.types = 'Then';
select * from evsource.retry_dead_letters('many');
select attempts, message from evsource.dead_letters order by position;
select evsource.run_projection('many');
select state, dead_letters from evsource.projection_status;
rollback;
-- and by itself when what it waits for is truncated.
set bad.types = 'Then';
select evsource.truncate_stream('first-1', 2, force => true);
select evsource.run_projection('many');
select attempts, message from evsource.dead_letters order by position;
select version from evsource.append('x', 'Other', '{"k": [5]}');
select evsource.run_projection('many');
select state, lag, dead_letters, event_count from evsource.projection_status;
select version from evsource.append('x', 'Then', '{"k": [5]}');
\set VERBOSITY default
select evsource.run_projection('many');
\set VERBOSITY terse
select state, lag, dead_letters, event_count from evsource.projection_status;

-- Keys are found as the projection's owner, and with the settings that handlers have.
create role evsource_dead_letter_keys_owner;
select evsource.grant_access('evsource_dead_letter_keys_owner', 'reader');
create function whose_key(e evsource.event) returns text language sql stable as
    $$ select concat_ws(' ', current_user, (e.data ->> 'at')::timestamptz) $$;
create function refuse(state jsonb, e evsource.event) returns jsonb language plpgsql as $$ begin raise 'cannot take it'; end $$;
select evsource.create_projection('whose', 'refuse', mode => 'async', key => 'whose_key', on_error => 'dead_letter', categories => '{whose}');
alter function whose_key(evsource.event) owner to evsource_dead_letter_keys_owner;
alter function refuse(jsonb, evsource.event) owner to evsource_dead_letter_keys_owner;
select evsource.alter_projection('whose', owner => 'evsource_dead_letter_keys_owner');
select version from evsource.append('whose-1', 'T', '{"at": "2026-03-01 12:00"}');
select evsource.run_projection('whose');
select version from evsource.append('whose-1', 'T', '{"at": "2026-03-01 12:00"}');
set timezone = 'Asia/Tokyo';
set datestyle = 'German, DMY';
select evsource.run_projection('whose');
select keys, attempts from evsource.dead_letters where projection = 'whose' order by position;

\c :home
set client_min_messages = warning;
drop database evsource_dead_letter_keys;
drop role evsource_dead_letter_keys_owner;
