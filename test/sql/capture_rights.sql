-- Nobody gains rights by a capture: not who owns a table that others capture, nor who
-- makes the trigger by hand, by whatever command.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_rights;
create database evsource_capture_rights;
\c evsource_capture_rights
set client_min_messages = warning;
create extension evsource;
create role regress_capture_mallory;
create schema theirs authorization regress_capture_mallory;

-- No code of the table's owner runs when somebody else captures the table or changes
-- its rows: a cast to json, which to_jsonb would call, is none of capture's business.
set role regress_capture_mallory;
create table theirs.ran_as (who text);
grant insert on theirs.ran_as to public;
create type theirs.mood as enum ('happy');
create function theirs.tell(theirs.mood) returns json language plpgsql as $$
begin
    insert into theirs.ran_as values (current_user);
    return '"told"';
end
$$;
create cast (theirs.mood as json) with function theirs.tell(theirs.mood);
create type theirs.feeling as (m theirs.mood, ms theirs.mood[]);
create table theirs.people (id int primary key, f theirs.feeling, fs theirs.feeling[]);
insert into theirs.people values (1, row('happy', '{happy}'), array[row('happy', null)]::theirs.feeling[]);
reset role;
select evsource.capture_table('theirs.people', backfill => true);
update theirs.people set f = row('happy', '{}');
select data -> 'new' as new from evsource.events order by position;
select * from theirs.ran_as;
select max(position) as told from evsource.events \gset

drop table theirs.people;

-- A role that may execute the trigger function captures with no rights but its own,
-- whatever the command is that creates the trigger.
create role regress_capture_boss;
select evsource.grant_access('regress_capture_boss', 'admin');
grant usage on schema evsource to regress_capture_mallory;
grant execute on function evsource.capture() to regress_capture_mallory;
grant create on database evsource_capture_rights to regress_capture_mallory;
create view public.log as
    select stream, type, data -> 'new' as new from evsource.events where position > :told;
set role regress_capture_mallory;
create schema sneaky
    create table forged (id int primary key)
    create trigger capture after insert on forged for each row
        execute function evsource.capture('payment', 'id', '--as', 'regress_capture_boss');
create schema sneaky
    create table forged (id int primary key)
    create trigger capture after insert on forged for each row
        execute function evsource.capture('payment', 'id');
insert into sneaky.forged values (1);
create constraint trigger other after insert on sneaky.forged for each row
    execute function evsource.capture('payment', 'id', '--as', 'regress_capture_boss');
create function sneaky.make() returns void language plpgsql as $$
begin
    execute 'create trigger other after insert on sneaky.forged for each row
        execute function evsource.capture(''payment'', ''id'', ''--as'', ''regress_capture_boss'')';
end
$$;
select sneaky.make();
reset role;

-- A trigger that nobody has registered is refused when it fires.
alter event trigger evsource_guard_captures disable;
set role regress_capture_mallory;
create table theirs.unseen (id int primary key, n int);
create trigger capture after insert or update on theirs.unseen for each row
    execute function evsource.capture('payment', 'id', '--as', 'regress_capture_boss');
reset role;
alter event trigger evsource_guard_captures enable always;
insert into theirs.unseen values (1);
select table_name, captured_by from evsource.captured_tables;
grant trigger on theirs.unseen to regress_capture_boss;
grant usage on schema theirs to regress_capture_boss;
set role regress_capture_boss;
select evsource.capture_table('theirs.unseen', 'unseen', if_exists => 'alter');
reset role;
drop trigger capture on theirs.unseen;
set role regress_capture_boss;
select evsource.capture_table('theirs.unseen', 'unseen');
reset role;
insert into theirs.unseen values (1);
select table_name, captured_by from evsource.captured_tables;

-- The owner cannot lend what the boss has registered to another table, to other
-- arguments, or to a table of the same name.
set role regress_capture_mallory;
create table theirs.other (id int primary key, n int);
create trigger capture after insert on theirs.other for each row
    execute function evsource.capture('unseen', 'id', '--as', 'regress_capture_boss');
