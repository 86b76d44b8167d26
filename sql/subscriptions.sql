-- subscriptions.sql: durable cursors for consumers outside the database. See
-- src/subscription.h.

create table evsource.subscriptions (
    subscription text collate "C" primary key,
    owner        text not null,
    categories   text[] collate "C",
    types        text[] collate "C",
    start_after  bigint not null,
    partitions   integer not null,
    max_attempts integer not null,              -- 0: no limit
    generation   integer not null default 1,    -- of the newest cursors
    definition   integer not null default 1,    -- a number for each change
    created_at   timestamptz not null default pg_catalog.now()
);
comment on table evsource.subscriptions is 'Subscriptions: which events each takes, in how many partitions, with how many attempts.';

-- A row a partition. Partitions of an older generation are drained up to their
-- end before those of the next are looked at.
create table evsource.cursors (
    subscription  text collate "C" not null,
    generation    integer not null,
    partition     integer not null,          -- 0, 1, 2, ...
    partitions    integer not null,          -- of this generation
    definition    integer not null,
    position      bigint not null,           -- everything up to here is done
    until         bigint,                    -- nothing after this is its own
    token         bigint,                    -- of the receipts; null: nothing is out
    consumer      text,
    lease_until   timestamptz,
    handed_out    bigint,                    -- the last event that is out
    seen          bigint,                    -- and how far has been looked
    alone         boolean not null default false,   -- it is the only one
    retry         boolean not null default false,   -- and a dead letter
    suspect_from  bigint,                    -- events that go out alone
    suspect_until bigint,
    attempts      integer not null default 0,       -- that the first of them has had
    been_out      bigint,                    -- events up to here have been out before
    retry_at      timestamptz,               -- nothing goes out before
    acked         bigint,                    -- the token whose receipts were the last to be acknowledged
    acked_upto    bigint,                    -- of its events
    acked_in      xid8,                      -- by this transaction
    primary key (subscription, generation, partition)
) with (fillfactor = 50);
comment on table evsource.cursors is 'How far each partition of a subscription is, and what is leased to which consumer.';

create table evsource.subscription_dead_letters (
    subscription text collate "C" not null,
    position     bigint not null,
    stream       text collate "C" not null,
    version      bigint not null,
    type         text collate "C" not null,
    attempts     integer not null,           -- 0: it waits behind another event
    reason       text not null,
    retry        boolean not null default false,    -- it will be handed out again
    parked_at    timestamptz not null default pg_catalog.clock_timestamp(),
    failed_at    timestamptz,                -- the last attempt
    primary key (subscription, position)
);
create index subscription_dead_letters_stream_idx on evsource.subscription_dead_letters (subscription, stream, position);
create index subscription_dead_letters_retry_idx on evsource.subscription_dead_letters (subscription, position) where retry;
comment on table evsource.subscription_dead_letters is 'Events that the consumers of a subscription could not process, and later events of the same streams behind them.';

select pg_catalog.pg_extension_config_dump('evsource.subscriptions', '');
select pg_catalog.pg_extension_config_dump('evsource.cursors', '');
select pg_catalog.pg_extension_config_dump('evsource.subscription_dead_letters', '');

-- The columns of evsource.event, and what fetching adds.
create type evsource.fetched_event as (
    position    bigint,
    stream      text collate "C",
    version     bigint,
    type        text collate "C",
    data        jsonb,
    metadata    jsonb,
    id          uuid,
    occurred_at timestamptz,
    recorded_at timestamptz,
    attempt     integer,
    receipt     text
);
comment on type evsource.fetched_event is
'An event that was handed out: an evsource.event with the number of the attempt, from 1, and the receipt for ack or nack.';

create function evsource.create_subscription(
    subscription text,
    categories text[] default null,
    types text[] default null,
    start text default 'beginning',
    start_after bigint default null,
    partitions integer default 1,
    max_attempts integer default 5,
    if_exists text default 'error',
    owner text default null)
    returns text
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_create_subscription';
comment on function evsource.create_subscription(text, text[], text[], text, bigint, integer, integer, text, text) is
'Creates a subscription to the events of some categories and types (null: all), from the beginning, from now on, or after a position. max_attempts: an event that fails so often becomes a dead letter (0: never). if_exists: error, keep or alter. Returns its name. Errors: 42710 when it exists, 22004 and 22023 for invalid arguments, 42501.';

create function evsource.alter_subscription(
    subscription text,
    categories text[] default null,
    types text[] default null,
    partitions integer default null,
    max_attempts integer default null,
    owner text default null,
    defaults text[] default null)
    returns void
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_alter_subscription';
comment on function evsource.alter_subscription(text, text[], text[], integer, integer, text, text[]) is
'Changes the parameters that are given; defaults names those whose restrictions are lifted. New partitions begin where the old ones end, which are drained first. Errors: 42704 unknown subscription, 42501, 22004, 22023, 25000 under REPEATABLE READ, 55P03 when consumers keep their partitions locked.';

