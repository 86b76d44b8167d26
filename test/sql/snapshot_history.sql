-- snapshot_history: states of the past from the nearest snapshot, and what is told of those that cannot be used.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_snapshot_history;
create database evsource_snapshot_history;
\c evsource_snapshot_history
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- A fold that tells how often it was called: what a snapshot spares can be counted.
create sequence calls;
create function fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    perform nextval('public.calls');
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1, 'last', e.version);
end $$;
create function calls(statement text, out result jsonb, out calls bigint) language plpgsql as $$
begin
    perform setval('calls', 1, false);
    execute statement into result;
    select case when is_called then last_value else 0 end into calls from calls;
end $$;
create function add(stream text, n int, at timestamptz default '2024-01-01') returns bigint language sql as
$$select max(a.version) from generate_series(1, n) i, lateral evsource.append(stream, 'Added', occurred_at => at + i * interval '1 hour') a$$;

-- As many as keep_snapshots says are there, the newest apart.
select evsource.create_projection('kept', 'fold', snapshot_every => 10, keep_snapshots => 4);
select add('s-1', 95);
select version, event_count, state from evsource.snapshot_history order by version;
select version from evsource.snapshots;
-- a batch brings one
select version from evsource.append_batch('s-1', array_fill('Added'::text, '{40}'), array_fill('{}'::jsonb, '{40}'));
select version from evsource.snapshot_history order by version;
select version from evsource.snapshots;
-- saving again what is saved keeps nothing more
select evsource.save_snapshot('kept'), evsource.save_snapshot('kept');
select version from evsource.snapshot_history order by version;

-- A state of the past takes the events after the nearest one before it.
\c
set client_min_messages = warning;
\set VERBOSITY terse
select v, c.* from unnest(array[135, 134, 95, 90, 89, 80, 79, 1]) v,
    lateral calls(format('select evsource.state_at_version(''kept'', ''s-1'', %s)', v)) c;
-- By time it takes one all of whose events had occurred. (The first 95 events
-- are an hour apart, the others of today.)
select h, c.* from unnest(array[200, 96, 95, 94, 91, 90, 89, 2]) h,
    lateral calls(format('select evsource.state_at_time(''kept'', ''s-1'', %L)', '2024-01-01'::timestamptz + h * interval '1 hour')) c;
select * from calls('select evsource.state_at_time(''kept'', ''s-1'', now() + interval ''1 day'')');
-- an event of long ago, told late, is in no snapshot before it
select version from evsource.append('s-1', 'Added', occurred_at => '2023-01-01');
select calls.result from calls('select evsource.state_at_time(''kept'', ''s-1'', ''2023-06-01'')');
select add('s-1', 10, '2022-01-01');
select result -> 'n' as n from calls('select evsource.state_at_time(''kept'', ''s-1'', ''2023-06-01'')');
select count(*) filter (where occurred_at < '2023-06-01') from evsource.read_stream('s-1');
-- all the ways give what a replay gives
select evsource.create_projection('replayed', 'fold', snapshots => 'disabled');
select count(*) from generate_series(1, 146) v
where evsource.state_at_version('kept', 's-1', v) is distinct from evsource.state_at_version('replayed', 's-1', v);
select count(*) from (select occurred_at from evsource.read_stream('s-1') order by 1 offset 1) e
where evsource.state_at_time('kept', 's-1', e.occurred_at) is distinct from evsource.state_at_time('replayed', 's-1', e.occurred_at);

-- Fewer are kept from now on; one, and there is no history.
select evsource.alter_projection('kept', keep_snapshots => 2);
select count(*) from evsource.snapshot_history;
select evsource.alter_projection('kept', keep_snapshots => 1);
select count(*) from evsource.snapshot_history;
select add('s-1', 30);
select count(*) from evsource.snapshot_history;
-- cleared with the others
select evsource.alter_projection('kept', keep_snapshots => 3);
select add('s-1', 30);
select count(*) from evsource.snapshot_history;
select evsource.clear_snapshots('kept');
select count(*) from evsource.snapshot_history;
-- a reader's question saves by the way, and keeps, too
select evsource.alter_projection('kept', snapshot_after_batch => false);
select evsource.state('kept', 's-1') ->> 'n';
select add('s-1', 15);
select evsource.state('kept', 's-1') ->> 'n';
select (select version from evsource.snapshot_history), (select version from evsource.snapshots where projection = 'kept');
select evsource.drop_projection('kept');
select count(*) from evsource.snapshot_history;

-- A fold of other keys starts from the row of its key, if all in it had occurred.
create function kind(e evsource.event) returns text language sql immutable as $$select (e).type$$;
select evsource.create_projection('by_type', 'fold', key => 'kind', mode => 'async');
select evsource.run_projection('by_type') > 0 as applied;
select add('k-1', 3, '2030-01-01');
select result -> 'n' as n, calls from calls('select evsource.state_at_time(''by_type'', ''Added'', ''2029-01-01'')');
select result -> 'n' as n, calls from calls('select evsource.state_at_time(''by_type'', ''Added'', ''2031-01-01'')');
select result -> 'n' as n, calls < 250 as fewer from calls('select evsource.state_at_time(''by_type'', ''Added'', ''2023-06-01'')');
select evsource.drop_projection('by_type');
select evsource.drop_projection('replayed');

