-- types_refused: what definitions of event types are refused, what their
-- functions may not do, and what a new version means for projections.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_types_refused;
create database evsource_types_refused;
\c evsource_types_refused
create extension evsource;
set client_min_messages = warning;

create schema bank;
set search_path = bank;
create function yes(jsonb) returns boolean language sql as $$ select true $$;
create function same(jsonb) returns jsonb language sql as $$ select $1 $$;
create function add(jsonb) returns jsonb language sql as $$ select $1 || '{"added": true}' $$;

-- Arguments.
select evsource.define_event_type(null, 1);
select evsource.define_event_type('', 1);
select evsource.define_event_type('T', null);
select evsource.define_event_type('T', 0);
select evsource.define_event_type('T', 32768);
select evsource.define_event_type('T', 1, '$.a >');
select evsource.define_event_type('T', 1, '$.a > $limit');
select evsource.define_event_type('T', 1, '$.a ? (@ == "$x" && @."\"$y" == $"of\"it")');
begin;
select evsource.define_event_type('T', 1, 'exists($.a ? (@ == "$x" && @."$y" == "\"")) || $."$"."$z" == "$"');
rollback;
select evsource.define_event_type('T', 1, validator => 'nowhere');
select evsource.define_event_type('T', 1, validator => 'same');
select evsource.define_event_type('T', 2, upcaster => 'yes');
select evsource.define_event_type('T', 1, upcaster => 'same');
-- A version follows the one before; the first may be 2, the successor of what was.
select evsource.define_event_type('T', 3, upcaster => 'same');
select evsource.define_event_type('T', 2, upcaster => 'same');
select evsource.define_event_type('T', 4, upcaster => 'same');
begin isolation level repeatable read;
select evsource.define_event_type('T', 3, upcaster => 'same');
rollback;

-- Where older events are stored, a version without upcaster would hide them.
select version from evsource.append('s-1', 'U', '{"n": 1}');
select evsource.define_event_type('U', 2, '$.n');
select evsource.define_event_type('U', 2, '$.n', upcaster => 'add');
-- Where there are none, it needs none; then older ones cannot come.
select evsource.define_event_type('V', 2, '$.n');
select version from evsource.append('s-1', 'V', '{"n": 1}');
select version from evsource.append('s-1', 'V', '{"n": 1}', schema_version => 1);
-- One that comes all the same, by a restore, is an error for who reads it ...
insert into evsource.events (position, version, recorded_at, stream, type, data) values (1000, 1, '2020-01-01', 's-2', 'V', '{"n": 1}');
select data from evsource.read_stream('s-2');
select schema_version, data from evsource.events_raw where stream = 's-2';
-- ... until there is an upcaster; which version 2 may still get, but not lose or change.
select evsource.define_event_type('V', 2, '$.n', upcaster => 'add');
select data from evsource.read_stream('s-2');
select evsource.define_event_type('V', 2, '$.n', upcaster => 'same');
select evsource.define_event_type('V', 2, '$.n');

-- The same definition again changes nothing; another one is refused once events
-- were stored by it.
select evsource.define_event_type('U', 2, '$.n', upcaster => 'add');
select evsource.define_event_type('U', 2, '$.m', upcaster => 'add');
select version from evsource.append('s-1', 'U', '{"m": 1}');
select evsource.define_event_type('U', 2, '$.n', upcaster => 'add');
select type, version, schema_path, upcaster, changes_stored from evsource.event_types order by 1, 2;

-- Dropped is the newest version, unless events are stored in it.
select evsource.drop_event_type('W');
select evsource.drop_event_type('U', 2);
select evsource.define_event_type('U', 3, upcaster => 'add');
select evsource.drop_event_type('U', 2);
select evsource.drop_event_type('U', 4);
select evsource.drop_event_type('U', 3);
select evsource.drop_event_type('T');
-- A definition that is rolled back is forgotten, in this session too.
begin;
select evsource.define_event_type('X', 1, '$.x');
savepoint a;
select evsource.define_event_type('X', 2, '$.y', upcaster => 'same');
select version from evsource.append('s-3', 'X', '{"x": 1}');
rollback to a;
select version from evsource.append('s-3', 'X', '{"x": 1}');
rollback;
select version from evsource.append('s-3', 'X', '{}');
select type, version from evsource.event_types where type in ('T', 'X');

-- What functions return and raise.
create function null_up(jsonb) returns jsonb language sql as $$ select null::jsonb $$;
create function raise_up(jsonb) returns jsonb language plpgsql as $$ begin raise 'not today' using errcode = 'XX123'; end $$;
select version from evsource.append('s-4', 'Y', '{}');
begin;
select evsource.define_event_type('Y', 2, upcaster => 'null_up');
select * from evsource.read_stream('s-4');
rollback;
begin;
select evsource.define_event_type('Y', 2, upcaster => 'raise_up');
select * from evsource.read_stream('s-4');
\echo :LAST_ERROR_SQLSTATE
rollback;
create function null_check(jsonb) returns boolean language sql as $$ select null::boolean $$;
select evsource.define_event_type('Y', 1, validator => 'null_check');
select version from evsource.append('s-4', 'Y', '{}');
-- A validator that loops is stopped like any statement.
create function loop(jsonb) returns boolean language plpgsql as $$ begin loop end loop; end $$;
select evsource.define_event_type('Loop', 1, validator => 'loop');
set statement_timeout = '100ms';
\set SHOW_CONTEXT never
select version from evsource.append('s-4', 'Loop', '{}');
reset statement_timeout;
\set SHOW_CONTEXT errors
-- One that appends is refused, and so is what it does in a block of its own.
create function appends(jsonb) returns boolean language plpgsql as
$$ begin perform evsource.append('s-5', 'Append', '{}'); return true; end $$;
create function inserts(jsonb) returns boolean language plpgsql as
$$ begin
    insert into evsource.events (stream, type) values ('s-5', 'Other');
    return true;
