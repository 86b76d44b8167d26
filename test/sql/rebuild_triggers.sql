-- rebuild_triggers: what a trigger of one table does to another one of the projection is not lost.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_triggers;
create database evsource_rebuild_triggers;
\c evsource_rebuild_triggers
create extension evsource;
\set SHOW_CONTEXT never

create table items (stream text, version bigint, n bigint not null, primary key (stream, version));
create table totals (name text primary key, n bigint not null);
create table audit (id serial, n bigint);
create function add_row() returns trigger language plpgsql as $$
begin
    insert into totals as t values ('rows', new.n) on conflict (name) do update set n = t.n + excluded.n;
    return null;
end $$;
create function add_statement() returns trigger language plpgsql as $$
begin
    insert into totals as t select 'statements', sum(n) from added on conflict (name) do update set n = t.n + excluded.n;
    return null;
end $$;
create function nothing() returns trigger language plpgsql as 'begin return null; end';
create function add_item(e evsource.event) returns void language sql as
    'insert into items values (e.stream, e.version, 1)';
select evsource.create_projection('items', 'add_item', tables => '{items,totals}');

-- A table that an AFTER trigger fills, row by row and by statement: it is filled by a rebuild
-- as well, in place, and found right by verify_projection.
create trigger add_row after insert on items for each row execute function add_row();
create trigger add_statement after insert on items referencing new table as added for each statement execute function add_statement();
select count(*) from generate_series(1, 30) i, lateral evsource.append('item-' || i % 3, 'Added');
select name, n from totals order by name;
select * from evsource.verify_projection('items');
set client_min_messages = notice;
call evsource.rebuild_projection('items');
set client_min_messages = warning;
select name, n from totals order by name;
call evsource.rebuild_projection('items', online => true);

-- verify_projection sees what is wrong there, and try_projection what another handler makes of it.
update totals set n = 31 where name = 'rows';
select relation, key, stored -> 'n' as stored, computed -> 'n' as computed from evsource.verify_projection('items');
update totals set n = 30 where name = 'rows';
create function add_two(e evsource.event) returns void language sql as
    'insert into items values (e.stream, e.version, 2)';
select count(*) from evsource.try_projection('items', 'add_item');
select relation, key, was -> 'n' as was, becomes -> 'n' as becomes
    from evsource.try_projection('items', 'add_two', max_differences => null) where relation like '%totals' order by key;

-- Each of them alone is in the way: also one before the statement; not while it is disabled,
-- nor for another command that no handler needs.
alter table items disable trigger add_row;
call evsource.rebuild_projection('items', online => true);
drop trigger add_statement on items;
create trigger add_statement before insert on items for each statement execute function nothing();
call evsource.rebuild_projection('items', online => true);
drop trigger add_statement on items;
create trigger emptied after truncate on items for each statement execute function nothing();
call evsource.rebuild_projection('items', online => true);
select count(*) from items;
alter table items enable replica trigger add_row;
call evsource.rebuild_projection('items', online => true);
alter table items enable always trigger add_row;
call evsource.rebuild_projection('items', online => true);
call evsource.rebuild_projection('items', online => false);
select * from evsource.verify_projection('items');

-- What is kept was in use, and is what the triggers have made of it.
drop trigger add_row on items;
call evsource.rebuild_projection('items', keep_old => true);
create trigger add_row after insert on items for each row execute function add_row();
select evsource.revert_rebuild('items');
drop trigger add_row on items;
select evsource.accept_rebuild('items');

-- A trigger whose effects are not to be repeated can ask whether it is history.
create function note_row() returns trigger language plpgsql as $$
begin
    insert into audit (n) values (new.n);
    return null;
end $$;
create trigger note_row after insert on items for each row when (not evsource.replaying()) execute function note_row();
select version from evsource.append('item-3', 'Added');
call evsource.rebuild_projection('items', online => false);
select count(*) from evsource.verify_projection('items');
select (select count(*) from items) as items, count(*) as audit, (select last_value from audit_id_seq) as drawn from audit;
drop trigger note_row on items;

-- One that asks says itself what it does in a replay, and is not in the way: neither of a row,
-- nor of a statement. One that asks something else is.
create trigger note_row after insert on items for each row when (new.n > 0 and not evsource.replaying()) execute function note_row();
create trigger note_statement before insert on items for each statement when (not evsource.replaying()) execute function nothing();
call evsource.rebuild_projection('items', online => true);
call evsource.rebuild_projection('items', keep_old => true);
select evsource.accept_rebuild('items');
select count(*) from evsource.verify_projection('items');
select (select count(*) from items) as items, count(*) as audit, (select last_value from audit_id_seq) as drawn from audit;
drop trigger note_row on items;
create trigger note_row after insert on items for each row when (new.n > 0) execute function note_row();
call evsource.rebuild_projection('items', online => true);
drop trigger note_row on items;
drop trigger note_statement on items;

