-- Rows that bring their places come in any order until the first event is
-- appended; from then on only where no reader can have been. In a database of its
-- own, to know every position.

select current_database() as home \gset
create database evsource_import;
\c evsource_import
create extension evsource;
set timezone = 'UTC';

-- A restore: statement by statement, backwards, after the sequence.
select setval('evsource.position_seq', 100);
insert into evsource.events (position, version, recorded_at, stream, type) values
    (50, 2, '2001-01-01 00:00+00', 'a-1', 'Restored'), (40, 1, '2001-01-01 00:00+00', 'a-1', 'Restored');
insert into evsource.events (position, version, recorded_at, stream, type) values
    (30, 1, '2001-01-01 00:00+00', 'a-2', 'Restored'), (120, 3, '2001-01-01 00:00+00', 'a-1', 'Restored');
-- Nobody reads on before all of it is there.
begin;
insert into evsource.events (position, version, recorded_at, stream, type) values (20, 1, '2001-01-01 00:00+00', 'a-3', 'Restored');
select evsource.safe_position();
commit;
select evsource.safe_position();
select position, stream, version from evsource.read_all();

-- An append that is taken back opens the log, too: somebody may have seen its position.
begin;
select version, position from evsource.append('a-1', 'Appended');
rollback;
insert into evsource.events (position, version, recorded_at, stream, type) values (10, 1, now(), 'a-4', 'Passed');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (position, version, recorded_at, stream, type) values (121, 1, now(), 'a-4', 'Passed');
copy evsource.events (position, version, recorded_at, stream, type) from stdin;
10	1	2001-01-01 00:00+00	a-4	Passed
\.
-- Positions above are nobody's yet, in any order in one transaction.
begin;
insert into evsource.events (position, version, recorded_at, stream, type) values
    (203, 1, '2001-01-01 00:00+00', 'a-4', 'Imported'), (202, 1, '2001-01-01 00:00+00', 'a-5', 'Imported');
insert into evsource.events (position, version, recorded_at, stream, type) values (201, 1, '2001-01-01 00:00+00', 'a-6', 'Imported');
insert into evsource.events (position, version, recorded_at, stream, type) values (121, 1, '2001-01-01 00:00+00', 'a-7', 'Passed');
rollback;
insert into evsource.events (position, version, recorded_at, stream, type) values
    (303, 1, '2001-01-01 00:00+00', 'a-4', 'Imported'), (302, 1, '2001-01-01 00:00+00', 'a-5', 'Imported'),
    (305, 2, '2001-01-01 00:00+00', 'a-4', 'Imported');
select version, position from evsource.append('a-4', 'Appended', expected_version => 2);

-- They go on behind the stream's last event: in version,
insert into evsource.events (position, version, recorded_at, stream, type) values (400, 5, now(), 'a-4', 'Gap');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (position, version, recorded_at, stream, type) values (400, 3, now(), 'a-4', 'Twice');
insert into evsource.events (position, version, recorded_at, stream, type) values (400, 5, now(), 'a-8', 'No begin');
select evsource.truncate_stream('a-4', 3);
insert into evsource.events (position, version, recorded_at, stream, type) values (400, 1, now(), 'a-4', 'Gone');
-- and in position.
insert into evsource.events (position, version, recorded_at, stream, type) values
    (401, 1, now(), 'a-8', 'Later'), (400, 2, now(), 'a-8', 'Earlier');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.check_log();

-- Who knows that nobody follows the log may say so.
begin;
set local evsource.allow_passed_positions = on;
insert into evsource.events (position, version, recorded_at, stream, type) values (11, 2, now(), 'a-9', 'Passed'), (10, 1, now(), 'a-9', 'Passed');
commit;
select position, stream, version from evsource.read_all(0, 2);
-- That gives nobody a right.
create role evsource_import_writer;
select evsource.grant_access('evsource_import_writer', 'writer');
set role evsource_import_writer;
set evsource.allow_passed_positions = on;
insert into evsource.events (position, version, recorded_at, stream, type) values (12, 1, now(), 'a-10', 'Forged');
reset evsource.allow_passed_positions;
reset role;
drop owned by evsource_import_writer;
drop role evsource_import_writer;

