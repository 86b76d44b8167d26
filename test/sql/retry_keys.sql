-- retry_keys: a dead letter stands for its keys as they were when it was parked. Where the
-- projection now gives its event others, later events of these have been applied: it stays
-- parked, and says that a rebuild is the way to have it applied.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_retry_keys;
create database evsource_retry_keys;
\c evsource_retry_keys
create extension evsource;
set evsource.async_attempts = 1;
set evsource.daemon = off;
\set SHOW_CONTEXT never

create table broken (type text);
create function by_a(e evsource.event) returns text language sql immutable as $$ select e.data ->> 'a' $$;
create function collect(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if exists (select from public.broken b where b.type = e.type) then raise exception 'cannot take it'; end if;
    return jsonb_build_object('events', coalesce(state -> 'events', '[]') || to_jsonb(e.position));
end $$;
insert into broken values ('Bad');
set client_min_messages = error;
select evsource.create_projection('k', 'collect', mode => 'async', key => 'by_a', on_error => 'dead_letter');
select position from evsource.append('x', 'Bad', '{"a": "a1", "c": "c1"}');
select position from evsource.append('x', 'Good', '{"a": "a2", "c": "c1"}');
select position from evsource.append('x', 'Bad', '{"a": "same", "c": "same"}');
select evsource.run_projection('k');

-- Another body of the key function: what has the same key as before is applied, the other is not.
create or replace function by_a(e evsource.event) returns text language sql immutable as $$ select e.data ->> 'c' $$;
select position from evsource.append('x', 'Good', '{"a": "a2", "c": "c1"}');
select evsource.run_projection('k');
select position, keys from evsource.dead_letters order by position;
delete from broken;
set client_min_messages = warning;
select * from evsource.retry_dead_letters('k');
select position, keys, attempts, sqlstate, message, detail, hint from evsource.dead_letters;
select key, state from evsource.states where projection = 'k' order by key;
select event_count, dead_letters from evsource.projection_status;

-- With the function as it was the event is applied.
begin;
create or replace function by_a(e evsource.event) returns text language sql immutable as $$ select e.data ->> 'a' $$;
select * from evsource.retry_dead_letters('k');
select key, state from evsource.states where projection = 'k' order by key;
rollback;

-- So it is with no key at all, and with one more.
begin;
create or replace function by_a(e evsource.event) returns text language sql immutable as $$ select null::text $$;
select * from evsource.retry_dead_letters('k');
select detail from evsource.dead_letters;
create function by_both(e evsource.event) returns text[] language sql immutable as
    $$ select array[e.data ->> 'c', e.data ->> 'a'] $$;
select evsource.alter_projection('k', key => 'by_both');
select * from evsource.retry_dead_letters('k');
select detail from evsource.dead_letters;
rollback;

-- A rebuild has all of them.
call evsource.rebuild_projection('k');
select key, state from evsource.states where projection = 'k' order by key;
select stale, event_count, dead_letters from evsource.projection_status;
select * from evsource.verify_projection('k');

-- Another key by alter_projection() makes the projection stale: the rebuild that it needs anyway
-- has the events, and until then they stay parked.
insert into broken values ('Worse');
set client_min_messages = error;
select position from evsource.append('y', 'Worse', '{"a": "a9", "c": "c9"}');
select evsource.run_projection('k');
select evsource.alter_projection('k', key => 'global');
select position from evsource.append('y', 'Good', '{"a": "a9", "c": "c9"}');
select evsource.run_projection('k');
delete from broken;
set client_min_messages = warning;
select * from evsource.retry_dead_letters('k');
select position, keys, message, detail from evsource.dead_letters;
select stale, event_count, dead_letters from evsource.projection_status;
set client_min_messages = error;
call evsource.rebuild_projection('k', from_snapshot => true);
set client_min_messages = warning;
select key, state from evsource.states where projection = 'k' order by key;
select stale, event_count, dead_letters from evsource.projection_status;
select * from evsource.verify_projection('k');

-- Also where the key is the stream from then on.
insert into broken values ('Worst');
set client_min_messages = error;
select position from evsource.append('z', 'Worst', '{"a": "z", "c": "c9"}');
select position from evsource.append('z', 'Good', '{"a": "a9", "c": "c9"}');
select evsource.run_projection('k');
select position, keys from evsource.dead_letters order by position;
select evsource.alter_projection('k', defaults => '{key}');
select evsource.run_projection('k');
delete from broken;
set client_min_messages = warning;
select * from evsource.retry_dead_letters('k');
select position, keys, detail from evsource.dead_letters order by position;
call evsource.rebuild_projection('k');
select key, state from evsource.states where projection = 'k' order by key;
select stale, event_count, dead_letters from evsource.projection_status;
select * from evsource.verify_projection('k');

-- A state that a version of before has made is computed from the log when the next event of its key
-- is applied: from all events of the key before that one, wherever in the log the letters are.
insert into broken values ('Bad');
set client_min_messages = error;
select evsource.create_projection('v', 'collect', mode => 'async', key => 'by_a', categories => '{v}', on_error => 'dead_letter');
select count(evsource.append('v-1', type, jsonb_build_object('c', key)))
from (values ('Bad', 'one'), ('Good', 'two'), ('Good', 'two'), ('Bad', 'two')) e (type, key);
select evsource.run_projection('v');
select keys from evsource.dead_letters order by position;
delete from broken;
select evsource.alter_projection('v', state_version => 2);
set client_min_messages = warning;
select * from evsource.retry_dead_letters('v');
select key, jsonb_array_length(state -> 'events') as events from evsource.states where projection = 'v' order by key;
select * from evsource.verify_projection('v');

\c :home
set client_min_messages = warning;
drop database evsource_retry_keys;
