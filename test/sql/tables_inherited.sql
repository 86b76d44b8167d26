-- tables_inherited: a projection's table is its own rows and its partitions', not those of
-- tables that inherit from it.

\set SHOW_CONTEXT never
set client_min_messages = warning;

create table heirs_parent (stream text, version bigint);
create table heirs_child () inherits (heirs_parent);
create table heirs_keyed (stream text primary key, version bigint);
create table heirs_keyed_child () inherits (heirs_keyed);
create table heirs_parted (stream text, version bigint) partition by list (stream);
create table heirs_part partition of heirs_parted default;
insert into heirs_child values ('of another', 1);
insert into heirs_keyed_child values ('of another', 1);
select evsource.create_projection('heirs', categories => '{heirs}',
    tables => '{heirs_parent,heirs_keyed,heirs_parted}',
    query => $$with a as (insert into heirs_parent select stream, version from new_events),
        b as (insert into heirs_keyed select stream, version from new_events)
        insert into heirs_parted select stream, version from new_events$$);
select version from evsource.append('heirs-1', 'Made');

-- They do not count when it is verified or tried,
select * from evsource.verify_projection('heirs');
select tab, key from evsource.try_projection('heirs', query => $$insert into heirs_parent select stream, 7 from new_events$$) t (tab, key);
-- nor are they emptied by a reset or a rebuild.
select evsource.reset_projection('heirs');
select tableoid::regclass, * from heirs_parent union all select tableoid::regclass, * from heirs_keyed
    union all select tableoid::regclass, * from heirs_parted order by 1;
call evsource.activate_projection('heirs');
call evsource.rebuild_projection('heirs', online => false);
select tableoid::regclass::text as tab, * from heirs_parent union all select tableoid::regclass::text, * from heirs_keyed
    union all select tableoid::regclass::text, * from heirs_parted order by 1;
-- Who uses them is not in the way.
begin;
select evsource.reset_projection('heirs');
select relation::regclass::text as locked from pg_locks where pid = pg_backend_pid() and mode = 'AccessExclusiveLock'
    and relation::regclass::text like 'heirs%' order by 1;
rollback;

-- Those of the read model are named.
select evsource.alter_projection('heirs', tables => '{heirs_parent,heirs_child,heirs_keyed,heirs_parted}',
    query => $$insert into heirs_child select stream, version from new_events$$);
call evsource.rebuild_projection('heirs', online => false);
select tableoid::regclass, * from heirs_parent;
select * from evsource.verify_projection('heirs');

select evsource.drop_projection('heirs');
drop table heirs_parent, heirs_keyed, heirs_parted cascade;
