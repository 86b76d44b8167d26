-- What is applied to a fold that is stale makes states of two definitions: none of
-- them is taken for one of the new definition, neither by a rebuild that starts
-- from snapshots nor by a state of the past.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_stale_states;
create database evsource_stale_states;
\c evsource_stale_states
create extension evsource;

create function stale_one(s jsonb, e evsource.event) returns jsonb language sql immutable as
    $$ select jsonb_build_object('one', coalesce((s ->> 'one')::int, 0) + 1) || (s - 'one') $$;
create function stale_two(s jsonb, e evsource.event) returns jsonb language sql immutable as
    $$ select jsonb_build_object('two', coalesce((s ->> 'two')::int, 0) + 1) || (s - 'two') $$;
create function stale_key(e evsource.event) returns text language sql immutable as $$ select (e).data ->> 'k' $$;
create function stale_up(d jsonb) returns jsonb language sql immutable as $$ select d || '{"k": "up"}' $$;
create function stale_none(e evsource.event) returns text language sql immutable as $$ select null::text $$;
create function stale_yes(saved int, now int) returns bool language sql immutable as $$ select true $$;
create function stale_add(n int) returns bigint language sql as
    $$ select max(a.version) from generate_series(1, n) i, lateral evsource.append('stale-1', 'StaleT', jsonb_build_object('k', 'k' || i), occurred_at => '2024-01-01') a $$;
create function stale_look(projection text) returns table (stale bool, now text, past text) language sql as
$$
    select p.stale,
        (select string_agg(key || ' ' || state, ', ' order by key) from evsource.load_states(p.projection)),
        (select string_agg(key || ' ' || state, ', ' order by key) from evsource.load_states(p.projection, '2024-01-02'))
    from evsource.projections p where p.projection = $1
$$;

select stale_add(2);
select version from evsource.append('stale-1', 'StaleOther', occurred_at => '2024-01-01');
select evsource.create_projection('stale_global', 'stale_one', categories => '{stale}', key => 'global', mode => 'async');
select evsource.create_projection('stale_keyed', 'stale_one', categories => '{stale}', key => 'stale_key', mode => 'manual');
select evsource.create_projection('stale_filter', 'stale_one', categories => '{stale}', types => '{StaleT}', key => 'global', mode => 'async');
select evsource.create_projection('stale_nokey', 'stale_one', categories => '{stale}', key => 'stale_none', mode => 'async');
select p, evsource.run_projection(p) from unnest('{stale_global,stale_keyed,stale_filter,stale_nokey}'::text[]) p;

-- another handler, filter or key: a mixture until it is rebuilt
select evsource.alter_projection('stale_global', handler => 'stale_two');
select evsource.alter_projection('stale_keyed', handler => 'stale_two');
select evsource.alter_projection('stale_filter', defaults => '{types}');
select evsource.alter_projection('stale_nokey', key => 'stale_key');
select stale_add(3);
select version from evsource.append('stale-1', 'StaleOther', occurred_at => '2024-01-01');
select p, evsource.run_projection(p) from unnest('{stale_global,stale_keyed,stale_filter,stale_nokey}'::text[]) p;
select p, s.* from unnest('{stale_global,stale_keyed,stale_filter,stale_nokey}'::text[]) p, stale_look(p) s;
-- saving changes nothing about that
select evsource.save_snapshot('stale_global');
select evsource.restore_projection('stale_keyed');
call evsource.rebuild_projection('stale_global', from_snapshot => true);
call evsource.rebuild_projection('stale_keyed', from_snapshot => true);
call evsource.rebuild_projection('stale_filter', from_snapshot => true);
call evsource.rebuild_projection('stale_nokey', from_snapshot => true);
select p, s.* from unnest('{stale_global,stale_keyed,stale_filter,stale_nokey}'::text[]) p, stale_look(p) s;

-- an upcaster
select evsource.define_event_type('StaleT', 2, upcaster => 'stale_up');
select version from evsource.append('stale-1', 'StaleT', '{"k": "new"}', occurred_at => '2024-01-01');
select p, evsource.run_projection(p) from unnest('{stale_global,stale_keyed}'::text[]) p;
select p, s.* from unnest('{stale_global,stale_keyed}'::text[]) p, stale_look(p) s;
call evsource.rebuild_projection('stale_keyed', from_snapshot => true);
select * from stale_look('stale_keyed');

-- and back again: what was applied meanwhile is of two definitions still
call evsource.rebuild_projection('stale_global');
select evsource.alter_projection('stale_global', handler => 'stale_one');
select version from evsource.append('stale-1', 'StaleT', '{"k": "new"}', occurred_at => '2024-01-01');
select evsource.run_projection('stale_global');
select evsource.alter_projection('stale_global', handler => 'stale_two');
call evsource.rebuild_projection('stale_global', from_snapshot => true);
select * from stale_look('stale_global');

-- A later state version of the same definition: its states are no mixture.
select evsource.alter_projection('stale_global', state_version => 2, is_compatible => 'stale_yes');
select version from evsource.append('stale-1', 'StaleT', '{"k": "new"}', occurred_at => '2024-01-01');
select evsource.run_projection('stale_global');
call evsource.rebuild_projection('stale_global', from_snapshot => true);
select * from stale_look('stale_global');

-- What was not applied yet is not of the old shape: neither by who has never run
-- nor by who was not that far.
select evsource.create_projection('stale_never', 'stale_one', categories => '{stale}', key => 'global', mode => 'manual');
select evsource.create_projection('stale_before', 'stale_one', categories => '{stale}', key => 'global', mode => 'async');
select evsource.create_projection('stale_parted', 'stale_one', categories => '{stale,other}', mode => 'async', partitions => 3);
select evsource.create_projection('stale_inline', 'stale_one', categories => '{stale}');
select evsource.run_projection('stale_before') > 0 as applied;
select version from evsource.append('stale-1', 'StaleLate');
select evsource.run_projection('stale_parted') > 0 as applied;
select evsource.define_event_type('StaleLate', 2, upcaster => 'stale_up');
select projection, stale from evsource.projections where projection in ('stale_never', 'stale_before', 'stale_parted', 'stale_inline') order by 1;

\c :home
drop database evsource_stale_states;