exception when object_not_in_prerequisite_state then return false;
end $$;
select evsource.define_event_type('Append', 1, validator => 'appends');
select evsource.define_event_type('Insert', 1, validator => 'inserts');
select version from evsource.append('s-5', 'Append', '{}');
select version from evsource.append('s-5', 'Insert', '{}');
select version from evsource.append('s-5', 'Other', '{}');
-- An upcaster that reads its own type ends somewhere.
create function reads(e evsource.event) returns jsonb language plpgsql as
$$ begin return e.data || jsonb_build_object('n', (select count(*) from evsource.read_stream(e.stream))); end $$;
select version from evsource.append('s-6', 'Read', '{}');
select evsource.define_event_type('Read', 2, upcaster => 'reads');
\set SHOW_CONTEXT never
select * from evsource.read_stream('s-6');
\set SHOW_CONTEXT errors
select evsource.drop_event_type('Read');
select data from evsource.read_stream('s-6');

-- A function in use is not dropped, nor with its schema; one that is gone has a name.
drop function add(jsonb);
create schema one;
create function one.up(jsonb) returns jsonb language sql as $$ select $1 $$;
select evsource.define_event_type('One', 2, upcaster => 'one.up');
drop schema one cascade;
alter event trigger evsource_guard_drops disable;
drop function add(jsonb);
alter event trigger evsource_guard_drops enable;
select data from evsource.read_stream('s-2');
create function add(jsonb) returns jsonb language sql as $$ select $1 || '{"added": "again"}' $$;
select data from evsource.read_stream('s-2');

-- Functions run as whoever defined the version, with the search_path of then.
create role regress_types_admin;
create role regress_types_writer;
grant usage, create on schema bank to regress_types_admin;
grant usage on schema bank to regress_types_writer;
select evsource.grant_access('regress_types_writer', 'writer');
select evsource.grant_access('regress_types_admin', 'admin');
create table limits (most int);
insert into limits values (10);
alter table limits owner to regress_types_admin;
set role regress_types_admin;
create function below_limit(jsonb) returns text language plpgsql as
$$ begin return (select format('%s is above %s, says %s', $1, most, current_user) from limits where $1::int > most); end $$;
select evsource.define_event_type('Limited', 1, validator => 'below_limit');
-- Not by a function of others, nor a type of others.
select evsource.define_event_type('Stolen', 1, validator => 'yes');
select evsource.define_event_type('U', 3, '$.n');
set role regress_types_writer;
set search_path = public;
select version from evsource.append('s-7', 'Limited', '11');
select version from evsource.append('s-7', 'Limited', '9');
select evsource.define_event_type('Limited', 2, '$.n');
reset role;
set search_path = bank;
-- That role must be allowed to read what its functions are shown.
select evsource.revoke_access('regress_types_admin');
select version from evsource.append('s-7', 'Limited', '9');
grant usage on schema evsource to regress_types_admin;
grant execute on function evsource.define_event_type to regress_types_admin;
set role regress_types_admin;
select evsource.define_event_type('Unread', 1, validator => 'below_limit');
reset role;
alter event trigger evsource_guard_drops disable;
drop owned by regress_types_admin;
drop role regress_types_admin;
alter event trigger evsource_guard_drops enable;
alter role regress_types_admin rename to regress_types_gone;
select version from evsource.append('s-7', 'Limited', '9');
-- Who defines it again, when that role is gone, takes it over.
create function below_limit(jsonb) returns text language sql as $$ select 'says ' || current_user where $1::int > 10 $$;
select evsource.define_event_type('Limited', 1, validator => 'below_limit');
select version from evsource.append('s-7', 'Limited', '9');
select validator, owner = current_user as mine from evsource.event_types where type = 'Limited';

-- A new version changes what projections would have been told: those that have
-- applied such events are stale, and snapshots that were made before are not used.
create function keep(state jsonb, e evsource.event) returns jsonb language sql as $$ select (e).data $$;
create table told (data jsonb);
select evsource.create_projection('all', query => 'insert into bank.told select data from new_events', tables => '{told}');
select evsource.create_projection('others', query => 'insert into bank.told select data from new_events where false', types => '{Other}');
select evsource.create_projection('kept', 'keep', types => '{Z}', snapshot_every => 1);
select evsource.append('s-8', 'Z', '{"n": 1}') is not null as appended;
select evsource.state('kept', 's-8');
begin;
-- no event is of an earlier version: nothing changes
select evsource.define_event_type('New', 2, upcaster => 'add');
select projection, stale from evsource.projections order by 1;
rollback;
select evsource.define_event_type('Z', 2, upcaster => 'add');
select projection, stale from evsource.projections order by 1;
select evsource.state('kept', 's-8');
\c
set search_path = bank;
set client_min_messages = warning;
select evsource.state('kept', 's-8');
call evsource.rebuild_projection('all');
call evsource.rebuild_projection('kept');
select projection, stale from evsource.projections order by 1;
select state from evsource.states where projection = 'kept';
select data from told where data ->> 'n' = '1' order by data::text;

reset role;
\c :home
set client_min_messages = warning;
drop database evsource_types_refused;
drop role regress_types_writer, regress_types_gone;
