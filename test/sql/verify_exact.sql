-- verify_exact: values that look the same at first sight are told apart.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_verify_exact;
create database evsource_verify_exact;
\c evsource_verify_exact
create extension evsource;
\set SHOW_CONTEXT never

-- Two numbers whose text is the same with fewer digits, whatever the session's are.
create table floats (stream text primary key, f float8, g float4[]);
create function fill_floats(e evsource.event) returns void language sql as $$
    insert into floats values (e.stream, 0.1::float8 + 0.2::float8, '{0.3}') $$;
create function fill_rounded(e evsource.event) returns void language sql as $$
    insert into floats values (e.stream, 0.3, '{0.3}') $$;
select evsource.create_projection('floats', 'fill_floats', tables => '{floats}', categories => '{float}');
select version from evsource.append('float-1', 'Happened');
set extra_float_digits = 0;
select * from evsource.verify_projection('floats');
select count(*) from evsource.try_projection('floats', 'fill_rounded');
update floats set f = 0.3;
select position, is_missing, stored, computed from evsource.verify_projection('floats');
set extra_float_digits = -10;
select count(*) from evsource.verify_projection('floats');
select count(*) from evsource.try_projection('floats', 'fill_rounded');
update floats set f = 0.1::float8 + 0.2::float8;
select count(*) from evsource.verify_projection('floats');
reset extra_float_digits;

-- Values that have the same jsonb, or are equal by an operator, and are not the same.
create type pair as (a int, b text);
create type with_json as (j jsonb);
create table texts (stream text primary key, j jsonb, js json, a int[], n numeric, f float8, p pair, b bytea, t text, "odd ""name" varchar[],
    j2 jsonb, jp with_json, ja jsonb[]);
create table texts_no_key (like texts);
create function fill_texts(e evsource.event) returns void language sql as $$
    insert into texts values (e.stream, null, '{"a": 1, "b": 2}', '{1,2}', 1.50, 0, row(null, null), '', '', '{x}', '{"a": 1.0}', row(null), '{NULL}');
    insert into texts_no_key values (e.stream, null, '{"a": 1, "b": 2}', '{1,2}', 1.50, 0, row(null, null), '', '', '{x}', '{"a": 1.0}', row(null), '{NULL}') $$;
select evsource.create_projection('texts', 'fill_texts', tables => '{texts,texts_no_key}', categories => '{text}');
select count(*) from generate_series(1, 3) n, evsource.append('text-' || n, 'Happened');
select * from evsource.verify_projection('texts');
create procedure differs(change text) language plpgsql as $$
declare
    found text;
begin
    execute format('update texts set %1$s where stream = ''text-2''', change);
    execute format('update texts_no_key set %1$s where stream = ''text-2''', change);
    select string_agg(format('%s%s', relation, ' ' || position || case when is_missing then ' missing' else '' end), ', ') into found
        from evsource.verify_projection('texts', max_differences => null);
    rollback;
    raise info '%: %', change, coalesce(found, 'the same');
end $$;
call differs($$j = 'null'$$);
call differs($$j = '{}'$$);
call differs($$js = '{"b": 2, "a": 1}'$$);
call differs($$js = '{"a": 0, "a": 1, "b": 2}'$$);
call differs($$js = '{"a": 1,  "b": 2}'$$);
call differs($$js = null$$);
call differs($$js = 'null'$$);
call differs($$a = '[0:1]={1,2}'$$);
call differs($$a = '{{1,2}}'$$);
call differs($$a = null$$);
call differs($$f = '-0'$$);
call differs($$p = null$$);
call differs($$p = row(null, '')$$);
call differs($$b = null$$);
call differs($$t = null$$);
call differs($$"odd ""name" = '[2:2]={x}'$$);
call differs($$jp = row('null')$$);
call differs($$ja = array['null'::jsonb]$$);
-- The same values, written or stored in another way.
call differs($$n = 1.500$$);
call differs($$j2 = '{"a": 1.00}'$$);
call differs($$a = (array_remove(a || 3 || null, 3))[1:2]$$);
update texts set a[2] = null, t = repeat('x', 10000);
update texts set a[2] = 2, t = '';
call differs($$t = ''$$);

-- The JSON that is shown may be the same.
update texts set a = '[0:1]={1,2}' where stream = 'text-3';
select position, is_missing, stored = computed as same_json from evsource.verify_projection('texts');
call evsource.rebuild_projection('texts');
select * from evsource.verify_projection('texts');
select a from texts where stream = 'text-3';

