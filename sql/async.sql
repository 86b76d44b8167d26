-- async.sql: what async projections fail at, and what they leave aside.

-- A row a worker's share of a projection that more than one applies; the row in
-- evsource.checkpoints then has what was applied before it was divided.
create table evsource.partitions (
    projection  text collate "C" not null,
    partition   integer not null,        -- 0, 1, 2, ...
    position    bigint not null,
    event_count bigint not null,
    updated_at  timestamptz not null default pg_catalog.now(),
    primary key (projection, partition)
);
comment on table evsource.partitions is 'How far each partition of a projection has applied the log, where several workers share it.';

create function evsource._partition(stream text, partitions integer) returns integer
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_partition';
comment on function evsource._partition(text, integer) is
'Internal: the partition of a stream, from 0. The same for ever and on every machine: checkpoints rest on it.';

-- How far all of a projection is: as far as the partition that is behind.
create view evsource._checkpoints as
    select c.projection, coalesce(q.position, c.position) as position,
           c.event_count + coalesce(q.event_count, 0) as event_count,
           greatest(c.updated_at, q.updated_at) as updated_at, c.started_at, c.total,
           c.resumed_at, c.resumed_count, c.conflicts
    from evsource.checkpoints c
    left join lateral (
        select min(s.position) as position, sum(s.event_count)::bigint as event_count,
               max(s.updated_at) as updated_at
        from evsource.partitions s where s.projection = c.projection) q on true;
comment on view evsource._checkpoints is 'Internal: evsource.checkpoints with all partitions taken together.';

-- Where an async projection is stuck: a row goes when it has got past.
create table evsource.projection_failures (
    projection text collate "C" not null,
    partition  integer not null,
    position   bigint,                   -- of the event; null: no event's fault
    attempts   integer not null,         -- that count: not those that were nobody's fault
    sqlstate   text not null,
    message    text not null,
    detail     text,
    hint       text,
    context    text,
    failed_at  timestamptz not null,     -- the last attempt
    retry_at   timestamptz,              -- the next one; null when it has stopped
    primary key (projection, partition)
);
comment on table evsource.projection_failures is 'Async projections whose last attempt failed: the event, the error, and when the next attempt is due.';

-- Events that a projection with on_error => 'dead_letter' has left aside, and
-- the later events of their keys, which wait behind them.
create table evsource.dead_letters (
    projection text collate "C" not null,
    position   bigint not null,
    stream     text collate "C" not null,
    version    bigint not null,
    type       text collate "C" not null,
    keys       text[] collate "C" not null,
    attempts   integer not null,         -- 0: it waits behind another event
    retry      boolean not null default false,   -- that one was truncated: the next run applies it
    sqlstate   text,
    message    text not null,            -- of the last attempt
    detail     text,
    hint       text,
    context    text,
    parked_at  timestamptz not null default pg_catalog.clock_timestamp(),
    failed_at  timestamptz,              -- the last attempt
    primary key (projection, position)
);
create index dead_letters_retry_idx on evsource.dead_letters (projection, position) where retry;
comment on table evsource.dead_letters is 'Events that an async projection could not apply, and later events of the same keys, which wait behind them. See retry_dead_letters.';
comment on column evsource.dead_letters.keys is 'The keys of the event: later events with one of them are parked behind it.';
comment on column evsource.dead_letters.attempts is 'How often it was tried; 0 for an event that waits behind another one.';
comment on column evsource.dead_letters.retry is 'The event that it waited behind was truncated: the next run applies it.';

create table evsource.parked_keys (
    projection text collate "C" not null,
    key        text collate "C" not null,
    position   bigint not null,
    primary key (projection, key, position)
);
comment on table evsource.parked_keys is 'Internal: which keys of a projection have dead letters.';

-- What a worker has begun and not ended; not for a dump, nobody works there.
create table evsource.crash_marks (
    projection text collate "C" not null,
    partition  integer not null,         -- -1: its rebuild
    position   bigint not null,          -- of the partition or the rebuild before; -1: the rebuild begins
    events     integer not null,         -- at most so many are being applied
    attempts   integer not null,         -- at one event, that have ended the server
    careful    integer not null,         -- so many are to be applied in small batches
    batch      integer not null,         -- of so many
    begun_at   timestamptz not null default pg_catalog.clock_timestamp(),
    primary key (projection, partition)
);
comment on table evsource.crash_marks is 'Internal: what the daemon''s workers are about to apply, for as long as it is not known that it does not crash the server.';

select pg_catalog.pg_extension_config_dump('evsource.partitions', '');
-- Under the name of a schema stands what a rebuild has met that is not complete,
-- or what belongs to an old version that is kept: no dump has these tables.
select pg_catalog.pg_extension_config_dump('evsource.projection_failures',
    'where projection in (select p.projection from evsource.projections p)');
select pg_catalog.pg_extension_config_dump('evsource.dead_letters',
    'where projection in (select p.projection from evsource.projections p)');
select pg_catalog.pg_extension_config_dump('evsource.parked_keys',
    'where projection in (select p.projection from evsource.projections p)');

create function evsource.retry_dead_letters(
    projection text,
    crashed boolean default false,
    out applied bigint, out remaining bigint)
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_retry_dead_letters';
comment on function evsource.retry_dead_letters(text, boolean) is
'Applies all dead letters of a projection again, in order and in one transaction; those at which the process died only if crashed. Returns how many were applied, and how many remain. Errors: 42704 unknown projection, 42501, 55000 while it is rebuilt.';
