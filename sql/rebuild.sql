-- rebuild.sql: rebuilds that are under way, and the tables they build. See
-- src/rebuild.c and src/shadow.c.

create table evsource.rebuilds (
    projection    text collate "C" primary key,
    request       xid8 not null default pg_catalog.pg_current_xact_id(),   -- which one: the transaction that asked last
    state         text not null,         -- 'requested' | 'building' | 'failed' | 'kept'
    background    boolean not null,      -- by the daemon
    online        boolean,               -- asked for: beside the old read model; null: if possible
    from_snapshot boolean not null,
    keep_old      boolean not null,
    tables        text[],                -- online: those that are built
    shadow        text,                  -- online: the schema in which; null: in place, or not begun
    shape         text,                  -- online: tells whether the tables have changed since
    definition    bigint,                -- online: whether the projection has
    position      bigint not null default 0,   -- online: what is built; kept: what is kept
    event_count   bigint not null default 0,
    total         bigint,                -- events there were to apply
    rounds        integer not null default 0,
    started_at    timestamptz,           -- null: not begun
    resumed_at    timestamptz,
    resumed_count bigint not null default 0,
    updated_at    timestamptz not null default pg_catalog.now(),
    last_error    text,                  -- the message; and the rest, as in projection_failures
    last_error_position bigint,          -- of the event that it was raised at, if it was one
    sqlstate      text,
    detail        text,
    hint          text,
    context       text,
    kept_stale    boolean not null default false,
    truncated     text collate "C",      -- online: as in checkpoints, of what is built or kept
    truncated_both boolean not null default false,   -- of events that are in the other version, too
    missed        text collate "C",      -- kept: a stream of whose truncated events it never had some
    missed_in_use text collate "C",      -- kept: so of the version in use, which was kept before
    parts         bigint[],              -- kept: how far its partitions are, if they are apart
    paused        boolean not null default false,   -- in place: the projection was paused before
    pid           integer,               -- of the process that was the last to work on it
    waits_for     integer[]              -- and of those that are in its way
);
comment on table evsource.rebuilds is 'Rebuilds that were requested or are under way, and old versions that are kept.';

-- The triggers that do not shape a row, and may fill another of the tables. Whether
-- one asks evsource.replaying() in its WHEN: it says itself, then, what it does not do
-- in a replay. A constraint trigger is taken for a check; those of evsource capture.
create function evsource._shadow_triggers(tables regclass[], out trigger oid, out asks boolean) returns setof record
    language sql stable set search_path = pg_catalog, pg_temp
    as $$
select g.oid, exists (select from pg_depend d where d.classid = 'pg_trigger'::regclass and d.objid = g.oid
    and d.refclassid = 'pg_proc'::regclass and d.refobjid = 'evsource.replaying()'::regprocedure)
from pg_trigger g join pg_proc p on p.oid = g.tgfoid
where g.tgrelid = any (tables) and cardinality(tables) > 1 and not g.tgisinternal and g.tgconstraint = 0
    and g.tgenabled in ('O', 'A') and g.tgtype & 3 <> 3 and g.tgtype & 28 <> 0
    and p.pronamespace <> 'evsource'::regnamespace
$$;
comment on function evsource._shadow_triggers(regclass[]) is 'Internal: the triggers that may fill another of these tables.';

-- Why a table cannot be built beside itself and swapped, or null. What is meant
-- here is: without a copy of its rows, and without anybody noticing. What is built
-- (building) has no triggers but those that shape a row, so one of another kind must
-- not be what fills another of the tables.
create function evsource._shadow_obstacle(tables regclass[], building boolean) returns text
    language sql stable set search_path = pg_catalog, pg_temp
    set join_collapse_limit = 1 set from_collapse_limit = 1   -- to look for better plans takes longer than these
    as $$
