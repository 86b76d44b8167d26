-- register.sql: create, change and replay projections.

create function evsource.create_projection(
    projection text,
    handler text default null,
    query text default null,
    mode text default 'inline',
    categories text[] default null,
    types text[] default null,
    key text default 'stream',
    start text default 'beginning',
    start_after bigint default null,
    state_version integer default 1,
    tables text[] default null,
    on_reset text default null,
    on_error text default 'stop',
    if_exists text default 'error',
    concurrently boolean default false,
    snapshots text default 'default',
    snapshot_every integer default null,
    snapshot_after_batch boolean default null,
    restore_from_snapshot boolean default null,
    is_compatible text default null,
    migrate_state text default null,
    notify boolean default null,
    keep_snapshots integer default null,
    path text[] default null,
    partitions integer default null)
    returns text
    language c
    as 'MODULE_PATHNAME', 'evsource_create_projection';
comment on function evsource.create_projection(text, text, text, text, text[], text[], text, text, bigint, integer, text[], text, text, text, boolean, text, integer, boolean, boolean, text, text, boolean, integer, text[], integer) is
'Registers a projection; an inline one is applied to the log first, and then by every append. Returns its name. Errors: 42710 when the name is taken, 42939 when it is reserved; 22004, 22023, 42601, 42883, 42P13, 42725 and 42P01 for bad parameters; 42501; 25000 under REPEATABLE READ when there is history to apply; what the handler raises.';

create function evsource.alter_projection(
    projection text,
    handler text default null,
    query text default null,
    mode text default null,
    categories text[] default null,
    types text[] default null,
    key text default null,
    state_version integer default null,
    tables text[] default null,
    on_reset text default null,
    on_error text default null,
    owner text default null,
    snapshots text default null,
    snapshot_every integer default null,
    snapshot_after_batch boolean default null,
    restore_from_snapshot boolean default null,
    is_compatible text default null,
    migrate_state text default null,
    notify boolean default null,
    defaults text[] default null,
    concurrently boolean default false,
    keep_snapshots integer default null,
    path text[] default null,
    partitions integer default null)
    returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_alter_projection';
comment on function evsource.alter_projection(text, text, text, text, text[], text[], text, integer, text[], text, text, text, text, integer, boolean, boolean, text, text, boolean, text[], boolean, integer, text[], integer) is
'Changes the parameters that are given; those named in defaults are set back to their defaults. Errors: 42704 unknown projection, 55P03 when others are in the way, 25000 when partitions change under REPEATABLE READ; else as create_projection.';

create function evsource.reset_projection(projection text) returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_reset_projection';
comment on function evsource.reset_projection(text) is
'Empties the read model and sets the projection back to its start. Errors: 42704, 42501, 55000 when nothing of it can be emptied, 55P03 when others are in the way.';

create function evsource.pause_projection(projection text) returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_pause_projection';
comment on function evsource.pause_projection(text) is
'Stops applying events to the projection; nothing is lost, see resume_projection. Errors: 42704, 42501, 55P03 when others are in the way.';

create function evsource.resume_projection(projection text, concurrently boolean default false)
    returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_resume_projection';
comment on function evsource.resume_projection(text, boolean) is
'Applies what a paused projection has missed, and continues. Errors: 42704, 42501, 55P03 when others are in the way, 25000 under REPEATABLE READ; what the handler raises.';

create function evsource.drop_projection(
    projection text,
    if_exists boolean default false,
    force boolean default false)
    returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_drop_projection';
comment on function evsource.drop_projection(text, boolean, boolean) is
'Removes the projection and its snapshots; its tables stay. Refused, unless with force, when it has states that stand for truncated events or a decider uses it. Errors: 42704 unless if_exists, 42501, 55P03 when others are in the way; without force 55000 and 2BP01.';

create function evsource.run_projection(
    projection text default null,
    max_batches integer default null,
    include_own boolean default false,
    up_to bigint default null)
    returns bigint
    language c
    as 'MODULE_PATHNAME', 'evsource_run_projection';
comment on function evsource.run_projection(text, integer, boolean, bigint) is
'Applies the log, all of it or up to a position, to an async or manual projection, or to all async ones. Returns how many events it applied. Errors: 42704, 42501, 55000 when it is inline, not active or past the position, 25000 under REPEATABLE READ, 22004, 22023. An error of the handler is a warning, and recorded.';

create function evsource.event_count(projection text) returns bigint
    language c
    as 'MODULE_PATHNAME', 'evsource_event_count';
comment on function evsource.event_count(text) is
'Returns how many events the projection has applied.';

create procedure evsource.activate_projection(
    projection text,
    lock_timeout interval default '2s')
    language c
    as 'MODULE_PATHNAME', 'evsource_activate_projection';
comment on procedure evsource.activate_projection(text, interval) is
'Completes a projection that is catching up, in transactions of its own, and makes it active. Errors: 42704, 42501, 55000 in another state, 55P03 when appends never leave a moment; what the handler raises.';

-- What a projection uses must not be dropped under it: src/guard_used.c.
create function evsource._guard_drops() returns event_trigger
    language c as 'MODULE_PATHNAME', 'evsource_guard_drops';
comment on function evsource._guard_drops() is
'Internal: refuses to drop a function or table that a projection, an event type or a decider uses.';
create event trigger evsource_guard_drops on sql_drop
    execute function evsource._guard_drops();
alter event trigger evsource_guard_drops enable always;
comment on event trigger evsource_guard_drops is 'Refuses to drop a function or table that a projection, an event type or a decider uses.';
