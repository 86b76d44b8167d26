-- rebuild_dropped: the rows of a table that has lost columns have values of them, whose
-- place the new version's rows keep.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_dropped;
create database evsource_rebuild_dropped;
\c evsource_rebuild_dropped
create extension evsource;
set client_min_messages = warning;
\set SHOW_CONTEXT never
create table obstacles (position bigint);
create table applied (projection text, position bigint);
create function passes(model text, at bigint) returns boolean language plpgsql as $$
begin
    if exists (select from public.obstacles o where o.position = at) then
        raise exception 'no way past position %', at;
    end if;
    insert into public.applied values (model, at);
    return true;
end $$;
select count(*) from generate_series(1, 100) i, lateral evsource.append('a-' || i % 4, 'Happened');

-- Three of them, with values of various sizes.
create procedure make(name text) language plpgsql as $$
begin
    execute format($f$create table %I (
        gone_1 boolean default true, stream text primary key, gone_2 int default 2, gone_3 smallint default 3, n bigint, gone_4 "char" default 'c',
        gone_5 bigint default 5, gone_6 text default 'six', gone_7 name default 'seven', gone_8 uuid default '00000000-0000-0000-0000-000000000008',
        gone_9 point default '(9,9)', gone_10 int[] default '{10}', gone_11 numeric default 11, last text default 'last')$f$, name);
    perform evsource.create_projection(name, tables => array[name], query => format(
        'insert into %1$I as t (stream, n) select stream, count(*) from new_events where public.passes(%1$L, position) group by 1
         on conflict (stream) do update set n = t.n + excluded.n', name));
    execute (select format('alter table %I %s', name, string_agg(format('drop gone_%s', i), ', ')) from generate_series(1, 11) i);
end $$;
call make('kept');
call make('building');
call make('plain');
create view models as
    select 'kept' as name, sum(n), min(last), max(last) from kept union all
    select 'building', sum(n), min(last), max(last) from building union all
    select 'plain', sum(n), min(last), max(last) from plain;
table models;

-- The old version of the first one is kept, the second one's rebuild has not come to its end.
update kept set n = 0;
call evsource.rebuild_projection('kept', online => true, keep_old => true);
select count(*) from generate_series(101, 200) i, lateral evsource.append('a-' || i % 4, 'Happened');
insert into obstacles values (180);
truncate applied;
call evsource.rebuild_projection('building', online => true);
truncate obstacles;
select state, online, position > 0 as begun from evsource.progress;
table models;

-- pg_upgrade keeps of the columns their places, but not whether they were passed by value:
-- all goes on where it stopped.
update pg_attribute set attbyval = false where attisdropped and attrelid in
    (select oid from pg_class where relname in ('kept', 'building', 'plain'));
call evsource.rebuild_projection('building', online => true);
select count(*) - count(distinct position) as twice from applied where projection = 'building';
call evsource.rebuild_projection('plain', online => true, keep_old => true);
select evsource.revert_rebuild('kept');
table models;
select evsource.revert_rebuild('kept');
select evsource.revert_rebuild('plain');
table models;
select evsource.append('a-1', 'Happened') is null as appended;
table models;
update plain set n = n + 1;
vacuum full kept, building, plain;
table models;

-- Where there is no other type with values of the size that they had, no such tables can be
-- made: that is said, whether a rebuild is under way, one has been kept, or none is.
create type rare;
create function rare_in(cstring) returns rare language internal immutable strict as 'charin';
create function rare_out(rare) returns cstring language internal immutable strict as 'charout';
create type rare (input = rare_in, output = rare_out, internallength = 3, alignment = char);
insert into obstacles values (180);
call evsource.rebuild_projection('building', online => true);
truncate obstacles;
alter table building add gone_12 rare;
alter table building drop gone_12;
call evsource.rebuild_projection('building');
\echo :LAST_ERROR_SQLSTATE
call evsource.rebuild_projection('building', online => false);
alter table kept add gone_12 rare;
alter table kept drop gone_12;
select evsource.revert_rebuild('kept');
\echo :LAST_ERROR_SQLSTATE
call evsource.rebuild_projection('kept', online => true);
\echo :LAST_ERROR_SQLSTATE
set client_min_messages = notice;
call evsource.rebuild_projection('kept');
set client_min_messages = warning;
table models;

-- Those that are exchanged are looked at, also where the projection has others by now.
select evsource.accept_rebuild('kept');
select evsource.alter_projection('plain', tables => '{obstacles}');
alter table plain add gone_12 rare;
alter table plain drop gone_12;
select evsource.revert_rebuild('plain');
\echo :LAST_ERROR_SQLSTATE

\c :home
set client_min_messages = warning;
drop database evsource_rebuild_dropped;
