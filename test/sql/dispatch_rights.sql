-- dispatch_rights: a handler runs as its projection's owner, and neither the
-- owner nor the appender can use that against the other.

-- A log of its own, with rights of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_dispatch_rights;
create database evsource_dispatch_rights;
\c evsource_dispatch_rights
create extension evsource;
create role regress_keeper;
create role regress_auditor;
create role regress_clerk;
select evsource.grant_access('regress_keeper', 'admin');
select evsource.grant_access('regress_auditor', 'admin');
select evsource.grant_access('regress_clerk', 'writer');
create schema keep authorization regress_keeper;
create schema audit authorization regress_auditor;

set role regress_keeper;
set search_path = keep;
create table stock (item text primary key, n bigint);
create table witness (id bigint generated always as identity, what text);
create function receive(e evsource.event) returns void language plpgsql as $$
begin
    insert into witness (what) values (format('%s in %s', current_user, current_setting('search_path')));
    insert into stock as s values (e.data ->> 'item', 1) on conflict (item) do update set n = s.n + 1;
end
$$;
select evsource.create_projection('stock', 'receive', categories => '{stock}');
select evsource.create_projection('witness', query => $$
    insert into witness (what) select format('query as %s, %s', current_user, type) from new_events$$, categories => '{stock}');
reset role;

-- The clerk has no right on the read model, and fills it by appending.
set role regress_clerk;
select count(*) from keep.stock;
select version from evsource.append('stock-1', 'Received', '{"item": "bolt"}');
insert into evsource.events (stream, type, data) values ('stock-1', 'Received', '{"item": "bolt"}');
select current_user, current_setting('search_path');
reset role;
select * from keep.stock;
select what from keep.witness order by id;

-- Tables, functions and operators that the clerk puts in the way are not found.
truncate keep.witness;
set role regress_clerk;
create temporary table stock (item text primary key, n bigint);
create temporary table witness (what text);
create temporary table new_events (type text);
create function pg_temp.format(text, text, text) returns text language sql as $$select 'hijacked'$$;
set search_path = pg_temp, pg_catalog, public;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');
select (select count(*) from pg_temp.stock) + (select count(*) from pg_temp.witness) as in_temporary_tables;
show search_path;
reset search_path;
reset role;
select * from keep.stock order by item;
select what from keep.witness order by id;
\c
-- and a statement that fails gives the clerk's own path and name back
set role regress_clerk;
set search_path = public;
select version from evsource.append('stock-1', 'Received', '{"item": null}');
select current_user, current_setting('search_path');
begin;
savepoint s;
select version from evsource.append('stock-1', 'Received', '{"item": null}');
rollback to s;
select current_user, current_setting('search_path');
commit;
reset role;

-- The owner's code changes nothing in the clerk's session.
set role regress_keeper;
set search_path = keep;
create function intrude(e evsource.event) returns void language plpgsql as $$
begin
    set work_mem = '77MB';
    set local statement_timeout = '77s';
    set search_path = audit;
    set evsource.max_dispatch_depth = 0;
    perform set_config('evsource.metadata', '{"by": "keeper"}', false);
    perform set_config('regress.mine', 'keeper', false);
    insert into keep.witness (what) values ('in ' || current_setting('search_path') || ' with ' || current_setting('work_mem'));
end
$$;
select evsource.create_projection('intrude', 'intrude', categories => '{quiet}');
reset role;
truncate keep.witness;
set role regress_clerk;
set work_mem = '5MB';
begin;
select version from evsource.append('quiet-1', 'T');
select current_setting('work_mem') as work_mem, current_setting('statement_timeout') as timeout,
    current_setting('search_path') as path, current_setting('evsource.max_dispatch_depth') as depth,
    current_setting('evsource.metadata') as metadata, coalesce(current_setting('regress.mine', true), '') as mine;
commit;
select current_setting('work_mem') as work_mem, current_setting('search_path') as path;
select version from evsource.append('quiet-1', 'T');
select count(*) from evsource.events where metadata is not null;
reset role;
select what from keep.witness;
select evsource.drop_projection('intrude');

-- It cannot become somebody else, nor leave something behind for later.
create function keep.escape(e evsource.event) returns void language plpgsql as $$
begin
    execute e.data ->> 'do';
