-- projections.sql: registered projections and how far they are.

create table evsource.projections (
    projection            text collate "C" primary key,
    kind                  text not null,     -- 'event' | 'batch' | 'query' | 'fold'
    mode                  text not null,     -- 'inline' | 'async' | 'manual'
    state                 text not null,     -- 'active' | 'catching_up' | 'paused' | 'failed' | 'rebuilding'
    handler               text,              -- qualified signature
    query                 text,
    categories            text[],
    types                 text[],
    key                   text not null,     -- 'stream' | 'global' | qualified signature
    start_after           bigint not null,
    state_version         integer not null,
    tables                text[],            -- qualified names
    on_reset              text,              -- qualified signature
    on_error              text not null,     -- 'stop' | 'dead_letter'
    owner                 text not null,     -- role name
    search_path           text not null,     -- what its functions run with
    snapshot_every        integer not null,  -- 0 = never
    snapshot_after_batch  boolean not null,
    restore_from_snapshot boolean not null,
    is_compatible         text,              -- qualified signature
    migrate_state         text,              -- qualified signature
    notify                boolean not null,
    stale                 boolean not null default false,
    partitions            integer not null default 1,   -- async: shared by so many workers
    keep_snapshots        integer not null,  -- versions of each snapshot
    path                  text[],            -- what a fold with a path is passed
    replay_until          bigint not null default 0,   -- applied up to here, events are history
    vouched               bigint not null default 0,   -- for which definition is_compatible and migrate_state speak
    lapses                integer not null default 0,   -- how often the log has changed behind it
    created_at            timestamptz not null default pg_catalog.now()
);
comment on table evsource.projections is 'Registered projections. Roles, functions and tables are stored by name, to survive dump, restore and pg_upgrade.';

-- Every session keeps the list of inline projections.
create trigger projections_changed
    after insert or update or delete or truncate on evsource.projections
    for each statement execute function evsource._changed();
alter table evsource.projections enable always trigger projections_changed;

-- One that is registered is as old as the transaction that writes it. An older one is
-- restored: that makes the database a copy, in which the daemon waits, before the dump
-- comes to evsource.store.
create function evsource._restored() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
    as $$
begin
    update evsource.store set database = 0 where database <> 0;
    return null;
end
$$;
comment on function evsource._restored() is 'Internal: notes that a dump is being restored.';
create trigger projection_restored
    after insert on evsource.projections
    for each row when (new.created_at <> pg_catalog.now()) execute function evsource._restored();
alter table evsource.projections enable always trigger projection_restored;

-- A row a projection, apart from the definition: writing it disturbs no cache.
-- An async projection has applied the log up to position. An inline one is up
-- to date by construction: event_count counts up to position, what came later
-- is counted on demand.
create table evsource.checkpoints (
    projection  text collate "C" primary key,
    position    bigint not null,
    event_count bigint not null,
    updated_at  timestamptz not null default pg_catalog.now(),
    started_at  timestamptz,             -- of the rebuild or catching up under way
    total       bigint,                  -- events it had to apply when it started
    resumed_at    timestamptz,           -- when the session began that works on it
    resumed_count bigint,                -- and event_count then
    conflicts     bigint not null default 0,   -- batches tried again: deadlocks and the like
    from_snapshot boolean not null default false,   -- what the rebuild under way builds on was in a snapshot
    truncated     text collate "C"       -- a stream whose truncated events it stands for; not of a fold keyed by stream
);
comment on table evsource.checkpoints is 'How far each projection has applied the log, and how many events it had applied by then.';

select pg_catalog.pg_extension_config_dump('evsource.projections', '');
select pg_catalog.pg_extension_config_dump('evsource.checkpoints', '');

