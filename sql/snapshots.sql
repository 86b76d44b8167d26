-- snapshots.sql: saved states of fold projections.

create table evsource.snapshots (
    projection    text collate "C" not null,
    key           text collate "C" not null,
    version       bigint,                -- of the stream, when it is the key
    position      bigint not null,       -- of the last event in the state
    last_event_id uuid not null,
    event_count   bigint not null,       -- events in the state
    state_version integer not null,
    saved_at      timestamptz not null,
    state         jsonb not null,
    primary key (projection, key)
) with (fillfactor = 70);
comment on table evsource.snapshots is 'Saved states of fold projections: the newest of each key.';

select pg_catalog.pg_extension_config_dump('evsource.snapshots', '');

