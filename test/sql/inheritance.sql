-- No table of evsource is inherited from or inherits, and none is a partition: statements on
-- the other table would reach events, and the triggers of statements would not see them.
-- In a database of its own: each \c makes a session that has not loaded the library.

select current_database() as home \gset
set client_min_messages = warning;
create database evsource_inheritance;
\c evsource_inheritance
create extension evsource;
\set SHOW_CONTEXT never
\set VERBOSITY terse

create table per_stream (stream text primary key, events bigint not null);
select evsource.create_projection('per_stream', tables => '{per_stream}', query => $$
    insert into per_stream as p select stream, count(*) from new_events group by 1
    on conflict (stream) do update set events = p.events + excluded.events$$);
select version from evsource.append_json('a-1', '[{"type": "T"}, {"type": "T"}]');
create table parent (position bigint not null, stream text not null collate "C", data jsonb not null);
create table partitioned (position bigint not null, version bigint not null, recorded_at timestamptz not null,
    stream text not null collate "C", type text not null collate "C", data jsonb not null default '{}',
    metadata jsonb, id uuid, occurred_at timestamptz, schema_version smallint) partition by list (type);

-- Not as the child, by any command, in a session that has not used evsource,
\c
\set VERBOSITY default
alter table evsource.events inherit parent;
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
\c
alter table partitioned attach partition evsource.events default;
\c
do $$ begin execute 'alter table only evsource.events inherit parent'; end $$;
\c
set session_replication_role = replica;
alter table evsource.events inherit parent;
-- nor as the parent;
\c
\set VERBOSITY default
create table child () inherits (evsource.events);
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
\c
create schema other create table child () inherits (evsource.events);
\c
create temp table child () inherits (evsource.events);
\c
create table child (like evsource.events);
alter table child inherit evsource.events;
\c
create foreign data wrapper nothing;
create server nowhere foreign data wrapper nothing;
create foreign table abroad () inherits (evsource.events) server nowhere;
\c
create foreign table abroad (position bigint not null, version bigint not null, recorded_at timestamptz not null,
    stream text not null collate "C", type text not null collate "C", data jsonb not null,
    metadata jsonb, id uuid, occurred_at timestamptz, schema_version smallint) server nowhere;
alter foreign table abroad inherit evsource.events;
-- nor the others: their triggers tell sessions what has changed.
\c
create table names (mode text);
create table heir () inherits (evsource.projections);
alter table evsource.projections inherit names;
-- Other tables are none of its business.
create table partition partition of partitioned for values in ('T');
create table heir () inherits (parent);

-- Whoever takes the table out of the extension can do so. Then events are as
-- immutable as ever, row by row,
alter table heir no inherit parent;
alter extension evsource drop table evsource.events;
alter table evsource.events inherit parent;
alter extension evsource add table evsource.events;
create role evsource_inheritance_user;
grant select, update, delete on parent to evsource_inheritance_user;
set role evsource_inheritance_user;
\set VERBOSITY default
update parent set data = '{"by": "hand"}';
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
update parent set data = '{"by": "hand"}' where false;
delete from parent;
reset role;
set session_replication_role = replica;
delete from parent;
reset session_replication_role;
truncate parent;
select version, data from evsource.events order by position;
-- until the owner says so, with the one name.
begin;
alter table evsource.events disable trigger immutable;
update evsource.events set data = '{"by": "hand"}' where version = 1;
update parent set data = '{"by": "a hand"}' where position = 2;
select version, data from evsource.events order by position;
delete from parent;
select count(*) from evsource.events;
rollback;
-- A stream can be truncated.
select evsource.truncate_stream('a-1', 2);
select version, data from evsource.events where stream = 'a-1';

-- Out of the tree it gets without more ado.
alter table evsource.events no inherit parent;
delete from parent;

-- What comes in by another table is no append: it would be dispatched to nothing.
delete from partitioned;
drop table partition;
alter extension evsource drop table evsource.events;
alter table partitioned attach partition evsource.events default;
alter extension evsource add table evsource.events;
\set VERBOSITY default
insert into partitioned (stream, type) values ('a-2', 'T');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
copy partitioned (stream, type) from stdin;
a-2	T
\.
insert into partitioned values (100, 1, now(), 'a-2', 'T');
insert into evsource.events (stream, type) values ('a-3', 'T');
select version from evsource.append('a-3', 'T');
select * from per_stream order by 1;
alter table partitioned detach partition evsource.events;
-- The same where the trigger is disabled that begins a statement.
alter table evsource.events disable trigger "00_intake_begin";
insert into evsource.events (stream, type) values ('a-2', 'T');
alter table evsource.events enable trigger "00_intake_begin";
insert into evsource.events (stream, type) values ('a-2', 'T');
select * from per_stream order by 1;
select * from evsource.check_log();

-- Nor are they left to what a crash leaves of unlogged tables.
alter table evsource.events set unlogged;
alter table if exists evsource.snapshots alter column state set storage external, set unlogged;
alter table evsource.position_seq set unlogged;
create table mine ();
alter table mine set unlogged;

-- Everything is found by its name.
alter sequence evsource.position_seq set schema public;
alter view evsource.streams set schema public;
create view seen as table mine;
create schema elsewhere;
alter view seen set schema elsewhere;
drop schema elsewhere cascade;

drop owned by evsource_inheritance_user;
drop role evsource_inheritance_user;
\c :home
drop database evsource_inheritance;
