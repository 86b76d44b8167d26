-- Every value is stored exactly, and the same whatever the session's settings are.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_capture_values;
create database evsource_capture_values;
\c evsource_capture_values
set client_min_messages = warning;
create extension evsource;
create type mood as enum ('sad', 'happy');
create domain amount as numeric(20,10);
create type point3 as (x float8, y numeric, at timestamptz);
create table v (
    id bigint primary key,
    b boolean, i2 int2, i8 int8, n numeric, a amount, f4 float4, f8 float8,
    t text, vc varchar(10), c char(5), nm name, u uuid, m mood,
    d date, ts timestamp, tz timestamptz, tm time, tmz timetz, iv interval,
    by bytea, j json, jb jsonb, ip inet, bt bit(5), rg int4range, tr tstzrange,
    ai int[], an numeric[], at text[], az timestamptz[], aa bytea[], aj jsonb[],
    cp point3, cps point3[], pt point, rc regclass, ox oid, mo money,
    g int generated always as (i2 * 2) stored);
select evsource.capture_table('v');

create function public.fill() returns void language sql as $$
delete from v;
insert into v (id, b, i2, i8, n, a, f4, f8, t, vc, c, nm, u, m, d, ts, tz, tm, tmz, iv, by, j, jb, ip, bt, rg, tr,
    ai, an, at, az, aa, aj, cp, cps, pt, rc, ox, mo) values
    (1, true, -32768, 9223372036854775807, 123456789012345678901234567890.1234567890, 1.5, 0.1, 0.1,
    E'tab\t"quote" \\', 'abc', 'ab', 'name', '550e8400-e29b-41d4-a716-446655440000', 'happy',
    '2026-02-28', '2026-02-28 12:34:56.123456', '2026-02-28 12:34:56.123456+00', '12:34:56.5', '12:34:56+02', '1 year 2 days 03:00:00.5',
    '\x00ff5c27', '{"a": 1}', '{"x": 1.10, "y": [null, {}]}', '10.1.2.3/24', '10101', '[1,5)', '[2026-01-01 00:00+00,)',
    '{{1,2},{3,null}}', '{1.0,NaN}', '{a,"b c",null,""}', '{"2026-01-01 00:00+00",infinity}', array['\x01'::bytea, '\xff'], array['[1,2]', 'null', null]::jsonb[],
    row(0.1, 1.50, '2026-01-01 00:00+00'), array[row(0.3, 2, null)::point3], '(0.1,0.2)', 'pg_class', 4294967295, '1234.56'),
    (2, null, null, -1, 'NaN', -0.0000000001, 'Infinity', '1e-300', '', '', '', '', null, null,
    'infinity', '-infinity', 'infinity', '24:00', null, '-1 mon', '', null, 'null', null, null, 'empty', null,
    '[2:3]={5,6}', '{}', '{}', null, null, '{}', row(null, null, null), '{}', null, null, null, null),
    (3, false, 1, 0, 0.00, 0, 1.17549435e-38, 1.7976931348623157e308, null, null, null, null, null, 'sad',
    '0044-03-15 BC', '0001-01-01 00:00:00 BC', '1883-11-18 12:00:00+00', null, null, null, null, null, '"text"', null, null, null, null,
    null, null, null, null, null, null, null, null, null, null, null, null);
$$;
select public.fill();
\t on
\a
select jsonb_pretty(data -> 'new') from evsource.events where stream = 'v-1';
select jsonb_pretty(jsonb_strip_nulls(data -> 'new')) from evsource.events where stream = 'v-2';
select jsonb_pretty(jsonb_strip_nulls(data -> 'new')) from evsource.events where stream = 'v-3';
\a
\t off

-- A jsonb value that is null is told from a column that is null.
select stream, data -> 'new' -> 'jb' as jb, data -> 'new_json_null' as json_null from evsource.events order by position;
update v set jb = null where id = 2;
select data -> 'changed' as changed, data -> 'old_json_null' as old, data ? 'new_json_null' as new
from evsource.events where stream = 'v-2' and type = 'VUpdated';

-- The same under any settings.
create table first_time as select stream, data from evsource.events where type = 'VInserted';
set timezone = 'Asia/Kolkata';
set datestyle = 'SQL, DMY';
set intervalstyle = 'iso_8601';
set extra_float_digits = -10;
set bytea_output = 'escape';
set search_path = public, pg_catalog, information_schema;
set lc_monetary = 'C';
set quote_all_identifiers = on;
select public.fill();
show timezone;
show extra_float_digits;
reset timezone; reset datestyle; reset intervalstyle; reset extra_float_digits; reset bytea_output; reset search_path; reset lc_monetary; reset quote_all_identifiers;
select count(*), count(*) filter (where f.data = e.data) as same
from evsource.events e join first_time f using (stream)
where e.type = 'VInserted' and e.version > 1;

-- The events give every value back: JSON null apart, which new_json_null tells.
create table w (like v including all);
alter table w alter g drop expression;
insert into w select r.* from evsource.events e, jsonb_populate_record(null::w, e.data -> 'new') r
where e.type = 'VInserted' and not exists (select from evsource.events l where l.stream = e.stream and l.version > e.version);
update w set jb = 'null' where id = 2;
select v.id, v.*::text = w.*::text as same, record_image_eq(row(v.n, v.f8, v.tz, v.by, v.c, v.ai, v.az, v.aj, v.jb, v.cp), row(w.n, w.f8, w.tz, w.by, w.c, w.ai, w.az, w.aj, w.jb, w.cp)) as same_bytes
from v join w using (id) order by id;

-- What a value cannot be as jsonb is refused with the statement.
update v set j = '"\u0000"' where id = 1;
update v set j = '{"a": 1e200000}' where id = 1;
update v set j = '{"a": 1, "a": 2}' where id = 1;
select data -> 'new' -> 'j' as j from evsource.events where stream = 'v-1' order by version desc limit 1;

drop table v, w, first_time;
drop function public.fill;
drop type point3, mood, amount;

\c :home
set client_min_messages = warning;
drop database evsource_capture_values;
