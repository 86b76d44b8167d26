-- Who may do what: a stranger nothing, a reader read, a writer append, an admin
-- what projections and roles need; nobody but the owner writes the tables.

set client_min_messages = warning;
create role regress_stranger;
create role regress_reader;
create role regress_writer;
create role regress_admin;
create role regress_appender;
create role regress_shop;

-- Every privilege on everything that is evsource's, as it is granted.
create view public.granted as
    select a.kind, a.name, acl.grantee, acl.privilege_type as privilege
    from (
        select 'schema', n.nspname::text, coalesce(n.nspacl, acldefault('n', n.nspowner))
        from pg_namespace n where n.nspname = 'evsource'
        union all
        select case c.relkind when 'S' then 'sequence' else 'table' end, c.relname,
            coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))
        from pg_class c where c.relnamespace = 'evsource'::regnamespace and c.relkind in ('r', 'v', 'm', 'S', 'p', 'f')
        union all
        select 'column', c.relname || '.' || t.attname, t.attacl
        from pg_attribute t join pg_class c on c.oid = t.attrelid
        where c.relnamespace = 'evsource'::regnamespace
        union all
        select 'routine', p.proname, coalesce(p.proacl, acldefault('f', p.proowner))
        from pg_proc p where p.pronamespace = 'evsource'::regnamespace
        union all
        select 'type', t.typname, coalesce(t.typacl, acldefault('T', t.typowner))
        from pg_type t where t.typnamespace = 'evsource'::regnamespace and t.typelem = 0
    ) a (kind, name, acl)
    cross join lateral aclexplode(a.acl) acl;

-- This is all that PUBLIC can do. Types may be used, as types may everywhere,
-- but nobody can name them without USAGE on the schema.
select kind, name, privilege from granted where grantee = 0 and kind <> 'type' order by 1, 2, 3;
select kind, privilege, bool_or(name = 'event') as event from granted where grantee = 0 and kind = 'type' group by 1, 2;

-- Each routine and table is in the list of one level, or its owner's alone.
-- What is new and not in a list shows here.
create view public.listed as
    select a.level, a.kind, n.name, a.privilege from evsource._access() a, unnest(a.names) n (name);
select g.kind, g.name collate "C"
from granted g left join listed l using (kind, name)
where g.kind in ('routine', 'table', 'sequence') and l.name is null
group by 1, 2 order by 1, 2;
select kind, name, privilege, array_agg(level) from listed group by 1, 2, 3 having count(*) > 1;
select l.* from listed l left join granted g using (kind, name) where g.name is null;

-- What runs with its owner's rights, and what is written in SQL, pins its
-- search_path; the exceptions are inlined, and qualify every name.
select p.proname
from pg_proc p join pg_language l on l.oid = p.prolang
where p.pronamespace = 'evsource'::regnamespace and (p.prosecdef or l.lanname not in ('c', 'internal'))
    and not exists (select from unnest(p.proconfig) c where c = 'search_path=pg_catalog, pg_temp')
order by 1;

-- No column holds an OID that neither a dump nor pg_upgrade would carry over; but what is noted
-- of a subscription is to go with it.
select c.relname, a.attname, a.atttypid::regtype
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'evsource'::regnamespace and c.relkind = 'r' and a.attnum > 0
    and a.atttypid::regtype::text ~ '^(reg|oid)' and (c.relname, a.attname) not in (('store', 'database'), ('followed', 'subscription'));

-- Levels: what a role has is what the lists say of its level and those before.

select evsource.grant_access('regress_reader', 'reader');
select evsource.grant_access('regress_writer', 'writer');
select evsource.grant_access('regress_admin', 'admin');
create view public.unexpected as
    with wanted as (
        select r.oid as grantee, l.kind, l.name, upper(l.privilege) as privilege
        from listed l
            join (values ('regress_reader', array['reader']), ('regress_writer', array['reader', 'writer']),
                         ('regress_admin', array['reader', 'writer', 'admin'])) v (rolname, levels)
                on l.level = any (v.levels)
            join pg_roles r using (rolname)
    ), given as (
        select g.grantee, g.kind, g.name, g.privilege from granted g join pg_roles r on r.oid = g.grantee
        where r.rolname like 'regress_%'
    )
    select 'missing' as what, grantee::regrole as role, kind, name, privilege
    from (select * from wanted except select * from given) m
    union all
    select 'too much', grantee::regrole, kind, name, privilege
    from (select * from given except select * from wanted) t;
