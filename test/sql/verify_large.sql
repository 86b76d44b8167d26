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
select * from evsource.verify_projection('large');
update large set content[9] = 7;
select relation, key, stream, version, is_missing, stored - 'content' as stored, computed - 'content' as computed,
    regexp_replace(stored ->> 'content', ' [0-9a-f]{16}$', ' ...') as content, stored ->> 'content' <> computed ->> 'content' as differ
    from evsource.verify_projection('large');
select evsource.drop_projection('large');
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
\c :home
drop database evsource_verify_large;
drop role evsource_verify_owner;
