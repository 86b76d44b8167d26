-- hostile_path: a search_path that leads elsewhere changes nothing that evsource says or does.
-- Somebody has put something of their own before every function, operator and type
-- of PostgreSQL's, and before the tables of evsource; a superuser calls.

\set home :DBNAME
\set SHOW_CONTEXT never
set client_min_messages = warning;
drop database if exists evsource_hostile_path;
create database evsource_hostile_path;
\c evsource_hostile_path
set client_min_messages = warning;
create extension evsource;
set timezone = 'UTC';

create schema evil;
create sequence evil.sprung;

-- What is called, from anywhere: it is counted, and counts even where the error is caught.
do $$
declare
    f record;
    made int := 0;
begin
    for f in
        select p.proname, p.oid, pg_get_function_identity_arguments(p.oid) as arguments,
            case when p.proretset then 'setof ' else '' end || format_type(p.prorettype, null) as result
        from pg_proc p
        where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind <> 'p'
            and p.prorettype not in ('internal'::regtype, 'trigger'::regtype, 'event_trigger'::regtype)
            and not p.proargtypes::oid[] && array['internal'::regtype, 'cstring'::regtype, '"any"'::regtype]::oid[]
            and p.proargmodes is null
    loop
        begin
            execute format($f$create function evil.%I(%s) returns %s language plpgsql set search_path = pg_catalog as
                $b$begin perform nextval('evil.sprung'); raise exception '%% of evil was called', %L; end$b$ $f$,
                f.proname, regexp_replace(f.arguments, ' ORDER BY ', ', '), f.result, f.proname);
            made := made + 1;
        exception when others then
            null;  -- types that nobody may return
        end;
    end loop;
    if made < 2000 then
        raise exception 'only % functions were made', made;
    end if;
end $$;

do $$
declare
    o record;
begin
    for o in
        select p.oprname, p.oprleft, p.oprright, p.oprcode, f.proname
        from pg_operator p join pg_proc f on f.oid = p.oprcode
        where p.oprnamespace = 'pg_catalog'::regnamespace and p.oprright <> 0
            and to_regprocedure(format('evil.%I(%s)', f.proname, concat_ws(',', nullif(p.oprleft, 0)::regtype, nullif(p.oprright, 0)::regtype))) is not null
    loop
        execute format('create operator evil.%s (%s rightarg = %s, function = evil.%I)', o.oprname,
            'leftarg = ' || nullif(o.oprleft, 0)::regtype || ',', o.oprright::regtype, o.proname);
    end loop;
    if (select count(*) < 600 from pg_operator where oprnamespace = 'evil'::regnamespace) then
        raise exception 'only a few operators were made';
    end if;
end $$;

-- No value is one of these types.
do $$
declare
    t record;
begin
    for t in
        select typname from pg_type
        where typnamespace = 'pg_catalog'::regnamespace and typtype = 'b' and typcategory <> 'A'
            and typname !~ '^(pg_|_)|char$'
    loop
        execute format('create domain evil.%I as pg_catalog.text check (null::pg_catalog.text operator(pg_catalog.=) value or false)', t.typname);
    end loop;
end $$;

-- Relations that hold nothing, under the names of those that matter.
do $$
declare
    r record;
begin
    for r in
        select distinct relname from pg_class
        where relnamespace in ('evsource'::regnamespace, 'pg_catalog'::regnamespace) and relkind in ('r', 'v') and relname !~ '^_'
    loop
        execute format('create table evil.%I ()', r.relname);
        if r.relname ~ '^(events|streams|snapshots|projections|pg_class|pg_type|pg_proc|pg_locks)$' then
            execute format('create temporary table %I ()', r.relname);
        end if;
    end loop;
end $$;

-- What the tables are for.
create table public.totals (stream pg_catalog.text primary key, total pg_catalog.int8);
create function public.count_one(e evsource.event) returns void language plpgsql as $$
begin
    insert into totals values (e.stream, 1) on conflict (stream) do update set total = totals.total + 1;
