-- table_rows: what the rows of tables that are saved at a position come back as.
create schema kept;

-- The same, whatever the settings of the sessions that save and restore.
create table kept.odd (n int, label text, tags text[], price money);
select evsource.create_projection('odd', categories => '{odd}', tables => '{kept.odd}', query => $$
    insert into kept.odd select version, null, array['a', null, 'NULL'], 1234.5::numeric::money
    from new_events $$);
select version from evsource.append('odd-1', 'Made');
select evsource.save_snapshot('odd');
create table kept.before as select n, label, tags, price from kept.odd;
set array_nulls = off;
select evsource.restore_projection('odd');
select current_setting('array_nulls');
select count(*) from (table kept.before except select n, label, tags, price from kept.odd) d;
reset all;
select array_position(tags, null), array_position(tags, 'NULL'), label is null as no_label from kept.odd;

-- What a handler makes of an array does not depend on them either.
create table kept.arrays (tags text[]);
select evsource.create_projection('arrays', categories => '{arrays}', tables => '{kept.arrays}',
    query => $$insert into kept.arrays select (data ->> 'tags')::text[] from new_events$$);
set array_nulls = off;
select version from evsource.append('arrays-1', 'Made', '{"tags": "{a,NULL}"}');
reset array_nulls;
select array_position(tags, null) from kept.arrays;

-- Deferred constraints of the caller's transaction stay deferred.
create function kept.nothing() returns trigger language plpgsql as $$begin return null; end$$;
create trigger nothing after insert on kept.odd for each row execute function kept.nothing();
create table kept.parents (id int primary key);
create table kept.children (parent int references kept.parents deferrable initially deferred);
begin;
insert into kept.children values (1);
select evsource.restore_projection('odd');
insert into kept.children values (2);
insert into kept.parents values (1), (2);
commit;
select tgenabled from pg_trigger where tgrelid = 'kept.odd'::regclass;

-- Rows of tables that inherit are the other table's, too: they would come back twice, and without their own columns.
create table kept.base (a text);
create table kept.derived (b int) inherits (kept.base);
select evsource.create_projection('inherited', categories => '{inherited}', tables => '{kept.base,kept.derived}',
    query => $$insert into kept.derived select type, version from new_events$$);
select version from evsource.append('inherited-1', 'Made');
select evsource.save_snapshot('inherited');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('inherited', tables => '{kept.base}');
call evsource.rebuild_projection('inherited', online => false);
select evsource.save_snapshot('inherited');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('inherited', tables => '{kept.derived}');
call evsource.rebuild_projection('inherited', online => false);
select evsource.save_snapshot('inherited'), evsource.restore_projection('inherited');
select tableoid::regclass, a from kept.base;
-- so are those of a partition that is named beside its table
create table kept.divided (n bigint primary key) partition by range (n);
create table kept.part partition of kept.divided for values from (0) to (100);
select evsource.create_projection('divided', categories => '{divided}', tables => '{kept.divided,kept.part}',
    query => $$insert into kept.divided select version from new_events$$);
select version from evsource.append('divided-1', 'Made');
select evsource.save_snapshot('divided');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('divided', tables => '{kept.divided}');
call evsource.rebuild_projection('divided', online => false);
select evsource.save_snapshot('divided'), evsource.restore_projection('divided');
table kept.part;

-- Where there are no tables to save, or no states to look for, the error says what to do.
select evsource.create_projection('plain', categories => '{plain}', query => 'insert into kept.odd select version from new_events');
select evsource.save_snapshot('plain');
select evsource.has_snapshot('odd');

select count(evsource.drop_projection(p)) from unnest('{odd,arrays,inherited,divided,plain}'::text[]) p;
set client_min_messages = warning;
drop schema kept cascade;
