-- daemon.sql: the background processes that apply async projections. See src/daemon.h.

create function evsource.start_daemon() returns boolean
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_start_daemon';
comment on function evsource.start_daemon() is
'Starts the daemon for this database; false when it runs already, or has nothing to do yet (or not before this transaction commits) and comes by itself. With shared_preload_libraries it starts by itself. Errors: 55000 where it cannot run, 53400 when max_worker_processes has no room, 55P03 while the extension is updated or dropped.';

create function evsource.stop_daemon() returns boolean
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_stop_daemon';
comment on function evsource.stop_daemon() is
'Stops the daemon for this database and waits until it has ended; false when it does not run. Errors: 55000 in a handler.';

create function evsource._daemon_workers(
    out role text,              -- 'coordinator' | 'worker'
    out pid integer,
    out state text,             -- 'idle' | 'waiting for adopt' | 'waiting for a process' | 'applying' | 'rebuilding'
    out projection text,        -- what a worker has claimed
    out partition integer,
    out since timestamptz,
    out heartbeat timestamptz)
    returns setof record
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_daemon_workers';
comment on function evsource._daemon_workers() is 'Internal: the processes that work for this database, see evsource.daemon_status.';

create function evsource._projection_workers(
    out projection text,
    out partition integer,
    out pid integer,            -- of the worker that has claimed it, or that it is at home with
    out busy boolean,           -- it is at it
    out heartbeat timestamptz)
    returns setof record
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_projection_workers';
comment on function evsource._projection_workers() is 'Internal: who applies what, of the workers that live, see evsource.projection_status.';

create view evsource.daemon_status as
    select w.role, w.pid, w.state, w.projection, w.partition, w.since, w.heartbeat
    from evsource._daemon_workers() w;
comment on view evsource.daemon_status is
'Processes of the daemon for this database: what each does, and when it last reported.';

create function evsource._check_adopt() returns void
    language c volatile parallel unsafe
    as 'MODULE_PATHNAME', 'evsource_check_adopt';
comment on function evsource._check_adopt() is 'Internal: refuses evsource.adopt() in a handler.';

-- In a copy of a database the row says where the original is, in a restored one nothing.
-- Nor does any come any more for events that were restored or imported.
create function evsource.adopt() returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
declare
    changed boolean;
begin
    perform evsource._check_adopt();
    update evsource.store s
        set system_identifier = c.system_identifier, database = d.oid
        from pg_control_system() c, pg_database d
        where d.datname = current_database()
            and (s.system_identifier, s.database) is distinct from (c.system_identifier, d.oid);
    changed := found;
    perform setval('evsource.restored_seq', 0, false);
    return changed;
end
$$;
comment on function evsource.adopt() is
'Allows the daemon to work in this database although it is a copy of the one in which its events were written; false when it is not a copy.';
