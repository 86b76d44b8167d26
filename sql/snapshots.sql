-- snapshots.sql: saved states of fold projections.

-- A row takes half of a page at most, without TOAST: the other half is for its
-- next version. (With snapshot_every => 1 a larger state stays in its row as well,
-- and is left to TOAST.)
create table evsource.snapshots (
    projection    text collate "C" not null,
    key           text collate "C" not null,
    version       bigint,                -- of the last event, when its stream is the key
    position      bigint not null,       -- of the last event
    last_event_id uuid not null,
    event_count   bigint not null,
    state_version integer not null,
    definition    bigint not null,       -- tells the definitions apart that made it
    saved_at      timestamptz not null,
    occurred_at   timestamptz not null,
    restores      bigint not null,
    rejections    bigint not null,
    state         jsonb,                 -- null: in parts
    seen_version  bigint,                -- of the last event looked at, if that came later
    seen_position bigint,
    primary key (projection, key)
) with (fillfactor = 50, toast_tuple_target = 4064);
comment on table evsource.snapshots is 'Saved states of fold projections: the newest of each key.';
comment on column evsource.snapshots.projection is 'Name of the fold projection.';
comment on column evsource.snapshots.key is 'What the state is of: a stream, "global", or what the key function returned.';
comment on column evsource.snapshots.version is 'Version of the last event in the state, when the key is its stream.';
comment on column evsource.snapshots.position is 'Position of the last event in the state.';
comment on column evsource.snapshots.last_event_id is 'Id of the last event in the state.';
comment on column evsource.snapshots.event_count is 'Number of events in the state.';
comment on column evsource.snapshots.state_version is 'The projection''s state version when the state was saved.';
comment on column evsource.snapshots.definition is 'A number that changes with the projection''s handler, filter and start: a state of another definition is not used. 0: of more than one, by a projection that was stale.';
comment on column evsource.snapshots.saved_at is 'When the state was saved.';
comment on column evsource.snapshots.occurred_at is 'The latest time of an event in the state: before it the state does not hold.';
comment on column evsource.snapshots.restores is 'How often a state was computed from a snapshot of this key, counted when the next one was saved.';
comment on column evsource.snapshots.rejections is 'How often a snapshot of this key could not be used, counted when the next one was saved.';
comment on column evsource.snapshots.state is 'The state; null when it is in parts: see evsource.load_snapshot.';
comment on column evsource.snapshots.seen_version is 'Up to this version of the stream, no event after the last one in the state is the projection''s; null when none was looked at beyond that one.';
comment on column evsource.snapshots.seen_position is 'Position of the event of that version.';

-- Large states. Two parts fill half of a page: the other half is for their next
-- versions, which take each other's place without a vacuum.
create table evsource.snapshot_parts (
    projection text collate "C" not null,
    key        text collate "C" not null,
    part       integer not null,
    bytes      bytea not null,
    primary key (projection, key, part)
) with (fillfactor = 50);
alter table evsource.snapshot_parts alter column bytes set storage plain;
comment on table evsource.snapshot_parts is 'Internal: saved states that are too large for a row, compressed and cut into parts.';

create function evsource._parts_state(projection text, key text) returns jsonb
    language c stable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource__parts_state';
comment on function evsource._parts_state(text, text) is 'Internal: the state that is in parts.';

-- What newer ones have replaced, and the states from which streams begin whose
-- begin is gone.
create table evsource.snapshot_history (
    projection    text collate "C" not null,
    key           text collate "C" not null,
    version       bigint not null,
    position      bigint not null,
    last_event_id uuid not null,
    event_count   bigint not null,
    state_version integer not null,
    definition    bigint not null,
    saved_at      timestamptz not null,
    occurred_at   timestamptz not null,
    upto          bigint,
    state         jsonb not null,
    primary key (projection, key, version)
);
create unique index snapshot_history_base on evsource.snapshot_history (projection, key) where upto is not null;
comment on table evsource.snapshot_history is 'Snapshots older than the newest, as many as keep_snapshots says; and for a truncated stream, the state with which it begins.';
comment on column evsource.snapshot_history.upto is 'Version of the last event that was truncated: this state takes its place; when event_count is 0, there was none. Null for a snapshot that a newer one has replaced.';

-- Why snapshots could not be used: a row for each reason, whatever the number of
-- snapshots that it meets.
create table evsource.snapshot_rejections (
    projection    text collate "C" not null,
    reason        text collate "C" not null,
    key           text collate "C" not null,
    message       text,
    state_version integer not null,
    rejected_at   timestamptz not null,
    primary key (projection, reason)
);
comment on table evsource.snapshot_rejections is 'Why snapshots of a projection could not be used.';
comment on column evsource.snapshot_rejections.key is 'The first key whose snapshot was rejected for this reason.';
comment on column evsource.snapshot_rejections.message is 'The error message, if there was an error.';
comment on column evsource.snapshot_rejections.state_version is 'The projection''s state version then.';
comment on column evsource.snapshot_rejections.rejected_at is 'When that was.';

-- Of transactions that are open while this is written, not for later ones: a dump
-- leaves it out.
create table evsource.snapshot_removals (
    projection text collate "C" primary key,
    removed_at timestamptz not null
);
comment on table evsource.snapshot_removals is 'Internal: when snapshots of a projection were removed last; who cannot see that row does not use what it still sees of them.';

create function evsource._same_state(a jsonb, b jsonb) returns boolean
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource__same_state';
comment on function evsource._same_state(jsonb, jsonb) is 'Internal: are they the same, byte for byte?';

-- Compressing large states costs more than all the rest of saving them. lz4 is
-- several times as fast as pglz; servers may be built without it.
do $$
begin
    if exists (select from pg_catalog.pg_settings
               where name = 'default_toast_compression' and 'lz4' = any (enumvals)) then
        alter table evsource.snapshots alter column state set compression lz4;
        alter table evsource.snapshot_history alter column state set compression lz4;
    end if;
end
$$;

select pg_catalog.pg_extension_config_dump('evsource.snapshots', '');
select pg_catalog.pg_extension_config_dump('evsource.snapshot_parts', '');
select pg_catalog.pg_extension_config_dump('evsource.snapshot_history', '');
select pg_catalog.pg_extension_config_dump('evsource.snapshot_rejections', '');
