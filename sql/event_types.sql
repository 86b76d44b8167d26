-- event_types.sql: the versions that types of events have. See src/types.c,
-- src/type_run.c, src/types_define.c.

create table evsource.event_types (
    type           text collate "C" not null,
    version        integer     not null,
    schema_path    jsonpath,
    validator      text,                  -- qualified signature
    upcaster       text,                  -- qualified signature
    owner          text        not null,  -- role name
    search_path    text        not null,  -- what its functions run with
    changes_stored boolean     not null default false,
    created_at     timestamptz not null default pg_catalog.now(),
    primary key (type, version)
);
comment on table evsource.event_types is 'Versions of event types. Roles and functions are stored by name, to survive dump, restore and pg_upgrade.';
comment on column evsource.event_types.schema_path is 'Must hold for the data of an event of this version.';
comment on column evsource.event_types.validator is 'The function that data of this version must satisfy.';
comment on column evsource.event_types.upcaster is 'The function that makes data of this version from data of the version before.';
comment on column evsource.event_types.changes_stored is 'Events of earlier versions were stored when this one was defined.';

-- Every session keeps the list of types.
create trigger event_types_changed
    after insert or update or delete or truncate on evsource.event_types
    for each statement execute function evsource._changed();
alter table evsource.event_types enable always trigger event_types_changed;

select pg_catalog.pg_extension_config_dump('evsource.event_types', '');

-- When an upcaster came or went that changes how events are read which were stored
-- by then: of which type, in which category. States that were saved before, of
-- such events, are not used any more; what is here stays, also when the type goes.
-- Every session knows all of it, so very many categories are one row.
create table evsource.event_type_changes (
    type     text collate "C" not null,
    category text collate "C",
    change   bigint not null,             -- counts them
    but_not  text[] collate "C",
    unique (type, category, change)
);
alter table evsource.event_type_changes replica identity full;    -- for publications of all tables
comment on table evsource.event_type_changes is 'Internal: changes of event types that made stored events be read otherwise: snapshots of before are not used.';
comment on column evsource.event_type_changes.category is 'A category in which such events were stored; null: there were very many.';
comment on column evsource.event_type_changes.but_not is 'Where category is null: categories that projections named, and that had no such events.';

create trigger event_type_changes_changed
    after insert or update or delete or truncate on evsource.event_type_changes
    for each statement execute function evsource._changed();
alter table evsource.event_type_changes enable always trigger event_type_changes_changed;

select pg_catalog.pg_extension_config_dump('evsource.event_type_changes', '');

create function evsource.define_event_type(
    type        text,
    version     integer,
    schema_path jsonpath default null,
    validator   text     default null,
    upcaster    text     default null)
    returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_define_event_type';
comment on function evsource.define_event_type(text, integer, jsonpath, text, text) is
'Defines a version of an event type: the rule for its data, and how data of the previous version is upcast. Once this has committed, events of the type are stored and read in the newest version. Errors: 22023 for a gap, 55000 when stored events forbid it, 42501.';

create function evsource.drop_event_type(type text, version integer default null) returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_drop_event_type';
comment on function evsource.drop_event_type(text, integer) is
'Drops the newest version of an event type, or all of its versions. Errors: 42704 when it is not defined, 55000 when events are stored in it or it is not the newest.';

-- What is stored, as it is stored. A function and not the view alone, for the
-- same reason as _streams: rights and policies are then those of the reader.
create type evsource._raw_event as (
    position       bigint,
    stream         text collate "C",
    version        bigint,
    type           text collate "C",
    schema_version integer,
    data           jsonb,
    metadata       jsonb,
    id             uuid,
    occurred_at    timestamptz,
    recorded_at    timestamptz
);
comment on type evsource._raw_event is 'Internal: a row of evsource.events_raw.';
create function evsource._events_raw() returns setof evsource._raw_event
    language sql stable parallel safe rows 100000
    as $$
select e.position, e.stream, e.version, e.type, coalesce(e.schema_version, 1)::pg_catalog.int4, e.data,
    coalesce(e.metadata, '{}'), coalesce(e.id, evsource._event_id(e.position, e.recorded_at)),
    coalesce(e.occurred_at, e.recorded_at), e.recorded_at
from evsource.events e
$$;
comment on function evsource._events_raw() is 'Internal: the rows of evsource.events_raw, with the rights of its reader.';

create view evsource.events_raw as
    select r.position, r.stream, r.version, r.type, r.schema_version, r.data, r.metadata, r.id,
        r.occurred_at, r.recorded_at
    from evsource._events_raw() r;
comment on view evsource.events_raw is
'Every event with its data as stored, not upcast, and the version of its type in which it was stored. Also requires SELECT on evsource.events.';
