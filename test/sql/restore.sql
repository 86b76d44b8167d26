-- What a restore does, statement by statement. The whole of it is tested by
-- test/t/001_dump_restore.pl.

-- Every table and sequence of the extension is in a dump; only what the daemon notes, what
-- open transactions may not use any more, the timeline, and what is noted of a subscription of
-- PostgreSQL, are the server's own, and a rebuild under way is not taken along.
select c.relname collate "C"
from pg_class c
    join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
    join pg_extension e on d.refobjid = e.oid and e.extname = 'evsource'
where c.relkind in ('r', 'S') and not c.oid = any (e.extconfig)
    and c.relname not in ('crash_marks', 'followed', 'rebuilds', 'snapshot_removals', 'timeline_seq', 'restored_seq')
order by 1;
-- Of these, what belongs to a rebuild under way or to an old version is not, either.
select c.oid::regclass::text collate "C", c.condition
from pg_extension e, unnest(e.extconfig, e.extcondition) c (oid, condition)
where e.extname = 'evsource' and c.condition <> ''
order by 1;

-- Rows with a position are stored as they are, beside others that are appended,
-- and are not dispatched.
create table restore_seen (stream text, version bigint, type text);
select evsource.create_projection('restore', categories => array['restore'], start => 'now',
    query => 'insert into restore_seen select stream, version, type from new_events');
select last_value as before from evsource.position_seq \gset
insert into evsource.events (stream, type, position, version, recorded_at, id, metadata) values
    ('restore-1', 'Old', :before + 1000, 1, '2020-02-03 04:05:06+00', null, null),
    ('restore-1', 'Old', :before + 1005, 2, '2020-02-03 04:05:07+00', '00000000-0000-4000-8000-0000000000aa', '{"k": 1}');
select position - :before as position, version, type, recorded_at = '2020-02-03 04:05:06+00' as then, id, metadata, occurred_at
from evsource.events where stream = 'restore-1' order by position;
select * from restore_seen;

-- What is appended comes after them, in the stream and in the log,
select version, position - :before > 1005 as after from evsource.append('restore-1', 'New', expected_version => 2);
-- and is dispatched.
select * from restore_seen;

-- One statement may bring both kinds.
insert into evsource.events (stream, type, position, version, recorded_at) values
    ('restore-2', 'Old', :before + 2000, 1, now()),
    ('restore-3', 'New', null, null, null);
select version, position - :before > 2000 as after from evsource.append('restore-2', 'New');
select stream, version, type from restore_seen order by stream, version;

-- A restored row lower than the sequence leaves the sequence alone. (The test
-- "import" tells when that needs the setting.)
set evsource.allow_passed_positions = on;
select last_value as before from evsource.position_seq \gset
insert into evsource.events (stream, type, position, version, recorded_at) values ('restore-4', 'Old', :before - 500, 1, now());
select last_value - :before as moved from evsource.position_seq;

-- What contradicts the log is an error: a position or a version that is taken,
-- half of what makes a place.
\set VERBOSITY terse
insert into evsource.events (stream, type, position, version, recorded_at) values ('restore-5', 'Old', :before, 1, now());
insert into evsource.events (stream, type, position, version, recorded_at) values ('restore-1', 'Old', :before - 501, 1, now());
insert into evsource.events (stream, type, position) values ('restore-5', 'Old', :before + 5000);
reset evsource.allow_passed_positions;
\set VERBOSITY default
select last_value - :before as moved from evsource.position_seq;

-- A log in use keeps its identity, and takes nothing else of a dump: no table of one does.
\set VERBOSITY terse
insert into evsource.store values ('00000000-0000-4000-8000-000000000001', 1, 1);
insert into evsource.published values (:before + 1000, now());
copy evsource.cursors from stdin;
\.
create function refused(relation regclass) returns boolean language plpgsql as $$
begin
    execute format('insert into %s select * from %1$s where false', relation);
    return false;
exception when object_not_in_prerequisite_state then
    return true;
end $$;
select oid::regclass as accepted
from pg_class where relkind = 'r' and oid in (select unnest(extconfig) from pg_extension where extname = 'evsource') and not refused(oid);
drop function refused;
\set VERBOSITY default
-- Not so what was restored: the row of evsource.store comes with the dump, and takes the place
-- of the one that create extension has made: then the ids of the events are those of
-- the store that made them, at once, in a session that has computed others.
begin;
select setval('evsource.restored_seq', max(position)) is not null as restored from evsource.events; -- as restored events do
select evsource.event_id(e) as id from evsource.events e where stream = 'restore-1' and version = 3 \gset
insert into evsource.store values ('00000000-0000-4000-8000-000000000001', 1, 1);
select count(*) from evsource.store;
select evsource.event_id(e) = :'id' as same_id from evsource.events e where stream = 'restore-1' and version = 3;
select type from evsource.read_event(:'id');
-- It comes once;
savepoint s;
\set VERBOSITY terse
insert into evsource.store values ('00000000-0000-4000-8000-000000000002', 1, 1);
\set VERBOSITY default
rollback to s;
-- or again with other events.
select setval('evsource.restored_seq', max(position)) is not null as restored from evsource.events;
insert into evsource.store values ('00000000-0000-4000-8000-000000000002', 1, 1);
select count(*) from evsource.store;
rollback to s;
select origin from evsource.store;
rollback;
select evsource.event_id(e) = :'id' as same_id from evsource.events e where stream = 'restore-1' and version = 3;
select type from evsource.read_event(:'id');

-- So it does for tools that restore with the triggers of replication.
begin;
set local session_replication_role = replica;
select setval('evsource.restored_seq', max(position)) is not null as restored from evsource.events;
insert into evsource.store values ('00000000-0000-4000-8000-000000000001', 1, 1);
select count(*) from evsource.store;
rollback;
-- With no triggers at all there would be two: an error, and no guess.
begin;
alter table evsource.store disable trigger all;
\set VERBOSITY terse
insert into evsource.store values ('00000000-0000-4000-8000-000000000001', 1, 1);
\set VERBOSITY default
rollback;

select evsource.drop_projection('restore');
drop table restore_seen;