select * from unexpected;
select count(*) > 20 as and_there_are_some from granted where grantee = 'regress_reader'::regrole;

-- Again changes nothing; a lower level takes nothing away.
select evsource.grant_access('regress_admin', 'admin');
select evsource.grant_access('regress_admin', 'reader');
select * from unexpected;

-- Bad arguments
\set SHOW_CONTEXT never
select evsource.grant_access('regress_reader', 'owner');
\echo :LAST_ERROR_SQLSTATE
select evsource.grant_access('regress_reader', 'Reader');
\echo :LAST_ERROR_SQLSTATE
select evsource.grant_access('regress_reader', null);
\echo :LAST_ERROR_SQLSTATE
select evsource.grant_access('regress_nobody', 'reader');
\echo :LAST_ERROR_SQLSTATE
select evsource.grant_access(null, 'reader');
\echo :LAST_ERROR_SQLSTATE
select evsource.grant_access('-', 'reader');
\echo :LAST_ERROR_SQLSTATE
select evsource.revoke_access(null);
\echo :LAST_ERROR_SQLSTATE
\set SHOW_CONTEXT errors

-- A read model, kept by an inline projection that belongs to regress_shop.
create schema regress_shop authorization regress_shop;
grant usage on schema regress_shop to regress_writer;
select evsource.grant_access('regress_shop', 'admin');
set role regress_shop;
create table regress_shop.orders (stream text primary key, n bigint, by_role name, session name);
create function regress_shop.count_order(e evsource.event) returns void language sql as $$
    insert into regress_shop.orders values ((e).stream, 1, current_user, session_user)
    on conflict (stream) do update set n = orders.n + 1
$$;
select evsource.create_projection('regress_orders', handler => 'regress_shop.count_order', categories => array['order']);
create function regress_shop.total(state jsonb, e evsource.event) returns jsonb language sql immutable as $$
    select pg_catalog.jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1)
$$;
select evsource.create_projection('regress_totals', handler => 'regress_shop.total', categories => array['order']);
reset role;

-- A writer appends, by functions, INSERT and COPY. The handler runs as its
-- owner; the triggers' functions are nothing that the writer could call.
set role regress_writer;
select version, stored from evsource.append('order-1', 'Placed');
select version, stored from evsource.append_batch('order-1', array['Paid'], array['{}']::jsonb[], expected_version => 1);
select version, stored from evsource.append_json('order-1', '[{"type": "Packed"}]');
insert into evsource.events (stream, type) values ('order-1', 'Shipped') returning version;
copy evsource.events (stream, type, data) from stdin;
order-1	Delivered	{}
\.
begin;
select evsource.set_metadata('{"user": "w"}');
select version from evsource.append('order-2', 'Placed');
commit;
select stream, version, metadata from evsource.read_category('order');
select evsource.state('regress_totals', 'order-1');
-- But that is all: not the read model,
select * from regress_shop.orders;
insert into regress_shop.orders values ('order-9', 1);
-- not the place of an event in the log,
insert into evsource.events (stream, type, position, version, recorded_at) values ('order-1', 'T', 999, 6, now());
insert into evsource.events (stream, type, version) values ('order-1', 'T', 7);
insert into evsource.events (stream, type, recorded_at) values ('order-1', 'T', now());
copy evsource.events (stream, type, position) from stdin;
order-1	T	999
\.
-- not what is stored,
update evsource.events set type = 'T';
delete from evsource.events;
truncate evsource.events;
alter table evsource.events disable trigger all;
-- not the sequence,
select nextval('evsource.position_seq');
select setval('evsource.position_seq', 1);
select last_value from evsource.position_seq;
-- not the tables behind,
insert into evsource.snapshots (projection, key, state) values ('regress_totals', 'order-1', '{"n": 1000}');
update evsource.checkpoints set position = 0;
delete from evsource.projections;
select * from evsource.store;
insert into evsource.published values (1000000, now());
-- not projections,
select evsource.create_projection('regress_mine', query => 'select * from new_events');
select evsource.reset_projection('regress_orders');
call evsource.rebuild_projection('regress_orders');
select evsource.clear_snapshots();
-- not what is inside,
select evsource._access();
select evsource._change_access('regress_writer', 'grant %s on %s to %s', '{admin}');
select evsource._intake_row();
-- and nobody's rights.
select evsource.grant_access('regress_writer', 'admin');
select evsource.revoke_access('regress_reader');
select evsource.publish_safe_position();
reset role;