create trigger other after insert on theirs.unseen for each row
    execute function evsource.capture('unseen', 'n', '--as', 'regress_capture_boss');
create trigger again after insert on theirs.unseen for each row
    execute function evsource.capture('unseen', 'id', '--as', 'regress_capture_boss');
drop trigger evsource_capture on theirs.unseen;
drop trigger evsource_capture_truncate on theirs.unseen;
drop trigger evsource_capture_begin on theirs.unseen;
create trigger evsource_capture after insert on theirs.unseen for each row
    execute function evsource.capture('unseen', 'id', '--as', 'regress_capture_boss');
reset role;
select * from evsource.captures;
set role regress_capture_boss;
select evsource.capture_table('theirs.unseen', 'unseen');
set role regress_capture_mallory;
drop table theirs.unseen;
create table theirs.unseen (id int primary key, n int);
create trigger evsource_capture after insert on theirs.unseen for each row
    execute function evsource.capture('unseen', 'id', '--as', 'regress_capture_boss');
reset role;
select * from evsource.captures;

-- A trigger by hand has the rights of whoever registered it, whose the table has become
-- since: rights that its author never had do not come with the table's new owner.
set role regress_capture_mallory;
create trigger mine after insert on theirs.other for each row execute function evsource.capture('payment', 'id');
reset role;
alter table theirs.other owner to regress_capture_boss;
insert into theirs.other values (1);
select table_name, captured_by from evsource.captured_tables;
set role regress_capture_boss;
drop trigger mine on theirs.other;
create trigger mine after insert on theirs.other for each row execute function evsource.capture('payment', 'id');
insert into theirs.other values (1);
reset role;
select table_name, captured_by from evsource.captured_tables;
select * from public.log;

-- A role that is renamed goes on; one that gets its old name does not take its place.
-- So does a table.
alter role regress_capture_boss rename to regress_capture_chief;
create role regress_capture_boss;
alter table theirs.other rename to another;
alter schema theirs rename to ours;
insert into ours.another values (2);
select table_name, captured_by from evsource.captured_tables;
select * from evsource.captures;

-- What a table is part of counts for its partitions, also for those of another's table
-- that is captured by itself.
set role regress_capture_mallory;
create table ours.parts (id int primary key) partition by range (id);
create table ours.parts_1 partition of ours.parts for values from (0) to (10);
create table ours.parts_2 (id int primary key);
reset role;
select evsource.capture_table('ours.parts_2', 'second');
grant trigger on ours.parts, ours.parts_1 to regress_capture_chief;
set role regress_capture_chief;
select evsource.capture_table('ours.parts', 'part');
set role regress_capture_mallory;
insert into ours.parts values (1);
create table ours.parts_3 partition of ours.parts default;
insert into ours.parts values (20);
alter table ours.parts detach partition ours.parts_1;
insert into ours.parts_1 values (2);
create trigger capture after insert on ours.parts_1 for each row
    execute function evsource.capture('part', 'id', '--as', 'regress_capture_chief');
insert into ours.parts_2 values (5);
drop table ours.parts_2;
reset role;
select stream, type from evsource.events where stream ~ '^(part|second)-' order by position;

-- Records that are not of this database's making do no harm: unknown names are nobody's.
select 'no.such'::evsource._table_name as no_table, 'a'::evsource._table_name as no_schema, ''::evsource._table_name as no_name,
    'regress_no_such'::evsource._role_name as no_role, 'ours.another'::evsource._table_name as a_table, 'pg_monitor'::evsource._role_name as a_role;
drop schema sneaky, ours cascade;
select count(*) from evsource.captures;
drop view public.log;
select evsource.revoke_access('regress_capture_chief');
revoke all on schema evsource from regress_capture_mallory;
revoke all on function evsource.capture() from regress_capture_mallory;
revoke create on database evsource_capture_rights from regress_capture_mallory;

\c :home
set client_min_messages = warning;
drop database evsource_capture_rights;
drop role regress_capture_mallory, regress_capture_chief, regress_capture_boss;