with t as (
    select c.*, c.oid::regclass::text as name from unnest(tables) u (id) join pg_class c on c.oid = u.id
), reasons (priority, reason) as (
    select 1, format('table %s is partitioned, or part of an inheritance tree', name) from t
        where relkind <> 'r' or relispartition
            or exists (select from pg_inherits i where i.inhrelid = t.oid or i.inhparent = t.oid)
    union all
    select 2, format('table %s is unlogged', name) from t where relpersistence <> 'p'
    union all
    select 3, format('table %s is not stored as a heap', name) from t
        where relam <> (select a.oid from pg_am a where a.amname = 'heap')
    union all
    select 4, format('table %s is of a composite type', name) from t where reloftype <> 0
    union all
    select 5, format('table %s has rules', name) from t
        where exists (select from pg_rewrite r where r.ev_class = t.oid)
    union all
    select 6, format('table %s is referenced by foreign key %I of table %s', name, k.conname, k.conrelid::regclass)
        from t join pg_constraint k on k.confrelid = t.oid and k.contype = 'f'
        where k.conrelid <> all (tables)
    union all
    select 7, format('table %s is published, and subscribers would not be told', name)
        from t join pg_namespace n on n.oid = t.relnamespace
        where exists (select from pg_publication_tables p where p.schemaname = n.nspname and p.tablename = t.relname)
    union all
    select 8, format('table %s is captured, and its events would not tell of the new rows', name) from t
        where exists (select from pg_trigger g join pg_proc p on p.oid = g.tgfoid where g.tgrelid = t.oid
            and g.tgenabled <> 'D' and p.pronamespace = 'evsource'::regnamespace and p.proname = 'capture')
    union all
    select 9, format('index %s is not valid', i.indexrelid::regclass) from t join pg_index i on i.indrelid = t.oid
        where not (i.indisvalid and i.indisready)
    union all
    select 10, format('column %s of table %s, which was dropped, was of a rare type', a.attnum, name)
        from t join pg_attribute a on a.attrelid = t.oid
        where a.attisdropped and a.attnum > 0 and evsource._shadow_filler(a.attlen, a.attalign) is null
    union all
    select 13, format('trigger %I of table %s does not fire for rows that are built, and may fill another of the tables;'
            ' if it does not, give it WHEN (not evsource.replaying())', g.tgname, name)
        from evsource._shadow_triggers(tables) f join pg_trigger g on g.oid = f.trigger join t on t.oid = g.tgrelid
        where building and not f.asks
    union all
    select 12, 'the tables belong to different roles' from t having count(distinct relowner) > 1
    union all
    select 11, format('there are two tables named %I', relname) from t group by relname having count(*) > 1
)
select reason from reasons order by priority, reason limit 1
$$;
comment on function evsource._shadow_obstacle(regclass[], boolean) is 'Internal: why these tables cannot be rebuilt online, or null.';

-- A dropped column still takes its place in the rows. How long that is, and where it
-- begins, its length and alignment say. Whether it was passed by value only who reads it
-- would ask, and pg_upgrade does not keep it.
create function evsource._shadow_filler(length smallint, alignment "char") returns text
    language sql stable set search_path = pg_catalog, pg_temp
    as $$
select t.typname::text from pg_type t
where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype = 'b' and t.typcategory not in ('A', 'Z')
    and t.typlen = length and t.typalign = alignment
order by t.oid limit 1
$$;
comment on function evsource._shadow_filler(smallint, "char") is 'Internal: a type of this size.';

-- The statements that make tables of the same shape in another schema. Not what
-- only others look at: grants and comments stay with the old table, which stays.
-- Of the triggers those that shape a row. They tell, too, whether the tables have
-- changed: so the same tables must give the same statements in every session.
-- Tables that only a trial needs (passing) need not survive a crash, nor have the
-- files of others: they have no dropped columns, and refer to each other only. With
-- what it does a trial is taken back, so among several tables the triggers that may
-- fill another of them run, as they do for the tables themselves: see _shadow_triggers().
create function evsource._shadow_statements(tables regclass[], shadow text, passing boolean default false) returns setof text
    language plpgsql stable set search_path = pg_catalog, pg_temp
    set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres'
    set extra_float_digits = 1 set bytea_output = 'hex' set quote_all_identifiers = off set standard_conforming_strings = on
    set join_collapse_limit = 1 set from_collapse_limit = 1 set plan_cache_mode = force_generic_plan
    as $$
