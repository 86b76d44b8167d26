-- restore.sql: a dump is restored into a new database. See src/in_use.c.

create function evsource._refuse_in_use() returns trigger
    language c
    as 'MODULE_PATHNAME', 'evsource_refuse_in_use';
comment on function evsource._refuse_in_use() is 'Internal: keeps what a dump brings besides events out of a log in use.';

-- Every table that a dump has. The one row of evsource.store has always a trigger to take its
-- place, so it is always guarded, too. The others are not where session_replication_role is
-- replica: a subscription may copy some of them from another database, such as event types.
do $$
declare
    object pg_catalog.regclass;
begin
    for object in
        select c.oid
        from pg_catalog.pg_extension e, pg_catalog.pg_class c
        where e.extname = 'evsource' and c.oid = any (e.extconfig) and c.relkind = 'r'
            and c.oid <> 'evsource.events'::pg_catalog.regclass
    loop
        execute pg_catalog.format('create trigger refuse_in_use before insert on %s'
            ' for each statement execute function evsource._refuse_in_use()', object);
    end loop;
end
$$;
alter table evsource.store enable always trigger refuse_in_use;
