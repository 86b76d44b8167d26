-- Statements within statements: a row gets its events in the order in which it was
-- changed, whether a trigger changed it again or a function that the statement called,
-- before the statement was through or after; and also in a session that had to load the
-- library first.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_nested;
create database evsource_capture_nested;
\c evsource_capture_nested
set client_min_messages = warning;
create extension evsource;
create view public.log as
    select stream, version, type, data -> 'old' as old, data -> 'new' as new from evsource.events order by position;

-- How many rows differ between a table and what the last events of its streams say.
create function differences(table_name text) returns bigint language plpgsql as $$
declare
    result bigint;
begin
    execute format($q$
        with last as (
            select distinct on (stream) data -> 'new' as "row" from evsource.events
            where evsource.category(stream) = %L order by stream, version desc),
        told as (select r.* from last, jsonb_populate_record(null::%2$I, "row") r where "row" is not null)
        select (select count(*) from (table %2$I except all table told) a)
            + (select count(*) from (table told except all table %2$I) b)
    $q$, table_name, table_name) into result;
    return result;
end
$$;

-- Only one of a customer's addresses is the main one: a trigger BEFORE sees to it.
create table address (id int primary key, customer int not null default 1, main boolean);
create function only_one() returns trigger language plpgsql as $$
begin
    if new.main then
        update address set main = false where customer = new.customer and main and id <> new.id;
    end if;
    return new;
end
$$;
create trigger only_one before insert or update on address for each row execute function only_one();
select evsource.capture_table('address');
insert into address values (1, 1, true), (2, 1, true), (3, 1, true);
select stream, version, type, new -> 'main' as main from public.log;
select differences('address');
copy address from stdin;
4	1	t
5	1	t
\.
insert into address values (4, 1, true), (6, 1, true) on conflict (id) do update set main = excluded.main;
update address set main = true where id = 1;
select id, main from address order by id;
select differences('address');

-- It puts a row in another's place: what was there has left before.
create table place (id int primary key, who text);
create function make_room() returns trigger language plpgsql as $$
begin
    delete from place where id = new.id;
    return new;
end
$$;
create trigger make_room before insert on place for each row execute function make_room();
select evsource.capture_table('place');
insert into place values (1, 'a'), (2, 'b');
insert into place values (1, 'c'), (3, 'd');
copy place from stdin;
1	e
4	f
\.
select stream, version, type, new -> 'who' as who from public.log where evsource.category(stream) = 'place';
select differences('place');
-- Several in the same place, one after the other.
insert into place values (7, 'q'), (7, 'r'), (2, 's'), (7, 't');
select version, type, new -> 'who' as who from public.log where stream = 'place-7';
select differences('place');
-- Also when a trigger AFTER changes it again.
create function shout() returns trigger language plpgsql as $$
begin
    update place set who = upper(who) where id = new.id;
    return null;
end
$$;
create trigger shout after insert on place for each row execute function shout();
insert into place values (1, 'k'), (1, 'l'), (2, 'm');
copy place from stdin;
1	n
2	o
\.
select version, type, new -> 'who' as who from public.log where stream = 'place-1' and version > 5;
select differences('place');
drop trigger shout on place;
-- Whatever else has happened there until then.
create or replace function make_room() returns trigger language plpgsql as $$
begin
    update place set who = who || '!' where id = new.id;
    delete from place where id = new.id;
    if new.who <> 'x' then
        insert into place values (new.id, 'x');
        delete from place where id = new.id;
    end if;
    return new;
end
$$;
insert into place values (1, 'g'), (5, 'h');
select version, type, new -> 'who' as who from public.log where stream = 'place-5';
insert into place values (5, 'p');
select version, type, new -> 'who' as who from public.log where stream = 'place-5' and version > 3;
select differences('place');

-- Functions that the statement calls, in its values and in RETURNING, of rows that it
-- has not come to and of those it has.
create table counter (id int primary key, n int not null default 0);
select evsource.capture_table('counter');
create function bump(which int) returns int language plpgsql as $$
begin
    update counter set n = n + 100 where id = which;
    return which;
