-- truncate_letters: an event that a projection has parked was not applied. So it is not
-- truncated, unless by force; then nothing is left of it, and nothing waits behind it.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate_letters;
create database evsource_truncate_letters;
\c evsource_truncate_letters
create extension evsource;
set evsource.async_attempts = 1;
set evsource.daemon = off;
\set SHOW_CONTEXT never

create table broken ();
create table done (projection text, position bigint, stream text);
create function note(projection text, e evsource.event) returns void language plpgsql as $$
begin
    if e.data ? 'bad' and to_regclass('public.broken') is not null then
        raise exception 'cannot take %', e.data using detail = e.data::text;
    end if;
    insert into public.done values (projection, e.position, e.stream);
end $$;
create function plain(e evsource.event) returns void language sql as $$ select public.note('plain', e) $$;
create function divided(e evsource.event) returns void language sql as $$ select public.note('divided', e) $$;
create function keys_of(e evsource.event) returns text[] language sql immutable as
    $$ select array(select jsonb_array_elements_text(e.data -> 'keys')) $$;
create function keyed(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    perform public.note('keyed', e);
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
create function add(stream text, bad bool, keys text default '[]') returns bigint language sql as $$
    select position from evsource.append(stream, 'T', jsonb_build_object('keys', keys::jsonb)
        || case when bad then '{"bad": "secret"}' else '{}' end::jsonb) $$;
create view letters as
    select projection, position, stream, attempts, retry, message, detail from evsource.dead_letters order by 1, 2;

-- By stream: refused, as for any event that was not applied.
select evsource.create_projection('plain', 'plain', categories => '{s}', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('divided', 'divided', categories => '{s}', mode => 'async', on_error => 'dead_letter', partitions => 3);
select add('s-1', true), add('s-1', false), add('s-2', true), add('s-2', false), add('s-1', false);
set client_min_messages = error;
select evsource.run_projection();
set client_min_messages = warning;
select * from letters;
select evsource.truncate_stream('s-1', 2);
\echo :LAST_ERROR_SQLSTATE
-- with force, whoever does so is told
select evsource.truncate_stream('s-1', 2, force => true);
select * from letters;
select count(*) from evsource.parked_keys where position = 1;
select projection, dead_letters, last_error_position, event_count from evsource.projection_status order by 1;
-- What waited goes on with the next run, before what comes later; another stream's waits on.
select add('s-1', false), add('s-2', false);
select evsource.run_projection();
select * from done order by ctid;
select * from letters;
select projection, dead_letters, event_count from evsource.projection_status order by 1;
select * from evsource.retry_dead_letters('plain');
-- and nothing of it has to be applied twice
select evsource.run_projection();
select count(*) from done;

-- One that waited may be bad itself: then it is parked for that, once.
select evsource.drop_projection('divided');
drop table broken;
select * from evsource.retry_dead_letters('plain');
create table broken ();
select add('s-1', true), add('s-1', true), add('s-1', false);
select evsource.run_projection('plain');
select evsource.truncate_stream('s-1', (select version from evsource.events where position = 10), force => true);
select evsource.run_projection('plain');
select * from letters;
select evsource.run_projection('plain');
select attempts from letters;

-- Rolled back, all of it is as it was.
select add('s-3', true), add('s-3', false);
select evsource.run_projection('plain');
begin;
select evsource.truncate_stream('s-3', 2, force => true);
select count(*) from letters;
rollback;
select * from letters where stream = 's-3';

-- With a key function one may wait behind several, of several streams.
select evsource.drop_projection('plain');
truncate done;
select evsource.create_projection('keyed', 'keyed', categories => '{k}', mode => 'async', key => 'keys_of', on_error => 'dead_letter', start => 'now');
select add('k-1', true, '["a", "b"]'), add('k-2', true, '["c"]'), add('k-3', false, '["b"]'), add('k-4', false, '["b", "d"]'),
    add('k-5', false, '["d", "c"]'), add('k-6', false, '["d"]'), add('k-1', false, '["a"]'), add('k-2', false, '["e"]');
set client_min_messages = error;
select evsource.run_projection();
set client_min_messages = warning;
select position, stream, attempts, retry from letters;
select evsource.truncate_stream('k-1', 2, force => true);
select position, stream, attempts, retry from letters;
select evsource.run_projection();
select position, stream from done order by ctid;
select position, stream, attempts, retry from letters;
select key, state from evsource.snapshots order by 1;
select evsource.truncate_stream('k-2', 2, force => true);
select evsource.run_projection();
select position, stream from done order by ctid;
select count(*) from letters;
select key, state from evsource.snapshots order by 1;
select event_count from evsource.projection_status;
select evsource.drop_projection('keyed');

-- A fold keyed by stream keeps the state of what it has applied.
select evsource.create_projection('fold', 'keyed', categories => '{f}', mode => 'async', on_error => 'dead_letter', start => 'now');
select evsource.create_projection('saved', 'keyed', categories => '{f}', mode => 'async', on_error => 'dead_letter', snapshot_every => 1, start => 'now');
select add('f-1', false), add('f-1', true), add('f-1', false), add('f-1', false), add('f-1', true), add('f-1', false);
set client_min_messages = error;
select evsource.run_projection();
select evsource.save_snapshot('fold');
-- what is parked among those that stay is nothing to do with it
select evsource.truncate_stream('f-1', 2);
select evsource.truncate_stream('f-1', 4);
\echo :LAST_ERROR_SQLSTATE
select evsource.truncate_stream('f-1', 4, force => true);
select projection, key, version, upto, state from evsource.snapshot_history order by 1;
select projection, key, state, version, event_count from evsource.states order by 1;
select evsource.run_projection();
set client_min_messages = warning;
select projection, version, attempts, retry from evsource.dead_letters order by 1, 2;
select projection, key, state, version, event_count from evsource.states order by 1;
select projection, event_count from evsource.projection_status order by 1;
-- nor does a session remember what it was told when it could be computed
drop table broken;
select evsource.state('fold', 'f-1');
select evsource.truncate_stream('f-1', 6, force => true);
select evsource.run_projection();
select evsource.state('fold', 'f-1'), evsource.state('saved', 'f-1');
select count(*) from letters;
select projection, event_count from evsource.projection_status order by 1;
select * from evsource.verify_projection('saved');
create table broken ();
select evsource.drop_projection('fold', force => true), evsource.drop_projection('saved', force => true);

-- What one is stuck at is gone: why, too.
select evsource.create_projection('stopped', 'plain', categories => '{t}', mode => 'async', start => 'now');
select evsource.create_projection('tries', 'divided', categories => '{t}', mode => 'async', start => 'now');
select add('t-1', true), add('t-1', false);
set client_min_messages = error;
select evsource.run_projection('stopped');
set evsource.async_attempts = 5;
select evsource.run_projection('tries');
set evsource.async_attempts = 1;
set client_min_messages = warning;
select projection, state, last_error from evsource.projection_status order by 1;
select evsource.truncate_stream('t-1', 2, force => true);
select projection, state, last_error from evsource.projection_status order by 1;
select message, detail, hint, context from evsource.projection_failures;
select evsource.run_projection(), evsource.resume_projection('stopped');
select evsource.run_projection();
select projection, state, lag, last_error from evsource.projection_status order by 1;
select evsource.drop_projection('stopped'), evsource.drop_projection('tries');

-- One that takes no events of the stream any more has parked some nevertheless.
select evsource.create_projection('plain', 'plain', categories => '{u}', mode => 'async', on_error => 'dead_letter', start => 'now');
select add('u-2', false), add('u-1', true), add('u-1', false), add('u-1', false);
set client_min_messages = error;
select evsource.run_projection();
select evsource.alter_projection('plain', categories => '{v}');
set client_min_messages = warning;
select evsource.truncate_stream('u-1', 2);
select evsource.truncate_stream('u-1', 2, force => true);
select evsource.run_projection();
select count(*) from letters;
select evsource.drop_projection('plain');

-- A version that is built or kept beside the one in use has its own.
create schema beside;
set search_path = beside;
create table seen (position bigint, stream text);
create function see(e evsource.event) returns void language plpgsql as $$
begin
    if e.data ? 'bad' and to_regclass('public.broken') is not null then raise exception 'cannot take %', e.data; end if;
    insert into seen values (e.position, e.stream);
end $$;
select evsource.create_projection('seen', 'see', categories => '{w}', mode => 'async', on_error => 'dead_letter', tables => '{beside.seen}');
select public.add('w-1', true), public.add('w-1', false), public.add('w-1', false);
set client_min_messages = error;
select evsource.run_projection();
set client_min_messages = warning;
drop table public.broken;
call evsource.rebuild_projection('seen', online => true, keep_old => true);
select evsource.truncate_stream('w-1', 2);
select count(*) filter (where message like '%secret%') as told, count(*) filter (where retry) as released, count(*) from evsource.dead_letters;
select evsource.revert_rebuild('seen');
select count(*) from seen;
select evsource.run_projection();
select (select count(*) from seen) as seen, (select count(*) from evsource.dead_letters) as letters;
-- so it is when the one in use takes no events of the stream any more, and has parked none
create table public.broken ();
select public.add('w-2', true), public.add('w-2', false), public.add('w-2', false);
set client_min_messages = error;
select evsource.run_projection();
set client_min_messages = warning;
drop table public.broken;
call evsource.rebuild_projection('seen', online => true, keep_old => true);
select evsource.alter_projection('seen', categories => '{v}');
select evsource.truncate_stream('w-2', 2);
select count(*) filter (where message like '%secret%') as told, count(*) filter (where retry) as released, count(*) from evsource.dead_letters;
select evsource.revert_rebuild('seen'), evsource.alter_projection('seen', categories => '{w}');
select evsource.run_projection();
select (select count(*) from seen where stream = 'w-2') as seen, (select count(*) from evsource.dead_letters) as letters;

\c :home
set client_min_messages = warning;
drop database evsource_truncate_letters;
