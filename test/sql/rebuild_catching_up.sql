-- rebuild_catching_up: a projection that was created concurrently, and that appends
-- do not reach yet, is rebuilt instead of activated, in place or beside itself.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_catching_up;
create database evsource_rebuild_catching_up;
\c evsource_rebuild_catching_up
set client_min_messages = warning;
create extension evsource;

create table beside (position bigint primary key);
create table in_place (position bigint primary key);
create view difference as
    select (select count(*) from evsource.events e full join beside b using (position) where e.version is null or b.position is null) as beside,
           (select count(*) from evsource.events e full join in_place i using (position) where e.version is null or i.position is null) as in_place;
select evsource.create_projection(name, query => format('insert into %I select position from new_events', name),
    tables => array[name], concurrently => true) from unnest('{beside,in_place}'::text[]) name;

-- Of an empty log: it is active then, and so the log is open. What is imported
-- after that is no restore: it is missed, and the projection says so.
call evsource.rebuild_projection('beside', online => true);
insert into evsource.events (stream, type, position, version, recorded_at) values ('account-1', 'Imported', 100, 1, now());
select projection, state, stale, event_count, (select count(*) from beside) as rows from evsource.projection_status where projection = 'beside';
call evsource.rebuild_projection('beside', online => true);
call evsource.rebuild_projection('in_place');
select projection, state, stale, lag, event_count from evsource.projection_status order by 1;
table difference;

-- Of one with history, part of which is applied to the old version.
select evsource.drop_projection(name) from unnest('{beside,in_place}'::text[]) name;
truncate beside, in_place;
select evsource.create_projection(name, query => format('insert into %I select position from new_events', name),
    tables => array[name], concurrently => true) from unnest('{beside,in_place}'::text[]) name;
select count(*) from generate_series(1, 200) i, lateral evsource.append('account-' || i % 3 + 1, 'Paid');
call evsource.rebuild_projection('beside', online => true, keep_old => true);
call evsource.rebuild_projection('in_place');
select projection, state, stale, lag, event_count from evsource.projection_status order by 1;
select count(*) from evsource.append('account-1', 'Paid');
table difference;

-- The way back: the old version has nothing yet, and gets all.
select evsource.revert_rebuild('beside');
select state, event_count from evsource.projection_status where projection = 'beside';
table difference;

\c :home
set client_min_messages = warning;
drop database evsource_rebuild_catching_up;
