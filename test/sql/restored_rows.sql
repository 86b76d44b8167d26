-- Rows that come with a position are a restore, or an import by the owner: they
-- are stored as they are. In a database of its own, to know every position.

select current_database() as home \gset
create database evsource_restored_rows;
\c evsource_restored_rows
create extension evsource;

-- They keep what they bring, in any order, and get no metadata of the session's.
set evsource.metadata = '{"by": "me"}';
insert into evsource.events (position, version, recorded_at, stream, type, data) values
    (101, 1, '2001-01-01 00:00+00', 'a-1', 'Restored', '1'),
    (103, 3, '2001-01-03 00:00+00', 'a-1', 'Restored', '3'),
    (102, 2, '2001-01-02 00:00+00', 'a-1', 'Restored', '2');
reset evsource.metadata;
-- Later events come after them.
select version, position, stored from evsource.append('a-1', 'Appended', expected_version => 3);
select position, version, type, data, metadata, recorded_at < now() - interval '1 day' as old from evsource.events order by position;
select evsource.safe_position();

-- COPY, as pg_restore does it; in whatever order of columns. (Below what was appended:
-- the test "import" tells when that needs the setting.)
set evsource.allow_passed_positions = on;
copy evsource.events (stream, position, version, recorded_at, type, data, metadata, id) from stdin;
b-1	50	1	2001-01-01 00:00+00	Restored	{}	{"by": "ann"}	11000000-0000-4000-8000-000000000009
b-1	200	2	2001-01-01 00:00+00	Restored	{}	\N	\N
\.
select position, version, metadata, id from evsource.events where stream = 'b-1' order by position;
select position from evsource.append('b-1', 'Appended', expected_version => 2);
-- A lower position leaves the sequence where it is.
insert into evsource.events (position, version, recorded_at, stream, type) values (60, 1, '2001-01-01 00:00+00', 'b-2', 'Restored');
select position from evsource.append('b-2', 'Appended', expected_version => 1);
reset evsource.allow_passed_positions;

-- Until it commits it is in flight, as an append is; rolled back it leaves a gap.
begin;
insert into evsource.events (position, version, recorded_at, stream, type) values (300, 1, now(), 'b-3', 'Restored');
select evsource.safe_position();
rollback;
select position from evsource.append('b-3', 'Appended', expected_version => 0);
select evsource.safe_position();

-- One statement may do both; RETURNING tells.
insert into evsource.events (stream, type, position, version, recorded_at) values
    ('b-4', 'Restored', 400, 1, now()), ('b-4', 'Appended', null, null, null) returning type, version, position;
insert into evsource.events (stream, type, position, version, recorded_at)
    select 'b-5', 'Restored', 500 + 10 * i, 2 * i + 1, now() from generate_series(0, 1) i
    where i = 0 or (select version from evsource.append('b-5', 'Appended')) = 2;
select version, type, position from evsource.events where stream = 'b-5' order by version;
select evsource.safe_position();
select count(*), count(distinct position), count(distinct (stream, version)), count(distinct evsource.event_id(e)) from evsource.events e;

-- The three columns belong together, and within their ranges.
insert into evsource.events (stream, type, position) values ('bad', 'One', 1);
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type, version) values ('bad', 'One', 1);
insert into evsource.events (stream, type, recorded_at) values ('bad', 'One', now());
insert into evsource.events (stream, type, version, recorded_at) values ('bad', 'One', 1, now());
insert into evsource.events (stream, type, position, version, recorded_at) values ('bad', 'One', 0, 1, now());
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type, position, version, recorded_at) values ('bad', 'One', 281474976710656, 1, now());
insert into evsource.events (stream, type, position, version, recorded_at) values ('bad', 'One', 1000, 0, now());
-- Above them there is room for appends: no row ends the log, or its stream.
insert into evsource.events (stream, type, position, version, recorded_at) values ('bad', 'One', 281474976710655, 1, now());
insert into evsource.events (stream, type, position, version, recorded_at) values ('bad', 'One', 280375465082880, 1, now());
insert into evsource.events (stream, type, position, version, recorded_at) values ('bad', 'One', 1000, 9223372036854775807, now());
select version, position < 1000 as near from evsource.append('c-0', 'Appended');
-- A restored event is an event.
insert into evsource.events (stream, type, position, version, recorded_at) values ('', 'One', 1000, 1, now());
insert into evsource.events (stream, type, position, version, recorded_at) values ('bad', null, 1000, 1, now());
insert into evsource.events (stream, type, position, version, recorded_at, metadata) values ('bad', 'One', 1000, 1, now(), '[]');
\echo :LAST_ERROR_SQLSTATE
-- Places are taken once.
set evsource.allow_passed_positions = on;
insert into evsource.events (stream, type, position, version, recorded_at) values ('a-1', 'Twice', 1000, 1, now());
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type, position, version, recorded_at) values ('a-2', 'Twice', 101, 1, now());
\echo :LAST_ERROR_SQLSTATE
reset evsource.allow_passed_positions;
select count(*) from evsource.events where stream in ('bad', '');

insert into evsource.events (stream, type, position, version, recorded_at) values ('c-0', 'Far', 280375465082879, 2, now());
select version, position from evsource.append('c-0', 'Appended');

-- Positions end where ids have no more room for them.
select setval('evsource.position_seq', 281474976710654);
select version, position, right(id::text, 12) from evsource.append('c-1', 'Last');
select position from evsource.append('c-1', 'One too many');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type) values ('c-1', 'One too many');

\c :home
drop database evsource_restored_rows;
