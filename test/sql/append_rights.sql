-- Who may append, and who may say where.

\set SHOW_CONTEXT never

create role regress_append_stranger;
create role regress_append_writer;
create role regress_append_columns;
create role regress_append_tenant;
grant usage on schema evsource to regress_append_stranger, regress_append_writer, regress_append_columns, regress_append_tenant;
grant execute on all functions in schema evsource to regress_append_stranger, regress_append_writer, regress_append_columns, regress_append_tenant;
grant insert on evsource.events to regress_append_writer;
grant insert (stream, type, data, metadata, occurred_at, id) on evsource.events to regress_append_columns;

-- A stranger cannot append, whichever way it tries, nor learn whether a stream exists.
select version from evsource.append('rights-1', 'Opened');
set role regress_append_stranger;
select * from evsource.append('rights-1', 'Forged');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('rights-1', 'Forged', expected_version => 0);
select * from evsource.append_batch('rights-1', array['Forged'], array['{}']::jsonb[]);
select * from evsource.append_batch('rights-1', '{}', '{}', expected_version => 7);
select * from evsource.append_json('rights-1', '[{"type": "Forged"}]');
insert into evsource.events (stream, type) values ('rights-1', 'Forged');
\echo :LAST_ERROR_SQLSTATE
select nextval('evsource.position_seq');
reset role;

-- A writer can, without a right on the sequence, and without one to read.
set role regress_append_writer;
select version from evsource.append('rights-1', 'Written', expected_version => 1);
select first_version, version from evsource.append_batch('rights-1', array['Written'], array['{}']::jsonb[]);
insert into evsource.events (stream, type) values ('rights-1', 'Written');
copy evsource.events (stream, type) from stdin;
rights-1	Written
\.
select count(*) from evsource.events;
insert into evsource.events (stream, type) values ('rights-1', 'Written') returning version;
-- Nor does it learn a stream's version, by a wrong one or by appending nothing.
select * from evsource.append('rights-1', 'Guessed', expected_version => 9);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('rights-9', 'Guessed', expected_version => -4);
select * from evsource.append_batch('rights-1', '{}', '{}', expected_version => 9);
select * from evsource.append_batch('rights-1', '{}', '{}');
select * from evsource.append_json('rights-1', '[]', expected_version => -4);
-- What it knew already it is told.
select * from evsource.append_batch('rights-9', '{}', '{}', expected_version => 0);
-- It cannot change what is written, nor say where it is written.
update evsource.events set type = 'Forged';
\echo :LAST_ERROR_SQLSTATE
delete from evsource.events;
truncate evsource.events;
insert into evsource.events (stream, type, position) values ('rights-1', 'Forged', 1);
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type, version) values ('rights-1', 'Forged', 99);
insert into evsource.events (stream, type, recorded_at) values ('rights-1', 'Forged', '2001-01-01');
insert into evsource.events (stream, type, position, version, recorded_at) values ('rights-1', 'Forged', 1, 99, '2001-01-01');
copy evsource.events (stream, type, version) from stdin;
rights-1	Forged	99
\.
reset role;

-- A right on the columns that an append writes is enough.
set role regress_append_columns;
select version from evsource.append('rights-1', 'ByColumns');
insert into evsource.events (stream, type) values ('rights-1', 'ByColumns');
-- What it does not write it needs no right on; a schema version is written when it is given.
select version from evsource.append('rights-1', 'Forged', schema_version => 1);
\echo :LAST_ERROR_SQLSTATE
select version from evsource.append_batch('rights-1', '{Forged}', '{1}', schema_versions => '{1}');
insert into evsource.events (stream, type, version) values ('rights-1', 'Forged', 1);
\echo :LAST_ERROR_SQLSTATE
reset role;
-- The default metadata is metadata, too: it takes the right on its column, of whoever inserts.
create view regress_append_view as select stream, type from evsource.events;
grant insert on regress_append_view to regress_append_stranger;
revoke insert (metadata) on evsource.events from regress_append_columns;
set evsource.metadata = '{"user": "forged"}';
set role regress_append_columns;
insert into evsource.events (stream, type) values ('rights-1', 'Forged');
\echo :LAST_ERROR_SQLSTATE
copy evsource.events (stream, type) from stdin;
rights-1	Forged
\.
set evsource.metadata = '{}';
insert into evsource.events (stream, type) values ('rights-1', 'ByColumns');
set evsource.metadata = '{"user": "forged"}';
set role regress_append_stranger;
insert into regress_append_view values ('rights-1', 'ByView');
set role regress_append_writer;
insert into evsource.events (stream, type) values ('rights-1', 'Written');
reset role;
reset evsource.metadata;
drop view regress_append_view;
grant insert (metadata) on evsource.events to regress_append_columns;
revoke insert (id) on evsource.events from regress_append_columns;
set role regress_append_columns;
select version from evsource.append('rights-1', 'Forged');
\echo :LAST_ERROR_SQLSTATE
reset role;

