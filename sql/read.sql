-- read.sql: events and streams, for readers.
--
-- The functions that read are volatile and unsafe to run in parallel: each call
-- takes a snapshot of its own, after it has asked how far the log is complete.

create function evsource.read_stream(
    stream       text,
    from_version bigint  default null,
    max_count    integer default null,
    backward     boolean default false
) returns setof evsource.event
    language c volatile parallel unsafe rows 100
    as 'MODULE_PATHNAME', 'evsource_read_stream';
comment on function evsource.read_stream(text, bigint, integer, boolean) is
'Returns the events of one stream from a version on (default: the first), or backward from it (default: the last). Errors: 22004 for a null stream, 22023 for a version below 1 or a negative max_count, 42501, 40001 when SERIALIZABLE.';

create function evsource.read_category(
    category       text,
    after_position bigint  default 0,
    max_count      integer default 1000,
    types          text[]  default null
) returns setof evsource.event
    language c volatile parallel unsafe rows 1000
    as 'MODULE_PATHNAME', 'evsource_read_category';
comment on function evsource.read_category(text, bigint, integer, text[]) is
'Returns the events of one category in the order of the log, after a position and up to the safe position. Errors: 22004, 22023 for a negative number or an empty array, 42501, 40001 when SERIALIZABLE.';

create function evsource.read_all(
    after_position bigint  default 0,
    max_count      integer default 1000,
    categories     text[]  default null,
    types          text[]  default null
) returns setof evsource.event
    language c volatile parallel unsafe rows 1000
    as 'MODULE_PATHNAME', 'evsource_read_all';
comment on function evsource.read_all(bigint, integer, text[], text[]) is
'Returns the events of the whole log in order, after a position and up to the safe position. Errors: 22004, 22023 for a negative number or an empty array, 42501, 40001 when SERIALIZABLE.';

create function evsource.read_event(id uuid) returns setof evsource.event
    language c volatile parallel unsafe rows 1
    as 'MODULE_PATHNAME', 'evsource_read_event';
comment on function evsource.read_event(uuid) is
'Returns the event with this id, whether its client or the server assigned it; no row when there is none. Errors: 22004, 42501.';

create function evsource.stream_version(stream text) returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_stream_version';
comment on function evsource.stream_version(text) is
'Returns the version of the last event of a stream, or 0 when the stream does not exist: fit to be passed as expected_version. Errors: 22004, 42501.';

create function evsource.safe_position() returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_safe_position';
comment on function evsource.safe_position() is
'Returns a position up to which the log is complete: for a snapshot taken after the call, every event at or below it is visible and none can appear there later.';

-- The id of a stored row. Without a search_path of its own, so that it is
-- inlined: it names nothing that could be found elsewhere.
create function evsource._event_id(at_position bigint, recorded_at timestamptz) returns uuid
    language c stable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_event_id';
comment on function evsource._event_id(bigint, timestamptz) is
'Internal: the id that the server makes for an event of this store.';

create function evsource.event_id(event evsource.events) returns uuid
    language sql stable parallel safe
    as 'select coalesce(event.id, evsource._event_id(event.position, event.recorded_at))';
comment on function evsource.event_id(evsource.events) is
'Returns the id of a row of evsource.events: the one that its client or the server assigned.';

-- A stream is there when its first event is, which is its version 1 unless it was
-- truncated or imported without it; the rest is in its last. Both ends
-- are one step away in the index on (stream, version). A function and not the
-- view alone: it is inlined, and what it reads is then read with the rights and
-- the policies of the user who asks, on all versions of PostgreSQL. It returns a
-- type of its own for the sake of the collation, without which no index fits.
create type evsource._stream as (
    stream            text collate "C",
    category          text collate "C",
    version           bigint,
    last_position     bigint,
    first_recorded_at timestamptz,
    last_recorded_at  timestamptz
);
comment on type evsource._stream is 'Internal: a row of evsource.streams.';
create function evsource._streams() returns setof evsource._stream
    language sql stable parallel safe rows 10000
    as $$
select f.stream, evsource.category(f.stream), l.version, l.position, f.recorded_at, l.recorded_at
from (
        select e.stream, e.recorded_at
        from evsource.events e
        where e.version operator(pg_catalog.=) 1
        union all
        select t.stream, t.first_recorded_at
        from evsource.truncations t
        where exists (
            select from evsource.events e
            where e.stream operator(pg_catalog.=) t.stream and e.version operator(pg_catalog.=) t.version)
            and not exists (
            select from evsource.events e
            where e.stream operator(pg_catalog.=) t.stream and e.version operator(pg_catalog.=) 1)
    ) f
    cross join lateral (
        select e.version, e.position, e.recorded_at
        from evsource.events e
        where e.stream operator(pg_catalog.=) f.stream
        order by e.version desc
        limit 1
    ) l
$$;
comment on function evsource._streams() is 'Internal: the rows of evsource.streams, with the rights of its reader.';

create view evsource.streams as
    select s.stream, s.category, s.version, s.last_position, s.first_recorded_at, s.last_recorded_at
    from evsource._streams() s;
comment on view evsource.streams is
'Every stream with its last version. Also requires SELECT on evsource.events and evsource.truncations.';
comment on column evsource.streams.stream is 'Name of the stream.';
comment on column evsource.streams.category is 'The part of the name before the first "-", or the whole name.';
comment on column evsource.streams.version is 'Version of the stream''s last event.';
comment on column evsource.streams.last_position is 'Position of the stream''s last event in the log.';
comment on column evsource.streams.first_recorded_at is 'When the stream''s first event was recorded.';
comment on column evsource.streams.last_recorded_at is 'When the stream''s last event was recorded.';

