-- states.sql: the states of fold projections, now and in the past, and their
-- snapshots. See src/states.c and src/snapshot_admin.c.

create function evsource.state(projection text, key text default null) returns jsonb
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_state';
comment on function evsource.state(text, text) is
'Returns the current state of a key of a fold projection: its newest snapshot and the fold of the events after it. The key of a fold per stream is the stream; a global fold has none, and its state is null before its first event. Errors: P0002 when the projection takes no event of the key (see load_state), 42704 unknown projection, 42809 not a fold, 22004 and 22023 for the key, 42501.';

create function evsource.load_state(
    projection text, key text default null,
    out state jsonb, out version bigint, out "position" bigint, out event_count bigint)
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_load_state';
comment on function evsource.load_state(text, text) is
'Returns one row, consistent in itself: the current state of a key, the version of its stream (fit to be passed as expected_version), the position of the last event in the state and the number of events in it. A key without events has the state {} and zeros. Errors as state, except P0002.';

create function evsource.load_states(
    projection text, as_of timestamptz default null,
    out key text, out state jsonb, out version bigint, out "position" bigint, out event_count bigint)
    returns setof record
    language c volatile parallel unsafe rows 10000
    as 'MODULE_PATHNAME', 'evsource_load_states';
comment on function evsource.load_states(text, timestamptz) is
'Returns the current states of all keys of a fold projection, as load_state returns them, consistent with each other. With as_of, returns those that state_at_time returns, of all keys that had one, with the version of the last event in each; states that are unknown because events were truncated are left out, with a warning. The state of a stream with a parked event ends before that event. Errors as load_state.';

create function evsource.state_at_version(projection text, key text, stream_version bigint) returns jsonb
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_state_at_version';
comment on function evsource.state_at_version(text, text, bigint) is
'Returns the state of a stream after its event of this version; null when the projection takes no event up to it. Errors: P0002 when there is no such stream, 22023 for a version that it does not have or a fold that is not keyed by stream; the others as state.';

create function evsource.state_at_time(projection text, key text, as_of timestamptz) returns jsonb
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_state_at_time';
comment on function evsource.state_at_time(text, text, timestamptz) is
'Folds the events of a key that occurred before this time, in the order of the log, and returns the state. Errors as state; P0002 also when none had occurred before it, 22023 when events of that time were truncated.';

create function evsource._differences(one jsonb, other jsonb, out path text[], out before jsonb, out after jsonb)
    returns setof record
    language c immutable strict parallel safe rows 100 as 'MODULE_PATHNAME', 'evsource_differences';
comment on function evsource._differences(jsonb, jsonb) is 'Internal: what differs between two states, a row per path.';

create function evsource.diff_state(
    projection text, key text, v1 bigint, v2 bigint,
    out path text[], out before jsonb, out after jsonb)
    returns setof record
    language sql volatile parallel unsafe rows 100 set search_path = pg_catalog, pg_temp
    as $$
with states as materialized (
    select evsource.state_at_version(projection, key, v1) as before,
        evsource.state_at_version(projection, key, v2) as after
)
select d.path, d.before, d.after
from states s cross join lateral evsource._differences(coalesce(s.before, '{}'), coalesce(s.after, '{}')) d
order by d.path collate "C"
$$;
comment on function evsource.diff_state(text, text, bigint, bigint) is
'Returns what differs between the states of a stream after two of its versions: one row per path, null where there is nothing. 0 is the state before the first event. Objects are compared key by key, anything else as a whole. Errors as state_at_version.';

create view evsource.states as
    select p.projection, s.key, s.state, s.version, s.position, s.event_count
    from evsource.projections p
        cross join lateral evsource.load_states(p.projection) s
    where p.kind operator(pg_catalog.=) 'fold';
comment on view evsource.states is
'Current states of all fold projections. Requires the rights that load_states requires; a condition on projection keeps the others from being computed.';

