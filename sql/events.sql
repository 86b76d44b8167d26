-- events.sql: the log, and the identity of this store.

-- The order of the log. One value at a time: values that a session kept to
-- itself would put later commits at lower positions.
create sequence evsource.position_seq as bigint maxvalue 281474976710655 cache 1;
comment on sequence evsource.position_seq is 'Assigns the position of each event.';

-- A promoted standby may not know of the last positions that were handed out:
-- on a timeline of its own it leaves a gap first. Not dumped: where the dump is
-- restored there is another one. Negative until a position is drawn: till then the log
-- takes what is restored at any position, see src/restore.c.
create sequence evsource.timeline_seq as bigint minvalue -4294967295 start 1 cache 1;
comment on sequence evsource.timeline_seq is 'Timeline of this server when it last assigned a position; it lets a promoted standby leave a gap first.';
select pg_catalog.setval('evsource.timeline_seq', -timeline_id) from pg_catalog.pg_control_checkpoint();

-- The last position of the events that were restored before any was appended: what is behind
-- it is the log's own (src/in_use.c). Called until the row of evsource.store comes that
-- was dumped with them; 0 where evsource.adopt() says that none will. A sequence, for restores
-- in several transactions at once note it without waiting for each other. Not dumped.
create sequence evsource.restored_seq as bigint minvalue 0 start 0 cache 1;
comment on sequence evsource.restored_seq is 'Up to which position events were restored, and whether they await the identity of the store that they come from.';

-- Columns of fixed width first: no byte is lost to alignment. What is rarely
-- there last: a row ends with its last value, see src/stored_row.c. Positions grow, so
-- the pages of their indexes need room only for those that commit late.
create table evsource.events (
    position    bigint      not null,
    version     bigint      not null,
    recorded_at timestamptz not null,
    stream      text        not null collate "C",
    type        text        not null collate "C",
    data        jsonb       not null default '{}',
    metadata    jsonb,
    id          uuid,
    occurred_at timestamptz,
    schema_version smallint,
    constraint events_pkey primary key (position) with (fillfactor = 97),
    constraint events_stream_version_key unique (stream, version)
);
create index events_category_idx on evsource.events (evsource.category(stream), position)
    with (fillfactor = 97, deduplicate_items = off);
create unique index events_id_key on evsource.events (id) where id is not null;
-- a category's streams, in time proportional to their number
create index events_first_idx on evsource.events (evsource.category(stream), stream)
    with (deduplicate_items = off) where version = 1;

comment on table evsource.events is 'The append-only log: every event of every stream.';
comment on column evsource.events.position is 'Place in the log: unique, increasing, gaps allowed. Drawn at append.';
comment on column evsource.events.version is 'Place in the stream: 1, 2, 3, ... without gaps.';
comment on column evsource.events.recorded_at is 'When this database took the event.';
comment on column evsource.events.stream is 'Name of the stream; its category is the part before the first "-".';
comment on column evsource.events.type is 'What happened.';
comment on column evsource.events.data is 'The event itself: any jsonb value.';
comment on column evsource.events.metadata is 'A jsonb object about the event, or null when there is none.';
comment on column evsource.events.occurred_at is 'When it happened in the world, or null: when it was recorded.';
comment on column evsource.events.schema_version is 'Version of the type that the data has, or null: version 1. See evsource.define_event_type.';
comment on column evsource.events.id is 'The id that the client gave, or null: see evsource.event_id.';

-- Who this store is. origin seeds the ids that the server makes; the rest says
-- which database the log was last written in, to know a copy when we are one: another
-- one, or none (0) when it was restored and evsource.adopt() was not called since.
create table evsource.store (
    origin            uuid not null,
    system_identifier bigint not null,
    database          oid not null
);
comment on table evsource.store is 'Internal: one row: the identity of this event store.';
create unique index store_one_row on evsource.store ((true));
insert into evsource.store
    select pg_catalog.gen_random_uuid(), s.system_identifier, d.oid
    from pg_catalog.pg_control_system() s, pg_catalog.pg_database d
    where d.datname = pg_catalog.current_database();

-- A restore brings the dumped row: it takes the place of the one that
-- create extension made. Also in the database that it was dumped from we are a copy then.
create function evsource._replace_store() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
    as $$
begin
    delete from evsource.store;
    perform setval('evsource.restored_seq', r.last_value, false) from evsource.restored_seq r;
    new.database := 0;
    return new;
end
$$;
comment on function evsource._replace_store() is 'Internal: lets a restored row take the place of the one that is there.';
create trigger replace_store before insert on evsource.store
    for each row execute function evsource._replace_store();
alter table evsource.store enable always trigger replace_store;

-- Sessions keep what they have read of some tables; this tells them to look
-- again. Always, also while a replica applies changes.
create function evsource._changed() returns trigger
    language c
    as 'MODULE_PATHNAME', 'evsource_changed';
comment on function evsource._changed() is 'Internal: tells every session that a table of evsource has changed.';
create trigger store_changed
    after insert or update or delete or truncate on evsource.store
    for each statement execute function evsource._changed();
alter table evsource.store enable always trigger store_changed;

-- Streams that do not begin with version 1: with which event they begin now. Those
-- that came so are found out when events are restored (src/restore.c), so
-- that no dump need say it; they are no longer of interest when their begin has come.
create table evsource.truncations (
    stream            text collate "C" primary key,
    version           bigint not null,
    first_recorded_at timestamptz not null,
    truncated_at      timestamptz
);
create index truncations_category_idx on evsource.truncations (evsource.category(stream), stream);
comment on table evsource.truncations is 'Streams whose oldest events were truncated, or were left out when they were imported.';
comment on column evsource.truncations.version is 'Version of the first event that is left.';
comment on column evsource.truncations.first_recorded_at is 'When the stream''s first event was recorded.';
comment on column evsource.truncations.truncated_at is 'When its oldest events were truncated; null: it was imported without them.';

-- What truncate_stream or a dump says takes the place of what was found out.
create function evsource._replace_truncation() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp
    as $$
begin
    delete from evsource.truncations t where t.stream = new.stream and t.truncated_at is null;
    return new;
end
$$;
comment on function evsource._replace_truncation() is 'Internal: lets a truncated stream take the place of the one that was imported without its begin.';
create trigger replace_truncation before insert on evsource.truncations
    for each row execute function evsource._replace_truncation();
alter table evsource.truncations enable always trigger replace_truncation;

-- The safe position as published for those that cannot compute it: a standby,
-- a logical subscriber. What a subscription has stored here is in arrived, too: a database
-- that becomes a copy may have published something of its own before.
create table evsource.published (
    safe_position bigint not null,
    published_at  timestamptz not null,
    arrived       bigint,
    one           boolean primary key default true check (one)
);
comment on table evsource.published is 'Internal: one row at most: a position that was safe to read at that time.';
comment on column evsource.published.arrived is 'The same where a subscription has stored the row, for a copy to go by.';

select pg_catalog.pg_extension_config_dump('evsource.position_seq', '');
select pg_catalog.pg_extension_config_dump('evsource.events', '');
select pg_catalog.pg_extension_config_dump('evsource.truncations', 'where truncated_at is not null');
select pg_catalog.pg_extension_config_dump('evsource.store', '');
select pg_catalog.pg_extension_config_dump('evsource.published', '');