-- A trigger may use its table in ways that a copy does not allow: a name that is made of that of
-- its schema, or its row type. The error says what to do; not where no trigger has failed.
create table items_history (like items);
create function keep_by_name() returns trigger language plpgsql as $$
begin
    execute format('insert into %I.%I select ($1).*', tg_table_schema, tg_table_name || '_history') using new;
    return null;
end $$;
create function keep_item(item items) returns void language sql as 'insert into items_history select item.*';
create function keep_by_type() returns trigger language plpgsql as $$
begin
    perform keep_item(new);
    return null;
end $$;
create function fail_at_once(e evsource.event) returns void language plpgsql as $$ begin raise exception 'no item'; end $$;
create function fail_after_trigger(e evsource.event) returns void language plpgsql as $$
begin
    insert into items values (e.stream, e.version, 1);
    raise exception 'no item';
exception when raise_exception then
    raise exception 'still no item' using hint = 'Look at it.';
end $$;
-- what PostgreSQL says itself is not the same in every version
create function hint_of(query text, out state text, out hint text) language plpgsql as $$
begin
    execute query;
exception when others then
    get stacked diagnostics state = returned_sqlstate, hint = pg_exception_hint;
    hint := regexp_replace(hint, '^(No|You) .* (?=If the trigger)', '... ');   -- You: since 19
end $$;
create trigger keep after insert on items for each row execute function keep_by_type();
select * from hint_of($$select evsource.verify_projection('items')$$);
drop trigger keep on items;
create trigger keep after insert on items for each row execute function keep_by_name();
select * from hint_of($$select evsource.verify_projection('items')$$);
select * from hint_of($$select evsource.try_projection('items', 'add_item')$$);
drop trigger keep on items;
create trigger keep after insert on items for each row execute function nothing();
select * from hint_of($$select evsource.try_projection('items', 'fail_at_once')$$);
select * from hint_of($$select evsource.try_projection('items', 'fail_after_trigger')$$);
drop trigger keep on items;
create trigger keep after insert on items for each row when (not evsource.replaying()) execute function keep_by_name();
select version from evsource.append('item-3', 'Added');
select * from evsource.verify_projection('items');
select count(*) from evsource.try_projection('items', 'add_item');
call evsource.rebuild_projection('items', online => true);
table items_history;
drop trigger keep on items;

-- Names in which the beginning of the statement ends too early: of a trigger, and of a column.
create function count_trigger() returns trigger language plpgsql as $$
begin
    insert into totals as t values (tg_name, 1) on conflict (name) do update set n = t.n + 1;
    return null;
end $$;
alter table items add column " ON public.items " integer default 0;
create trigger " ON public.items ""x" after insert or update of n, " ON public.items " on items
    for each row when (new.n > 0) execute function count_trigger(' ON public.items ');
call evsource.rebuild_projection('items', online => false);
select name, n from totals order by name;
select * from evsource.verify_projection('items');
drop trigger " ON public.items ""x" on items;
alter table items drop column " ON public.items ";
call evsource.rebuild_projection('items', online => false);

-- A trigger that names the schema would work on the table itself.
create function add_by_schema() returns trigger language plpgsql as $$
begin
    insert into public.totals as t values ('rows', new.n) on conflict (name) do update set n = t.n + excluded.n;
    return null;
end $$;
create trigger add_row after insert on items for each row execute function add_by_schema();
call evsource.rebuild_projection('items', online => false);
select * from evsource.verify_projection('items');
drop trigger add_row on items;

-- A constraint trigger is taken for a check, and does not run.
create constraint trigger check_row after insert on items for each row execute function note_row();
call evsource.rebuild_projection('items', online => true);
select count(*) from evsource.verify_projection('items');
select count(*) as audit, (select last_value from audit_id_seq) as drawn from audit;
drop trigger check_row on items;

-- Nor does one of the only table: there is no other one to be filled.
create table alone (stream text, version bigint, n bigint);
create function add_alone(e evsource.event) returns void language sql as
    'insert into alone values (e.stream, e.version, 1)';
create trigger audit_row after insert on alone for each row execute function note_row();
select evsource.create_projection('alone', 'add_alone', tables => '{alone}');
call evsource.activate_projection('alone');
select count(*) from audit;
call evsource.rebuild_projection('alone', online => true);
select count(*) from evsource.verify_projection('alone');
select count(*) as audit, (select last_value from audit_id_seq) as drawn from audit;

\c :home
set client_min_messages = warning;
drop database evsource_rebuild_triggers;
