-- rebuild_shadow: a version beside the one that is read takes nothing from what is
-- not its own: sequences, other projections, what users have built on it.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_shadow;
create database evsource_rebuild_shadow;
\c evsource_rebuild_shadow
create extension evsource;
create table numbered (id bigserial primary key, stream text);
create function by_path(e evsource.event) returns void language sql as
    'insert into numbered (stream) values ((e).stream)';
create function by_schema(e evsource.event) returns void language sql as
    'insert into numbered values (nextval(''public.numbered_id_seq''), (e).stream)';
select evsource.create_projection('numbered', 'by_schema', tables => '{numbered}');
select version from generate_series(1, 3) i, lateral evsource.append('a-' || i, 'Happened');

-- A handler that draws numbers from the old table's sequence works on the old
-- version; its sequence is never set back.
call evsource.rebuild_projection('numbered', online => true);
call evsource.rebuild_projection('numbered');
select evsource.append('a-4', 'Happened') is null as appended;
select array_agg(id order by id) from numbered;
select evsource.alter_projection('numbered', handler => 'by_path');
call evsource.rebuild_projection('numbered', online => true, keep_old => true);
select array_agg(id order by id) from numbered;

-- Numbers of a table whose name is odd are the new table's, too.
create table "a\b'c" (stream text primary key, number serial, note text default 'a\b''c');
create function by_odd(e evsource.event) returns void language sql as
    $$ insert into "a\b'c" (stream) values ((e).stream) on conflict do nothing $$;
select evsource.create_projection('odd', 'by_odd', tables => array[$$"a\b'c"$$]);
call evsource.rebuild_projection('odd', online => true);
select * from "a\b'c" order by number;
select * from evsource.verify_projection('odd');

-- Nor do other settings of the session change what a definition means.
alter table "a\b'c" add nulls text[] default '{NULL}', add check (note = null);
set array_nulls = off;
set transform_null_equals = on;
call evsource.rebuild_projection('odd', online => true);
select nulls, count(*), count(nulls[1]) from "a\b'c" group by 1;
select * from evsource.verify_projection('odd');
reset array_nulls;
reset transform_null_equals;
select evsource.drop_projection('odd');

-- The names of its schemas are no names of projections.
select evsource.create_projection('evsource_shadow_numbered', 'by_path', mode => 'async', start => 'now');
\echo :LAST_ERROR_SQLSTATE
-- One that has it from an older version is not mistaken for a rebuild.
select evsource.create_projection('elder', 'by_path', mode => 'async', start => 'now');
update evsource.checkpoints set projection = 'evsource_shadow_numbered' where projection = 'elder';
update evsource.projections set projection = 'evsource_shadow_numbered' where projection = 'elder';
call evsource.rebuild_projection('numbered', online => true);
select evsource.drop_projection('evsource_shadow_numbered');

-- What others have built on a version that is kept is not dropped with it.
create view both_versions as select n.id, o.stream from numbered n join evsource_shadow_numbered.numbered o using (id);
create table descendants () inherits (evsource_shadow_numbered.numbered);
insert into descendants values (100, 'mine');
select evsource.accept_rebuild('numbered');
\echo :LAST_ERROR_SQLSTATE
call evsource.rebuild_projection('numbered', online => true);
select evsource.drop_projection('numbered');
select stream from descendants;
drop view both_versions;
drop table descendants;
select evsource.accept_rebuild('numbered');
select count(*) from pg_namespace where nspname like 'evsource_shadow%';

\c :home
set client_min_messages = warning;
drop database evsource_rebuild_shadow;
