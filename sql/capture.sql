-- capture.sql: changes of tables become events. See src/capture.c.

-- What a row means, whatever it is called: see src/capture_names.c.
create type evsource._table_name;
create function evsource._table_name_in(cstring) returns evsource._table_name
    language c stable strict as 'MODULE_PATHNAME', 'evsource_table_name_in';
create function evsource._table_name_out(evsource._table_name) returns cstring
    language c stable strict as 'MODULE_PATHNAME', 'evsource_table_name_out';
create type evsource._table_name (
    input = evsource._table_name_in, output = evsource._table_name_out, like = pg_catalog.oid);
create cast (pg_catalog.oid as evsource._table_name) without function;
create cast (evsource._table_name as pg_catalog.oid) without function;
comment on cast (pg_catalog.oid as evsource._table_name) is 'Internal: a table by its OID.';
comment on cast (evsource._table_name as pg_catalog.oid) is 'Internal: the OID of a table.';
create type evsource._role_name;
create function evsource._role_name_in(cstring) returns evsource._role_name
    language c stable strict as 'MODULE_PATHNAME', 'evsource_role_name_in';
create function evsource._role_name_out(evsource._role_name) returns cstring
    language c stable strict as 'MODULE_PATHNAME', 'evsource_role_name_out';
create type evsource._role_name (
    input = evsource._role_name_in, output = evsource._role_name_out, like = pg_catalog.oid);
create cast (pg_catalog.oid as evsource._role_name) without function;
create cast (evsource._role_name as pg_catalog.oid) without function;
comment on cast (pg_catalog.oid as evsource._role_name) is 'Internal: a role by its OID.';
comment on cast (evsource._role_name as pg_catalog.oid) is 'Internal: the OID of a role.';
comment on type evsource._table_name is 'Internal: a table; its name in a dump.';
comment on function evsource._table_name_in(cstring) is 'Internal: input of a type.';
comment on function evsource._table_name_out(evsource._table_name) is 'Internal: output of a type.';
comment on type evsource._role_name is 'Internal: a role; its name in a dump.';
comment on function evsource._role_name_in(cstring) is 'Internal: input of a type.';
comment on function evsource._role_name_out(evsource._role_name) is 'Internal: output of a type.';

-- Who appends what the triggers of a table with these arguments capture. Without a
-- key: a dump may know of tables that it does not have.
create table evsource.captures (
    relation   evsource._table_name not null,
    arguments  text[] not null,
    registrant evsource._role_name not null
);
comment on table evsource.captures is 'Internal: with whose rights tables are captured. Written when a capture is registered, never by hand.';
create trigger captures_changed
    after insert or update or delete or truncate on evsource.captures
    for each statement execute function evsource._changed();
alter table evsource.captures enable always trigger captures_changed;
alter table evsource.captures replica identity full;    -- for publications of all tables
select pg_catalog.pg_extension_config_dump('evsource.captures',
    'where relation::pg_catalog.oid in (select oid from pg_catalog.pg_class)');

create function evsource.capture() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_capture';
comment on function evsource.capture() is
'Trigger function that appends an event for each change of a row. Arguments: the category and the key columns, then optionally --exclude and columns, and --as and a role. evsource.capture_table creates its triggers.';

create function evsource._capture_partition() returns trigger
    language c as 'MODULE_PATHNAME', 'evsource_capture_partition';
comment on function evsource._capture_partition() is 'Internal: captures TRUNCATE of a partition, as deletes of its rows; loads the library before other statements.';

create function evsource.capture_table(
    table_name text,
    category text default null,
    key_columns text[] default null,
    exclude_columns text[] default null,
    backfill boolean default false,
    if_exists text default 'error')
    returns bigint
    language c as 'MODULE_PATHNAME', 'evsource_capture_table';
comment on function evsource.capture_table(text, text, text[], text[], boolean, text) is
'Captures a table: from now on an event is appended for each row that is inserted, updated or deleted. category defaults to the name of the table, key_columns to its primary key. backfill also appends an event for each existing row; returns how many. if_exists: error, keep or alter. Errors: 42P01, 42809, 42501, 42710, 42704, 42703, 22023, 0A000.';

