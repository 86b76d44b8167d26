-- A schema evsource that is there before the extension: taken when nobody else
-- has a hand in it. In a database of its own.

set client_min_messages = warning;
\set SHOW_CONTEXT never
select current_database() as home \gset
create database evsource_foreign;
create role foreign_somebody;
create role foreign_superuser superuser;
grant create on database evsource_foreign to foreign_somebody;
\c evsource_foreign
set client_min_messages = warning;

-- Somebody who may make schemas lays an operator in the way of the script, and a
-- function in the way of those who call evsource.append.
set role foreign_somebody;
create schema evsource;
create function evsource.seize(a text, b regprocedure) returns text language plpgsql as $$
begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        alter role foreign_somebody superuser;
    end if;
    return pg_catalog.textcat(a, b::text);
end $$;
create operator evsource.|| (leftarg = text, rightarg = regprocedure, function = evsource.seize);
reset role;
create extension evsource;
\echo :LAST_ERROR_SQLSTATE
select rolsuper from pg_roles where rolname = 'foreign_somebody';

-- Given to a superuser it is still not empty.
alter schema evsource owner to foreign_superuser;
create extension evsource;
\echo :LAST_ERROR_SQLSTATE
select rolsuper from pg_roles where rolname = 'foreign_somebody';

-- Empty it is as good as none, as in a restore.
drop schema evsource cascade;
create schema evsource authorization foreign_superuser;
create extension evsource;
select version from evsource.append('a-1', 'A');

-- The script names all that it means: a temporary table or an operator elsewhere is not in its way.
set evsource.allow_drop = on;
drop extension evsource;
drop schema evsource;
create function public.seize(a text, b regprocedure) returns text language sql as $$ select 'nonsense' $$;
create operator public.|| (leftarg = text, rightarg = regprocedure, function = public.seize);
create temporary table events (n int);
set search_path = pg_temp, public, pg_catalog;
create extension evsource;
reset search_path;
select version from evsource.append('a-1', 'A');

\c :home
drop database evsource_foreign;
drop role foreign_somebody, foreign_superuser;
