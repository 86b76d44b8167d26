-- rebuild_kept: the old version is kept on request, and is a way back; a handler
-- can tell history from news; a rebuild that was interrupted goes on.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_kept;
create database evsource_rebuild_kept;
\c evsource_rebuild_kept
create extension evsource;
create table factor (n integer);
insert into factor values (1);
create table sums (stream text primary key, total bigint not null);
create table parents (stream text primary key);
create table children (stream text references parents on delete cascade, event bigint primary key);
create table mails (position bigint, replaying boolean);
create table obstacle (position bigint);
create function apply(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from obstacle o where o.position = (e).position) then
        raise exception 'stopped at position %', (e).position;
    end if;
    if not evsource.replaying() then
        insert into mails values ((e).position, evsource.replaying());
    end if;
    insert into sums as s select (e).stream, n from factor
    on conflict (stream) do update set total = s.total + excluded.total;
    insert into parents values ((e).stream) on conflict do nothing;
    insert into children values ((e).stream, (e).position);
end
$$;
create view model as select (select sum(total) from sums) as total, (select count(*) from parents) as parents,
    (select count(*) from children) as children, (select count(*) from mails) as mails;
select count(*) from generate_series(1, 200) i, lateral evsource.append('a-' || i % 10, 'Happened');

-- What was in the log before a projection was created is history; outside of
-- handlers nothing is.
select evsource.create_projection('sums', 'apply', tables => '{sums,parents,children}');
select evsource.replaying();
select version from evsource.append('a-1', 'Happened');
table model;

-- So is what is applied again, online or in place.
call evsource.rebuild_projection('sums', online => true);
table model;
call evsource.rebuild_projection('sums', online => false);
table model;
begin;
call evsource.rebuild_projection('sums');
table model;
commit;
select evsource.reset_projection('sums');
select version from evsource.append('a-1', 'Happened');
call evsource.activate_projection('sums');
table model;
select evsource.pause_projection('sums');
select version from evsource.append('a-1', 'Happened');
select evsource.resume_projection('sums');
table model;

-- Paused, too: what was appended since the pause is news.
select evsource.pause_projection('sums');
select version from evsource.append('a-1', 'Happened');
call evsource.rebuild_projection('sums', online => true);
table model;
select state, event_count from evsource.projection_status;

-- It is still paused, also in place: what comes then waits for the end of the pause.
select version from evsource.append('a-1', 'Happened');
table model;
call evsource.rebuild_projection('sums', online => false);
select version from evsource.append('a-1', 'Happened');
begin;
call evsource.rebuild_projection('sums');
commit;
select version from evsource.append('a-1', 'Happened');
table model;
select state, event_count, lag from evsource.projection_status;

-- So it is when the rebuild is cancelled: what is half built goes on after the pause.
insert into obstacle select max(position) from evsource.events;
call evsource.rebuild_projection('sums', online => false);
select state from evsource.progress;
select evsource.cancel_rebuild('sums');
select state from evsource.projection_status;
truncate obstacle;
select evsource.resume_projection('sums');
table model;

-- A reset ends it, too, and the pause goes on.
select evsource.pause_projection('sums');
insert into obstacle select max(position) from evsource.events;
call evsource.rebuild_projection('sums', online => false);
truncate obstacle;
select evsource.reset_projection('sums');
select state from evsource.projection_status;
call evsource.rebuild_projection('sums', online => false);
select state from evsource.projection_status;
select evsource.resume_projection('sums');
table model;

-- Resumed while it is rebuilt, it is not paused again when that is complete.
select evsource.pause_projection('sums');
insert into obstacle select max(position) from evsource.events;
call evsource.rebuild_projection('sums', online => false);
select evsource.resume_projection('sums');
select evsource.resume_projection('sums');
truncate obstacle;
call evsource.rebuild_projection('sums', online => false);
select state from evsource.projection_status;
table model;

-- Async: what it has applied is history, the rest is not.
select evsource.alter_projection('sums', mode => 'async');
select version from evsource.append('a-1', 'Happened');
call evsource.rebuild_projection('sums', online => true);
table model;
select state, lag, event_count from evsource.projection_status;
select version from evsource.append('a-1', 'Happened');
select evsource.run_projection();
table model;
select count(*), count(distinct position), bool_or(replaying) from mails;

-- Kept: the old version is there, and comes back with what was appended since.
select evsource.alter_projection('sums', mode => 'inline');
update factor set n = 10;
call evsource.rebuild_projection('sums', keep_old => true);
table model;
select state, online, position, event_count, shadow from evsource.rebuilds;
select sum(total) from evsource_shadow_sums.sums;
select count(*) from evsource.progress;
drop table evsource_shadow_sums.sums;
drop schema evsource_shadow_sums cascade;
select version from evsource.append('a-1', 'Happened');
update factor set n = 1;
select evsource.revert_rebuild('sums');
table model;
select state, event_count from evsource.projection_status;
select version from evsource.append('a-1', 'Happened');

