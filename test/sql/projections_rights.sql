-- projections_rights: who may register and change a projection, and as whom its
-- code runs.

-- A log of its own, with rights of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_projections_rights;
create database evsource_projections_rights;
\c evsource_projections_rights
create extension evsource;
create role regress_shop;
create role regress_colleague in role regress_shop;
create role regress_writer;
create role regress_stranger;
create role regress_root superuser;
create schema shop authorization regress_shop;
grant usage on schema evsource to regress_shop, regress_colleague, regress_writer, regress_stranger;
grant execute on all functions in schema evsource to regress_shop, regress_colleague, regress_writer, regress_stranger;
grant execute on all procedures in schema evsource to regress_shop, regress_stranger;
grant select, insert on evsource.events to regress_writer;

set role regress_shop;
set search_path = shop;
create table applied (type text, applied_by name, session_of name, path text);
create function remember(e evsource.event) returns void language plpgsql as $$
begin
    insert into applied values ((e).type, current_user, session_user, current_setting('search_path'));
end
$$;
create function forget() returns void language sql as 'delete from shop.applied';

-- A projection shows its owner the log: it takes SELECT on events.
select evsource.create_projection('applied', 'remember');
set role regress_root;
grant select on evsource.events to regress_shop;
-- All of it, also of a log that is empty: later appends would fail.
alter table evsource.events enable row level security;
create policy everything on evsource.events using (true);
set role regress_shop;
select evsource.create_projection('applied', 'remember');
\echo :LAST_ERROR_SQLSTATE
set role regress_root;
drop policy everything on evsource.events;
alter table evsource.events disable row level security;
set role regress_shop;
select evsource.create_projection('applied', 'remember', tables => '{applied}', on_reset => 'forget');
set role regress_root;
select owner, search_path from evsource.projections;

-- A writer has no right on the read model; what a writer appends is applied to it by
-- the owner, with the owner's search_path, whatever the writer puts in the way.
set role regress_writer;
set search_path = pg_temp, public;
create temporary table applied (type text, applied_by name, session_of name, path text);
select version from evsource.append('order-1', 'Placed');
select count(*) from pg_temp.applied;
select count(*) from shop.applied;
set role regress_root;
set search_path = shop;
select type, applied_by, session_of = session_user as by_session, path from shop.applied;

-- Nobody but the owner, the members of that role and the owner of evsource changes it.
set role regress_stranger;
select evsource.alter_projection('applied', mode => 'async');
select evsource.pause_projection('applied');
select evsource.resume_projection('applied');
select evsource.reset_projection('applied');
select evsource.drop_projection('applied');
call evsource.rebuild_projection('applied');
call evsource.activate_projection('applied');
select evsource.create_projection('applied', 'remember', if_exists => 'alter');
update evsource.projections set mode = 'async';
update evsource.checkpoints set position = 0;
set role regress_colleague;
select evsource.pause_projection('applied');
select evsource.resume_projection('applied');
set role regress_root;
select evsource.alter_projection('applied', state_version => 2);

-- A projection runs what its owner owns, and empties no table of others.
create function public.foreign_handler(e evsource.event) returns void language sql as '';
create function public.foreign_reset() returns void language sql as '';
create table public.foreign_table (n int);
set role regress_shop;
select evsource.create_projection('other', 'public.foreign_handler');
select evsource.create_projection('other', 'remember', on_reset => 'public.foreign_reset');
select evsource.create_projection('other', 'remember', tables => '{public.foreign_table}');
select evsource.create_projection('other', query => 'insert into public.foreign_table select 1 from new_events');

-- A superuser is no exception: who owns the function could replace it.
set role regress_root;
select evsource.create_projection('other', 'shop.remember');
set role regress_shop;
select evsource.create_projection('other', 'shop.remember', mode => 'async');

-- Another owner: one that the caller could be, who owns what the projection uses.
select evsource.alter_projection('other', owner => 'regress_stranger');
set role regress_root;
select evsource.alter_projection('other', owner => 'regress_stranger');
alter function shop.remember(evsource.event) owner to regress_stranger;
select evsource.alter_projection('other', owner => 'regress_stranger');
grant select on evsource.events to regress_stranger;
select evsource.alter_projection('other', owner => 'regress_stranger');
select owner from evsource.projections where projection = 'other';
alter function shop.remember(evsource.event) owner to regress_shop;
revoke select on evsource.events from regress_stranger;
select evsource.drop_projection('other');

-- The owner's rights are checked again whenever the projection is applied.
revoke select on evsource.events from regress_shop;
set role regress_writer;
select version from evsource.append('order-1', 'Placed');
set role regress_root;
grant select on evsource.events to regress_shop;
set role regress_writer;
select version from evsource.append('order-1', 'Placed');

-- A function that comes to belong to another does not run with the owner's rights:
-- that role could replace it. A superuser's does, as after a restore without owners.
set role regress_root;
alter function shop.remember(evsource.event) owner to regress_stranger;
set role regress_writer;
select version from evsource.append('order-1', 'Placed');
set role regress_root;
alter function shop.remember(evsource.event) owner to regress_root;
set role regress_writer;
select version from evsource.append('order-1', 'Placed');
set role regress_root;
reassign owned by regress_root to regress_stranger;
set role regress_writer;
select version from evsource.append('order-1', 'Placed');
set role regress_root;
alter function shop.remember(evsource.event) owner to regress_shop;
-- A superuser's projection is no exception.
set client_min_messages = warning;
create function public.of_root(e evsource.event) returns void language sql as '';
select evsource.create_projection('of_root', 'public.of_root');
select version from evsource.append('order-1', 'Placed');
alter function public.of_root(evsource.event) owner to regress_stranger;
select version from evsource.append('order-1', 'Placed');
select evsource.drop_projection('of_root');
reset client_min_messages;

-- A reset is the owner's work, too.
set role regress_root;
call evsource.rebuild_projection('applied');
select count(*), min(applied_by::text), max(applied_by::text) from shop.applied;

\c :home
drop database evsource_projections_rights;
drop role regress_shop, regress_colleague, regress_writer, regress_stranger, regress_root;