select stream, n, by_role, session = session_user as session from regress_shop.orders order by stream;

-- A reader reads, in every way,
set role regress_reader;
select stream, version, type from evsource.read_stream('order-1', max_count => 1);
select stream, version, type from evsource.read_category('order', max_count => 1);
select count(*) from evsource.read_all(categories => array['order']);
select count(*) from evsource.events e, evsource.read_event(evsource.event_id(e)) r
where evsource.category(e.stream) = 'order' and r.position = e.position;
select evsource.stream_version('order-1'), evsource.safe_position() > 0 as safe;
select stream, version from evsource.streams where category = 'order' order by stream;
select evsource.state('regress_totals', 'order-1');
select state, version from evsource.load_state('regress_totals', 'order-1');
select key, state from evsource.states where projection = 'regress_totals' order by key;
select evsource.state_at_version('regress_totals', 'order-1', 2);
select evsource.has_snapshot('regress_totals', 'order-1');
select count(*) >= 0 as ok from evsource.snapshots;
select projection, owner, event_count from evsource.projection_status where projection like 'regress_%' order by 1;
select evsource.event_count('regress_orders');
-- and no more.
select evsource.append('order-1', 'T');
select evsource.append_batch('order-1', '{}', '{}');
select evsource.append_json('order-1', '[]');
select evsource.set_metadata('{}');
insert into evsource.events (stream, type) values ('order-1', 'T');
\copy evsource.events (stream, type) from /dev/null
select evsource.save_snapshot();
reset role;

-- A stranger does nothing: such a role cannot even look into the schema,
set role regress_stranger;
select * from evsource.read_all();
select evsource.category('a-1');
select evsource.append('order-1', 'T');
reset role;
-- and when it can, there is nothing there for it but the category of a name.
grant usage on schema evsource to regress_stranger;
create schema regress_stranger authorization regress_stranger;
set role regress_stranger;
select evsource.category('a-1');
select * from evsource.events;
select * from evsource.streams;
select * from evsource.read_stream('order-1');
select * from evsource.read_all();
select evsource.stream_version('order-1');
select evsource.safe_position();
select evsource.state('regress_totals', 'order-1');
select * from evsource.states;
select * from evsource.projection_status;
select evsource.append('order-1', 'T');
insert into evsource.events (stream, type) values ('order-1', 'T');
\copy evsource.events (stream, type) from /dev/null
copy evsource.events to stdout;
begin;
lock table evsource.events in access share mode;
rollback;
select nextval('evsource.position_seq');
table evsource.store;
create table regress_stranger.events (like evsource.events);
-- The triggers' functions are not for its tables.
create table regress_stranger.mine (stream text);
create trigger t before insert on regress_stranger.mine for each row execute function evsource._intake_row();
create trigger t before insert on regress_stranger.mine for each row execute function evsource._replace_store();
create trigger t after insert on regress_stranger.mine for each statement execute function evsource._changed();
create trigger t before insert on evsource.events for each row execute function evsource._intake_row();
create index on evsource.events (type);
create view evsource.mine as select 1 as one;
drop schema evsource;
-- The event triggers stand in nobody's way.
drop schema regress_stranger cascade;
reset role;

