-- Values at the ends of what a type can hold, and types made of other types, come
-- back from the events as they were.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_extremes;
create database evsource_capture_extremes;
\c evsource_capture_extremes
set client_min_messages = warning;
create extension evsource;

-- Builds a table anew in the schema "rebuilt" from the last events of its streams, and
-- says how many rows are not the same to the byte.
create schema rebuilt;
create function public.rebuild_and_compare(name text, category text) returns bigint language plpgsql as $$
declare
    n bigint;
begin
    execute format('drop table if exists rebuilt.%I; create table rebuilt.%1$I (like public.%1$I)', name);
    execute format($q$insert into rebuilt.%1$I
        select r.* from (
            select distinct on (stream) type, data from evsource.events
            where evsource.category(stream) = %2$L order by stream, version desc) e,
            jsonb_populate_record(null::rebuilt.%1$I, e.data -> 'new') r
        where e.data ? 'new'$q$, name, category);
    execute format('select count(*) from public.%1$I this_row full join rebuilt.%1$I that_row using (id)
        where record_image_ne(this_row, that_row) is not false', name) into n;
    return n;
end
$$;

-- Numbers: as many digits as there can be on both sides, and what is none.
create table numbers (id int primary key, n numeric, n2 numeric(1000,998), f4 float4, f8 float8, i8 int8, an numeric[], af float8[]);
select evsource.capture_table('numbers', 'number');
insert into numbers values
    (1, ('1' || repeat('0', 131071))::numeric, 0, '-0', '-0', -9223372036854775808, '{}', '{-0,0}'),
    (2, ('0.' || repeat('0', 16382) || '1')::numeric, 0, '1e-45', '5e-324', 9223372036854775807, null, '{5e-324}'),
    (3, 'NaN', 'NaN', 'NaN', 'NaN', 0, '{NaN,1.000,null}', '{NaN,-Infinity,Infinity}'),
    (4, 1.00, 1, '-Infinity', '-Infinity', null, '{{1.0,2.00},{3.000,NaN}}', '[-1:0]={1,2}'),
    (5, 1.0000, -9.99, 3.4028235e38, -1.7976931348623157e308, 1, '[0:0][7:8]={{1,2}}', null),
    (6, -0.00, 0.00, 0.3, 0.1::float8 + 0.2::float8, 1, '{0.00}', '{}');
-- numeric has infinities since PostgreSQL 14
select current_setting('server_version_num')::int >= 140000 as infinite \gset
\if :infinite
insert into numbers (id, n, an) values (7, 'Infinity', '{Infinity,-Infinity}'), (8, '-Infinity', null);
\else
insert into numbers (id, n, an) values (7, 'NaN', null), (8, 'NaN', null);
\endif
update numbers set n = n;
select public.rebuild_and_compare('numbers', 'number');
select (select count(*) from rebuilt.numbers) as rows, (select count(*) from evsource.events) as events;
-- The scale of a number and the sign of a zero are values: their change is an event.
update numbers set n = 1.000 where id = 4;
update numbers set f8 = 0 where id = 1;
select stream, data -> 'changed' as changed from evsource.events where type = 'NumberUpdated';
select public.rebuild_and_compare('numbers', 'number');

-- Times: the first and the last ones, both infinities, and those in between.
create table times (id int primary key, d date, ts timestamp, tz timestamptz, t time, ttz timetz, iv interval,
    ad date[], atz timestamptz[], r tstzrange, ar daterange[]);
select evsource.capture_table('times', 'time');
insert into times values
    (1, '4713-01-01 BC', '4713-01-01 00:00:00 BC', '4713-01-01 00:00:00+00 BC', '00:00:00', '00:00:00+15:59:59', '-178000000 years',
        '{infinity,-infinity,null}', '{infinity,"4713-01-01 00:00:00+00 BC"}', '[-infinity,infinity]', '{empty,"[2026-01-01,)"}'),
    (2, '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '24:00:00', '24:00:00-15:59:59',
        '178000000 years 11 mons 31 days -23:59:59.999999', '{}', '{}', '(,)', '{}'),
    (3, 'infinity', 'infinity', '-infinity', '23:59:59.999999', '12:00:00.000001+05:45', '1 day -24:00:00', null, null, 'empty', null),
    (4, '-infinity', '-infinity', 'infinity', null, null, '24:00:00', '[5:6]={2000-02-29,1900-02-28}', null, '["1883-11-18 12:03:57+00","2026-03-29 01:30:00.5+00")', null),
    (5, '1582-10-10', '1999-12-31 23:59:60', '2026-10-25 01:30:00+00', null, null, '1 mon 30 days 720:00:00', null, null, null, null);
update times set iv = '-00:00:00.000001' where id = 5;
select public.rebuild_and_compare('times', 'time');
select count(*) from rebuilt.times;

-- An interval that is equal, but written in other units, is another value.
update times set iv = '1 mon 1 day' where id = 4;
update times set iv = '31 days' where id = 4;
select version, data -> 'changed' as changed from evsource.events where stream = 'time-4' and version > 1;
select public.rebuild_and_compare('times', 'time');

-- Types made of others: domains over domains, arrays and composites; enums; composites
-- that hold arrays of composites.
create type mood as enum ('sad', 'O''K', 'very "happy", {really}');
create domain text_not_empty as text check (value <> '');
create domain code as text_not_empty check (length(value) < 20);
create domain pair as int[] check (array_length(value, 1) = 2);
create type spot as (x float8, "odd ""name" code, tags text[]);
create domain near_spot as spot check ((value).x < 10);
create type area as (corners spot[], m mood, p pair, of jsonb);
create table shapes (id int primary key, m mood, am mood[], c code, ac code[], p pair, s spot, ns near_spot, ans near_spot[], a area, b bytea, ab bytea[], bi bit varying, x xml);
select evsource.capture_table('shapes', 'shape');
insert into shapes values
    (1, 'O''K', array['sad', null, 'very "happy", {really}']::mood[], 'a"b,c', '{x,NULL,"NULL"}', '{1,2}',
        row(0.1, 'c', '{}'), row('-Infinity', 'd', null), array[row(1, 'e', '{a,null}')::near_spot, null],
        row(array[row('NaN', 'f', array['"', '\', ',', ''])::spot, null], 'sad', '{5,6}', '{"a": [1.50, null]}'), '', array[''::bytea, '\x00', null], '', null),
    (2, null, '{}', null, null, null, row(null, null, null), null, '{}', row(null, null, null, null), '\x00', null, B'101', null),
    (3, 'sad', null, 'x', '{}', '{0,0}', null, row(null, null, null), null, null, null, null, null, null);
-- every byte there is, and every character that JSON writes in its own way
update shapes set b = (select string_agg(set_byte('\x00', 0, i), '') from generate_series(0, 255) i),
    c = E'\u0001\t\n\r\b\f"\\/\u007f\u2028', m = null where id = 3;
select public.rebuild_and_compare('shapes', 'shape');
select count(*) from rebuilt.shapes;
select data -> 'new' ->> 's' as s, data -> 'new' -> 'am' as am from evsource.events where stream = 'shape-1';

-- A composite is an object if that says all; one with a field of JSON that is null is its
-- text. Casts to json have no say.
create type colour as enum ('red');
create function public.to_json(colour) returns json language sql immutable as $$ select '{"is": "red"}'::json $$;
create cast (colour as json) with function public.to_json(colour);
create domain colours as colour[];
create type thing as (c colour, cs colour[], f float8, i int[], j json, jb jsonb, ts timestamptz);
create type things as (t thing, ts thing[]);
create table boxes (id int primary key, t thing, ts thing[], b things, dcs colours[], doubled float8[]);
select evsource.capture_table('boxes', 'box');
insert into boxes values
    (1, row('red', '{red,null}', '-0', '[0:1]={1,2}', '{"a": null}', '[null]', 'infinity'), '{}', null, '{"{red}",null}', '{}'),
    (2, row(null, null, null, null, null, 'null', null), array[row(null, null, 1, null, 'null', null, null), null]::thing[],
        row(row(null, null, 1, '{}', null, '"null"', null), array[row(null, null, null, null, null, 'null', null)]::thing[]), '{}', null),
    (3, row(null, null, null, null, null, null, null), '[3:3]={"(red,{},NaN,,,,)"}', row(null, null), null, '[2:2]={-0}');
update boxes set doubled = '{0}';
select public.rebuild_and_compare('boxes', 'box');
select count(*) from rebuilt.boxes;
select stream, data -> 'new' -> 't' as t, data -> 'new' -> 'ts' as ts, data -> 'new' -> 'b' as b, data -> 'new' -> 'dcs' as dcs
from evsource.events where type = 'BoxInserted' order by position;
-- A type that gets another field is captured with it.
alter type thing add attribute n numeric;
insert into boxes values (4, row('red', null, 'NaN', null, null, null, null, 1.50), array[row(null, null, null, null, null, '"x"', null, 'NaN')]::thing[], null, null, null);
alter type thing drop attribute c;
insert into boxes values (5, row('{red}', 1, null, null, null, null, 2.0), null, null, null, null);
select data -> 'new' -> 't' as t, data -> 'new' -> 'ts' as ts from evsource.events where stream in ('box-4', 'box-5');

-- Large values, stored out of line: one that is not touched is no change, though it has
-- to be read for the event; and one that is touched is told whole.
create table large (id int primary key, n int, plain text, packed text, j jsonb, b bytea);
alter table large alter plain set storage external, alter b set storage external;
select evsource.capture_table('large');
insert into large select i, 0, repeat(md5(i::text), 1000), repeat('x', 100000),
    (select jsonb_object_agg(k, md5(k::text || i)) from generate_series(1, 2000) k), decode(repeat(md5(i::text), 2000), 'hex')
from generate_series(1, 3) i;
update large set n = 1;
update large set plain = plain || 'x' where id = 2;
update large set j = j || '{"1": null}', id = 4 where id = 3;
select stream, version, type, data -> 'changed' as changed, length(data -> 'new' ->> 'plain') as plain, length(data -> 'new' ->> 'packed') as packed
from evsource.events where evsource.category(stream) = 'large' order by position;
select public.rebuild_and_compare('large', 'large');
select count(*) from rebuilt.large;
-- In a change, old and new have what is not touched.
select count(*) as updates, bool_and(data -> 'old' -> 'packed' = data -> 'new' -> 'packed') as same
from evsource.events where type = 'LargeUpdated';

-- When there is no room for both rows of an update in one jsonb, "old" has what changed,
-- and the key. What does not fit at all is refused.
-- The fast compression, where there is one: most of the time goes there.
select count(set_config(name, 'lz4', false)) <= 1 as fast from pg_settings
where name = 'default_toast_compression' and 'lz4' = any (enumvals);
create table heavy (id int primary key, n int, body text);
insert into heavy values (1, 0, repeat('x', 135000000));
select evsource.capture_table('heavy');
update heavy set n = 1;
select data -> 'changed' as changed, data -> 'old' as old, length(data -> 'new' ->> 'body') as body from evsource.events where type = 'HeavyUpdated';
update heavy set body = repeat('y', 135000000);

\c :home
set client_min_messages = warning;
drop database evsource_capture_extremes;
