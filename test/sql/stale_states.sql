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

-- A filter, or a key, that is changed and changed back: what was passed over meanwhile
-- is in no row, and there may be keys without one. Only the log has it all.
create function stale_merge_look(projection text) returns table (stale bool, now text, k1 jsonb, k2 jsonb) language sql as
$$
    select l.stale, l.now, evsource.state_at_time($1, 'k1', 'infinity'), evsource.state_at_time($1, 'k2', 'infinity')
    from stale_look($1) l
$$;
select evsource.create_projection('stale_back_' || i, 'evsource.fold_merge', categories => '{back}', key => 'stale_key', mode => 'async', types => '{BackX}') from generate_series(1, 3) i;
select version from evsource.append('back-1', 'BackX', '{"k": "k1", "a": 1}');
select evsource.run_projection('stale_back_' || i) from generate_series(1, 3) i;
select evsource.alter_projection('stale_back_' || i, types => '{BackY}') from generate_series(1, 2) i;
select evsource.alter_projection('stale_back_3', key => 'stale_none');
select version from evsource.append_batch('back-1', '{BackX,BackX}', array['{"k": "k1", "b": 2}', '{"k": "k2", "b": 2}']::jsonb[]);
select evsource.run_projection('stale_back_' || i) from generate_series(1, 3) i;
select evsource.alter_projection('stale_back_1', types => '{BackX}');
select evsource.alter_projection('stale_back_2', types => '{BackX}', state_version => 2);
select evsource.alter_projection('stale_back_3', key => 'stale_key');
select version from evsource.append('back-1', 'BackX', '{"k": "k1", "c": 3}');
select evsource.run_projection('stale_back_' || i) from generate_series(1, 3) i;
select p, s.* from unnest('{stale_back_1,stale_back_2,stale_back_3}'::text[]) p, stale_merge_look(p) s;
-- nor does it help to save
select evsource.save_snapshot('stale_back_1') > 0 as saved, evsource.restore_projection('stale_back_2') as states;
call evsource.rebuild_projection('stale_back_1', from_snapshot => true);
call evsource.rebuild_projection('stale_back_2', from_snapshot => true);
call evsource.rebuild_projection('stale_back_3', from_snapshot => true);
select p, s.* from unnest('{stale_back_1,stale_back_2,stale_back_3}'::text[]) p, stale_merge_look(p) s;
-- after that they are as good as any
call evsource.rebuild_projection('stale_back_1', from_snapshot => true);

\c :home
drop database evsource_stale_states;
