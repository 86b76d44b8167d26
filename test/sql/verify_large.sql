-- verify_large: what is not compared is not looked at, and a value for which jsonb has no room is
-- compared by its hash.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_verify_large;
create database evsource_verify_large;
\c evsource_verify_large
create extension evsource;
\set SHOW_CONTEXT never

-- A type whose values cannot be made jsonb.
create type secret as enum ('a', 'b');
create function no_json(secret) returns json language plpgsql as $$ begin raise 'nobody is to look at a secret'; end $$;
create cast (secret as json) with function no_json(secret);
create table keyed (stream text primary key, n int, hidden secret, "not seen" secret);
create table rows (stream text, n int, hidden secret, "not seen" secret);
create function fill(e evsource.event) returns void language sql as $$
    insert into keyed values (e.stream, 1, 'a', 'a');
    insert into rows values (e.stream, 1, 'a', 'a');
$$;
select evsource.create_projection('secrets', 'fill', tables => '{keyed,rows}', categories => '{small}');
select version from evsource.append('small-1', 'Happened');
select * from evsource.verify_projection('secrets');
select * from evsource.verify_projection('secrets', ignore => '{hidden,"not seen",nowhere}');
update keyed set n = 2, hidden = 'b';
update rows set n = 2, hidden = 'b';
select * from evsource.verify_projection('secrets', max_differences => null, ignore => '{hidden,"not seen"}');
select * from evsource.verify_projection('secrets', max_differences => null, ignore => '{hidden,"not seen",n}');
select * from evsource.verify_projection('secrets', max_differences => null, ignore => '{hidden,"not seen",n,stream}');

-- An array of 34 MB: as jsonb it would have more than that has room for.
create table large (stream text primary key, n int, content smallint[], small text);
create function fill_large(e evsource.event) returns void language sql as $$
    insert into large values (e.stream, 1, array_fill((e.data ->> 'n')::smallint, array[17000000]), 'x');
$$;
select evsource.create_projection('large', 'fill_large', tables => '{large}', categories => '{large}');
select version from evsource.append('large-1', 'Happened', '{"n": 0}');
update large set content[9] = 7;
select relation, key, stream, version, is_missing, stored - 'content' as stored, computed - 'content' as computed,
    regexp_replace(stored ->> 'content', ' [0-9a-f]{16}$', ' ...') as content, stored ->> 'content' <> computed ->> 'content' as differ
    from evsource.verify_projection('large');
select evsource.drop_projection('large');

-- A key that is no text is compared as it is; and no cast to text has a say in how long a value is.
create type pair as (a text, b int);
create function hide(pair) returns text language sql as $$ select 'hidden'::text $$;
create cast (pair as text) with function hide(pair);
create table odd (key int[] primary key, content pair);
select evsource.create_projection('odd', query => $$insert into odd select array[1, version], row(repeat('a', 9000000), 1)::pair from new_events$$,
    tables => '{odd}', categories => '{odd}');
select version from evsource.append('odd-1', 'Happened');
select * from evsource.verify_projection('odd');
update odd set content.b = 2;
select key, regexp_replace(stored ->> 'content', ' [0-9a-f]{16}$', ' ...') as content, stored ->> 'content' <> computed ->> 'content' as differ
    from evsource.verify_projection('odd');
select evsource.drop_projection('odd');
select evsource.drop_projection('secrets');

-- Who owns the projection may have no rights in evsource's schema but to read events.
create role evsource_verify_owner;
grant select on evsource.events to evsource_verify_owner;
alter table rows owner to evsource_verify_owner;
alter table rows drop column hidden;
select evsource.create_projection('owned', query => 'insert into rows select stream, 1 from new_events', tables => '{rows}', categories => '{owned}');
select version from evsource.append('owned-1', 'Happened');
delete from rows where stream <> 'owned-1';
select evsource.alter_projection('owned', owner => 'evsource_verify_owner');
grant usage, create on schema public to evsource_verify_owner;
select * from evsource.verify_projection('owned');
update rows set n = 5;
select stored, computed from evsource.verify_projection('owned');

-- The columns of a row share the limit: with 800 of them, 10 kB are long. What is equal has one hash
-- however it is stored, and the owner may still do nothing in evsource's schema.
\set ECHO none
select format('create table wide (stream text primary key, a int[], j jsonb, b bytea, t varchar, n numeric, no_b bytea, %s)',
    string_agg(format('c%s text', c), ', ')) from generate_series(1, 800) c \gexec
\set ECHO all
alter table wide owner to evsource_verify_owner;
select evsource.create_projection('wide', query => $$insert into wide
    select stream, array_fill(0, array[6000]), jsonb_build_object('a', repeat('a', 11000)), convert_to(repeat('b', 11000), 'UTF8'),
        repeat('t', 11000), 1.0 from new_events$$, tables => '{wide}', categories => '{wide}');
select version from evsource.append('wide-1', 'Happened');
select evsource.alter_projection('wide', owner => 'evsource_verify_owner');
update wide set a[5] = null;
update wide set a[5] = 0;
update wide set n = 1.00;
select pg_column_size(a || '{}') > 24024 as has_bitmap from wide;
select * from evsource.verify_projection('wide');
update wide set c1 = '', no_b = '', a[5] = 1, j = jsonb_set(j, '{a}', '1'), b = set_byte(b, 5, 1), t = overlay(t placing 'u' from 5);
create temp table found as
    select f.side, c.key, c.value
    from evsource.verify_projection('wide') v
    cross join lateral (values ('stored', v.stored), ('computed', v.computed)) f (side, content)
    cross join lateral jsonb_each_text(f.content) c
    where c.key in ('a', 'j', 'b', 't', 'no_b', 'c1');
select key, side, regexp_replace(value, ' [0-9a-f]{16}$', ' ...') as value, value is null as is_null from found order by 1, 2 desc;
select key, count(distinct value) from found group by 1 order by 1;
-- Columns that are ignored, or are not there any more, take no part of the limit.
create function pg_temp.lengths(ignored text[]) returns table (column_name text, side text, length int) language sql as $$
    select c.name, f.side, length(c.value)
        from evsource.verify_projection('wide', ignore => ignored) v
        cross join lateral (values ('stored', v.stored), ('computed', v.computed)) f (side, content)
        cross join lateral jsonb_each_text(f.content) c (name, value)
        where c.name in ('a', 'j', 'b', 't')
        order by 1, 2 desc $$;
select * from pg_temp.lengths(array(select 'c' || n from generate_series(1, 800) n));
\set ECHO none
select format('alter table wide %s', string_agg(format('drop c%s', c), ', ')) from generate_series(1, 800) c \gexec
\set ECHO all
select * from pg_temp.lengths('{}');
\c :home
drop database evsource_verify_large;
drop role evsource_verify_owner;
