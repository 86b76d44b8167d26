-- snapshots.sql: saved states of fold projections.

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
    restores      bigint not null,
    rejections    bigint not null,
    state         jsonb not null,
    primary key (projection, key)
) with (fillfactor = 70);
comment on table evsource.snapshots is 'Saved states of fold projections: the newest of each key.';
comment on column evsource.snapshots.projection is 'Name of the fold projection.';
comment on column evsource.snapshots.key is 'What the state is of: a stream, "global", or what the key function returned.';
comment on column evsource.snapshots.version is 'Version of the last event in the state, when the key is its stream.';
comment on column evsource.snapshots.position is 'Position of the last event in the state.';
comment on column evsource.snapshots.last_event_id is 'Id of the last event in the state.';
comment on column evsource.snapshots.event_count is 'Number of events in the state.';
comment on column evsource.snapshots.state_version is 'The projection''s state version when the state was saved.';
comment on column evsource.snapshots.definition is 'A number that changes with the projection''s handler, filter and start: a state of another definition is not used.';
comment on column evsource.snapshots.saved_at is 'When the state was saved.';
comment on column evsource.snapshots.restores is 'How often a state was computed from a snapshot of this key, counted when the next one was saved.';
comment on column evsource.snapshots.rejections is 'How often a snapshot of this key could not be used, counted when the next one was saved.';
comment on column evsource.snapshots.state is 'The state.';

-- Compressing large states costs more than all the rest of saving them. lz4 is
-- several times as fast as pglz; servers may be built without it.
do $$
begin
    if exists (select from pg_catalog.pg_settings
               where name = 'default_toast_compression' and 'lz4' = any (enumvals)) then
        alter table evsource.snapshots alter column state set compression lz4;
    end if;
end
$$;

select pg_catalog.pg_extension_config_dump('evsource.snapshots', '');
