-- The default metadata of a session or a transaction.

create function pg_temp.last(stream text) returns jsonb language sql as $$
    select metadata from evsource.read_stream(stream, backward => true, max_count => 1) $$;

-- For this transaction only, merged under what the call passes.
begin;
select evsource.set_metadata('{"user": "ann", "request": 7}');
select (evsource.append('meta-1', 'One')).version, pg_temp.last('meta-1');
select (evsource.append('meta-1', 'Two', metadata => '{"user": "bob", "cause": {"id": 1}}')).version, pg_temp.last('meta-1');
select first_version, version from evsource.append_batch('meta-1', array['Three', 'Four'], array['3', '4']::jsonb[], metadata => array[null, '{"request": null}']::jsonb[]);
select first_version, version from evsource.append_json('meta-1', '[{"type": "Five"}, {"type": "Six", "metadata": {"step": 2}}]');
insert into evsource.events (stream, type) values ('meta-1', 'Seven');
insert into evsource.events (stream, type, metadata) values ('meta-1', 'Eight', '{"user": "eve"}');
copy evsource.events (stream, type) from stdin;
meta-1	Nine
\.
commit;
select version, metadata from evsource.events where stream = 'meta-1' order by version;
select (evsource.append('meta-1', 'Ten')).version, pg_temp.last('meta-1');

-- A savepoint's rollback brings back what was set before; null takes it back.
begin;
select evsource.set_metadata('{"a": 1}');
savepoint one;
select evsource.set_metadata('{"b": 2}');
select (evsource.append('meta-2', 'One')).version, pg_temp.last('meta-2');
rollback to one;
select (evsource.append('meta-2', 'Two')).version, pg_temp.last('meta-2');
select evsource.set_metadata(null);
select (evsource.append('meta-2', 'Three')).version, pg_temp.last('meta-2');
rollback;

-- The setting does the same for a session, a role, a database.
set evsource.metadata = '{"app": "shop"}';
select (evsource.append('meta-3', 'One')).version, pg_temp.last('meta-3');
select (evsource.append('meta-3', 'Two', metadata => '{"app": null}')).version, pg_temp.last('meta-3');
begin;
select evsource.set_metadata('{"user": "ann"}');
select (evsource.append('meta-3', 'Three')).version, pg_temp.last('meta-3');
commit;
select (evsource.append('meta-3', 'Four')).version, pg_temp.last('meta-3');
-- It takes the place of the setting, and null takes both away; the setting is back after
-- the savepoint, and after the transaction, however that ends.
begin;
select evsource.set_metadata('{"user": "ann"}');
savepoint one;
select evsource.set_metadata(null);
select (evsource.append('meta-6', 'One')).version, pg_temp.last('meta-6');
rollback to one;
select (evsource.append('meta-6', 'Two')).version, pg_temp.last('meta-6');
savepoint two;
select evsource.set_metadata('{"user": "bob"}');
release two;
select (evsource.append('meta-6', 'Three')).version, pg_temp.last('meta-6');
rollback;
show evsource.metadata;
begin;
savepoint one;
select evsource.set_metadata('{"user": "ann"}');
rollback to one;
show evsource.metadata;
select (evsource.append('meta-6', 'One')).version, pg_temp.last('meta-6');
select evsource.set_metadata(null);
commit;
select (evsource.append('meta-6', 'Two')).version, pg_temp.last('meta-6');
begin;
select evsource.set_metadata('{"user": "ann"}');
select 1 / 0;
rollback;
show evsource.metadata;
-- Empty text and an empty object are none.
set evsource.metadata = '';
select (evsource.append('meta-3', 'Five')).version, pg_temp.last('meta-3');
set evsource.metadata = ' {} ';
select (evsource.append('meta-3', 'Six')).version, pg_temp.last('meta-3');
reset evsource.metadata;
-- No metadata takes no room: it is read as {}.
select type, metadata from evsource.events where stream = 'meta-3' and metadata is null order by version;

-- A function with a setting of its own keeps it to itself.
create function pg_temp.as_robot(stream text) returns bigint language sql
    set evsource.metadata = '{"user": "robot"}'
    as $$ select version from evsource.append(stream, 'Cleaned') $$;
select pg_temp.as_robot('meta-4'), pg_temp.last('meta-4');
select (evsource.append('meta-4', 'Used')).version, pg_temp.last('meta-4');

-- An event keeps its metadata when a handler sets another.
create table meta_seen (n int generated always as identity, stream text, metadata jsonb);
create function meta_append(e evsource.event) returns void language plpgsql as $$
begin
    perform evsource.set_metadata(jsonb_build_object('by', repeat('handler ', 20)));
    perform evsource.append('metaother-1', 'Reacted');
    perform evsource.set_metadata(null);
end $$;
create function meta_see(e evsource.event) returns void language sql as $$
    insert into meta_seen (stream, metadata) values (e.stream, e.metadata) $$;
select evsource.create_projection('meta_1_append', 'meta_append', categories => array['meta'], start => 'now'),
       evsource.create_projection('meta_2_see', 'meta_see', categories => array['meta'], start => 'now');
set evsource.metadata = '{"by": "the session"}';
select version from evsource.append('meta-5', 'One');
reset evsource.metadata;
select stream, metadata from meta_seen order by n;
select evsource.drop_projection('meta_1_append'), evsource.drop_projection('meta_2_see');
drop function meta_append, meta_see;
drop table meta_seen;

-- Only an object is metadata; the append that would use it is refused.
select evsource.set_metadata('[1]');
\echo :LAST_ERROR_SQLSTATE
select evsource.set_metadata('"ann"');
-- The setting is refused when it is set, and keeps its value.
set evsource.metadata = '{"by": "ann"}';
set evsource.metadata = '[1]';
\echo :LAST_ERROR_SQLSTATE
set evsource.metadata = 'ann';
set evsource.metadata = '{"by": "ann"';
set evsource.metadata = '{"by": "ann"} {}';
set evsource.metadata = ' ';
select set_config('evsource.metadata', '7', true);
create function meta_set() returns int language sql set evsource.metadata = 'no' as 'select 1';
alter role current_user set evsource.metadata = 'no';
show evsource.metadata;
-- What is JSON but no jsonb is refused by the append.
set evsource.metadata = '{"by": "\u0000"}';
\set VERBOSITY sqlstate
select * from evsource.append('meta-bad', 'One');
\set VERBOSITY default
reset evsource.metadata;
insert into evsource.events (stream, type, metadata) values ('meta-bad', 'One', '[]');
\echo :LAST_ERROR_SQLSTATE
copy evsource.events (stream, type, metadata) from stdin;
meta-bad	One	"x"
\.
select evsource.stream_version('meta-bad');
