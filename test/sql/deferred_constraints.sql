-- deferred_constraints: what waits for the commit cannot be fired by a handler, and that is
-- said as early as possible.

\set SHOW_CONTEXT never
set client_min_messages = warning;

create table deferred_parent (id text primary key);
create table deferred_child (id text constraint deferred_fk references deferred_parent deferrable initially deferred);
insert into deferred_parent values ('deferred-1');

-- A table that is named, or that the query writes, is looked at.
select evsource.create_projection('named', query => 'insert into deferred_child select stream from new_events',
    tables => '{deferred_child}', categories => '{deferred}', start => 'now');
select evsource.create_projection('written', query => $$with a as (insert into deferred_child select stream from new_events)
    select from new_events$$, categories => '{none}', start => 'now');
select evsource.alter_projection('written', query => 'delete from deferred_child c using new_events n where n.stream = c.id');

-- The error at the append says what can be done,
select version from evsource.append('deferred-1', 'Made');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type) values ('deferred-1', 'Made');
begin;
set constraints all immediate;
select version from evsource.append('deferred-1', 'Made');
commit;
alter table deferred_child alter constraint deferred_fk deferrable initially immediate;
select version from evsource.append('deferred-1', 'Made');
table deferred_child;
-- and no other error does.
create function deferred_refuse() returns trigger language plpgsql as
    $$begin raise exception 'not allowed' using errcode = '42501'; end$$;
create trigger refuse before insert on deferred_child for each row execute function deferred_refuse();
select version from evsource.append('deferred-1', 'Made');
drop trigger refuse on deferred_child;

-- Immediate ones are fine, and a table that others refer to; not so the triggers of a partition.
select evsource.alter_projection('named', tables => '{deferred_child}');
alter table deferred_child alter constraint deferred_fk deferrable initially deferred;
select evsource.alter_projection('named', tables => '{deferred_parent}', query => 'insert into deferred_parent select stream from new_events');
create table deferred_parted (n bigint) partition by range (n);
create table deferred_part partition of deferred_parted default;
create constraint trigger late after insert on deferred_part deferrable initially deferred
    for each row execute function deferred_refuse();
select evsource.alter_projection('named', tables => '{deferred_parted}', query => 'insert into deferred_parted select version from new_events');
-- A unique key is checked at the commit only where a row with that key is there already.
create table deferred_ranks (rank int constraint deferred_key unique deferrable initially deferred);
select evsource.alter_projection('named', tables => '{deferred_ranks}', query => 'insert into deferred_ranks select 1 from new_events');
select version from evsource.append('deferred-2', 'Made');
select version from evsource.append('deferred-2', 'Made');

select evsource.drop_projection('named'), evsource.drop_projection('written');
drop table deferred_child, deferred_parent, deferred_parted, deferred_ranks;
drop function deferred_refuse();