-- What is the same is not written again: a large state stays where it is.
create function note(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select case when e.type = 'Set' then state || e.data else state end$$;
select evsource.create_projection('large', 'note', categories => '{l}', snapshot_every => 1);
select version from evsource.append('l-1', 'Set', (select jsonb_object_agg('k' || i, md5(i::text)) from generate_series(1, 1000) i));
select reltoastrelid::regclass as toast from pg_class where oid = 'evsource.snapshots'::regclass \gset
create temp table before as select chunk_id from :toast;
select count(*) from generate_series(1, 5) i, lateral evsource.append('l-1', 'Seen', to_jsonb(i));
select (select count(distinct chunk_id) from :toast) as values, (select array_agg(distinct chunk_id) from :toast) = (select array_agg(distinct chunk_id) from before) as the_same;
select version, event_count from evsource.snapshots where key = 'l-1';
select version from evsource.append('l-1', 'Set', '{"k1": 1}');
select (select array_agg(distinct chunk_id) from :toast) = (select array_agg(distinct chunk_id) from before) as the_same;
-- the same is byte for byte: 1 and 1.0 are not
select version from evsource.append('l-1', 'Set', '{"k1": 1.0}');
select state ->> 'k1' as k1, evsource.state('large', 'l-1') ->> 'k1' as state from evsource.snapshots where key = 'l-1';
select evsource._same_state('{"a": 1}', '{"a": 1}'), evsource._same_state('{"a": 1}', '{"a": 1.0}'), evsource._same_state('{"a": 1}', '{"a": 2}');
select evsource.drop_projection('large');

-- What is rejected is told once, with the reason, and logged once: not in every
-- session, and not at every load.
select evsource.create_projection('told', 'fold', categories => '{t}', snapshot_every => 5, snapshot_after_batch => false);
select add('t-1', 9), add('t-2', 9), add('t-3', 9), evsource.save_snapshot('told');
select projection, state_version, snapshots, outdated, rejection, rejected_key from evsource.snapshot_status where projection = 'told';
select evsource.alter_projection('told', state_version => 2, snapshot_every => 1000);
select outdated, rejection from evsource.snapshot_status where projection = 'told';
\set VERBOSITY default
set client_min_messages = log;
select evsource.state('told', 't-1');
select evsource.state('told', 't-1'), evsource.state('told', 't-2');
\c
\set SHOW_CONTEXT never
set client_min_messages = log;
select evsource.state('told', 't-3');
set client_min_messages = debug1;
select evsource.state('told', 't-3');
set client_min_messages = warning;
\set VERBOSITY terse
select snapshots, outdated, rejection, rejected_key, rejected_at <= now() as noted from evsource.snapshot_status where projection = 'told';
-- another reason is another row
update evsource.snapshots set version = 8 where key = 't-2';
select evsource.alter_projection('told', state_version => 1);
select evsource.state('told', 't-2');
select outdated, rejection, rejected_key from evsource.snapshot_status where projection = 'told' order by rejected_at;
-- where nothing can be written it is logged once a session
select evsource.clear_snapshots('told');
select evsource.alter_projection('told', handler => 'evsource.fold_count');
select evsource.save_snapshot('told');
select evsource.alter_projection('told', state_version => 3);
\c
\set VERBOSITY terse
set client_min_messages = log;
begin read only;
select evsource.state('told', 't-1');
select evsource.state('told', 't-2');
commit;
set client_min_messages = warning;
select rejection from evsource.snapshot_status where projection = 'told';
-- what was cleared and is met once more is told once more, by a session that has told it, too
set evsource.state_cache_size = 0;
select evsource.state('told', 't-3');
select evsource.state('told', 't-2');
select rejection, rejected_key from evsource.snapshot_status where projection = 'told';
select evsource.clear_snapshots('told');
select evsource.save_snapshot('told');
update evsource.snapshots set state_version = 1 where projection = 'told';
select evsource.state('told', 't-2');
select rejection, rejected_key from evsource.snapshot_status where projection = 'told';
reset evsource.state_cache_size;
-- what was restored was a full replay
select evsource.restore_projection('told');
select outdated from evsource.snapshot_status where projection = 'told';
select evsource.drop_projection('told');
select count(*) from evsource.snapshot_rejections;

-- However many are kept, one that is saved costs about as many rows as there are, not their square.
\c
set client_min_messages = warning;
create view rows_read as select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows
from pg_stat_xact_all_tables where relid = 'evsource.snapshot_history'::regclass;
select evsource.create_projection('many', 'evsource.fold_merge', categories => '{m}', snapshot_every => 1, keep_snapshots => 200);
select add('m-1', 300);
select count(*) from evsource.snapshot_history where projection = 'many';
begin;
select rows as before from rows_read \gset
select version from evsource.append('m-1', 'Added');
select version from evsource.append('m-1', 'Added');
select rows - :before < 2500 as few from rows_read;
rollback;
begin;
select rows as before from rows_read \gset
select evsource.alter_projection('many', keep_snapshots => 190);
select rows - :before < 2500 as few from rows_read;
commit;
select count(*), max(version) from evsource.snapshot_history where projection = 'many';

\c :home
drop database evsource_snapshot_history;