declare
    t record;
    r record;
    target text;
    definition text;
    head text;
    has_defaults boolean := false;
    has_triggers boolean := false;
    options constant text := 'start with %s increment by %s minvalue %s maxvalue %s cache %s %s';
begin
    for t in
        select c.oid, c.relname, n.nspname, format('%I.%I', n.nspname, c.relname) as name, c.relhastriggers,
            exists (select from pg_attrdef d where d.adrelid = c.oid) as has_defaults,
            (select string_agg(format('%s%s = %L', o.prefix, split_part(o.item, '=', 1), substr(o.item, strpos(o.item, '=') + 1)), ', ' order by o.prefix, o.item)
             from (select '' as prefix, unnest(c.reloptions) as item
                   union all select 'toast.', unnest(x.reloptions) from pg_class x where x.oid = c.reltoastrelid) o) as settings,
            s.spcname
        from unnest(tables) with ordinality u (id, number)
            join pg_class c on c.oid = u.id
            join pg_namespace n on n.oid = c.relnamespace
            left join pg_tablespace s on s.oid = c.reltablespace
        order by u.number
    loop
        target := format('%I.%I', shadow, t.relname);
        has_defaults := has_defaults or t.has_defaults;
        has_triggers := has_triggers or t.relhastriggers;

        return next format('create %stable %s (%s) using heap%s%s', case when passing then 'unlogged ' else '' end, target,
            (select string_agg(case
                when a.attisdropped then
                    format('%I pg_catalog.%I', 'evsource dropped ' || a.attnum, evsource._shadow_filler(a.attlen, a.attalign))
                else format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))
                    || case when a.attcollation <> y.typcollation then
                        (select format(' collate %I.%I', cn.nspname, l.collname) from pg_collation l
                         join pg_namespace cn on cn.oid = l.collnamespace where l.oid = a.attcollation) else '' end
                    || case when a.attgenerated <> '' then
                        format(' generated always as (%s) %s', pg_get_expr(d.adbin, d.adrelid),
                            case a.attgenerated when 'v' then 'virtual' else 'stored' end) else '' end
                    || case when a.attnotnull then ' not null' else '' end
                end, ', ' order by a.attnum)
             from pg_attribute a
                left join pg_type y on y.oid = a.atttypid
                left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
             where a.attrelid = t.oid and a.attnum > 0 and not (passing and a.attisdropped)),
            ' with (' || t.settings || ')', ' tablespace ' || quote_ident(t.spcname));

        for r in
            select a.*, y.typstorage, to_jsonb(a) ->> 'attcompression' as compression
            from pg_attribute a left join pg_type y on y.oid = a.atttypid
            where a.attrelid = t.oid and a.attnum > 0 and not (passing and a.attisdropped) order by a.attnum
        loop
            if r.attisdropped then
                return next format('alter table %s drop column %I', target, 'evsource dropped ' || r.attnum);
                continue;
            end if;
            if r.attstorage <> r.typstorage then
                return next format('alter table %s alter column %I set storage %s', target, r.attname,
                    case r.attstorage when 'p' then 'plain' when 'e' then 'external' when 'm' then 'main' else 'extended' end);
            end if;
            if r.compression in ('p', 'l') then
                return next format('alter table %s alter column %I set compression %s', target, r.attname,
                    case r.compression when 'p' then 'pglz' else 'lz4' end);
            end if;
        end loop;

        -- sequences of its own: numbers begin where they begin
        for r in
            select c.relname, a.attname, a.attidentity, format_type(q.seqtypid, null) as type,
                format(options, q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
                    case when q.seqcycle then 'cycle' else 'no cycle' end) as options
            from pg_depend d
                join pg_class c on c.oid = d.objid and c.relkind = 'S'
                join pg_sequence q on q.seqrelid = c.oid
                join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
            where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
                and d.refobjid = t.oid and d.refobjsubid > 0 and d.deptype in ('a', 'i')
            order by c.relname
        loop
            if r.attidentity <> '' then
                return next format('alter table %s alter column %I add generated %s as identity (sequence name %I.%I %s)',
                    target, r.attname, case r.attidentity when 'a' then 'always' else 'by default' end,
                    shadow, r.relname, r.options);
            else
                return next format('create sequence %I.%I as %s %s owned by %s.%I',
                    shadow, r.relname, r.type, r.options, target, r.attname);
            end if;
        end loop;

    end loop;

    -- what may refer to another of the tables
    for t in
        select c.oid, c.relname, format('%I.%I', n.nspname, c.relname) as name
        from unnest(tables) with ordinality u (id, number)
            join pg_class c on c.oid = u.id join pg_namespace n on n.oid = c.relnamespace
        order by u.number
    loop
        target := format('%I.%I', shadow, t.relname);
        if has_defaults then
            for r in
                select a.attname, pg_get_expr(d.adbin, d.adrelid) as expression
                from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
                where d.adrelid = t.oid and a.attgenerated = '' order by a.attnum
            loop
                return next format('alter table %s alter column %I set default %s', target, r.attname,
                    evsource._shadow_default(r.expression, tables, shadow));
            end loop;
        end if;

        for r in
            select k.conname, pg_get_constraintdef(k.oid) as definition from pg_constraint k
            where k.conrelid = t.oid and k.contype in ('c', 'p', 'u', 'x') order by k.contype, k.conname
        loop
            return next format('alter table %s add constraint %I %s', target, r.conname, r.definition);
        end loop;

        for r in
            select c.relname, s.spcname, pg_get_indexdef(c.oid) as definition, i.indisunique,
                exists (select from pg_constraint k where k.conindid = c.oid and k.contype in ('p', 'u', 'x')) as of_constraint
            from pg_index i join pg_class c on c.oid = i.indexrelid
                left join pg_tablespace s on s.oid = c.reltablespace
            where i.indrelid = t.oid order by c.relname
        loop
            if not r.of_constraint then
                head := format('CREATE %sINDEX %I ON %s ', case when r.indisunique then 'UNIQUE ' else '' end, r.relname, t.name);
                -- of a partitioned table it says ON ONLY
                if starts_with(r.definition, replace(head, ' ON ', ' ON ONLY ')) then
                    r.definition := head || substr(r.definition, length(head) + length('ONLY ') + 1);
                end if;
                if not starts_with(r.definition, head) then
                    raise exception 'unexpected definition of an index: %', r.definition;
                end if;
                return next format('create %sindex %I on %s %s', case when r.indisunique then 'unique ' else '' end,
                    r.relname, target, substr(r.definition, length(head) + 1));
            end if;
            if r.spcname is not null then
                return next format('alter index %I.%I set tablespace %I', shadow, r.relname, r.spcname);
            end if;
        end loop;
    end loop;

    -- foreign keys have triggers
    if not has_triggers then
        return;
    end if;
    for t in
        select c.oid, c.relname, format('%I.%I', n.nspname, c.relname) as name
        from unnest(tables) with ordinality u (id, number)
            join pg_class c on c.oid = u.id join pg_namespace n on n.oid = c.relnamespace
        order by u.number
    loop
        target := format('%I.%I', shadow, t.relname);
        for r in
            select k.conname, pg_get_constraintdef(k.oid) as definition, k.confrelid = any (tables) as inside,
                format(' REFERENCES %I.%I(', n.nspname, c.relname) as was, format(' REFERENCES %I.%I(', shadow, c.relname) as becomes
            from pg_constraint k join pg_class c on c.oid = k.confrelid join pg_namespace n on n.oid = c.relnamespace
            where k.conrelid = t.oid and k.contype = 'f' and not (passing and k.confrelid <> all (tables)) order by k.conname
        loop
            definition := r.definition;
            if r.inside then
                definition := replace(definition, r.was, r.becomes);
                if definition = r.definition then
                    raise exception 'unexpected definition of a foreign key: %', r.definition;
                end if;
            end if;
            return next format('alter table %s add constraint %I %s', target, r.conname, definition);
        end loop;

        for r in
            select g.tgname, g.tgenabled, pg_get_triggerdef(g.oid) as definition from pg_trigger g
            where g.tgrelid = t.oid and not g.tgisinternal and g.tgenabled in ('O', 'A')
                and (g.tgtype & 3 = 3 or passing and g.oid in (select f.trigger from evsource._shadow_triggers(tables) f))
            order by g.tgname
        loop
            -- to the first ON that is no part of a name
            head := substring(r.definition from '^(?:[^"]|"[^"]*")*? ON ');
            if head is null or not starts_with(r.definition, head || t.name || ' ') then
                raise exception 'unexpected definition of a trigger: %', r.definition;
            end if;
            return next head || target || substr(r.definition, length(head || t.name) + 1);
            if r.tgenabled = 'A' then
                return next format('alter table %s enable always trigger %I', target, r.tgname);
            end if;
        end loop;
    end loop;
