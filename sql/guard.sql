-- guard.sql: the log is not dropped by accident, no table of evsource is reached through another
-- one, and the daemon makes room. See src/guard.c.

create function evsource._guard_log() returns event_trigger
    language c as 'MODULE_PATHNAME', 'evsource_guard_log';
comment on function evsource._guard_log() is 'Internal: loads the library, which refuses to drop a log that holds events, to rename its schema and tables, to move these and to make them part of an inheritance tree, and asks the daemon out of the way.';

create event trigger evsource_guard_log on ddl_command_start
    when tag in ('ALTER EXTENSION', 'ALTER SCHEMA', 'DROP EXTENSION', 'DROP OWNED', 'DROP SCHEMA',
        -- these may give a table a parent
        'ALTER FOREIGN TABLE', 'ALTER TABLE', 'CREATE FOREIGN TABLE', 'CREATE SCHEMA', 'CREATE TABLE',
        'ALTER SEQUENCE', 'ALTER VIEW')
    execute function evsource._guard_log();
-- Also where session_replication_role is replica.
alter event trigger evsource_guard_log enable always;
comment on event trigger evsource_guard_log is 'Refuses to drop evsource while its log holds events, unless evsource.allow_drop is on, to rename or move its tables, and to make them part of an inheritance tree.';
