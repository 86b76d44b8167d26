-- states_as_of: the states of all keys at a time, of folds that are not keyed by stream.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_states_as_of;
create database evsource_states_as_of;
\c evsource_states_as_of
create extension evsource;
\set SHOW_CONTEXT never
set timezone = 'UTC';
set datestyle = iso;
set client_min_messages = warning;

-- A key function that counts its calls, and says of some events that they are in two states.
create sequence calls;
create function whose(e evsource.event) returns text[] language plpgsql as $$
begin
    perform nextval('public.calls');
    return case when (e.data ->> 'n')::int % 5 = 0 then null
        when (e.data ->> 'n')::int % 7 = 0 then array[e.data ->> 'k', 'seventh', e.data ->> 'k']
        else array[e.data ->> 'k'] end;
end $$;
create function listed(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$ select jsonb_build_object('n', coalesce(state -> 'n', '[]') || (e.data -> 'n')) $$;
select evsource.create_projection('listed', 'listed', key => 'whose', mode => 'manual', categories => '{a}');
select evsource.create_projection('counted', 'evsource.fold_count', key => 'whose', mode => 'manual', types => '{E}');
select evsource.create_projection('merged', 'evsource.fold_merge', key => 'whose', mode => 'manual', restore_from_snapshot => false);
select evsource.create_projection('all', 'listed', key => 'global', mode => 'manual', categories => '{a}');
select evsource.create_projection('summed', 'evsource.fold_sum', path => array['n'], key => 'whose', mode => 'manual');

-- Events of 40 keys; every ninth is told of late.
create function happen(first int, last int) returns bigint language sql as $$
insert into evsource.events (stream, type, data, occurred_at)
select case when i % 11 = 0 then 'b-' else 'a-' end || i % 10, case when i % 13 = 0 then 'F' else 'E' end,
    jsonb_build_object('k', 'k' || i % 40, 'n', i),
    '2024-01-01Z'::timestamptz + (i - case when i % 9 = 0 then 300 else 0 end) * interval '1 hour'
from generate_series(first, last) i;
select max(position) from evsource.events $$;
select happen(1, 700);
select evsource.run_projection(p) from unnest('{listed,counted,merged,all,summed}'::text[]) p;
-- after this only some keys have events, and some that are not applied yet
select happen(701, 740);
select evsource.run_projection(p) from unnest('{listed,counted}'::text[]) p;
select happen(741, 760);

-- The key function is called once for each event, however many keys there are.
select setval('calls', 1, false);
select count(*), sum(event_count) from evsource.load_states('listed', '2024-01-15Z');
select last_value <= 760 as once from calls;
select setval('calls', 1, false);
select count(*), sum(event_count) from evsource.load_states('counted', '2024-01-31Z');
select last_value <= 760 as once from calls;

-- Each state is what it is for who asks for that one.
create function one(projection text, key text, at timestamptz) returns jsonb language plpgsql as $$
begin
    return evsource.state_at_time(projection, key, at);
exception when no_data_found then return null;
end $$;
create function compare(projection text, at timestamptz, out keys bigint, out states bigint, out different bigint) language sql as $$
with s as materialized (select * from evsource.load_states(projection, at))
select count(*), count(s.state), count(*) filter (where s.state is distinct from one(projection, r.key, at))
from evsource.snapshots r left join s on s.key = r.key where r.projection = compare.projection $$;
select p as projection, at, c.* from unnest('{listed,counted,merged,all,summed}'::text[]) p,
    unnest('{2024-01-01Z,2024-01-03 05:00Z,2024-01-12Z,2024-01-31 09:00Z,infinity}'::timestamptz[]) at,
    lateral compare(p, at) c order by 1, 2;
select * from evsource.load_states('listed', '2024-01-01 07:00Z');
select array_agg(key) = array_agg(key order by key collate "C") as in_order from evsource.load_states('listed', '2024-01-31Z');

-- Another state version, which brings up the rows.
create function doubled(state jsonb, saved int) returns jsonb language sql immutable as
$$ select jsonb_build_object('count', (state ->> 'count')::int * 2, 'more', true) $$;
select evsource.alter_projection('counted', state_version => 2, migrate_state => 'doubled');
select at, c.* from unnest('{2024-01-12Z,2024-01-31 09:00Z,infinity}'::timestamptz[]) at, lateral compare('counted', at) c;

-- More keys than are walked at once.
create function each_key(e evsource.event) returns text language plpgsql as
$$ begin perform nextval('public.calls'); return e.data ->> 'k'; end $$;
select evsource.create_projection('each', 'evsource.fold_count', key => 'each_key', mode => 'manual', categories => '{c}', restore_from_snapshot => false);
insert into evsource.events (stream, type, data, occurred_at)
select 'c-' || i % 10, 'E', jsonb_build_object('k', i % 10100), '2024-01-01Z' from generate_series(1, 20200) i;
select evsource.run_projection('each');
select setval('calls', 1, false);
select count(*), count(distinct key), min(event_count), max(event_count), sum((state ->> 'count')::int) from evsource.load_states('each', '2024-01-02Z');
select last_value from calls;

-- States that take more memory than there may be: the log is walked again for some of them.
create function grown(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$ select jsonb_build_object('n', coalesce(state -> 'n', '[]') || (e.data -> 'n'), 'filler', coalesce(state ->> 'filler', '') || repeat(e.data ->> 'k', 4000)) $$;
select evsource.create_projection('grown', 'grown', key => 'whose', mode => 'manual', categories => '{a}');
select evsource.run_projection('grown') > 0 as applied;
create function pg_temp.differences(at timestamptz) returns table (keys bigint, bytes_are_many boolean, differ bigint) language sql as $$
select count(*), sum(octet_length(g.state::text)) > 16 * 64 * 1024, count(*) filter (where g.state -> 'n' is distinct from l.state -> 'n')
from evsource.load_states('grown', at) g full join evsource.load_states('listed', at) l on g.key = l.key $$;
select max(occurred_at) as latest from evsource.events \gset
set work_mem = '64kB';
select * from pg_temp.differences('2024-01-20Z');
select * from pg_temp.differences(:'latest');
reset work_mem;

\c :home
drop database evsource_states_as_of;
