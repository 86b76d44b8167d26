-- A rebuild exchanges tables that are the projection owner's: one that was given away, or
-- that has come to the name, is not the owner's to read or to replace.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_owners;
create database evsource_rebuild_owners;
\c evsource_rebuild_owners
create extension evsource;
\set SHOW_CONTEXT never
create role evsource_owners_mallory;
create role evsource_owners_victim;
select evsource.grant_access('evsource_owners_mallory', 'admin');
create schema hers authorization evsource_owners_mallory;
create schema other authorization evsource_owners_mallory;
grant usage, create on schema hers, other to evsource_owners_victim;
create function pg_temp.tables() returns table (name text, owner text, rows bigint) language plpgsql as $$
begin
    for name, owner in select oid::regclass, relowner::regrole from pg_class where relname = 'seen' and relkind = 'r' order by 1 loop
        execute 'select count(*) from ' || name into rows;
        return next;
    end loop;
end $$;

set role evsource_owners_mallory;
set search_path = hers;
create table seen (stream text);
select evsource.create_projection('seen', mode => 'manual', tables => '{seen}', query => 'insert into seen select stream from new_events');
select version from evsource.append('a-1', 'T');
call evsource.rebuild_projection('seen', online => true, keep_old => true);
reset role;
reset search_path;
select * from pg_temp.tables();

-- given away behind a rebuild that could be reverted
alter table hers.seen owner to evsource_owners_victim;
set role evsource_owners_victim;
insert into hers.seen values ('secret'), ('secret');
set role evsource_owners_mallory;
select evsource.revert_rebuild('seen');
\echo :LAST_ERROR_SQLSTATE
select evsource.accept_rebuild('seen');
call evsource.rebuild_projection('seen', online => true);
\echo :LAST_ERROR_SQLSTATE
call evsource.rebuild_projection('seen');
\echo :LAST_ERROR_SQLSTATE
reset role;
select * from pg_temp.tables();

-- given away and back, or to another owner who is as good: the version that is kept is not
grant evsource_owners_victim to evsource_owners_mallory;
set role evsource_owners_mallory;
call evsource.rebuild_projection('seen', online => true, keep_old => true);
reset role;
alter table hers.seen owner to evsource_owners_mallory;
set role evsource_owners_mallory;
select evsource.revert_rebuild('seen');
reset role;
alter table hers.seen owner to evsource_owners_victim;
set role evsource_owners_mallory;
select evsource.revert_rebuild('seen');
reset role;
select * from pg_temp.tables();

select evsource.drop_projection('seen');
drop owned by evsource_owners_mallory, evsource_owners_victim cascade;
drop role evsource_owners_mallory, evsource_owners_victim;
\c :home
set client_min_messages = warning;
drop database evsource_rebuild_owners;