end $$;
create function public.decide(state jsonb, command jsonb) returns evsource.new_event[] language sql
    set search_path = pg_catalog, pg_temp as $$ select array[evsource.new_event('Decided', command)] $$;
select evsource.create_projection('totals', 'count_one', tables => '{totals}');
create function public.kind(e evsource.event) returns pg_catalog.text language sql set search_path = pg_catalog, pg_temp as $$ select e.data ->> 'kind' $$;
create function public.keep() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$ begin return new; end $$;
create table public.pets (id pg_catalog.int8 primary key, name pg_catalog.text);

set search_path = evil, pg_catalog;

-- Is it in the way?
select 1 + 1;
select pg_catalog.setval('evil.sprung', 1, false);

--
-- Projections of every kind
--

select evsource.create_projection('merged', 'evsource.fold_merge', snapshot_every => 2);
select evsource.create_projection('counted', 'evsource.fold_count', mode => 'async', key => 'global');
select evsource.create_projection('summed', 'evsource.fold_sum', mode => 'async', key => 'public.kind', path => '{total}');
select evsource.create_subscription('mail', partitions => 2);
select evsource.create_decider('decider', 'public.decide', 'merged');
select evsource.define_event_type('Placed', 1);
select evsource.capture_table('public.pets');

--
-- Appends
--

select a.version, a."position" from evsource.append('order-1', 'Placed', '{"kind": "a", "total": 4}') a;
select a.version, a.stored from evsource.append('order-1', 'Paid', id => '6a6f0000-0000-4000-8000-000000000001') a;
select a.version, a.stored from evsource.append('order-1', 'Paid', id => '6a6f0000-0000-4000-8000-000000000001') a;
select a.first_version, a.version from evsource.append_batch('order-2', '{Placed,Paid}', '{"{\"kind\": \"b\", \"total\": 5}","{}"}', expected_version => 0) a;
select a.first_version, a.version from evsource.append_json('order-2', '[{"type": "Sent", "data": {"kind": "b"}}]') a;
select a.version from evsource.append('order-2', 'Late', expected_version => 1) a;
insert into evsource.events (stream, type, data) values ('order-3', 'Placed', '{"kind": "a"}'), ('order-3', 'Paid', '{}');
copy evsource.events (stream, type) from stdin;
order-4	Placed
\.
select c.version, c.stored from evsource.execute_command('decider', 'order-4', '{"total": 7}') c;
insert into public.pets values (1, 'Rex');

-- Where the table has a trigger of somebody's, the executor stores.
create trigger keep before insert on evsource.events for each row execute function public.keep();
select a.first_version, a.version from evsource.append_batch('order-5', '{Placed,Paid}', '{"{}","{}"}', schema_versions => '{1,1}') a;
select a.version from evsource.append('order-5', 'Sent', expected_version => 2) a;
drop trigger keep on evsource.events;

--
-- Reading
--

select r."position", r.stream, r.version, r.type, r.data, r.metadata from evsource.read_all() r;
select r.version from evsource.read_stream('order-1', backward => true) r;
select r.stream, r.version from evsource.read_category('order', types => '{Paid}') r;
select r.stream, r.version from evsource.read_all(3, 2, '{order}', '{Placed,Paid}') r;
select r.stream, r.version from evsource.read_event('6a6f0000-0000-4000-8000-000000000001') r;
select e.stream from evsource.events e where evsource.event_id(e) operator(pg_catalog.=) '6a6f0000-0000-4000-8000-000000000001';
select evsource.stream_version('order-1'), evsource.safe_position();
select s.stream, s.category, s.version, s.last_position from evsource.streams s order by s.stream;
select r.stream, r.version from evsource.events_raw r where r."position" operator(pg_catalog.<) 3;
select * from evsource.check_log();
select n.type, n.data from evsource.new_event('Placed') n;