end
$$;
insert into counter values (1), (2);
update counter set n = case when id = 2 then bump(1) else 7 end;
insert into counter values (3) returning bump(id);
with i as (insert into counter values (4) returning id) select bump(id) from i;
-- Moved on by a function, twice.
update counter set n = n + 1 where id = 1 returning bump(bump(id));
select stream, version, type, new -> 'n' as n from public.log where evsource.category(stream) = 'counter';
select differences('counter');

-- A key that a row leaves, and another takes while the statement is under way.
create table seat (id int primary key, who text);
select evsource.capture_table('seat');
create function take(which int) returns int language plpgsql as $$
begin
    insert into seat values (which, 'taker');
    return which;
end
$$;
insert into seat values (1, 'a'), (2, 'b');
delete from seat where id = 1 returning take(id);
update seat set id = 3 where id = 2 returning take(2);
select stream, version, type, new -> 'who' as who from public.log where evsource.category(stream) = 'seat';
select differences('seat');

-- What fails leaves nothing, within a function or with the statement.
create function bump_in_vain(which int) returns int language plpgsql as $$
begin
    begin
        update counter set n = n + 1000 where id = which;
        perform bump(which);
        perform 1 / (which - which);
    exception when division_by_zero then
        update counter set n = n + 5 where id = which;
    end;
    return which;
end
$$;
update counter set n = n + 1 where id in (1, 2) returning bump_in_vain(id);
select count(*) as events from evsource.events \gset
insert into counter values (5), (6) returning 1 / (6 - bump(id));
do $$
begin
    insert into counter values (5), (6) returning 1 / (6 - bump(id));
exception when others then
    null;
end
$$;
begin;
savepoint s;
insert into counter values (5), (6) returning bump(id);
rollback to s;
insert into counter values (7);
commit;
select stream, version - 1 as before, type, count(*) over () as events from evsource.events where position > (select max(position) from (select position from evsource.events order by position limit :events) p);
select differences('counter');

-- Cursors: some of it, all of it, and nothing.
begin;
declare few cursor for select bump(id) from counter order by id;
fetch 2 from few;
select count(*) - :events as events from evsource.events;
fetch all from few;
close few;
rollback;
do $$
declare
    made refcursor;
    which int;
begin
    open made for execute 'with m as (insert into counter values (8), (9) returning id) select bump(id) from m';
    fetch made into which;
    update counter set n = n + 1 where id = which;
    close made;
    for which in insert into counter values (14), (15) returning bump(id) loop
        update counter set n = n + 1 where id = which;
        exit;
    end loop;
    open made for execute 'with m as (insert into counter values (10) returning id) select bump(id) from m';
    close made;
end
$$;
create function made(int, int) returns setof int language sql as
    'insert into counter values ($1), ($2) returning bump(id)';
select made(11, 12) limit 1;
do $$
begin
    execute 'explain analyze insert into counter values (13) returning bump(id)';
end
$$;
select count(*) from counter;
select differences('counter');

-- A key that is unique in each partition only: PostgreSQL knows no index for all of them.
create table version (id int not null, day int not null, v text) partition by range (day);
create table version_1 partition of version for values from (0) to (10);
create table version_2 partition of version for values from (10) to (20);
create unique index on version_1 (id);
create unique index on version_2 (id);
create function replace_version() returns trigger language plpgsql as $$
begin
    delete from version where id = new.id;
    return new;
end
$$;
create trigger replace_version before insert on version for each row execute function replace_version();
select evsource.capture_table('version', key_columns => '{id}');
insert into version values (1, 1, 'a');
insert into version values (1, 1, 'b');
insert into version values (1, 11, 'c');
select version, type, old -> 'v' as old, new -> 'v' as new from public.log where stream = 'version-1';
select differences('version');

-- A session that loads the library while a statement is under way: the trigger that does
-- so is on partitions, too.
create table part (id int, r int, who text, primary key (id, r) deferrable) partition by range (r);
create table part_1 partition of part for values from (0) to (10);
select evsource.capture_table('part');
create table part_2 partition of part for values from (10) to (20);
insert into part values (1, 1, 'a'), (2, 1, 'b'), (3, 1, 'c'), (1, 11, 'a'), (2, 11, 'b');
\c
update part_1 set id = id + 1;
\c
update part_2 set id = id + 1;
select differences('part');