create function evsource.drop_subscription(subscription text, if_exists boolean default false) returns void
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_drop_subscription';
comment on function evsource.drop_subscription(text, boolean) is
'Drops a subscription with its cursors and dead letters. Errors: 42704 unknown subscription, unless if_exists, 42501, 55P03 when consumers keep its partitions locked.';

create function evsource.seek_subscription(
    subscription text,
    after_position bigint default null,
    as_of timestamptz default null)
    returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_seek_subscription';
comment on function evsource.seek_subscription(text, bigint, timestamptz) is
'Moves a subscription: events after the position, or recorded at that time or later, are handed out next. Receipts become invalid, and dead letters after the position are removed. Returns the position. Errors: 42704 unknown subscription, 42501, 22004, 22023, 25000 under REPEATABLE READ, 55P03 when consumers keep their partitions locked.';

create function evsource.fetch_events(
    subscription text,
    max_count integer default 100,
    consumer text default null,
    lease interval default '30s',
    wait interval default '0',
    max_bytes bigint default 16777216)
    returns setof evsource.fetched_event
    language c volatile parallel unsafe rows 100
    as 'MODULE_PATHNAME', 'evsource_fetch_events';
comment on function evsource.fetch_events(text, integer, text, interval, interval, bigint) is
'Leases the next events of one free partition, in order, to the caller until they are acknowledged or the lease expires; waits for events if asked to. A consumer that gives a name gets back what it has not acknowledged. Errors: 42704 unknown subscription, 42501, 22004 and 22023 for invalid arguments, 25000 under REPEATABLE READ, 55P03 for a second wait in one transaction while the extension is updated or dropped.';

create function evsource.ack(receipt text, required boolean default false) returns boolean
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_ack';
comment on function evsource.ack(text, boolean) is
'Acknowledges this event and all before it in its partition; true also when this receipt has done so before, false when the lease is lost. With required, raises an error (VE005) unless this transaction acknowledges it. Errors: 22004, 22023 for an invalid receipt, 42501.';

create function evsource.nack(receipt text, reason text default null, retry_after interval default '1s') returns boolean
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_nack';
comment on function evsource.nack(text, text, interval) is
'Returns an event that could not be processed: it is handed out again after a while, or becomes a dead letter. False when the lease is lost. Errors: 22004, 22023 for an invalid receipt, 42501.';

create function evsource.retry_subscription_dead_letters(subscription text, stream text default null) returns bigint
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_retry_subscription';
comment on function evsource.retry_subscription_dead_letters(text, text) is
'Hands the dead letters of a subscription out again, those of one stream or all. Returns how many. Errors: 42704 unknown subscription, 42501, 55P03 when consumers keep its partitions locked.';

-- Of one subscription; when a statement asks for more, all are counted together.
create function evsource._subscription_lag(subscription text, out lag bigint, out lag_seconds double precision, out problem text)
    language c stable strict parallel unsafe cost 1000
    as 'MODULE_PATHNAME', 'evsource_subscription_lag';
comment on function evsource._subscription_lag(text) is
'Internal: how many events a subscription has yet to hand out, and how long ago the first of them was recorded; or what is wrong with its cursors.';

create view evsource.subscription_status as
    select s.subscription, s.owner, s.partitions, c.position, l.lag, l.lag_seconds,
           c.leased, c.consumers, c.draining, d.dead_letters, f.last_error, f.last_error_position, f.last_error_at,
           case when l.problem is not null then 'its cursors cannot be used: ' || l.problem
                when not exists (select from pg_roles r where r.rolname = s.owner)
                then 'its owner does not exist'
           end as problem
    from evsource.subscriptions s
    cross join lateral (
        select min(c.position) as position,
               count(*) filter (where c.lease_until > clock_timestamp()) as leased,
               count(distinct c.consumer) filter (where c.lease_until > clock_timestamp()) as consumers,
               coalesce(bool_or(c.until is not null), false) as draining
        from evsource.cursors c where c.subscription = s.subscription) c
    cross join lateral evsource._subscription_lag(s.subscription) l
    cross join lateral (
        select count(*) as dead_letters from evsource.subscription_dead_letters d where d.subscription = s.subscription) d
    left join lateral (
        select d.reason as last_error, d.position as last_error_position, d.failed_at as last_error_at
        from evsource.subscription_dead_letters d
        where d.subscription = s.subscription and d.failed_at is not null
        order by d.failed_at desc limit 1) f on true;
comment on view evsource.subscription_status is
'Subscriptions: how far each is, how many events it lags behind, how many partitions are leased to how many named consumers, its dead letters, and what keeps it from working.';