create function evsource.save_snapshot(projection text default null, key text default null) returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_save_snapshot';
comment on function evsource.save_snapshot(text, text) is
'Saves the state of a key, of all keys of a projection, or of all projections that the caller may manage. Returns how many snapshots it wrote: one that is current is not written again, and a key without events has none. Errors: 42704, 42809, 22004, 22023, 42501.';

create function evsource.load_snapshot(projection text, key text default null)
    returns setof evsource.snapshots
    language c volatile parallel unsafe rows 1
    as 'MODULE_PATHNAME', 'evsource_load_snapshot';
comment on function evsource.load_snapshot(text, text) is
'Returns the snapshot of a key as it is saved, or no row. Errors as load_state.';

create function evsource.has_snapshot(projection text, key text default null) returns boolean
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_has_snapshot';
comment on function evsource.has_snapshot(text, text) is
'Returns whether there is a snapshot of this key. Errors as load_state.';

create function evsource.clear_snapshots(projection text default null) returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_clear_snapshots';
comment on function evsource.clear_snapshots(text) is
'Removes the snapshots of a projection, or of all folds keyed by stream that the caller may manage, and returns how many there were. The states are then computed from the events. Errors: 55000 for a fold that is not keyed by stream, whose snapshots are its states; 42704, 42809, 42501.';

create function evsource.restore_projection(projection text) returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_restore_projection';
comment on function evsource.restore_projection(text) is
'Computes all states of a projection from snapshots and the events after them, replaces snapshots that cannot be used, and saves what the policy requires. Returns the number of states. For tables: restores what was saved and applies the events after it, or replays the log if nothing can be used. Returns the number of rows. Errors: 22004, 42704, 42809, 42501, 55000 when events that it needs were truncated and no usable snapshot holds their result.';

create view evsource.snapshot_metadata as
    select projection, key, version, position, last_event_id, event_count, state_version,
        definition, saved_at, occurred_at, restores, rejections, seen_version, seen_position, coalesce(
            pg_catalog.pg_column_size(s.state),
            (select pg_catalog.sum(pg_catalog.octet_length(p.bytes)) from evsource.snapshot_parts p
             where p.projection operator(pg_catalog.=) s.projection and p.key operator(pg_catalog.=) s.key))::integer as bytes
    from evsource.snapshots s;
comment on view evsource.snapshot_metadata is 'Snapshots without their states.';

create view evsource.snapshot_stats as
    select p.projection,
        pg_catalog.count(s.key) as snapshots,
        coalesce(pg_catalog.sum(s.bytes), 0)::bigint as bytes,
        pg_catalog.max(s.saved_at) as last_saved_at,
        coalesce(pg_catalog.sum(s.restores), 0)::bigint as restores,
        coalesce(pg_catalog.sum(s.rejections), 0)::bigint as rejections
    from evsource.projections p
        left join evsource.snapshot_metadata s on s.projection operator(pg_catalog.=) p.projection
    where p.kind operator(pg_catalog.=) 'fold'
    group by p.projection;
comment on view evsource.snapshot_stats is 'Snapshots of each fold projection, counted.';

create view evsource.snapshot_status as
    select p.projection, p.state_version,
        s.snapshots, s.outdated,
        r.reason as rejection, r.message as rejection_message, r.key as rejected_key, r.rejected_at
    from evsource.projections p
        left join lateral (
            select pg_catalog.count(*) as snapshots,
                pg_catalog.count(*) filter (where c.state_version operator(pg_catalog.<>) p.state_version) as outdated
            from (
                select c.projection, c.state_version from evsource.snapshots c
                union all
                select t.projection, t.state_version from evsource.table_snapshots t) c
            where c.projection operator(pg_catalog.=) p.projection
        ) s on true
        left join evsource.snapshot_rejections r on r.projection operator(pg_catalog.=) p.projection
    where p.kind operator(pg_catalog.=) 'fold' or p.tables is not null;
comment on view evsource.snapshot_status is
'Whether the snapshots of a projection can be used. outdated counts those of another state version; one row per reason for which any was rejected since they were last cleared.';