-- Where no trigger loads it in time, the statement is refused, and goes through when it
-- runs again; or, if the library was there before, at once.
create table owner (id int primary key);
create table owned (id int primary key, owner int references owner on update cascade, note text);
insert into owner values (1);
insert into owned values (1, 1, 'a');
select evsource.capture_table('owned', backfill => true);
create function mark() returns trigger language plpgsql as $$
begin
    if new.note not like '%!' then
        update owned set note = note || '!' where id = new.id;
    end if;
    return null;
end
$$;
create trigger a_mark after update on owned for each row execute function mark();
\c
do $$
begin
    update owner set id = 5;
exception when object_not_in_prerequisite_state then
    update owner set id = 5;
end
$$;
table owned;
select differences('owned');
-- The first statement of a session whose trigger BEFORE changes rows is not refused.
\c
insert into address values (20, 2, true), (21, 2, true);
\c
insert into place values (1, 'i'), (6, 'j'), (6, 'k');
\c
update address set main = true where id in (2, 20) returning main;
-- Nor one that fails, or brings nothing, and what follows it.
\c
begin;
savepoint s;
insert into address values (22, 2, true), (21, 2, true);
rollback to s;
insert into address values (22, 2, true), (23, 2, true);
select count(*) from evsource.events where stream in ('address-22', 'address-23');
commit;
\c
begin;
copy address from stdin;
\.
insert into address values (24, 2, true), (25, 2, true);
select count(*) from evsource.events where stream in ('address-24', 'address-25');
commit;
\c
begin;
copy address from stdin;
26	3	t
\.
insert into address values (27, 3, true);
select count(*) from evsource.events where stream in ('address-26', 'address-27');
commit;
\c
do $$
begin
    insert into address values (28, 3, true), (28, 3, true);
exception when unique_violation then
    insert into address values (28, 3, true), (29, 3, true);
end
$$;
select differences('address'), differences('place');

-- A row that comes may be updated without an event first, of an excluded column or of
-- nothing, and then changed: that is still done to what came.
create table doc (id int primary key, body text, search text, words int);
select evsource.capture_table('doc', exclude_columns => '{search}');
create function doc_search() returns trigger language plpgsql as
$$begin update doc set search = new.body where id = new.id; return null; end$$;
create function doc_saved() returns trigger language plpgsql as
$$begin update doc set body = body where id = new.id; return null; end$$;
create function doc_words() returns trigger language plpgsql as $$
begin
    if new.body = 'x' then
        delete from doc where id = new.id;
    else
        update doc set words = length(search) where id = new.id;
    end if;
    return null;
end
$$;
create trigger doc_1 after insert or update of id on doc for each row execute function doc_search();
create trigger doc_2 after insert or update of id on doc for each row execute function doc_saved();
create trigger doc_3 after insert or update of id on doc for each row execute function doc_words();
insert into doc (id, body) values (1, 'to be'), (2, 'x'), (3, 'or not');
update doc set id = id + 10 where id = 3;
with gone as (delete from doc where id = 1 returning *)
insert into doc select id, 'again' from gone;
select stream, version, type, old ->> 'words' as old, new ->> 'words' as new from log where stream ~ '^doc-' order by stream, version;
-- Also where nothing else happens, and in parts.
insert into doc (id, body) select i, 'x' || i from generate_series(20, 22) i;
set work_mem = '64kB';
create table memo (id int primary key, body text, search text);
select evsource.capture_table('memo', exclude_columns => '{search}');
create function memo_search() returns trigger language plpgsql as
$$begin update memo set search = 'searched' where id = new.id; return null; end$$;
create trigger a after insert on memo for each row execute function memo_search();
insert into memo select i, repeat('x', 100) from generate_series(1, 3000) i;
reset work_mem;
-- (what is excluded is not compared)
update doc set search = null;
update memo set search = null;
select differences('doc'), differences('memo');

\c :home
set client_min_messages = warning;
drop database evsource_capture_nested;
