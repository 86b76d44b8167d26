-- types.sql: what readers return and handlers receive.

create type evsource.event as (
    position    bigint,
    stream      text collate "C",
    version     bigint,
    type        text collate "C",
    data        jsonb,
    metadata    jsonb,
    id          uuid,
    occurred_at timestamptz,
    recorded_at timestamptz
);
comment on type evsource.event is
'An event as readers return it and handlers receive it: metadata is {} when there is none, id is computed when the client gave none, occurred_at is recorded_at when none was given.';

-- 'account-42' is in category 'account': the part before the first '-'.
create function evsource.category(stream text) returns text
    language c immutable strict parallel safe
    as 'MODULE_PATHNAME', 'evsource_category';
comment on function evsource.category(text) is
'Returns the category of a stream: the part of its name before the first "-", or the whole name.';