end
$$;
comment on function evsource._shadow_statements(regclass[], text, boolean) is 'Internal: the statements that make tables like these in another schema.';

-- The statements that say who may use these tables. Nobody has to read what is
-- built or kept there, so of the grants only those of whoever builds it are
-- copied: the handler may run with the rights of its own owner. What that one is
-- not shown of the old tables it is not shown here. Default privileges of whoever
-- made the tables are taken back.
create function evsource._shadow_access(tables regclass[], shadow text, builder oid) returns setof text
    language sql stable set search_path = pg_catalog, pg_temp
    set timezone = 'UTC' set datestyle = 'ISO, MDY' set intervalstyle = 'postgres'
    set extra_float_digits = 1 set bytea_output = 'hex' set quote_all_identifiers = off set standard_conforming_strings = on
    set join_collapse_limit = 1 set from_collapse_limit = 1
    as $$
with t as (
    select c.*, u.number, format('%I.%I', shadow, c.relname) as target
    from unnest(tables) with ordinality u (id, number) join pg_class c on c.oid = u.id
), s as (
    select q.oid, t.number, format('%I.%I', shadow, q.relname) as target, t.relowner
    from t join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = t.oid and d.refobjsubid > 0
        and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
        join pg_class q on q.oid = d.objid and q.relkind = 'S'
), statements (step, number, statement) as (
    select 1, 0, format('revoke all on %s %I.%I from %s', case c.relkind when 'S' then 'sequence' else 'table' end, shadow, c.relname,
        case x.grantee when 0 then 'public' else x.grantee::regrole::text end)
    from pg_class c cross join lateral aclexplode(c.relacl) x
    where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = shadow) and x.grantee <> c.relowner
    group by c.relkind, c.relname, x.grantee
    union all
    select 2, t.number, format('alter table %s enable row level security', t.target) from t where t.relrowsecurity
    union all
    select 2, t.number, format('alter table %s force row level security', t.target) from t where t.relforcerowsecurity
    union all
    select 3, t.number, format('create policy %I on %s as %s for %s to %s%s%s', p.polname, t.target,
        case when p.polpermissive then 'permissive' else 'restrictive' end,
        case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        (select string_agg(case r.id when 0 then 'public' else r.id::regrole::text end, ', ') from unnest(p.polroles) r (id)),
        ' using (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    from t join pg_policy p on p.polrelid = t.oid
    union all
    select 4, t.number, format('grant %s on table %s to %s', g.privilege, t.target, builder::regrole)
    from t cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references']) g (privilege)
    where builder <> t.relowner and has_table_privilege(builder, t.oid, g.privilege)
    union all
    select 4, t.number, format('grant %s (%I) on table %s to %s', g.privilege, a.attname, t.target, builder::regrole)
    from t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
        cross join unnest(array['select', 'insert', 'update', 'references']) g (privilege)
    where builder <> t.relowner and not has_table_privilege(builder, t.oid, g.privilege)
        and has_column_privilege(builder, t.oid, a.attnum, g.privilege)
    union all
    select 4, s.number, format('grant %s on sequence %s to %s', g.privilege, s.target, builder::regrole)
    from s cross join unnest(array['usage', 'select', 'update']) g (privilege)
    where builder <> s.relowner and has_sequence_privilege(builder, s.oid, g.privilege)
)
select statement from statements order by step, number, statement
$$;
comment on function evsource._shadow_access(regclass[], text, oid) is 'Internal: the statements that say who may use tables like these in another schema.';