-- Under row security the executor reads, and what a policy names is not ours to find.
create role regress_hostile_reader;
select evsource.grant_access('regress_hostile_reader', 'reader');
grant usage on schema evil to regress_hostile_reader;
grant usage on sequence evil.sprung to regress_hostile_reader;
create policy read on evsource.events for select using (true);
alter table evsource.events enable row level security;
set role regress_hostile_reader;
select r."position", r.stream from evsource.read_all(5, 2, '{order}', '{Paid,Placed}') r;
select r.version from evsource.read_stream('order-1', 1, 5) r;
select r.stream from evsource.read_event('6a6f0000-0000-4000-8000-000000000001') r;
select evsource.stream_version('order-1'), evsource.safe_position();
select s.stream from evsource.streams s order by s.stream;
reset role;
alter table evsource.events disable row level security;

--
-- States, snapshots, read models
--

select evsource.run_projection();
select evsource.state('merged', 'order-1'), evsource.state('counted'), evsource.state('summed', 'a');
select l.* from evsource.load_state('merged', 'order-2') l;
select l.key, l.version from evsource.load_states('merged') l order by l.key;
select evsource.state_at_version('merged', 'order-1', 1), evsource.state_at_time('merged', 'order-1', 'infinity');
select d.* from evsource.diff_state('merged', 'order-1', 0, 1) d;
select s.projection, s.key, s.version from evsource.states s order by s.projection, s.key;
select evsource.save_snapshot('merged'), evsource.has_snapshot('merged', 'order-1');
select l.state, l.version from evsource.load_snapshot('merged', 'order-1') l;
select evsource.restore_projection('merged');
select t.* from public.totals t order by t.stream;
select evsource.event_count('totals'), evsource.wait_for('counted');
select v.relation from evsource.verify_projection('merged') v;
select v.relation from evsource.verify_projection('totals') v;
select v.relation, v.becomes from evsource.try_projection('merged', 'evsource.fold_count') v order by v.key limit 1;
select evsource.save_snapshot('totals');
select evsource.restore_projection('totals');
call evsource.rebuild_projection('totals');
call evsource.rebuild_projection('totals', online => true);
call evsource.rebuild_projection('summed', online => false);
select t.* from public.totals t order by t.stream;

--
-- Subscriptions
--

select f.stream, f.version from evsource.fetch_events('mail', 100) f order by f."position";
select evsource.seek_subscription('mail', 3);
select f.stream from evsource.fetch_events('mail', 1) f where evsource.ack(f.receipt);
select f.stream from evsource.fetch_events('mail', 1) f where evsource.nack(f.receipt, 'not now');

--
-- What there is to know
--

select v.projection, v.state, v.lag, v.event_count, v.last_error from evsource.projection_status v order by v.projection;
select v.subscription, v.last_error from evsource.subscription_status v;
select v.projection, v.snapshots from evsource.snapshot_stats v order by v.projection;
select v.projection, v.outdated, v.rejection from evsource.snapshot_status v order by v.projection;
select v.projection from evsource.snapshot_metadata v where v.key operator(pg_catalog.=) 'order-1';
select v.events, v.streams, v.last_position, v.in_flight from evsource.stats v;
select * from evsource.progress;
select * from evsource.blockers;
select * from evsource.daemon_status;
select v.table_name from evsource.captured_tables v;

--
-- Upkeep
--

select evsource.truncate_stream('order-1', 2);
select s.stream, s.version from evsource.streams s where s.category operator(pg_catalog.=) 'order' order by s.stream;
select evsource.clear_snapshots('merged');
select evsource.reset_projection('counted');
select evsource.forget_commands('infinity');
select evsource.grant_access('regress_hostile_reader', 'admin');
select evsource.revoke_access('regress_hostile_reader');
select evsource.release_table('public.pets');
select evsource.drop_event_type('Placed');
select evsource.drop_decider('decider');
select evsource.drop_subscription('mail');
select evsource.drop_projection('summed');

-- Nothing of evil was called, but by us.
select s.last_value, s.is_called from evil.sprung s;

reset search_path;
\c :home
drop database evsource_hostile_path;
drop role regress_hostile_reader;