-- An admin manages projections and roles, and writes no table directly.
set role regress_admin;
select evsource.publish_safe_position() > 0 as published;
select evsource.grant_access('regress_stranger', 'reader');
update evsource.projections set owner = 'regress_admin';
insert into evsource.checkpoints values ('p', 1, 1);
delete from evsource.snapshots;
update evsource.events set type = 'T';
-- It makes no other administrator, and takes no other's rights.
\set SHOW_CONTEXT never
select evsource.grant_access('regress_stranger', 'admin');
\echo :LAST_ERROR_SQLSTATE
select evsource.revoke_access('regress_shop');
\echo :LAST_ERROR_SQLSTATE
select evsource.revoke_access('regress_admin');
select evsource._grant_access('regress_stranger', array['reader', 'admin']);
select evsource._revoke_admin('regress_shop');
-- nor takes the owner of evsource away what all of it needs (which the owner cannot, either).
\set VERBOSITY sqlstate
select evsource.revoke_access(extowner::regrole) is null as revoked from pg_extension where extname = 'evsource';
select evsource._revoke_access(extowner::regrole) is null as revoked from pg_extension where extname = 'evsource';
\set VERBOSITY default
select evsource.grant_access('regress_stranger', 'writer');
\set SHOW_CONTEXT errors
-- Another role's projections stay the other's.
select evsource.drop_projection('regress_orders');
select evsource.revoke_access('regress_stranger');
reset role;
select kind, name from granted where grantee = 'regress_stranger'::regrole;
select * from unexpected where role <> 'regress_shop'::regrole;
-- The owner's members do.
create role regress_deputy;
select format('grant %I to regress_deputy', r.rolname) from pg_class c join pg_roles r on r.oid = c.relowner
where c.oid = 'evsource.events'::regclass \gexec
set role regress_deputy;
select evsource.grant_access('regress_stranger', 'admin');
select evsource.revoke_access('regress_stranger');
reset role;
drop role regress_deputy;
select kind, name from granted where grantee = 'regress_stranger'::regrole;

-- Grants by hand do as well: to append and not to read takes this,
revoke all on schema evsource from regress_stranger;
grant usage on schema evsource to regress_appender;
grant insert on evsource.events to regress_appender;
grant execute on function evsource.append(text, text, jsonb, jsonb, bigint, uuid, timestamptz, integer) to regress_appender;
set role regress_appender;
select version from evsource.append('order-3', 'Placed');
insert into evsource.events (stream, type) values ('order-3', 'Paid');
select stream from evsource.events;
insert into evsource.events (stream, type) values ('order-3', 'Paid') returning version;
reset role;
-- or the columns that an append writes, instead of the table.
revoke insert on evsource.events from regress_appender;
set role regress_appender;
select version from evsource.append('order-3', 'Packed');
reset role;
grant insert (stream, type, data, metadata, id, occurred_at) on evsource.events to regress_appender;
set role regress_appender;
select version from evsource.append('order-3', 'Packed');
reset role;

-- A role without rights on the read model has it changed all the same.
select stream, n, by_role from regress_shop.orders order by stream;

-- Taken back, nothing is left.
select evsource.drop_projection('regress_orders'), evsource.drop_projection('regress_totals');
drop schema regress_shop cascade;
select evsource.revoke_access(r.oid::regrole) from pg_roles r where r.rolname like 'regress_%' order by r.rolname;
select count(*) from granted g join pg_roles r on r.oid = g.grantee and r.rolname like 'regress_%'
where r.rolname <> 'regress_appender';
drop view public.unexpected, public.listed, public.granted;
drop owned by regress_appender;
drop role regress_stranger, regress_reader, regress_writer, regress_admin, regress_appender, regress_shop;

-- Default privileges of the database give PUBLIC nothing either.
create database regress_privileges;
\c regress_privileges
alter default privileges grant all on tables to public;
alter default privileges grant all on sequences to public;
create extension evsource;
select kind, object, privilege_type
from (select 'table', c.oid::regclass::text, c.relacl from pg_class c where c.relnamespace = 'evsource'::regnamespace
      union all
      select 'routine', p.proname, p.proacl from pg_proc p where p.pronamespace = 'evsource'::regnamespace) a (kind, object, acl),
    aclexplode(acl)
where grantee = 0;
\c contrib_regression
drop database regress_privileges;