-- And forth: what it replaced was kept in turn.
select evsource.revert_rebuild('sums');
table model;
select evsource.accept_rebuild('sums');
select count(*) from evsource.rebuilds;
select count(*) from pg_namespace where nspname like 'evsource_shadow%';
delete from parents where stream = 'a-1';
select count(*) from children where stream = 'a-1';

-- The next rebuild drops what is kept.
call evsource.rebuild_projection('sums', keep_old => true);
call evsource.rebuild_projection('sums');
table model;
select count(*) from evsource.rebuilds;

-- Async, the next run brings the old version up to date.
select evsource.alter_projection('sums', mode => 'async');
call evsource.rebuild_projection('sums', keep_old => true);
select version from evsource.append('a-1', 'Happened');
select evsource.run_projection();
select evsource.revert_rebuild('sums');
select lag, event_count from evsource.projection_status;
select evsource.run_projection();
table model;
select lag, event_count from evsource.projection_status;

-- When the tables have changed there is no way back.
alter table sums add column more integer;
select evsource.revert_rebuild('sums');
select evsource.accept_rebuild('sums');
select evsource.alter_projection('sums', mode => 'inline');

-- Nor when others have come to depend on what is in them.
call evsource.rebuild_projection('sums', keep_old => true);
create table orders (stream text references sums);
insert into orders values ('a-1');
select evsource.revert_rebuild('sums');
drop table orders;
create table heir () inherits (sums);
select evsource.revert_rebuild('sums');
drop table heir;
select evsource.revert_rebuild('sums');
select evsource.accept_rebuild('sums');

-- An error on the way: the old version lives, the next call goes on.
insert into obstacle values (150);
call evsource.rebuild_projection('sums');
select version from evsource.append('a-2', 'Happened');
table model;
select projection, state, online, events_done, events_total, percent, events_per_second is not null as rate from evsource.progress;
truncate obstacle;
insert into obstacle values (50);
call evsource.rebuild_projection('sums');
table model;
truncate obstacle;

-- Changed meanwhile, the tables or the projection, it begins anew.
insert into obstacle values (150);
call evsource.rebuild_projection('sums');
truncate obstacle;
alter table sums add column later integer default 3;
call evsource.rebuild_projection('sums');
select count(*), min(later) from sums;
insert into obstacle values (150);
call evsource.rebuild_projection('sums');
truncate obstacle;
select evsource.alter_projection('sums', types => '{Happened}');
call evsource.rebuild_projection('sums');
table model;
select state, stale from evsource.projection_status;

-- Cancelled, nothing is left of it; in place, a read model that is half built.
insert into obstacle values (150);
call evsource.rebuild_projection('sums');
select evsource.cancel_rebuild('sums');
select evsource.cancel_rebuild('sums');
table model;
select count(*) from pg_namespace where nspname like 'evsource_shadow%';
insert into obstacle values (1500);
select count(*) from generate_series(1, 1400) i, lateral evsource.append('b-' || i, 'Other');
select evsource.alter_projection('sums', defaults => '{types}');
truncate obstacle;
insert into obstacle values (1300);
call evsource.rebuild_projection('sums', online => false);
set client_min_messages = notice;
select evsource.cancel_rebuild('sums');
set client_min_messages = warning;
select state from evsource.projection_status;
truncate obstacle;
call evsource.rebuild_projection('sums');
table model;
select state, stale, event_count from evsource.projection_status;

-- What was requested waits for the daemon, or for whoever comes first.
select evsource.request_rebuild('sums', keep_old => true);
select projection, state, online, events_done, events_total, percent from evsource.progress;
call evsource.rebuild_projection('sums');
select count(*) from evsource.progress;
select evsource.request_rebuild('sums');
select evsource.cancel_rebuild('sums');
select evsource.request_rebuild('sums');
select evsource.drop_projection('sums');
select count(*) from evsource.rebuilds;

-- Dropping evsource drops what it has built.
select evsource.create_projection('sums', 'apply', tables => '{sums,parents,children}', start => 'now');
select version from evsource.append('c-1', 'Happened');
call evsource.rebuild_projection('sums', keep_old => true);
set evsource.allow_drop = on;
drop extension evsource cascade;
select count(*) from pg_namespace where nspname like 'evsource_shadow%';
select count(*) from sums;

\c :home
drop database evsource_rebuild_kept;

