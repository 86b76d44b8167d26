-- privileges.sql: who may do what. The last part: it sees what the others made.
--
-- Nothing is granted to PUBLIC but what says nothing and changes nothing: see
-- the end. Everything else is granted by level. A function that a new release
-- brings belongs into the list below, or stays its owner's alone; the test
-- "privileges" shows which.

-- What each level adds to the one before it. Routines are given by name.
create function evsource._access(out level text, out privilege text, out kind text, out names text[])
    returns setof record
    language sql immutable set search_path = pg_catalog, pg_temp
    as $$
values
    ('reader', 'usage', 'schema', array['evsource']),
    ('reader', 'select', 'table', array[
        'events', 'streams', 'truncations', 'published', 'event_types', 'event_type_changes', 'events_raw', 'deciders', 'commands',
        'projections', 'checkpoints', 'rebuilds', 'projection_status', 'progress', 'blockers', 'stats',
        'daemon_status',
        'partitions', 'projection_failures', 'dead_letters', 'crash_marks',
        'states', 'snapshots', 'snapshot_parts', 'table_snapshots', 'snapshot_history', 'snapshot_rejections', 'snapshot_metadata', 'snapshot_stats', 'snapshot_status',
        'captured_tables',
        'subscriptions', 'cursors', 'subscription_dead_letters', 'subscription_status']),
    ('reader', 'execute', 'routine', array[
        'read_stream', 'read_category', 'read_all', 'read_event',
        'stream_version', 'safe_position', 'event_id',
        '_event_id', '_streams', '_events_raw', '_partition',   -- event_id and views call these as their user
        'fetch_events', 'ack', 'nack',  -- of a subscription that is the role's
        'wait_for', '_holders', '_events_from', '_first_events',    -- which blockers and stats call as their user
        '_daemon_workers',              -- and daemon_status
        '_projection_workers', '_projection_lag', '_projection_uncounted',   -- and projection_status
        '_subscription_lag',            -- and subscription_status
        '_trigger_arguments',           -- which captured_tables does
        '_differences',                 -- which diff_state does
        'event_count', 'replaying', 'state', 'load_state', 'load_states', 'state_at_version', 'state_at_time', 'diff_state',
        'load_snapshot', 'has_snapshot', 'new_event',
        'fold_merge', 'fold_count', 'fold_sum']),   -- the owner of a projection must be able to call its handler
    ('writer', 'insert', 'table', array['events']),
    ('writer', 'execute', 'routine', array['append', 'append_batch', 'append_json', 'set_metadata', 'execute_command']),
    ('admin', 'execute', 'routine', array[
        'define_event_type', 'drop_event_type', 'create_decider', 'drop_decider', 'forget_commands',
        'create_projection', 'alter_projection', 'drop_projection',
        'pause_projection', 'resume_projection', 'run_projection', 'retry_dead_letters', 'activate_projection',
        'reset_projection', 'rebuild_projection', 'request_rebuild', 'cancel_rebuild',
        'revert_rebuild', 'accept_rebuild', 'restore_projection',
        'check_log', 'verify_projection', 'try_projection',
        'save_snapshot', 'clear_snapshots',
        'start_daemon', 'stop_daemon', 'adopt',
        'capture', 'capture_table', 'release_table',
        'create_subscription', 'alter_subscription', 'drop_subscription', 'seek_subscription',
        'retry_subscription_dead_letters',
        'publish_safe_position', 'grant_access', 'revoke_access', '_grant_access', '_revoke_access'])
$$;
comment on function evsource._access() is 'Internal: what each level of grant_access adds to the one before it.';

-- The same, an object a row. Members of the extension only: a function of
-- somebody else's with the same name is not meant.
create function evsource._access_objects(out level text, out privilege text, out object text)
    returns setof record
    language sql stable set search_path = pg_catalog, pg_temp
    as $$
select a.level, a.privilege,
       a.kind || ' ' || case a.kind
           when 'schema' then quote_ident(n.name)
           when 'table' then 'evsource.' || quote_ident(n.name)
           else p.oid::regprocedure::text
       end
