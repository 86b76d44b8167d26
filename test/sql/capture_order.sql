-- A key may be taken over while a statement runs: what was done to the row that had it is
-- told before the row that takes it, and what is done to that one afterwards.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_order;
create database evsource_capture_order;
\c evsource_capture_order
set client_min_messages = warning;
create extension evsource;
create view public.log as
    select stream, version, type, data -> 'old' as old, data -> 'new' as new from evsource.events order by stream collate "C", version;

-- A trigger makes room for a later row of the statement, after the statement itself has
-- changed the row that has the key, or has written it as it was.
create table part (id int primary key, v int);
insert into part values (1, 10), (2, 20), (3, 30), (4, 40);
select evsource.capture_table('part', backfill => true);
create function make_room() returns trigger language plpgsql as $$
begin
    if new.id <> old.id then
        delete from part where id = new.id;
    end if;
    return new;
end
$$;
create trigger room before update of id on part for each row execute function make_room();
update part set id = 1 where id <= 2;
update part set id = 3, v = v + 1 where id >= 3;
select * from log where stream ~ '^part-';
table part order by id;

-- The same where more rows come to one key, each of which makes room for the next.
insert into part select id, id from generate_series(11, 14) id;
update part set id = 10 where id > 10;
select version, type, coalesce(old, new) ->> 'v' as v from log where stream = 'part-10';

-- By a function that the statement calls.
create table place (id int primary key, v int);
insert into place values (1, 10), (2, 20);
select evsource.capture_table('place', backfill => true);
create function free_place(wanted int) returns int language plpgsql as $$
begin
    if wanted = 2 then
        delete from place where id = 1;
    end if;
    return 1;
end
$$;
update place set v = v + 1, id = free_place(id);
select * from log where stream ~ '^place-';

-- By the later row of an upsert.
create table seat (id int primary key, v int);
insert into seat values (1, 10);
select evsource.capture_table('seat', backfill => true);
create function clear_seat() returns trigger language plpgsql as $$
begin
    if new.v = 99 then
        delete from seat where id = new.id;
    end if;
    return new;
end
$$;
create trigger clear before insert on seat for each row execute function clear_seat();
insert into seat values (1, 11), (1, 99) on conflict (id) do update set v = excluded.v;
select * from log where stream ~ '^seat-';

-- A cascade that is no event, of an excluded column, belongs to the statement: triggers
-- change what it left.
create table tree (id int primary key, up int references tree on update cascade, v int);
insert into tree values (1, null, 0), (2, 1, 0);
select evsource.capture_table('tree', exclude_columns => '{up}', backfill => true);
create function count_tree() returns trigger language plpgsql as $$
begin
    update tree set v = v + 1 where id = new.id;
    return null;
end
$$;
create trigger a after update of id on tree for each row execute function count_tree();
update tree set id = id + 10;
select * from log where stream ~ '^tree-';

create table parent (id int primary key);
create table child (id int primary key, parent int references parent on update cascade, v int);
insert into parent values (1);
select evsource.capture_table('child', exclude_columns => '{parent}');
create function count_child() returns trigger language plpgsql as $$
begin
    update child set v = v + 1 where id = new.id;
    return null;
end
$$;
create trigger a after insert on child for each row execute function count_child();
with inserted as (insert into child values (1, 1, 1)) update parent set id = 2;
select * from log where stream ~ '^child-';

-- In parts: a trigger of the first row changes rows that are told in later parts.
create table memo (id int primary key, body text, search text, words int);
select evsource.capture_table('memo', exclude_columns => '{search}');
create function memo_changes() returns trigger language plpgsql as $$
begin
    if new.id = 1 then
        update memo set search = 'x';
    elsif new.id = 3000 then
        update memo set words = 5 where id = 3000;
    end if;
    return null;
end
$$;
create trigger a after insert on memo for each row execute function memo_changes();
set work_mem = '64kB';
insert into memo (id, body) select i, repeat('x', 100) from generate_series(1, 3000) i;
reset work_mem;
select version, type, old ->> 'words' as old, new ->> 'words' as new from log where stream = 'memo-3000';
select count(*), count(distinct stream) from log where stream ~ '^memo-';

-- Rows of COPY FREEZE do not tell their command once they are changed.
begin;
create table frozen (id int primary key, v int);
select evsource.capture_table('frozen');
create function count_frozen() returns trigger language plpgsql as $$
begin
    execute format('update %I set v = v + 1 where id = $1', tg_argv[0]) using new.id;
    if new.id = 3 then
        execute format('delete from %I where id = 3', tg_argv[0]);
    end if;
    return null;
end
$$;
create trigger a after insert on frozen for each row execute function count_frozen('frozen');
copy frozen from stdin with (freeze);
1	1
3	1
\.
commit;
select * from log where stream ~ '^frozen-';


-- Also within another statement, where the table has been truncated before.
create table refilled (id int primary key, v int);
insert into refilled values (1, 0);
select evsource.capture_table('refilled', backfill => true);
create table refill (id int);
create function refill() returns trigger language plpgsql as $$
begin
    truncate refilled;
    execute $copy$copy refilled from program 'printf "1\t1\n2\t2\n"' with (freeze)$copy$;
    update refilled set v = v + 1 where id = 1;
    return null;
end
$$;
create trigger a after insert on refill for each row execute function refill();
create trigger b after insert on refilled for each row when (new.id = 2) execute function count_frozen('refilled');
insert into refill values (1);
select stream, type, data -> 'old' as old, data -> 'new' as new
from evsource.events where evsource.category(stream) = 'refilled' order by position;
table refilled order by id;

-- A version is known by its place and its command: TRUNCATE gives the place to others.
create table scratch (id int primary key, v int, x int);
select evsource.capture_table('scratch', exclude_columns => '{x}');
create table job (id int);
create function run_job() returns trigger language plpgsql as $$
begin
    insert into scratch values (1, 1, 1);
    update scratch set x = 2;
    truncate scratch;
    insert into scratch values (1, 2, 1);
    update scratch set x = 2;
    update scratch set v = 3;
    return null;
end
$$;
create trigger a after insert on job for each row execute function run_job();
insert into job values (1);
select * from log where stream ~ '^scratch-';

-- Each of several captures of a table tells the same order, to its own streams.
create table twice (id int primary key, mail text not null unique, secret text, v int);
select evsource.capture_table('twice', 'audit');
create trigger other after insert or update or delete on twice
    for each row execute function evsource.capture('mail', 'mail', '--exclude', 'secret');
create function twice_changes() returns trigger language plpgsql as $$
begin
    update twice set secret = 'x' where id = new.id;
    update twice set v = v + 1 where id = new.id;
    if new.id = 2 then
        delete from twice where id = 2;
    end if;
    return null;
end
$$;
create trigger a after insert on twice for each row execute function twice_changes();
insert into twice values (1, 'one', null, 1), (2, 'two', null, 2);
select stream, version, type, old ->> 'v' as old, new ->> 'v' as new from log where stream ~ '^(audit|mail)-';

\c :home
set client_min_messages = warning;
drop database evsource_capture_order;