-- The way back stays where the next rebuild is refused at its beginning.
create table kept_counts (stream text primary key, n bigint);
create table kept_notes (stream text);
select evsource.create_projection('kept_counts', tables => '{kept_counts}', categories => '{wayback}',
    query => 'insert into kept_counts select stream, count(*) from new_events group by stream');
select version from evsource.append('wayback-1', 'A');
call evsource.rebuild_projection('kept_counts', online => true, keep_old => true);
alter table kept_notes add foreign key (stream) references kept_counts;
call evsource.rebuild_projection('kept_counts', online => false);
alter table kept_notes drop constraint kept_notes_stream_fkey;
select evsource.revert_rebuild('kept_counts') is not null as reverted;
select evsource.drop_projection('kept_counts');
drop table kept_counts, kept_notes;

-- What is built or kept stays where evsource finds it: elsewhere it would still be the
-- extension's, and its owner could not drop it.
create table kept_moves (stream text primary key);
select evsource.create_projection('kept_moves', tables => '{kept_moves}', categories => '{wayback}',
    query => 'insert into kept_moves select distinct stream from new_events');
call evsource.rebuild_projection('kept_moves', online => true, keep_old => true);
create schema kept_aside;
alter table evsource_shadow_kept_moves.kept_moves set schema kept_aside;
\echo :LAST_ERROR_SQLSTATE
alter schema evsource_shadow_kept_moves rename to kept_elsewhere;
\echo :LAST_ERROR_SQLSTATE
create schema evsource_shadow_of_mine;
alter schema evsource_shadow_of_mine rename to kept_mine;
drop schema kept_mine;
alter table if exists evsource_shadow_kept_moves.nothing set schema public;
create table kept_copy as table evsource_shadow_kept_moves.kept_moves;
alter table kept_copy set schema evsource_shadow_kept_moves;
alter table evsource_shadow_kept_moves.kept_copy set schema public;
select evsource.revert_rebuild('kept_moves') is not null as reverted;
select evsource.accept_rebuild('kept_moves') is not null as accepted;
alter table evsource.events set schema kept_aside;
\echo :LAST_ERROR_SQLSTATE
select evsource.drop_projection('kept_moves');
drop table kept_moves, kept_copy;
drop schema kept_aside;

-- The types of the tables may be members of the extension, as pg_upgrade makes them from
-- PostgreSQL 17 on: what drops or exchanges the tables does not mind.
create table kept_types (id int generated always as identity, at serial, stream text primary key);
create function build_types(e evsource.event) returns void language plpgsql as $$
begin
    if (e).type = 'Obstacle' then
        raise exception 'no way past it';
    end if;
    insert into kept_types (stream) values ((e).stream);
end $$;
create procedure join_types() language plpgsql as $$
declare
    item text;
begin
    for item in
        select t.oid::regtype from pg_type t
        where t.typnamespace = 'evsource_shadow_kept_types'::regnamespace
            and not exists (select from pg_depend d where d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e')
        order by t.typarray = 0
    loop
        execute format('alter extension evsource add type %s', item);
    end loop;
end $$;
select evsource.create_projection('kept_types', 'build_types', tables => '{kept_types}', categories => '{typed}');
select version from generate_series(1, 3) n, evsource.append('typed-' || n, 'A');
call evsource.rebuild_projection('kept_types', online => true, keep_old => true);
call join_types();
select evsource.revert_rebuild('kept_types') is not null as reverted;
select evsource.accept_rebuild('kept_types') is not null as accepted;
call evsource.rebuild_projection('kept_types', online => true, keep_old => true);
call join_types();
call evsource.rebuild_projection('kept_types', online => true);

-- One that is under way is cancelled, or goes with its projection.
\set VERBOSITY terse
select evsource.alter_projection('kept_types', mode => 'manual');
select version from evsource.append('typed-4', 'Obstacle');
call evsource.rebuild_projection('kept_types', online => true);
call join_types();
select evsource.cancel_rebuild('kept_types');
call evsource.rebuild_projection('kept_types', online => true);
call join_types();
select evsource.drop_projection('kept_types');
select count(*) from pg_namespace where nspname = 'evsource_shadow_kept_types';
\set VERBOSITY default

-- ALTER EXTENSION finds the members that it expects.
select evsource.create_projection('kept_types', 'build_types', tables => '{kept_types}', categories => '{typed}', types => '{A}', start => 'now');
call evsource.rebuild_projection('kept_types', online => true, keep_old => true);
alter extension evsource drop table evsource_shadow_kept_types.kept_types;
alter extension evsource add table evsource_shadow_kept_types.kept_types;
select evsource.drop_projection('kept_types');
select count(*) from pg_namespace where nspname = 'evsource_shadow_kept_types';
drop table kept_types;
drop function build_types;
drop procedure join_types;
