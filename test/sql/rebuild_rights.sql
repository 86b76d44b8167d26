-- rebuild_rights: nobody sees more in a version that is built or kept than in the
-- read model; whoever builds it can.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_rights;
create database evsource_rebuild_rights;
\c evsource_rebuild_rights
create extension evsource;
create role rebuild_reads;
create role rebuild_builds;
create role rebuild_anybody;
create table balances (id serial, account text primary key, tenant text, events int);
alter table balances enable row level security;
create policy mine on balances for select using (tenant = current_user);
create policy all_but_one on balances as restrictive for select to rebuild_builds, rebuild_reads using (account <> 'account-9');
create policy any_row on balances to rebuild_builds using (true) with check (tenant <> 'nobody');
grant select on balances to rebuild_reads;
create function apply(e evsource.event) returns void language sql as $$
    insert into balances as b (account, tenant, events) values ((e).stream, (e).data ->> 'tenant', 1)
    on conflict (account) do update set events = b.events + 1
$$;
select evsource.create_projection('balances', 'apply', tables => '{balances}');
select count(*) from generate_series(1, 5) i, lateral evsource.append('account-' || i, 'Opened',
    jsonb_build_object('tenant', case i when 1 then 'rebuild_reads' else 'rebuild_builds' end));
create view access as
select c.relname, c.relrowsecurity, c.relforcerowsecurity,
    (select string_agg(format('%s:%s', coalesce(nullif(x.grantee, 0)::regrole::text, 'public'), lower(x.privilege_type)), ' ' order by x.privilege_type)
     from aclexplode(c.relacl) x where x.grantee <> c.relowner) as acl,
    (select string_agg(format('%s (%s)', a.attname, array_to_string(a.attacl, ' ')), ' ' order by a.attnum) from pg_attribute a
     where a.attrelid = c.oid and a.attacl is not null) as columns,
    (select count(*) from pg_policy p where p.polrelid = c.oid) as policies,
    (select string_agg(format('%s:%s', coalesce(nullif(x.grantee, 0)::regrole::text, 'public'), lower(x.privilege_type)), ' ' order by x.privilege_type)
     from aclexplode(n.nspacl) x where x.grantee not in (c.relowner, n.nspowner)) as schema
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'evsource_shadow_balances' and c.relkind in ('r', 'S') order by c.relname;

-- Row security of the read model is that of a version which is kept, whatever
-- the default privileges are.
alter default privileges grant all on tables to public;
alter default privileges grant all on sequences to rebuild_anybody;
alter default privileges grant usage on schemas to rebuild_anybody, public;
call evsource.rebuild_projection('balances', online => true, keep_old => true);
table access;
set role rebuild_reads;
select account from balances;
select account from evsource_shadow_balances.balances;
reset role;
set role rebuild_anybody;
select account from balances;
select account from evsource_shadow_balances.balances;
reset role;
alter default privileges revoke all on tables from public;
alter default privileges revoke all on sequences from rebuild_anybody;
alter default privileges revoke usage on schemas from rebuild_anybody, public;
grant usage on schema evsource_shadow_balances to rebuild_reads;
grant select on evsource_shadow_balances.balances to rebuild_reads;
set role rebuild_reads;
select account from evsource_shadow_balances.balances;
reset role;

-- A handler that runs as another role can do there what it can do here, as long
-- as there is something to be built.
select evsource.drop_projection('balances');
truncate balances;
grant create on schema public to rebuild_builds;
grant usage on schema evsource to rebuild_builds;
grant select, insert on balances to rebuild_builds;
grant update (events) on balances to rebuild_builds;
grant usage on sequence balances_id_seq to rebuild_builds;
create table obstacle (type text);
grant select on obstacle to rebuild_builds;
set role rebuild_builds;
create function apply_as_itself(e evsource.event) returns void language plpgsql security definer as $$
begin
    if (e).type in (select o.type from obstacle o) then
        raise exception 'stopped at %', (e).type;
    end if;
    insert into balances as b (account, tenant, events) values ((e).stream, (e).data ->> 'tenant', 1)
    on conflict (account) do update set events = b.events + 1;
end
$$;
reset role;
create role rebuild_admin in role rebuild_builds;
select evsource.grant_access('rebuild_admin', 'admin');
alter table balances owner to rebuild_admin;
set role rebuild_admin;
select evsource.create_projection('balances', 'apply_as_itself', tables => '{balances}', start => 'now');
reset role;
select count(*) from generate_series(1, 110) i, lateral evsource.append('account-' || (10 + i % 3), 'Paid', '{"tenant": "rebuild_builds"}');
select version from evsource.append('account-10', 'Closed', '{"tenant": "rebuild_builds"}');
insert into obstacle values ('Closed');
set role rebuild_admin;
call evsource.rebuild_projection('balances', online => true, keep_old => true);
reset role;
table access;
truncate obstacle;
set role rebuild_admin;
call evsource.rebuild_projection('balances', online => true, keep_old => true);
select account, events from balances order by account;
select account, events from evsource_shadow_balances.balances order by account;
reset role;
set role rebuild_builds;
select account from evsource_shadow_balances.balances;
reset role;

-- It is not what is in the way when all that the owner has is dropped.
drop owned by rebuild_admin;
select evsource.drop_projection('balances');
drop owned by rebuild_admin;
select count(*) from pg_namespace where nspname like 'evsource_shadow%';
select count(*) from evsource.rebuilds;
select count(*) from pg_class where relname = 'balances';

\c :home
drop database evsource_rebuild_rights;
drop role rebuild_admin, rebuild_reads, rebuild_builds, rebuild_anybody;