-- A member of the owner's role may restore.
grant regress_append_stranger to regress_append_writer;
begin;
alter table evsource.events owner to regress_append_stranger;
alter sequence evsource.position_seq owner to regress_append_stranger;
set role regress_append_writer;
insert into evsource.events (stream, type, position, version, recorded_at) values ('rights-2', 'Restored', 1000000000, 1, '2001-01-01');
reset role;
rollback;

--
-- Row security
--
create policy own_streams on evsource.events to regress_append_tenant
    using (evsource.category(stream) = 'tenant') with check (evsource.category(stream) = 'tenant' and type <> 'Forbidden');
alter table evsource.events enable row level security;
grant select, insert on evsource.events to regress_append_tenant;
select version from evsource.append('rights-3', 'ByOwner', id => '21000000-0000-4000-8000-000000000003');

-- Policies hold for the functions as for INSERT.
set role regress_append_tenant;
select version, stored from evsource.append('tenant-1', 'Opened', expected_version => 0, id => '21000000-0000-4000-8000-000000000001');
select version, stored from evsource.append('tenant-1', 'Opened', expected_version => 0, id => '21000000-0000-4000-8000-000000000001');
select first_version, version from evsource.append_batch('tenant-1', array['A', 'B'], array['1', '2']::jsonb[], expected_version => 1);
select first_version, version from evsource.append_json('tenant-1', '[{"type": "C"}]', expected_version => 3);
insert into evsource.events (stream, type) values ('tenant-1', 'D') returning version;
select * from evsource.append('tenant-1', 'Forbidden');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('tenant-1', array['E', 'Forbidden'], array['1', '2']::jsonb[]);
select * from evsource.append('other-1', 'Opened');
insert into evsource.events (stream, type) values ('other-1', 'Opened');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('tenant-1', 'E', expected_version => 4);
\echo :LAST_ERROR_SQLSTATE
select stream, version, type from evsource.events where stream in ('rights-3', 'tenant-1') order by version;
-- What a policy hides stays hidden: the id is taken, by whom is not said.
select * from evsource.append('tenant-1', 'Opened', id => '21000000-0000-4000-8000-000000000003');
\echo :LAST_ERROR_SQLSTATE
-- Nor does a known id tell what the hidden event says, by a guess that is wrong or right.
select * from evsource.append('rights-3', 'ByOwner', '{"guess": 1}', id => '21000000-0000-4000-8000-000000000003');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('rights-3', 'ByOwner', id => '21000000-0000-4000-8000-000000000003');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('rights-3', array['ByOwner'], array['{}']::jsonb[], ids => array['21000000-0000-4000-8000-000000000003']::uuid[]);
select * from evsource.append_json('rights-3', '[{"type": "ByOwner", "id": "21000000-0000-4000-8000-000000000003"}]');
insert into evsource.events (stream, type, id) values ('rights-3', 'ByOwner', '21000000-0000-4000-8000-000000000003');
insert into evsource.events (stream, type, id) values ('rights-3', 'ByOwner', '21000000-0000-4000-8000-000000000003') on conflict (id) where id is not null do nothing;
-- Of an event of its own it is told what differs.
select * from evsource.append('tenant-1', 'Opened', '{"amount": 1}', id => '21000000-0000-4000-8000-000000000001');
set row_security = off;
select * from evsource.append('tenant-1', 'E');
\echo :LAST_ERROR_SQLSTATE
reset row_security;
reset role;
-- Without a right to read, likewise.
set role regress_append_writer;
select * from evsource.append('rights-4', 'Opened', id => '21000000-0000-4000-8000-000000000003');
reset role;
alter table evsource.events disable row level security;
set role regress_append_writer;
select * from evsource.append('rights-4', 'Opened', id => '21000000-0000-4000-8000-000000000003');
select * from evsource.append('rights-3', 'ByOwner', '{"guess": 1}', id => '21000000-0000-4000-8000-000000000003');
select version, stored from evsource.append('rights-3', 'ByOwner', id => '21000000-0000-4000-8000-000000000003');
reset role;
alter table evsource.events enable row level security;

-- It may read the two columns that tell.
grant select (stream, version) on evsource.events to regress_append_columns;
grant insert (id) on evsource.events to regress_append_columns;
alter table evsource.events disable row level security;
set role regress_append_columns;
select * from evsource.append('rights-3', 'Guessed', expected_version => 9);
select * from evsource.append_batch('rights-3', '{}', '{}');
reset role;
alter table evsource.events enable row level security;

-- Of its own streams a tenant is told, of others' nothing, whichever version it guesses;
-- nor does it keep them locked.
set role regress_append_tenant;
select * from evsource.append('tenant-1', 'E', expected_version => 4);
select * from evsource.append_batch('tenant-1', '{}', '{}', expected_version => 5);
select * from evsource.append('rights-3', 'Forged', expected_version => 1);
select * from evsource.append('rights-3', 'Forged', expected_version => 9);
begin;
select * from evsource.append_batch('rights-3', '{}', '{}');
select * from evsource.append_batch('rights-3', '{}', '{}', expected_version => 0);
select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid();
select * from evsource.append_batch('rights-3', '{}', '{}', expected_version => 1);
rollback;
-- Expectations hold where policies are, too.
select version from evsource.append('tenant-2', 'A', expected_version => 1);
select version from evsource.append('tenant-2', 'A', expected_version => 0);
select version from evsource.append('tenant-2', 'A', expected_version => 0);
reset role;