-- Where the row was once what is stored, it is found which event that lacks.
create table steps (stream text primary key, a int[]);
create function step(e evsource.event) returns void language sql as $$
    insert into steps values (e.stream, '{1,2}') on conflict (stream) do update set a = '[0:1]={1,2}' $$;
select evsource.create_projection('steps', 'step', tables => '{steps}', categories => '{step}');
select version from evsource.append('step-1', 'Happened');
select version from evsource.append('step-1', 'Happened');
select * from steps;
select * from evsource.verify_projection('steps');
update steps set a = '{1,2}';
select version, is_missing from evsource.verify_projection('steps');
update steps set a = '[5:6]={1,2}';
select version, is_missing from evsource.verify_projection('steps');

-- A key that has a NULL in it is a key.
create table pairs (p pair primary key, n int);
select evsource.create_projection('pairs', query => 'insert into pairs select row(version, null)::pair, 1 from new_events', tables => '{pairs}', categories => '{pair}');
select version from evsource.append('pair-1', 'Happened');
select * from evsource.verify_projection('pairs');
update pairs set n = 2;
select * from evsource.verify_projection('pairs');

-- try_projection sees the same.
create function fill_null(e evsource.event) returns void language sql as $$
    insert into texts values (e.stream, 'null', '{"a": 1, "b": 2}', '{1,2}', 1.50, 0, row(null, null), '', '', '{x}', '{"a": 1.0}', row(null), '{NULL}');
    insert into texts_no_key values (e.stream, null, '{"a": 1, "b": 2}', '[2:3]={1,2}', 1.50, 0, row(null, null), '', '', '{x}', '{"a": 1.0}', row(null), '{NULL}') $$;
select relation, key from evsource.try_projection('texts', 'fill_null', max_differences => 4);
select count(*) from evsource.try_projection('texts', 'fill_texts');
select count(*) from evsource.try_projection('texts', 'fill_null', ignore => '{j,a}');

-- What json may have and jsonb may not is compared, and shown as text: alone, and within other types,
-- where two escapes of one character are not told from it.
create domain note as json;
create type noted as (n int, note json);
create table odd_json (stream text primary key, j json, n note, r noted, a json[]);
create table odd_json_no_key (like odd_json);
create function fill_odd(e evsource.event) returns void language plpgsql as $$
declare
    value json := e.metadata -> 'json' ->> 0;
begin
    insert into odd_json values (e.stream, value, value, row(1, value), array[value]);
    insert into odd_json_no_key values (e.stream, value, value, row(1, value), array[value]);
end $$;
create function fill_other(e evsource.event) returns void language plpgsql as $$
declare
    value json := concat(e.metadata -> 'json' ->> 0, ' ');
begin
    insert into odd_json values (e.stream, value, value, row(1, value), array[value]);
    insert into odd_json_no_key values (e.stream, value, value, row(1, value), array[value]);
end $$;
select evsource.create_projection('odd_json', 'fill_odd', tables => '{odd_json,odd_json_no_key}', categories => '{odd}');
select count(*) from unnest(array['"\u0000"', '{"a": "\ud83d"}', '["\ude00", 1]', '"\\ud83d\ude00"',
        '["\ud83d\ude00"]', '["\\u0000"]', '{"\u20ac": 1e5}', '"\uD83D\uDE00 \ud83d"']) with ordinality u (value, i),
    lateral evsource.append('odd-' || chr(96 + i::int), 'Happened', metadata => jsonb_build_object('json', jsonb_build_array(value)));
select count(*) from evsource.verify_projection('odd_json', max_differences => null);
select count(*) from evsource.try_projection('odd_json', 'fill_odd', max_differences => null);
select count(*) from evsource.try_projection('odd_json', 'fill_other', max_differences => null);
select key, jsonb_typeof(was -> 'j') as j_is, jsonb_typeof(was -> 'n') as n_is, jsonb_typeof(was -> 'r') as r_is, jsonb_typeof(was -> 'a') as a_is
    from evsource.try_projection('odd_json', 'fill_other', max_differences => null) where relation = 'public.odd_json' order by key;
update odd_json set j = '"\u0000 "' where stream = 'odd-a';
update odd_json_no_key set j = '"\u0000 "' where stream = 'odd-a';
select relation, key, position, stored ->> 'j' as stored, computed ->> 'j' as computed
    from evsource.verify_projection('odd_json', max_differences => null) order by 1, 4, 5;

\c :home
set client_min_messages = warning;
drop database evsource_verify_exact;
