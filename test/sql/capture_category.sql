-- Tables of one name in several schemas, and what the application writes itself, are not
-- captured into one category by accident.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_category;
create database evsource_capture_category;
\c evsource_capture_category
set client_min_messages = warning;
create extension evsource;
create schema first;
create schema second;
create schema "Third-one";
create table first.item (id int primary key, v text);
create table second.item (id int primary key, v text);
create table "Third-one".item (id int primary key, v text);
insert into first.item values (1, 'a'), (2, 'b');
set client_min_messages = notice;

-- A category that is not named is the table's own.
select evsource.capture_table('first.item', backfill => true);
select evsource.capture_table('second.item', backfill => true);
select evsource.capture_table('"Third-one".item');
select evsource.capture_table('second.item', category => 'second_item', backfill => true);
insert into second.item values (1, 'other');
select stream, version, type from evsource.events order by position;

-- Nor is it changed to another's.
select evsource.capture_table('second.item', if_exists => 'alter');
-- Who keeps a capture is not asked.
select evsource.capture_table('second.item', if_exists => 'keep');
select table_name, category from evsource.captured_tables;

-- One that is named may be shared. Its events may be the other's: the backfill does not begin with
-- a truncate, unless the table was captured into it until now.
select evsource.capture_table('second.item', category => 'item', if_exists => 'alter', backfill => true);
select stream, version, type from evsource.events order by position offset 3;
select evsource.capture_table('second.item', category => 'item', exclude_columns => '{v}', if_exists => 'alter', backfill => true);
select stream, version, type, data from evsource.events order by position offset 4;

-- Captured again, a table that has its category alone begins anew.
select evsource.release_table('second.item');
select evsource.release_table('first.item');
select evsource.capture_table('first.item', backfill => true);
select stream, version, type, data from evsource.events order by position offset 6;

-- What the application has written itself is told from what was captured.
create table "order" (id int primary key);
select from evsource.append('order-1', 'OrderPlaced');
select evsource.capture_table('"order"');
select evsource.capture_table('"order"', 'order');
insert into "order" values (1);
select evsource.capture_table('"order"', 'order', exclude_columns => '{}', if_exists => 'alter');
select stream, version, type from evsource.events where evsource.category(stream) = 'order' order by position;

-- Two that are captured at the same time, by two sessions: see capture_same_name.spec.
\c :home
drop database evsource_capture_category;
