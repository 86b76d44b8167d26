-- A log that holds events is not dropped by accident, whatever the way.
--
-- Each \c makes a new session, which has not loaded the library of evsource
-- (unless the server has preloaded it).

\set VERBOSITY default
set client_min_messages = warning;
create role guard_owner superuser;
create database guard_test;
\c guard_test
set client_min_messages = warning;
set role guard_owner;
create extension evsource;
create table kept (n int);
reset role;

-- With an empty log the extension goes like any other.
\c
set client_min_messages = warning;
begin;
drop extension evsource;
rollback;
begin;
drop owned by guard_owner cascade;
rollback;

select version from evsource.append_json('a-1', '[{"type": "A"}, {"type": "B"}]');

-- With an event in it, it does not: by DROP EXTENSION,
\c
drop extension evsource;
\echo :LAST_ERROR_SQLSTATE
\c
drop extension evsource cascade;
\echo :LAST_ERROR_SQLSTATE
-- among others,
\c
create schema guard_other;
drop schema guard_other, evsource cascade;
\echo :LAST_ERROR_SQLSTATE
-- by DROP OWNED,
\c
drop owned by guard_owner cascade;
\echo :LAST_ERROR_SQLSTATE
-- through what it depends on.
\c
drop extension plpgsql cascade;
\echo :LAST_ERROR_SQLSTATE
-- A function that runs the command is no way round.
\c
do $$ begin execute 'drop extension evsource'; end $$;
\echo :LAST_ERROR_SQLSTATE

-- The table alone cannot be dropped: that is PostgreSQL's own rule.
drop table evsource.events;
\echo :LAST_ERROR_SQLSTATE
drop table evsource.events cascade;
\echo :LAST_ERROR_SQLSTATE

-- What was renamed is named back, says the error; to drop the extension would drop the log.
begin;
alter event trigger evsource_guard_log disable;
alter table evsource.events rename to gone;
select evsource.append('a-1', 'C');
rollback;

-- Nor is there a way round by another name.
\c
alter schema evsource rename to guard_renamed;
\echo :LAST_ERROR_SQLSTATE
alter table evsource.events rename to gone;
\echo :LAST_ERROR_SQLSTATE
alter sequence evsource.position_seq rename to gone;
alter view evsource.projection_status rename to gone;
alter table evsource.projection_status rename to gone;
alter table if exists evsource.nothing rename to gone;
-- What somebody has added to the extension is theirs.
create table guard_added (n int);
alter extension evsource add table guard_added;
alter table guard_added rename to guard_moved;
alter table guard_moved set schema guard_other;
alter extension evsource drop table guard_other.guard_moved;
drop table guard_other.guard_moved;
alter schema guard_other rename to guard_another;
alter schema guard_another rename to guard_other;

-- Everything is still there.
select stream, version, type from evsource.events order by position;
select to_regclass('kept') is not null as kept, to_regnamespace('guard_other') is not null as guard_other;

-- A superuser allows it, and nobody else.
create role guard_somebody;
set role guard_somebody;
set evsource.allow_drop = on;
reset role;
show evsource.allow_drop;
-- Who does not own the extension is told so.
set role guard_somebody;
drop extension evsource;
reset role;
drop role guard_somebody;

-- For one transaction, in a session that has the library
begin;
set local evsource.allow_drop = on;
drop extension evsource;
select to_regclass('evsource.events') is null as gone;
rollback;
drop extension evsource;
-- and in one that has not.
\c
begin;
set local evsource.allow_drop = on;
drop extension evsource;
rollback;
\c
begin;
set local evsource.allow_drop = on;
set local client_min_messages = warning;
drop schema evsource cascade;
rollback;

-- An event of the transaction that drops counts, one that was rolled back does not.
create extension if not exists evsource;
begin;
set local evsource.allow_drop = on;
drop extension evsource;
set local evsource.allow_drop = off;
create extension evsource;
savepoint s;
select version from evsource.append('b-1', 'C');
savepoint t;
drop extension evsource;
rollback to s;
drop extension evsource;
-- The new log begins anew, in the session that dropped the old one.
create extension evsource;
select version, position from evsource.append('b-1', 'C');
select stream, version, type from evsource.read_stream('b-1');
rollback;
select stream, version, type from evsource.read_all();

-- More events than anybody wants to count
insert into evsource.events (stream, type) select 'many-' || n % 7, 'M' from generate_series(1, 1500) n;
drop extension evsource;

-- A table of the name that is not the extension's is none of its business:
-- after the owner has taken it out it stays when the extension goes,
begin;
set local client_min_messages = warning;
alter extension evsource drop table evsource.events;
drop extension evsource cascade;
select count(*) from evsource.events;
drop table evsource.events;
rollback;
-- and so it is in a database without the extension.
begin;
set local client_min_messages = warning;
set local evsource.allow_drop = on;
drop extension evsource;
set local evsource.allow_drop = off;
create schema if not exists evsource;
create table evsource.events (n int);
insert into evsource.events values (1);
drop schema evsource cascade;
rollback;

-- Other things are dropped as ever.
drop schema guard_other;
drop table kept;

-- The function of the event trigger is for the event trigger.
create event trigger guard_test on ddl_command_end execute function evsource._guard_log();
create table t ();
drop event trigger guard_test;
select evsource._guard_log();

-- A database goes with all that is in it.
\c contrib_regression
drop database guard_test;
drop role guard_owner;
