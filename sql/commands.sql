-- commands.sql: deciders, and the commands that they decide. See src/command.c,
-- src/decider.c.

-- What a decider returns an array of. The server gives an id and a time to an
-- event that has none.
create type evsource.new_event as (
    type        text,
    data        jsonb,
    metadata    jsonb,
    id          uuid,
    occurred_at timestamptz
);
comment on type evsource.new_event is 'An event that a decider returns to be appended: see evsource.new_event().';

-- Without a search_path of its own, so that it is inlined: it names nothing that
-- could be found elsewhere.
create function evsource.new_event(
    type        text,
    data        jsonb       default '{}',
    metadata    jsonb       default null,
    id          uuid        default null,
    occurred_at timestamptz default null)
    returns evsource.new_event
    language sql immutable parallel safe
    as 'select row($1, $2, $3, $4, $5)::evsource.new_event';
comment on function evsource.new_event(text, jsonb, jsonb, uuid, timestamptz) is
'Makes an event for a decider to return; everything but its type may be left out.';

create type evsource.command_result as (
    state      jsonb,
    version    bigint,
    "position" bigint,
    events     evsource.event[],
    stored     boolean
);
comment on type evsource.command_result is
'Result of evsource.execute_command: the state after the command, the version of the stream then, the position of its last event, and its events; stored is false when this call has stored nothing.';

create table evsource.deciders (
    decider     text collate "C" primary key,
    projection  text collate "C" not null,
    handler     text        not null,   -- qualified signature
    owner       text        not null,   -- role name
    search_path text        not null,   -- what the handler runs with
    created_at  timestamptz not null default pg_catalog.now()
);
comment on table evsource.deciders is 'Functions that decide commands, each with the fold projection whose states it decides on. Roles and functions are stored by name, to survive dump, restore and pg_upgrade.';

-- A command whose events carry ids derived from its own is remembered by them.
-- Here is one that had no events, or whose decider gave them ids.
create table evsource.commands (
    command_id  uuid        not null,
    stream      text        not null collate "C",
    version     bigint      not null,
    event_count integer     not null,
    fingerprint integer     not null,
    executed_at timestamptz not null default pg_catalog.now(),
    constraint commands_pkey primary key (command_id)
);
comment on table evsource.commands is 'Internal: commands that were executed and are not told by the ids of their events.';
comment on column evsource.commands.version is 'The version of the stream after the command.';
comment on column evsource.commands.event_count is 'How many events it had: the last ones up to that version.';

comment on column evsource.commands.fingerprint is 'Of its decider and what it said, in 16 bits: another one with its id is refused. The ids of events end with it.';

select pg_catalog.pg_extension_config_dump('evsource.deciders', '');
select pg_catalog.pg_extension_config_dump('evsource.commands', '');

create function evsource.create_decider(
    decider    text,
    handler    text,
    projection text,
    if_exists  text default 'error')
    returns text
    language c
    as 'MODULE_PATHNAME', 'evsource_create_decider';
comment on function evsource.create_decider(text, text, text, text) is
'Registers a function f(state jsonb, command jsonb) returns evsource.new_event[] that decides on the states of a fold projection. if_exists: error, keep or alter. Returns its name.';

create function evsource.drop_decider(decider text, if_exists boolean default false) returns void
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_drop_decider';
comment on function evsource.drop_decider(text, boolean) is
'Removes a decider. Errors: 42704 when there is none, unless if_exists; 42501.';

create function evsource.execute_command(
    decider    text,
    stream     text,
    command    jsonb,
    command_id uuid default null)
    returns evsource.command_result
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_execute_command';
comment on function evsource.execute_command(text, text, jsonb, uuid) is
'Loads the state of the stream, calls the decider, and appends what it returns if the stream has not changed meanwhile; if it has, starts over. With an id, a command that was executed before returns its first result. Errors that the decider raises are passed on. Errors: VE001 when the stream changed at each attempt, VE002 for an id of another command, 42704, 42501, 22004, 22023, 40001 under REPEATABLE READ; those of append.';

create function evsource.forget_commands(before timestamptz) returns bigint
    language sql security definer set search_path = pg_catalog, pg_temp
    as $$
with forgotten as (delete from evsource.commands c where c.executed_at < before returning 1)
select count(*) from forgotten
$$;
comment on function evsource.forget_commands(timestamptz) is
'Deletes the record of commands that were executed before a time: such a command, sent again, counts as new. Returns how many.';