-- A retry is recognised also where a default or a trigger makes an event fit the policy.
begin;
alter table evsource.events add tenant text default current_user;
create policy stamped on evsource.events to regress_append_tenant
    using (tenant = current_user) with check (tenant = current_user and stream = 'stamped-1');
set local role regress_append_tenant;
select version, stored from evsource.append('stamped-1', 'A', id => '21000000-0000-4000-8000-000000000004');
select version, stored from evsource.append('stamped-1', 'A', id => '21000000-0000-4000-8000-000000000004');
reset role;
alter table evsource.events alter tenant drop default;
create function stamp() returns trigger language plpgsql as $$ begin new.tenant := current_user; return new; end $$;
create trigger stamp before insert on evsource.events for each row execute function stamp();
set local role regress_append_tenant;
select version, stored from evsource.append('stamped-1', 'A', id => '21000000-0000-4000-8000-000000000005');
select version, stored from evsource.append('stamped-1', 'A', id => '21000000-0000-4000-8000-000000000005');
rollback;
-- And where a policy asks for a generated column, which is nobody's to give, also of who reads nothing.
begin;
alter table evsource.events add category text generated always as (split_part(stream, '-', 1)) stored;
create policy generated on evsource.events for insert to regress_append_tenant with check (category = 'generated');
set local role regress_append_tenant;
select version, stored from evsource.append('generated-1', 'A', id => '21000000-0000-4000-8000-000000000007');
select version, stored from evsource.append('generated-1', 'A', id => '21000000-0000-4000-8000-000000000007');
rollback;
-- What an event gets as it is stored cannot be asked for before: a retry is recognised by who reads the event.
begin;
create policy numbered on evsource.events for insert to regress_append_tenant with check (stream = 'numbered-1' and version < 9);
set local role regress_append_tenant;
select version, stored from evsource.append('numbered-1', 'A', id => '21000000-0000-4000-8000-00000000000a');
savepoint stored;
select version, stored from evsource.append('numbered-1', 'A', id => '21000000-0000-4000-8000-00000000000a');
rollback to stored;
reset role;
create policy numbered_read on evsource.events for select to regress_append_tenant using (stream = 'numbered-1');
set local role regress_append_tenant;
select version, stored from evsource.append('numbered-1', 'A', id => '21000000-0000-4000-8000-00000000000a');
rollback;
-- To ask the policies fires no trigger of a statement, nor disturbs one that has a table of the new rows.
begin;
create function tell() returns trigger language plpgsql as $$ begin raise notice '% % of % events', tg_when, tg_op, (select count(*) from new_rows); return null; end $$;
create function tell_before() returns trigger language plpgsql as $$ begin raise notice '% %', tg_when, tg_op; return null; end $$;
create trigger tell after insert on evsource.events referencing new table as new_rows for each statement execute function tell();
create trigger tell_before before insert on evsource.events for each statement execute function tell_before();
set local role regress_append_tenant;
select version, stored from evsource.append('tenant-7', 'A', id => '21000000-0000-4000-8000-000000000008');
select version, stored from evsource.append('tenant-7', 'A', id => '21000000-0000-4000-8000-000000000008');
do $$ declare appended record; begin appended := evsource.append('tenant-7', 'A', id => '21000000-0000-4000-8000-000000000009'); raise notice 'version %', appended.version; end $$;
rollback;
-- A policy may ask another table.
begin;
create table regress_append_allowed (stream text primary key);
grant select on regress_append_allowed to regress_append_tenant;
insert into regress_append_allowed values ('listed-1');
create policy listed on evsource.events for insert to regress_append_tenant
    with check (exists (select from regress_append_allowed a where a.stream = events.stream));
set local role regress_append_tenant;
select version, stored from evsource.append('listed-1', 'A', id => '21000000-0000-4000-8000-000000000006');
select version, stored from evsource.append('listed-1', 'A', id => '21000000-0000-4000-8000-000000000006');
-- It cannot read this event: it is not told which of its words was another.
select version, stored from evsource.append('listed-1', 'B', id => '21000000-0000-4000-8000-000000000006');
rollback;

-- The owner is not subject to them, and a role without a policy may do nothing.
select version from evsource.append('rights-3', 'ByOwner', expected_version => 1);
set role regress_append_writer;
select * from evsource.append('rights-1', 'Written');
\echo :LAST_ERROR_SQLSTATE
reset role;

drop policy own_streams on evsource.events;
alter table evsource.events disable row level security;
set role regress_append_writer;
select version > 0 as appended from evsource.append('rights-1', 'Written');
reset role;
select count(*) from evsource.events where type in ('Forged', 'Forbidden') or stream = 'other-1';

drop owned by regress_append_stranger, regress_append_writer, regress_append_columns, regress_append_tenant;
drop role regress_append_stranger, regress_append_writer, regress_append_columns, regress_append_tenant;