-- nextval of a sequence that belongs to one of the tables is that of its shadow.
create function evsource._shadow_default(expression text, tables regclass[], shadow text) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp
    as $$
declare
    r record;
begin
    for r in
        select c.oid::regclass::text as name, c.relname
        from pg_depend d join pg_class c on c.oid = d.objid and c.relkind = 'S'
        where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
            and d.refobjid = any (tables) and d.refobjsubid > 0 and d.deptype = 'a'
    loop
        -- as pg_get_expr() has it, which leaves backslashes alone
        expression := replace(expression, '''' || replace(r.name, '''', '''''') || '''::regclass',
            quote_literal(format('%I.%I', shadow, r.relname)) || '::regclass');
    end loop;
    return expression;
end
$$;
comment on function evsource._shadow_default(text, regclass[], text) is 'Internal: a default as the shadow has it.';

create procedure evsource.rebuild_projection(
    projection text,
    from_snapshot boolean default false,
    lock_timeout interval default '2s',
    online boolean default null,
    keep_old boolean default false)
    language c
    as 'MODULE_PATHNAME', 'evsource_rebuild_projection';
comment on procedure evsource.rebuild_projection(text, boolean, interval, boolean, boolean) is
'Rebuilds the read model from the log, in transactions of its own: where possible beside the old one, which it then replaces. Errors: 42704, 42501, 22023, 55000 when nothing of it can be emptied or it cannot be built online, 55P03 when others are in the way; what the handler raises.';

