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

\c :home
set client_min_messages = warning;
drop database evsource_verify_exact;