from evsource._access() a
    cross join lateral unnest(a.names) n (name)
    left join pg_proc p
        on a.kind = 'routine' and p.proname = n.name and p.pronamespace = 'evsource'::regnamespace
        and exists (select from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
where a.kind <> 'routine' or p.oid is not null
$$;
comment on function evsource._access_objects() is 'Internal: _access with the objects as GRANT takes them.';

-- As their owner, whoever calls them: so every grant has the same grantor, and
-- revoke_access takes back what any administrator has granted.

create function evsource._change_access(role regrole, command text, levels text[]) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
    as $$
declare
    grantee text := (select quote_ident(r.rolname) from pg_roles r where r.oid = role);
    object record;
begin
    if role is null then
        raise exception 'role must not be null' using errcode = '22004';
    end if;
    if grantee is null then
        raise exception 'role % does not exist', role using errcode = '42704';
    end if;
    if command like 'revoke %' and role = (select e.extowner from pg_extension e where e.extname = 'evsource') then
        raise exception 'cannot revoke the rights of role %', role using errcode = '0LP01',
            detail = 'It owns evsource, whose functions and triggers act with its rights.',
            hint = 'What was granted to others can be revoked from them.';
    end if;
    -- two at once would fail on the same row of a catalog
    lock table evsource.store in share row exclusive mode;
    for object in
        select o.privilege, o.object from evsource._access_objects() o where o.level = any (levels)
    loop
        execute format(command, object.privilege, object.object, grantee);
    end loop;
end
$$;
comment on function evsource._change_access(regrole, text, text[]) is 'Internal: grants or revokes what the levels name.';

-- What an administrator may do with other roles: not with administrators, or whoever
-- had the rights once could keep them for ever.

create function evsource._grant_access(role regrole, levels text[]) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
begin
    perform evsource._change_access(role, 'grant %s on %s to %s', array_remove(levels, 'admin'));
end
$$;
comment on function evsource._grant_access(regrole, text[]) is 'Internal: grants levels, all but the highest.';

create function evsource._revoke_access(role regrole) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
begin
    if exists (select from pg_proc p cross join aclexplode(p.proacl) a
               where p.pronamespace = 'evsource'::regnamespace and p.proname = 'grant_access'
                   and a.grantee = role and a.grantee <> p.proowner) then
        raise exception 'permission denied to revoke the rights of role %', role using errcode = '42501',
            detail = 'It is an administrator of evsource.',
            hint = 'The owner of evsource or a superuser can do so.';
    end if;
    perform evsource._change_access(role, 'revoke %s on %s from %s', array['reader', 'writer', 'admin']);
end
$$;
comment on function evsource._revoke_access(regrole) is 'Internal: revokes all levels of a role that is no administrator.';

-- What their owner may do: nobody else is granted these two.

create function evsource._grant_admin(role regrole) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
begin
    perform evsource._change_access(role, 'grant %s on %s to %s', array['reader', 'writer', 'admin']);
end
$$;
comment on function evsource._grant_admin(regrole) is 'Internal: grants the level admin.';

create function evsource._revoke_admin(role regrole) returns void
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $$
begin
    perform evsource._change_access(role, 'revoke %s on %s from %s', array['reader', 'writer', 'admin']);
end
$$;
comment on function evsource._revoke_admin(regrole) is 'Internal: revokes all levels of any role.';

create function evsource.grant_access(role regrole, level text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
    as $$
declare
    levels constant text[] := array['reader', 'writer', 'admin'];
    rank int := array_position(levels, level);
begin
    if level is null then
        raise exception 'level must not be null' using errcode = '22004';
    end if;
    if rank is null then
        raise exception 'invalid value for parameter "level": "%"', level using errcode = '22023',
            hint = 'Use ''reader'', ''writer'' or ''admin''; each includes the ones before it.';
    end if;
    if level <> 'admin' then
        perform evsource._grant_access(role, levels[:rank]);
    elsif has_function_privilege('evsource._grant_admin(regrole)', 'execute') then
        perform evsource._grant_admin(role);
    else
        raise exception 'permission denied to grant level "admin"' using errcode = '42501',
            detail = 'An administrator can grant ''reader'' and ''writer''.',
            hint = 'The owner of evsource or a superuser can do so.';
    end if;
end
$$;
comment on function evsource.grant_access(regrole, text) is
'Grants a role the right to read (reader), to read and append (writer), or to do everything but own the tables (admin: only the owner of evsource grants it). Adds to what the role has. Errors: 22023 for another level, 42704 for an unknown role, 42501.';

create function evsource.revoke_access(role regrole) returns void
    language plpgsql set search_path = pg_catalog, pg_temp
    as $$
begin
    if has_function_privilege('evsource._revoke_admin(regrole)', 'execute') then
        perform evsource._revoke_admin(role);
    else
        perform evsource._revoke_access(role);
    end if;
end
$$;
comment on function evsource.revoke_access(regrole) is
'Revokes all that grant_access grants at any level. Only the owner of evsource can revoke those of an administrator (42501); the owner''s own cannot be revoked (0LP01).';

-- Nothing to PUBLIC, whatever the default privileges are and whatever the parts
-- before have made ...

do $$
declare
    object text;
begin
    for object in
        select 'routine ' || p.oid::pg_catalog.regprocedure
        from pg_catalog.pg_depend d join pg_catalog.pg_proc p on p.oid = d.objid
        where d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.deptype = 'e'
            and d.refobjid = (select e.oid from pg_catalog.pg_extension e where e.extname = 'evsource')
        union all
        select case c.relkind when 'S' then 'sequence ' else 'table ' end || c.oid::pg_catalog.regclass
        from pg_catalog.pg_depend d join pg_catalog.pg_class c on c.oid = d.objid
        where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype = 'e'
            and d.refobjid = (select e.oid from pg_catalog.pg_extension e where e.extname = 'evsource')
            and c.relkind <> 'c'
    loop
        execute pg_catalog.format('revoke all on %s from public', object);
    end loop;
end
$$;
revoke all on schema evsource from public;

-- ... but the category of a name: a pure function, and a role that inserts into
-- evsource.events by a grant of its own must be able to compute its indexes. And
-- the right to use evsource.event as a type, which all types give: without
-- USAGE on the schema nobody can name it.

grant execute on function evsource.category(text) to public;