-- A log that holds nothing has shown nothing to anybody.
drop extension evsource;
\c
set timezone = 'UTC';
set evsource.allow_drop = on;
drop extension evsource;
create extension evsource;
begin;
select version, position from evsource.append_batch('a-1', '{A,A,A}', '{1,2,3}');
rollback;
insert into evsource.events (position, version, recorded_at, stream, type) values (2, 1, now(), 'a-1', 'Restored');
insert into evsource.events (position, version, recorded_at, stream, type) values (1, 1, now(), 'a-2', 'Passed');
select position from evsource.append('a-2', 'Appended');
-- This session has appended in the extension before that one; it opens this one all the same.
insert into evsource.events (position, version, recorded_at, stream, type) values (3, 1, now(), 'a-3', 'Passed');

-- What has followed the log opens it as well: a projection, a subscription. What is
-- imported above is for them.
\c
set evsource.allow_drop = on;
drop extension evsource;
create extension evsource;
select evsource.create_projection('followed', 'evsource.fold_count', mode => 'async', key => 'global');
select evsource.create_subscription('followed');
select evsource.run_projection('followed');
insert into evsource.events (position, version, recorded_at, stream, type) values (10, 1, now(), 'a-1', 'Restored');
insert into evsource.events (position, version, recorded_at, stream, type) values (9, 1, now(), 'a-2', 'Restored');
select evsource.run_projection('followed');
insert into evsource.events (position, version, recorded_at, stream, type) values (8, 1, now(), 'a-3', 'Passed');
insert into evsource.events (position, version, recorded_at, stream, type) values (12, 1, now(), 'a-3', 'Imported'), (11, 1, now(), 'a-4', 'Imported');
select evsource.run_projection('followed'), evsource.state('followed');
select position from evsource.append('a-3', 'Appended', expected_version => 1);
set evsource.allow_drop = on;
select evsource.drop_projection('followed'), evsource.drop_subscription('followed');
drop extension evsource;
create extension evsource;
select evsource.create_subscription('followed');
insert into evsource.events (position, version, recorded_at, stream, type) values (10, 1, now(), 'a-1', 'Restored');
select count(*) from evsource.fetch_events('followed');
insert into evsource.events (position, version, recorded_at, stream, type) values (8, 1, now(), 'a-3', 'Passed');

-- What was restored on a timeline that ended is not all that was restored: the first
-- append leaves a gap. (Sessions do not look again once they have appended or imported.)
insert into evsource.events (position, version, recorded_at, stream, type)
    select last_value + 1, 1, now(), 'b-1', 'Imported' from evsource.position_seq;
select setval('evsource.timeline_seq', -99);
\c
select position > 16777216 as gap from evsource.append('b-1', 'Appended');
select last_value > 0 as open from evsource.timeline_seq;

-- Who asks for what comes after a position has come there, though there is nothing;
-- and what is published is read elsewhere.
\c
set evsource.allow_drop = on;
drop extension evsource;
create extension evsource;
insert into evsource.events (position, version, recorded_at, stream, type) values (1, 1, now(), 'a-1', 'Restored'), (3, 1, now(), 'a-3', 'Restored');
select count(*) from evsource.read_all(4);
insert into evsource.events (position, version, recorded_at, stream, type) values (4, 1, now(), 'a-4', 'Restored');
select count(*) from evsource.read_all(4);
insert into evsource.events (position, version, recorded_at, stream, type) values (2, 1, now(), 'a-2', 'Passed');
\echo :LAST_ERROR_SQLSTATE
drop extension evsource;
create extension evsource;
select evsource.publish_safe_position();
insert into evsource.events (position, version, recorded_at, stream, type) values (1, 1, now(), 'a-1', 'Restored'), (3, 1, now(), 'a-3', 'Restored');
select evsource.publish_safe_position();
insert into evsource.events (position, version, recorded_at, stream, type) values (2, 1, now(), 'a-2', 'Passed');
\echo :LAST_ERROR_SQLSTATE