end
$$;
alter function keep.escape(evsource.event) owner to regress_keeper;
set role regress_keeper;
select evsource.create_projection('escape', 'keep.escape', categories => '{escape}');
reset role;
\set VERBOSITY terse
select version from evsource.append('escape-1', 'T', '{"do": "set role regress_auditor"}');
\echo :LAST_ERROR_SQLSTATE
select version from evsource.append('escape-1', 'T', '{"do": "reset role"}');
select version from evsource.append('escape-1', 'T', '{"do": "set session authorization default"}');
select version from evsource.append('escape-1', 'T', '{"do": "create temporary table t (n int)"}');
select version from evsource.append('escape-1', 'T', '{"do": "listen x"}');
select version from evsource.append('escape-1', 'T', '{"do": "declare c cursor with hold for select 1"}');
select version from evsource.append('escape-1', 'T', '{"do": "commit"}');
select version from evsource.append('escape-1', 'T', '{"do": "select * from audit.trail"}');
-- a trigger that waits for the commit would run as the clerk
create table keep.later (n int, unique (n) deferrable initially deferred);
grant all on keep.later to regress_keeper;
create function keep.wait() returns trigger language plpgsql as 'begin return null; end';
create constraint trigger wait after insert on keep.later deferrable initially deferred
    for each row execute function keep.wait();
select version from evsource.append('escape-1', 'T', '{"do": "insert into keep.later values (1)"}');
\set VERBOSITY default
select evsource.drop_projection('escape');

-- A handler that appends does so as its owner; what it appends is handled by
-- the owners of the projections that want it, not as the one who appended.
set role regress_keeper;
create function keep.reorder(e evsource.event) returns void language sql as
$$select evsource.append('audit-1', 'Reordered by ' || current_user)$$;
select evsource.create_projection('reorder', 'keep.reorder', categories => '{low}');
set role regress_auditor;
create table audit.trail (what text);
create function audit.note(e evsource.event) returns void language sql as
$$insert into audit.trail values ((e).type || ', noted by ' || current_user)$$;
select evsource.create_projection('trail', 'audit.note', categories => '{audit}');
set role regress_clerk;
select version from evsource.append('low-1', 'Low');
select current_user;
reset role;
select * from audit.trail;
-- the owner's right to append is what counts
revoke execute on function evsource.append from regress_keeper;
set role regress_clerk;
select version from evsource.append('low-1', 'Low');
\echo :LAST_ERROR_SQLSTATE
reset role;
select * from audit.trail;
select evsource.drop_projection('reorder'), evsource.drop_projection('trail');

-- What the owner must be allowed is looked at again at every append: to read
-- the events ...
revoke select on evsource.events from regress_keeper;
set role regress_clerk;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');
\echo :LAST_ERROR_SQLSTATE
reset role;
grant select on evsource.events to regress_keeper;
-- ... all of them ...
alter table evsource.events enable row level security;
create policy everything on evsource.events using (true);
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');
\echo :LAST_ERROR_SQLSTATE
alter role regress_keeper bypassrls;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');
drop policy everything on evsource.events;
alter table evsource.events disable row level security;
-- ... to execute the handler ...
revoke execute on function keep.receive(evsource.event) from public, regress_keeper;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');
\echo :LAST_ERROR_SQLSTATE
grant execute on function keep.receive(evsource.event) to regress_keeper;
-- ... and to write the read model.
revoke insert on keep.stock from regress_keeper;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');
grant insert on keep.stock to regress_keeper;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');

-- Roles are kept by name; one that is gone is named.
alter role regress_keeper rename to regress_holder;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');
\echo :LAST_ERROR_SQLSTATE
alter role regress_holder rename to regress_keeper;
select version from evsource.append('stock-1', 'Received', '{"item": "nut"}');

-- A role that owns no object but a projection, and has its rights as a member of another,
-- cannot be dropped all the same,
create role regress_member in role regress_keeper, regress_auditor;
create table keep.counts (stream text);
grant insert on keep.counts to regress_keeper;
set role regress_member;
select evsource.create_projection('owned', query => 'insert into keep.counts select stream from new_events', categories => '{owned}');
select evsource.create_subscription('owned');
reset role;
drop role regress_member;
\echo :LAST_ERROR_SQLSTATE
set role regress_clerk;
\set VERBOSITY terse
drop role regress_member;
\set VERBOSITY default
reset role;
drop user if exists regress_nobody, regress_member;
-- and when it is gone nevertheless, nobody is skipped, and there are three ways on.
alter role regress_member rename to regress_members;
select version from evsource.append('owned-1', 'T');
\echo :LAST_ERROR_SQLSTATE
begin;
select evsource.pause_projection('owned');
select version from evsource.append('owned-1', 'T');
rollback;
begin;
select evsource.drop_projection('owned');
select version from evsource.append('owned-1', 'T');
rollback;
select evsource.alter_projection('owned', owner => 'regress_members');
select version from evsource.append('owned-1', 'T');
select count(*) from keep.counts;
select evsource.event_count('owned');
select evsource.drop_projection('owned'), evsource.drop_subscription('owned');
drop role regress_members;

\c :home
drop database evsource_dispatch_rights;
drop role regress_keeper, regress_auditor, regress_clerk;
