-- read_rights: who may read, and what row security shows to whom.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_read_rights;
create database evsource_read_rights;
\c evsource_read_rights
create extension evsource;
create role regress_read_stranger;
create role regress_read_member;
create role regress_read_columns;
create role regress_read_few_columns;
create role regress_read_view;
create role regress_read_tenant;
create role regress_read_keeper bypassrls;
select evsource.grant_access('regress_read_member', 'reader');

-- The functions are not enough, and neither is the table without the functions:
-- here everybody may call them.
grant usage on schema evsource to public;
grant execute on all functions in schema evsource to public;

select from evsource.append('order-1', 'Placed', '{"tenant": "a"}');
select from evsource.append('order-2', 'Placed', '{"tenant": "b"}', id => '6a6f0000-0000-4000-8000-000000000002');
select from evsource.append('order-1', 'Paid', '{"tenant": "a"}');
select from evsource.append('order-1', 'Noted', '{"tenant": "b"}');
select from evsource.append('invoice-1', 'Sent', '{"tenant": "a"}', id => '6a6f0000-0000-4000-8000-000000000005');

-- A stranger reads nothing, by no way.
set role regress_read_stranger;
select count(*) from evsource.read_stream('order-1');
\echo :SQLSTATE
select count(*) from evsource.read_category('order');
select count(*) from evsource.read_all();
select count(*) from evsource.read_event('6a6f0000-0000-4000-8000-000000000002');
select evsource.stream_version('order-1');
select count(*) from evsource.events;
select count(*) from evsource.streams;
\echo :SQLSTATE
-- Not even that a stream does not exist, or that an argument is wrong.
select count(*) from evsource.read_stream('order-9');
select count(*) from evsource.read_all(max_count => 0);
reset role;

-- A reader by grant_access reads all.
set role regress_read_member;
select (select count(*) from evsource.read_stream('order-1')) as stream,
       (select count(*) from evsource.read_category('order')) as category,
       (select count(*) from evsource.read_all()) as log,
       (select count(*) from evsource.read_event('6a6f0000-0000-4000-8000-000000000002')) as event,
       (select count(*) from evsource.streams) as streams,
       evsource.stream_version('order-1') as version;
select from evsource.append('order-1', 'Forbidden');
reset role;

-- A right on each column is as good as one on the table; one column less is not.
grant select (position, version, recorded_at, stream, type, data, metadata, occurred_at, id, schema_version)
    on evsource.events to regress_read_columns;
grant select (position, version, recorded_at, stream, type, metadata, occurred_at, id, schema_version)
    on evsource.events to regress_read_few_columns;
set role regress_read_columns;
select count(*) from evsource.read_all();
set role regress_read_few_columns;
select count(*) from evsource.read_all();
select count(*) from evsource.events;
reset role;

-- The view of the streams shows nobody more than the table would: a right on the
-- view is needed, and one on the table.
grant select on evsource.streams to regress_read_view;
set role regress_read_view;
select count(*) from evsource.streams;
reset role;
grant select on evsource.events to regress_read_view;
revoke select on evsource.streams from regress_read_view;
set role regress_read_view;
select count(*) from evsource.streams;
reset role;
grant select on evsource.streams, evsource.truncations to regress_read_view;
set role regress_read_view;
select count(*) from evsource.streams;
reset role;

-- A function that is SECURITY DEFINER lends the rights of its owner.
create function public.orders() returns bigint language sql security definer
    set search_path = pg_catalog, pg_temp as 'select count(*) from evsource.read_category(''order'')';
set role regress_read_stranger;
select public.orders();
reset role;

--
-- Row security: policies decide what is shown
--

grant select on evsource.events, evsource.streams, evsource.truncations to regress_read_tenant, regress_read_keeper;
alter table evsource.events enable row level security;
create policy tenant on evsource.events for select to regress_read_tenant
    using (data ->> 'tenant' = current_setting('shop.tenant', true));

set role regress_read_tenant;
select count(*) from evsource.read_all();
set shop.tenant = 'a';
select position, stream, version, type, metadata from evsource.read_all();
select position, type from evsource.read_all(1, 1);
select position, type from evsource.read_category('order');
select position, type from evsource.read_all(categories => '{invoice,order}', types => '{Paid,Sent}');
select position, type from evsource.read_category('order', types => '{Placed}');
select count(*) from evsource.read_all(null, null, null, null);
select count(*) from evsource.read_all(max_count => 0);

-- A stream ends where it ends for this user; forward, backward, in part.
select version, type from evsource.read_stream('order-1');
select version, type from evsource.read_stream('order-1', backward => true, max_count => 1);
select version, type from evsource.read_stream('order-1', 2);
select version, type from evsource.read_stream('order-1', 1, backward => true);
select count(*) from evsource.read_stream('order-2');
select evsource.stream_version('order-1'), evsource.stream_version('order-2'), evsource.stream_version('order-9');
select stream, version from evsource.streams order by stream;

-- By id as well, whoever made the id.
select stream from evsource.read_event('6a6f0000-0000-4000-8000-000000000005');
select stream from evsource.read_event('6a6f0000-0000-4000-8000-000000000002');
select stream, version from evsource.read_event((select id from evsource.read_stream('order-1', 2, 1)));
select count(*) from evsource.read_stream('order-1', 2, 1) e, lateral evsource.read_event(overlay(e.id::text placing
    case substr(e.id::text, 20, 1) when '8' then '9' else '8' end from 20 for 1)::uuid) r;
select bool_and(r.id = evsource.event_id(e)) from evsource.read_all() r join evsource.events e using (position);

set shop.tenant = 'b';
select position, stream, version, type from evsource.read_all();
select evsource.stream_version('order-1');

-- Without row security it would be more: that is an error, as in a SELECT.
set row_security = off;
select count(*) from evsource.read_all();
\echo :SQLSTATE
select count(*) from evsource.read_stream('order-1');
reset row_security;

-- One snapshot for the transaction makes no difference here.
begin isolation level repeatable read;
select position, stream, version, type from evsource.read_all();
select version from evsource.read_stream('order-1');
select evsource.stream_version('order-1');
commit;
begin isolation level serializable read only;
select position, stream, version, type from evsource.read_category('order');
commit;
reset role;

-- No policy applies to others: none to whom nothing is shown, all to those who
-- stand above policies.
set role regress_read_member;
select count(*) from evsource.read_all();
set role regress_read_keeper;
select count(*) from evsource.read_all();
reset role;
select count(*) from evsource.read_all();

-- A page is read by SPI in more than one piece, with gaps, and in order.
select from evsource.append_batch('bulk-1', array_fill('Ticked'::text, array[5000]),
    array(select jsonb_build_object('tenant', case when i % 2 = 0 then 'a' else 'b' end) from generate_series(1, 5000) i));
set role regress_read_tenant;
set shop.tenant = 'a';
select count(*), min(version), max(version), bool_and(ascends) as in_order
    from (select version, position > lag(position, 1, 0::bigint) over (order by ordinality) as ascends
          from evsource.read_category('bulk', 0, null) with ordinality) r;
select count(*), min(version), max(version) from evsource.read_stream('bulk-1', 3, 1500, false);
select count(*), min(version), max(version) from evsource.read_stream('bulk-1', 3000, 1200, true);
reset role;

\c :home
drop database evsource_read_rights;
drop role regress_read_stranger, regress_read_member, regress_read_columns, regress_read_few_columns,
    regress_read_view, regress_read_tenant, regress_read_keeper;