create function evsource.request_rebuild(
    projection text,
    from_snapshot boolean default false,
    online boolean default null,
    keep_old boolean default false)
    returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_request_rebuild';
comment on function evsource.request_rebuild(text, boolean, boolean, boolean) is
'Asks the daemon to rebuild a projection, as rebuild_projection does. Errors: 42704, 42501, 22023, 55000 when nothing of it can be emptied.';

create function evsource.cancel_rebuild(projection text) returns boolean
    language c
    as 'MODULE_PATHNAME', 'evsource_cancel_rebuild';
comment on function evsource.cancel_rebuild(text) is
'Ends a rebuild that was requested or is under way, and drops what it has built beside the read model; false when there was none. Errors: 42704, 42501.';

create function evsource.revert_rebuild(projection text) returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_revert_rebuild';
comment on function evsource.revert_rebuild(text) is
'Returns to the version of the read model that a rebuild has kept, and applies what was appended since. The version that it replaces is kept in turn. Errors: 42704, 42501, 55000 when none is kept or its tables have changed, 25000 under REPEATABLE READ, 55P03 when others are in the way; what the handler raises.';

create function evsource.accept_rebuild(projection text) returns void
    language c
    as 'MODULE_PATHNAME', 'evsource_accept_rebuild';
comment on function evsource.accept_rebuild(text) is
'Drops the old version of the read model that a rebuild has kept. Errors: 42704, 42501, 55000 when none is kept, 55P03 when others are in the way.';

create function evsource.replaying() returns boolean
    language c stable parallel restricted
    as 'MODULE_PATHNAME', 'evsource_replaying';
comment on function evsource.replaying() is
'Returns true in a handler while it is given history: events that the projection has applied before or that were in the log before it was created, and parked events that a rebuild applies (not those that retry_dead_letters applies).';
