-- append.sql: the ways in. See src/append.c, src/append_json.c, src/intake.c,
-- and src/immutable.c: events do not change.

-- Types with a name, not OUT parameters: the executor makes up a row type from
-- those at every call, which is a tenth of an append.
create type evsource.append_result as (version bigint, "position" bigint, id uuid, stored boolean);
comment on type evsource.append_result is
'Result of evsource.append: version, position and id of the event; stored is false when the event was stored before.';
create type evsource.append_batch_result as (
    first_version bigint, version bigint, "position" bigint, stored boolean);
comment on type evsource.append_batch_result is
'Result of evsource.append_batch and append_json: the first and the last version, and the last position; stored is false when the events were stored before.';

create function evsource.append(
    stream text, type text, data jsonb default '{}', metadata jsonb default null,
    expected_version bigint default null, id uuid default null, occurred_at timestamptz default null,
    schema_version integer default null)
    returns evsource.append_result language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_append';
comment on function evsource.append(text, text, jsonb, jsonb, bigint, uuid, timestamptz, integer) is
'Appends one event to a stream. expected_version: null any, 0 the stream must not exist, n exactly n, -4 the stream must exist. Returns its version, position and id; stored is false when the id was stored already. Errors: VE001 wrong expected version, VE002 duplicate event id, VE004 data that its type does not allow, 22004 and 22023 for invalid arguments, 40001 under REPEATABLE READ.';

create function evsource.append_batch(
    stream text, types text[], data jsonb[], metadata jsonb[] default null,
    expected_version bigint default null, ids uuid[] default null, occurred_at timestamptz[] default null,
    schema_versions integer[] default null)
    returns evsource.append_batch_result language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_append_batch';
comment on function evsource.append_batch(text, text[], jsonb[], jsonb[], bigint, uuid[], timestamptz[], integer[]) is
'Appends several events to one stream, all or none: one array element per event. Returns the first and the last version, and the last position. Errors as append, and 2202E for arrays of different lengths.';

create function evsource.append_json(
    stream text, events jsonb, expected_version bigint default null)
    returns evsource.append_batch_result language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_append_json';
comment on function evsource.append_json(text, jsonb, bigint) is
'Appends several events to one stream from a JSON array of {"type", "data", "metadata", "id", "occurred_at", "schema_version"}; "time" is another name for "occurred_at". Returns the same as append_batch. Errors as append, with the number of the element in the context.';

create function evsource.set_metadata(metadata jsonb) returns void
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_set_metadata';
comment on function evsource.set_metadata(jsonb) is
'Sets metadata that is merged under that of every append until the end of this transaction; null removes it. Error: 22023 when it is not an object.';

-- INSERT and COPY into evsource.events are appends too.

create function evsource._intake_begin() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_intake_begin';
comment on function evsource._intake_begin() is 'Internal: begins an INSERT or COPY into evsource.events.';
create function evsource._intake_row() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_intake_row';
comment on function evsource._intake_row() is 'Internal: validates and numbers a row of evsource.events.';
create function evsource._intake_end() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_intake_end';
comment on function evsource._intake_end() is 'Internal: dispatches what an INSERT or COPY into evsource.events stored.';
create function evsource._immutable() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_immutable';
comment on function evsource._immutable() is 'Internal: refuses to change events (VE003).';

-- Triggers fire in the order of their names. What others make of a row is
-- validated and numbered after them; what they append in a statement belongs to
-- it, so it begins before them.
create trigger "00_intake_begin" before insert on evsource.events
    for each statement execute function evsource._intake_begin();
create trigger zz_intake_row before insert on evsource.events
    for each row execute function evsource._intake_row();
create trigger "00_intake_end" after insert on evsource.events
    for each statement execute function evsource._intake_end();
create trigger immutable before update or delete or truncate on evsource.events
    for each statement execute function evsource._immutable();
-- A statement on another table, of which this is a child, fires triggers of rows only. It
-- refuses nothing where immutable does not fire: that is the one to disable.
create trigger immutable_row before update or delete on evsource.events
    for each row execute function evsource._immutable();
-- Also where session_replication_role is replica: what a subscription applies is let through.
-- Those above are not for rows that have their place already.
alter table evsource.events enable always trigger immutable;
alter table evsource.events enable always trigger immutable_row;