-- A stream that came without its first events is one of evsource.streams, each
-- once, in whatever order its rows arrive: in one statement or in several.
\c
set timezone = 'UTC';
set evsource.allow_drop = on;
drop extension evsource;
create extension evsource;
insert into evsource.events (position, version, recorded_at, stream, type) values
    (16, 6, '2001-01-06 00:00+00', 'c-1', 'Restored'), (15, 5, '2001-01-05 00:00+00', 'c-1', 'Restored'),
    (22, 2, '2001-01-02 00:00+00', 'c-2', 'Restored'), (21, 1, '2001-01-01 00:00+00', 'c-2', 'Restored'),
    (33, 3, '2001-01-03 00:00+00', 'd', 'Restored'),
    (42, 2, '2001-01-02 00:00+00', 'c-3', 'Restored');
insert into evsource.events (position, version, recorded_at, stream, type) values
    (34, 4, '2001-01-04 00:00+00', 'd', 'Restored'), (32, 2, '2001-01-02 00:00+00', 'd', 'Restored'),
    (41, 1, '2001-01-01 00:00+00', 'c-3', 'Restored');
begin;
savepoint s;
insert into evsource.events (position, version, recorded_at, stream, type) values (14, 4, '2001-01-04 00:00+00', 'c-1', 'Undone');
rollback to s;
commit;
select stream, category, version, last_position, first_recorded_at, last_recorded_at from evsource.streams order by stream;
select stream, version from evsource.streams where stream = 'c-1';
select stream, version from evsource.streams where category = 'c' order by stream;
-- It goes on as any other, is truncated as any other, and check_log knows what is missing.
select version from evsource.append('c-1', 'Appended', expected_version => 6);
select evsource.truncate_stream('c-1', 6), evsource.truncate_stream('c-2', 2);
select stream, version, last_position from evsource.streams order by stream;
select stream, version, position, problem from evsource.check_log() where stream <> 'evsource-lifecycle';
-- What the dump says of truncated streams takes the place of what was seen on the way in.
begin;
set local evsource.allow_passed_positions = on;
insert into evsource.events (position, version, recorded_at, stream, type) values (3, 3, '2001-01-03 00:00+00', 'e-1', 'Restored');
insert into evsource.truncations (stream, version, first_recorded_at, truncated_at)
    values ('e-1', 3, '2001-01-01 00:00+00', '2001-01-04 00:00+00'), ('e-2', 4, '2001-01-01 00:00+00', '2001-01-04 00:00+00');
insert into evsource.events (position, version, recorded_at, stream, type) values (5, 5, '2001-01-05 00:00+00', 'e-2', 'Restored');
insert into evsource.events (position, version, recorded_at, stream, type) values (4, 4, '2001-01-04 00:00+00', 'e-2', 'Restored');
select stream, version, first_recorded_at from evsource.streams where category = 'e' order by stream;
-- Nor is one shown twice whose begin is there after all.
insert into evsource.events (position, version, recorded_at, stream, type) values (1, 1, '2001-01-01 00:00+00', 'e-1', 'Restored');
select stream, version, first_recorded_at from evsource.streams where category = 'e' order by stream;
commit;

-- An event does not come in under the id of one that is stored, also where evsource made that.
select evsource.event_id(e) as made from evsource.events e where stream = 'c-1' and version = 7 \gset
\set VERBOSITY sqlstate
insert into evsource.events (position, version, recorded_at, stream, type, id) values (100, 1, now(), 'f-1', 'Restored', :'made');
\set VERBOSITY default
select stream, version from evsource.read_event(:'made');

\c :home
drop database evsource_import;