create function evsource.release_table(table_name text) returns void
    language c as 'MODULE_PATHNAME', 'evsource_release_table';
comment on function evsource.release_table(text) is
'Ends all captures of a table. For the owner of the table, and for the role that captured it. Errors: 42P01, 42704 when it is not captured, 42809 when it is captured as a partition, 42501.';

create function evsource._trigger_arguments(trigger oid) returns text[]
    language c stable strict as 'MODULE_PATHNAME', 'evsource_trigger_arguments';
comment on function evsource._trigger_arguments(oid) is 'Internal: the arguments of a trigger.';

-- Not the partitions that have the trigger from their table.
create view evsource.captured_tables as
    select pg_catalog.format('%I.%I', n.nspname, c.relname) as table_name,
        a.category, a.key_columns, a.exclude_columns,
        (select pg_catalog.pg_get_userbyid(r.registrant::pg_catalog.oid)::text from evsource.captures r
         where r.relation::pg_catalog.oid = t.tgrelid and r.arguments = a.words
             and r.registrant::pg_catalog.oid <> 0 limit 1) as captured_by,
        t.tgenabled <> 'D' as enabled,
        case t.tgenabled when 'O' then 'origin' when 'A' then 'always' when 'R' then 'replica'
            else 'disabled' end as fires
    from pg_catalog.pg_trigger t
        join pg_catalog.pg_proc p on p.oid = t.tgfoid
        join pg_catalog.pg_namespace pn on pn.oid = p.pronamespace
        join pg_catalog.pg_class c on c.oid = t.tgrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        cross join lateral (
            select (pg_catalog.array_agg(w.word order by w.place))[1] as category,
                pg_catalog.array_agg(w.word order by w.place) filter (
                    where w.place > 1 and w.place < coalesce(e.at, r.at, w.place + 1)) as key_columns,
                coalesce(pg_catalog.array_agg(w.word order by w.place) filter (
                    where w.place > e.at and w.place < coalesce(r.at, w.place + 1)), '{}') as exclude_columns,
                s.words
            from (select evsource._trigger_arguments(t.oid) as words offset 0) s
                cross join lateral (select pg_catalog.array_position(s.words, '--exclude') as at) e
                cross join lateral (select pg_catalog.array_position(s.words, '--as') as at) r
                cross join lateral pg_catalog.unnest(s.words) with ordinality w (word, place)
            group by s.words, e.at, r.at) a
    where pn.nspname = 'evsource' and p.proname = 'capture'
        and t.tgtype & 1 = 1        -- for each row
        and t.tgparentid = 0;
comment on view evsource.captured_tables is 'Tables whose changes are captured, and how.';

-- Who creates such a trigger by hand registers it, and must be able to act as the role
-- that it names, or as the table's owner. What a capture excludes is not renamed.
create function evsource._guard_captures() returns event_trigger
    language c as 'MODULE_PATHNAME', 'evsource_guard_captures';
comment on function evsource._guard_captures() is 'Internal: registers captures, refuses those with rights that their creator does not have and new names of excluded columns, and forgets those that are dropped.';
create event trigger evsource_guard_captures on ddl_command_end
    when tag in ('CREATE TRIGGER', 'CREATE SCHEMA', 'CREATE TABLE', 'ALTER TABLE',
        -- columns can be renamed by these, also those of tables
        'ALTER FOREIGN TABLE', 'ALTER MATERIALIZED VIEW', 'ALTER TYPE', 'ALTER VIEW')
    execute function evsource._guard_captures();
alter event trigger evsource_guard_captures enable always;
comment on event trigger evsource_guard_captures is 'Registers captures; refuses captures with rights that their creator does not have, and new names for columns that are excluded.';

create event trigger evsource_forget_captures on sql_drop
    when tag in ('DROP TRIGGER', 'DROP TABLE', 'DROP SCHEMA', 'DROP OWNED')
    execute function evsource._guard_captures();
alter event trigger evsource_forget_captures enable always;
comment on event trigger evsource_forget_captures is 'Forgets the captures of tables and triggers that are dropped.';
