-- Nobody gains rights by a capture: not who owns a table that others capture, nor who
-- makes the trigger himself, by whatever command.

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

drop schema theirs cascade;

\c :home
set client_min_messages = warning;
drop database evsource_capture_rights;
drop role regress_capture_mallory;
