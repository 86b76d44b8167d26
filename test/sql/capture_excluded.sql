-- What is excluded comes into no event, whatever becomes of the table.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_excluded;
create database evsource_capture_excluded;
\c evsource_capture_excluded
set client_min_messages = warning;
create extension evsource;
create view public.log as
    select stream, version, type, data from evsource.events order by position;

-- A column that is excluded keeps its name while it is.
create table orders (id int primary key, status text, card text, owner text);
select evsource.capture_table('orders', 'order', exclude_columns => '{card}');
insert into orders values (1, 'new', '4111');
alter table orders rename column card to number;
alter table if exists orders rename card to number;
do $$ begin alter table orders rename card to number; end $$;
alter table orders rename column owner to card_owner;
alter table orders rename column card_owner to owner;
alter table if exists missing rename column card to number;
begin;
select evsource.release_table('orders');
alter table orders rename column card to number;
alter table orders rename column owner to card;
select evsource.capture_table('orders', 'order', exclude_columns => '{number}');
commit;
insert into orders values (2, 'new', '4222', 'me');
alter table orders rename column card to owner;

-- Where it has another all the same, nobody writes until somebody says what is excluded now.
alter event trigger evsource_guard_captures disable;
alter table orders rename column number to card;
alter event trigger evsource_guard_captures enable always;
insert into orders values (3, 'new', '4222');
update orders set card = '4333' where id = 1;
delete from orders where id = 1;
truncate orders;
select evsource.capture_table('orders', 'order', exclude_columns => '{card}', if_exists => 'alter');
update orders set card = '4333', status = 'paid' where id = 1;

-- One that is dropped; another that gets its name is excluded.
alter table orders drop column card;
insert into orders values (3, 'new');
alter table orders add column card text;
insert into orders values (3, 'new', null, '4444');
alter table orders drop column card;
select evsource.capture_table('orders', 'order', if_exists => 'alter');
insert into orders values (4, 'new');
select * from public.log;
drop table orders;

-- Partitions have their columns in orders of their own.
create table parts (id int primary key, card text, v int) partition by range (id);
create table parts_1 (gone text, card text, v int, id int not null);
alter table parts_1 drop column gone;
alter table parts attach partition parts_1 for values from (0) to (10);
select evsource.capture_table('parts', 'part', exclude_columns => '{card}');
insert into parts values (1, '4111', 1);
alter table parts rename column card to number;
create table parts_2 (card text, id int not null, v int);
alter table parts attach partition parts_2 for values from (10) to (20);
update parts set card = '4333', id = 11;
alter event trigger evsource_guard_captures disable;
alter table parts rename column card to number;
alter event trigger evsource_guard_captures enable always;
insert into parts values (2, '4222', 1);
update parts_2 set number = '4333';
truncate parts_2;
select * from public.log where stream like 'part%';
drop table parts;

-- A table that inherits the column.
create table above (id int primary key, card text);
create table below (v int, primary key (id)) inherits (above);
select evsource.capture_table('below', exclude_columns => '{card}');
alter table above rename column card to number;
insert into below values (1, '4111', 1);
drop table below, above;

-- And those whose columns are those of a type.
create type row_type as (id int, card text, owner text);
create table typed of row_type (primary key (id));
create table heir (v int, primary key (id)) inherits (typed);
select evsource.capture_table('typed', exclude_columns => '{card}');
alter type row_type rename attribute card to number cascade;
insert into typed values (1, '4111');
select evsource.release_table('typed');
select evsource.capture_table('heir', exclude_columns => '{card}');
alter type row_type rename attribute card to number cascade;
alter type row_type rename attribute owner to holder cascade;
insert into heir values (1, '4111', 'me', 7);
select * from public.log where stream ~ '^(typed|heir)';
drop table heir, typed;
drop type row_type;

-- A table's columns may be renamed as if it were something else.
create table plain (id int primary key, card text);
select evsource.capture_table('plain', exclude_columns => '{card}');
alter view plain rename column card to number;
alter materialized view plain rename column card to number;
alter foreign table plain rename column card to number;
create view plain_view as select * from plain;
alter view plain_view rename column card to number;
insert into plain values (1, '4111');
select * from public.log where stream like 'plain%';
drop table plain cascade;
create foreign data wrapper far_away;
create server far foreign data wrapper far_away;
create foreign table foreign_one (id int, card text) server far;
create trigger capture after insert on foreign_one
    for each row execute function evsource.capture('far', 'id', '--exclude', 'card');
alter foreign table foreign_one rename column card to number;
drop foreign data wrapper far_away cascade;

-- A trigger by hand that excludes what is not there.
create table notes (id int primary key, body text, draft text);
create trigger capture after insert or update or delete on notes
    for each row execute function evsource.capture('note', 'id', '--exclude', 'drfat');
create trigger capture after insert or update or delete on notes
    for each row execute function evsource.capture('note', 'id', '--exclude', 'ctid');
create schema misspelt
    create table notes (id int primary key, draft text)
    create trigger capture after insert on notes
        for each row execute function evsource.capture('note', 'id', '--exclude', 'drfat');
create trigger capture after insert or update or delete on notes
    for each row execute function evsource.capture('note', 'id', '--exclude', 'draft');
insert into notes values (1, 'x', 'hm');
alter table notes rename draft to sketch;
select * from public.log where stream like 'note%';
drop table notes;

-- Nothing of what was excluded is there.
select count(*) from evsource.events where data::text ~ '4[1-4][1-4][1-4]|hm';

\c :home
set client_min_messages = warning;
drop database evsource_capture_excluded;
