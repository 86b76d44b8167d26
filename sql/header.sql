-- evsource: event sourcing and CQRS inside PostgreSQL
\echo Use "create extension evsource" to load this file. \quit


-- The script runs as a superuser: it means PostgreSQL's own functions and operators,
-- and what it names by schema.
set local search_path = pg_catalog, pg_temp;

-- A schema that is there already is taken as it is. Its owner may add to it what hides
-- functions of evsource from those who call them.
do $$
declare
    owner text := (select r.rolname from pg_namespace n join pg_roles r on r.oid = n.nspowner
                   where n.nspname = 'evsource' and n.nspowner <> current_user::regrole and not r.rolsuper);
    hint constant text := 'Drop or rename that schema, then create the extension again.';
begin
    if owner is not null then
        raise exception 'schema "evsource" belongs to role "%"', owner using errcode = '42501',
            detail = 'Extension evsource lives in a schema of its own, which must belong to the role that creates it or to a superuser.',
            hint = hint;
    end if;
    if exists (select from pg_depend d join pg_namespace n on n.oid = d.refobjid
               where d.refclassid = 'pg_namespace'::regclass and n.nspname = 'evsource'
                   and (d.classid, d.objid) not in (select 'pg_extension'::regclass, e.oid
                                                    from pg_extension e where e.extname = 'evsource')) then
        raise exception 'schema "evsource" is not empty' using errcode = '55000',
            detail = 'Extension evsource lives in a schema of its own.',
            hint = hint;
    end if;
end
$$;
