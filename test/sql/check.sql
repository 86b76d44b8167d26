-- check_log: what a restore, an import or a repair by hand has left out. In a
-- database of its own, for it looks at the whole log.
select current_database() as home \gset
create database evsource_check;
\c evsource_check
create extension evsource;
set client_min_messages = warning;

-- Nothing is wrong with nothing, nor with what was appended.
select * from evsource.check_log();
select count(evsource.append('a-' || n % 3, 'Done')) from generate_series(1, 12) n;
begin;
select version from evsource.append('a-1', 'Undone');
rollback;
select version from evsource.append('a-1', 'Done');
select evsource.truncate_stream('a-2', 3);
select * from evsource.check_log();

-- Rows that are restored in part: each gap is named where the stream goes on.
set evsource.allow_passed_positions = on;
insert into evsource.events (position, version, recorded_at, stream, type) values
    (101, 2, now(), 'b-1', 'Restored'), (102, 3, now(), 'b-1', 'Restored'), (103, 7, now(), 'b-1', 'Restored'),
    (105, 1, now(), 'b-2', 'Restored'), (104, 2, now(), 'b-2', 'Restored'),
    (106, 1, now(), 'a-2', 'Restored');
select * from evsource.check_log();
reset evsource.allow_passed_positions;
-- Appends go on behind the last one, and the gap stays.
select version from evsource.append('b-1', 'Done');
select count(*) from evsource.check_log();

-- What was removed by hand, and rows that came without the sequence.
alter table evsource.events disable trigger immutable;
delete from evsource.events where stream in ('b-1', 'b-2') or position = 106;
delete from evsource.events where stream = 'a-1' and version = 2;
alter table evsource.events enable always trigger immutable;
select setval('evsource.position_seq', 3);
select stream, version, problem from evsource.check_log();

-- Without an index nothing keeps a version or an id unique.
begin;
alter table evsource.events drop constraint events_stream_version_key;
drop index evsource.events_id_key;
select * from evsource.check_log() where stream is null;
rollback;

-- It shows every stream's name: for who administers the store.
create role evsource_check_writer;
create role evsource_check_admin;
select evsource.grant_access('evsource_check_writer', 'writer'), evsource.grant_access('evsource_check_admin', 'admin');
set role evsource_check_writer;
select * from evsource.check_log();
set role evsource_check_admin;
select count(*) from evsource.check_log();
reset role;
drop owned by evsource_check_writer, evsource_check_admin;
drop role evsource_check_writer, evsource_check_admin;
\c :home
drop database evsource_check;
