-- What session_replication_role = replica does, and what it does not. In a
-- database of its own: it drops the extension.
select current_database() as home \gset
create database evsource_replica_role;
\c evsource_replica_role
set client_min_messages = warning;
create extension evsource;
select version from evsource.append('a-1', 'Opened');

-- The log and what projections use are guarded all the same.
create table balances (id text);
create function seen(e evsource.event) returns void language sql as 'select';
select evsource.create_projection('balances', 'seen', tables => '{balances}');
\c
set client_min_messages = warning;
set session_replication_role = replica;
\set VERBOSITY terse
drop extension evsource cascade;
drop schema evsource cascade;
drop table balances;
drop function seen(evsource.event);
select evtname, evtenabled from pg_event_trigger where evtname like 'evsource%' order by evtname;
\set VERBOSITY default

-- Rows of a subscription have everything. A row without a position is no such
-- row, and the trigger that would give it one does not fire.
insert into evsource.events (stream, type) values ('a-1', 'Paid');
\echo :LAST_ERROR_SQLSTATE
copy evsource.events (stream, type) from stdin;
a-1	Paid
\.
-- The function needs no trigger.
select version from evsource.append('a-1', 'Paid');

-- Stored events are as immutable as ever; a stream can be truncated.
update evsource.events set data = '{"by": "hand"}' where version = 2;
delete from evsource.events where version = 1;
truncate evsource.events;
\echo :LAST_ERROR_SQLSTATE
select evsource.truncate_stream('a-1', 2);
select version, data from evsource.events order by position;

-- The owner's way out is to say so.
alter table evsource.events disable trigger immutable;
update evsource.events set data = '{"by": "hand"}' where version = 2;
delete from evsource.events where version > 2;
create role evsource_replica_role_writer;
select evsource.grant_access('evsource_replica_role_writer', 'writer');
set role evsource_replica_role_writer;
update evsource.events set data = '{}';
reset role;
alter table evsource.events enable always trigger immutable;
update evsource.events set data = '{}';
select version, data from evsource.events order by position;
reset session_replication_role;
update evsource.events set data = '{}';
drop owned by evsource_replica_role_writer;
drop role evsource_replica_role_writer;
\c :home
drop database evsource_replica_role;
