-- table_snapshots.sql: the tables of projections as they were at a position.

create table evsource.table_snapshots (
    projection    text collate "C" not null,
    position      bigint not null,
    event_count   bigint not null,
    state_version integer not null,
    definition    bigint not null,
    saved_at      timestamptz not null,
    shape         text not null,
    rows          bigint not null,
    truncated     text collate "C",
    primary key (projection, position)
);
comment on table evsource.table_snapshots is 'Saved read models: the tables of a projection as they were at a position.';
comment on column evsource.table_snapshots.position is 'The log was applied up to here.';
comment on column evsource.table_snapshots.event_count is 'Events that the projection had applied by then.';
comment on column evsource.table_snapshots.state_version is 'The projection''s state version then.';
comment on column evsource.table_snapshots.definition is 'A number that changes with the projection''s handler or query, filter and start.';
comment on column evsource.table_snapshots.shape is 'The tables with their columns and types, and which of these have sequences: tables of another shape are not restored.';
comment on column evsource.table_snapshots.rows is 'Rows of all tables.';
comment on column evsource.table_snapshots.truncated is 'A stream of which later events were truncated than those that are in it: it is not restored.';

create table evsource.table_snapshot_rows (
    projection text collate "C" not null,
    position   bigint not null,
    tab        integer not null,
    part       integer not null,
    rows       text[] not null,
    primary key (projection, position, tab, part)
);
comment on table evsource.table_snapshot_rows is 'Internal: the rows of saved read models, many at a time, each as text[] of its columns.';
comment on column evsource.table_snapshot_rows.tab is 'Which of the projection''s tables, from 1; 0: their sequences, each by its column and with the last value.';

select pg_catalog.pg_extension_config_dump('evsource.table_snapshots', '');
select pg_catalog.pg_extension_config_dump('evsource.table_snapshot_rows', '');
