-- Which of a capture's triggers fire: where replication applies changes, and when a
-- capture takes another's place.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_replicas;
create database evsource_capture_replicas;
\c evsource_capture_replicas
set client_min_messages = warning;
create extension evsource;
create view public.log as
    select stream, version, type from evsource.events order by position;

-- What is captured on a subscriber is captured there when it is captured otherwise, too.
create table ea (id int primary key, v text, w int);
select evsource.capture_table('ea', exclude_columns => '{w}');
select table_name, enabled, fires from evsource.captured_tables;
alter table ea enable always trigger evsource_capture;
alter table ea enable always trigger evsource_capture_truncate;
select table_name, enabled, fires from evsource.captured_tables;
set session_replication_role = replica;
insert into ea values (1, 'a');
reset session_replication_role;
begin;
alter table ea drop column w;
select evsource.capture_table('ea', if_exists => 'alter');
commit;
set session_replication_role = replica;
insert into ea values (2, 'a');
truncate ea;
reset session_replication_role;
table log;
alter table ea enable replica trigger evsource_capture;
select evsource.capture_table('ea', 'other', if_exists => 'alter');
select table_name, category, enabled, fires from evsource.captured_tables;

-- One that is disabled: who keeps it is told, who alters it has it enabled.
alter table ea disable trigger evsource_capture;
set client_min_messages = notice;
select evsource.capture_table('ea', 'other', if_exists => 'keep');
set client_min_messages = warning;
select enabled, fires from evsource.captured_tables;
select evsource.capture_table('ea', 'other', if_exists => 'alter');
select enabled, fires from evsource.captured_tables;
drop table ea;

-- TRUNCATE of a partition is captured where its rows are, also of those that are added.
create table ep (id int primary key, v text) partition by range (id);
create table ep1 partition of ep for values from (0) to (100);
select evsource.capture_table('ep');
create table ep2 partition of ep for values from (100) to (200);
set session_replication_role = replica;
insert into ep values (1, 'a'), (101, 'a');
truncate ep1;
truncate ep;
reset session_replication_role;
select * from log where stream ~ '^ep';
alter table ep enable always trigger evsource_capture;
alter table ep enable always trigger evsource_capture_truncate;
create table ep3 partition of ep for values from (200) to (300);
set session_replication_role = replica;
insert into ep values (1, 'a'), (2, 'b'), (101, 'c'), (201, 'd');
truncate ep1;
truncate ep3;
truncate ep;
reset session_replication_role;
select * from log where stream ~ '^ep';
-- A partition whose trigger is disabled, by a load that forgot to enable it: the same.
alter table ep1 disable trigger all;
set client_min_messages = notice;
select evsource.capture_table('ep', if_exists => 'keep');
select evsource.capture_table('ep', if_exists => 'alter');
set client_min_messages = warning;
insert into ep values (3, 'e');
select * from log where stream = 'ep-3';
select evsource.release_table('ep');
drop table ep;

-- A migration that runs again changes nothing: no trigger, no event, and nobody waits.
create table again (id int primary key, v text);
insert into again values (1, 'a');
select evsource.capture_table('again', backfill => true);
create temp table before as select oid from pg_trigger where tgrelid = 'again'::regclass;
set client_min_messages = notice;
begin;
select evsource.capture_table('again', if_exists => 'alter', backfill => true);
select mode from pg_locks where relation = 'again'::regclass;
commit;
set client_min_messages = warning;
select count(*), count(b.oid) from pg_trigger t left join before b using (oid) where tgrelid = 'again'::regclass;
select * from log where stream ~ '^again';
-- What is missing is made anew.
drop trigger evsource_capture_truncate on again;
select evsource.capture_table('again', if_exists => 'alter');
select count(*), count(b.oid) from pg_trigger t left join before b using (oid) where tgrelid = 'again'::regclass;
drop table again;
\c :home
drop database evsource_capture_replicas;
