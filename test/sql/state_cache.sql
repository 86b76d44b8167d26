-- What a session keeps of the states that it has computed: the last ones, and none
-- that would leave no room for others.

-- a session forgets all when this table is analyzed
alter table evsource.projections set (autovacuum_enabled = off);
select evsource.create_projection('cached', 'evsource.fold_merge', categories => '{cached}', snapshots => 'disabled');
select version from evsource.append_batch('cached-1', '{T,T}', array['{"a": 1}', '{"b": 2}']::jsonb[]);
select count(evsource.append('cached-large', 'T', jsonb_build_object('a', repeat('x', 80000))));
select count(evsource.append('cached-middle', 'T', jsonb_build_object('a', repeat('x', 20000))));
\c
set evsource.state_cache_size = 100;
select evsource.state('cached', 'cached-1');
set client_min_messages = debug1;
select evsource.state('cached', 'cached-1');

-- one that is large is not kept
select length(evsource.state('cached', 'cached-large')::text);
select length(evsource.state('cached', 'cached-large')::text);
select evsource.state('cached', 'cached-1');
-- one that is not so large is kept, too
select length(evsource.state('cached', 'cached-middle')::text);
select length(evsource.state('cached', 'cached-middle')::text);
select evsource.state('cached', 'cached-1');
-- what was kept and has grown goes
set client_min_messages = notice;
select version from evsource.append('cached-middle', 'T', jsonb_build_object('b', repeat('x', 60000)));
set client_min_messages = debug1;
select length(evsource.state('cached', 'cached-middle')::text);
select evsource.state('cached', 'cached-1');

-- streams that do not exist take no room
set client_min_messages = notice;
select count(*) from generate_series(1, 2000) i, lateral evsource.load_state('cached', 'cached-none-' || i) l where l.event_count = 0;
set client_min_messages = debug1;
select evsource.state('cached', 'cached-1');
set client_min_messages = notice;

-- What it takes stays within the setting, whatever sizes the states have had.
select evsource.create_projection('sized', 'evsource.fold_merge', categories => '{sized}', snapshots => 'disabled');
insert into evsource.events (stream, type, data)
select 'sized-' || size || '-' || i, 'T', jsonb_build_object('a', repeat('x', size))
from unnest('{30,200,450,900,1900,3800,7500}'::int[]) size, generate_series(1, 500 * 1000 / (size + 300)) i;
\c
set evsource.state_cache_size = 500;
create function cache_size() returns bigint language plpgsql as $$
declare bytes bigint := 0;
begin
    -- PostgreSQL 13 does not tell
    if to_regclass('pg_backend_memory_contexts') is not null then
        execute 'select total_bytes from pg_backend_memory_contexts where name = $1' using 'evsource states' into bytes;
    end if;
    return bytes;
end $$;
create function load(size int) returns bigint language sql as
$$ select count(evsource.state('sized', 'sized-' || size || '-' || i)) from generate_series(1, 500 * 1000 / (size + 300)) i $$;
select size, load(size) > 0 as loaded, cache_size() / 1000.0 < 1.1 * 500 as within
from unnest('{30,200,450,900,1900,3800,7500,30,200,450}'::int[]) with ordinality s (size, n) order by n;
select evsource.drop_projection('sized');
drop function load, cache_size;

select evsource.drop_projection('cached');
alter table evsource.projections reset (autovacuum_enabled);
