-- Captured partitioned tables: who may add partitions, and partitions elsewhere.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_partitions;
create database evsource_capture_partitions;
\c evsource_capture_partitions
set client_min_messages = warning;
create extension evsource;
create role regress_parts_one;
create role regress_parts_two;
create role regress_parts_three;
create schema sc;
grant all on schema sc to regress_parts_one, regress_parts_two, regress_parts_three;

-- The owner of a captured table adds partitions, whoever that becomes.
set role regress_parts_one;
create table sc.m (id int, d int, primary key (id, d)) partition by range (d);
reset role;
select evsource.capture_table('sc.m');
reassign owned by regress_parts_one to regress_parts_two;
set role regress_parts_two;
create table sc.m1 partition of sc.m for values from (0) to (10);
reset role;
alter table sc.m owner to regress_parts_three;
set role regress_parts_three;
create table sc.m2 (like sc.m including all);
alter table sc.m attach partition sc.m2 for values from (10) to (20);
insert into sc.m values (1, 1), (2, 11);
reset role;
-- So does who owns a partition that has partitions, though it was attached.
set role regress_parts_one;
create table sc.mid (id int, d int, primary key (id, d)) partition by range (d);
reset role;
revoke execute on function evsource.capture() from regress_parts_one;
alter table sc.m attach partition sc.mid for values from (20) to (40);
set role regress_parts_one;
create table sc.mid1 partition of sc.mid for values from (20) to (30);
reset role;
select stream, type from evsource.events order by position;
-- A migration that runs again mends what an older owner left.
revoke execute on function evsource.capture() from regress_parts_three;
select evsource.capture_table('sc.m', if_exists => 'keep');
select has_function_privilege('regress_parts_three', 'evsource.capture()', 'execute');
revoke execute on function evsource.capture() from regress_parts_three;
select evsource.capture_table('sc.m', if_exists => 'alter');
select has_function_privilege('regress_parts_three', 'evsource.capture()', 'execute');
drop table sc.m;

-- A backfill reads no foreign partition, so it is refused. What comes is captured there, too.
create foreign data wrapper regress_parts_wrapper;
create server regress_parts_server foreign data wrapper regress_parts_wrapper;
create table f (id int, v text) partition by range (id);
create table f1 partition of f for values from (0) to (10);
create foreign table f2 partition of f for values from (10) to (20) server regress_parts_server;
insert into f values (1, 'a');
select evsource.capture_table('f', key_columns => '{id}', backfill => true);
select * from evsource.captured_tables;
select evsource.capture_table('f', key_columns => '{id}');
insert into f values (2, 'a');
select stream, type from evsource.events where stream ~ '^f-' order by position;
drop table f;
drop foreign data wrapper regress_parts_wrapper cascade;

\c :home
set client_min_messages = warning;
drop database evsource_capture_partitions;
drop role regress_parts_one, regress_parts_two, regress_parts_three;

-- Partitions with a unique key each share streams: the events of one row stay in its own
-- order there, whatever triggers that come before ours do to rows of the other partition.
create table versions (id int not null, day int not null, x int) partition by range (day);
create table versions_1 partition of versions for values from (0) to (10);
create table versions_2 partition of versions for values from (10) to (20);
create unique index on versions_1 (id);
create unique index on versions_2 (id);
select evsource.capture_table('versions', key_columns => '{id}');
create function keep_first() returns trigger language plpgsql as $$
begin
    delete from versions where id = new.id and day > new.day;
    return null;
end $$;
create trigger a_keep after insert or update on versions for each row execute function keep_first();
insert into versions values (1, 1, 0), (1, 11, 0);
select type, coalesce(data -> 'new', data -> 'old') as row from evsource.read_stream('versions-1');
select * from versions order by id, day;
drop trigger a_keep on versions;
create function touch_all() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() = 1 then
        update versions set x = x + 1 where id = new.id;
    end if;
    return null;
end $$;
create trigger a_touch after insert on versions for each row execute function touch_all();
insert into versions values (2, 1, 0);
insert into versions values (2, 11, 0);
select type, data -> 'new' as row from evsource.read_stream('versions-2');
select * from versions where id = 2 order by day;
drop table versions;
drop function keep_first, touch_all;
