-- No imported event gets lost behind what a reader, a projection or a state has
-- come to: it is refused there, or what lacks it says so. In databases of their own,
-- to know every position.

select current_database() as home \gset
create database evsource_import_projections;
\c evsource_import_projections
set timezone = 'UTC';
create extension evsource;
create function names(s jsonb, e evsource.event) returns jsonb language sql immutable
    as $$ select jsonb_build_object('versions', coalesce(s->>'versions', '') || (e).version) $$;

-- A state that is asked for while a log is restored is neither kept by the session nor saved,
select evsource.create_projection('names', 'names', snapshot_every => 2);
insert into evsource.events (position, version, recorded_at, stream, type) values
    (1, 1, '2001-01-01 00:00+00', 'a-1', 'Restored'), (3, 3, '2001-01-03 00:00+00', 'a-1', 'Restored');
select evsource.state('names', 'a-1');
select key, version, event_count from evsource.snapshot_metadata;
insert into evsource.events (position, version, recorded_at, stream, type) values (2, 2, '2001-01-02 00:00+00', 'a-1', 'Restored');
select evsource.state('names', 'a-1'), evsource.event_count('names');
-- and one that is saved opens the log.
select evsource.save_snapshot('names');
insert into evsource.events (position, version, recorded_at, stream, type) values (4, 1, '2001-01-01 00:00+00', 'a-2', 'Restored'), (6, 3, '2001-01-03 00:00+00', 'a-2', 'Restored');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (position, version, recorded_at, stream, type) values (5, 4, '2001-01-04 00:00+00', 'a-1', 'Imported');
select evsource.state('names', 'a-1'), evsource.event_count('names');

-- Who knows that nobody follows the log may import behind it: what was saved and kept of
-- the stream goes.
set evsource.allow_passed_positions = on;
insert into evsource.events (position, version, recorded_at, stream, type) values (11, 1, '2001-01-01 00:00+00', 'b-1', 'Imported'), (13, 3, '2001-01-03 00:00+00', 'b-1', 'Imported');
reset evsource.allow_passed_positions;
select version from evsource.append('c-1', 'Appended');
select evsource.save_snapshot('names'), evsource.state('names', 'b-1');
set evsource.allow_passed_positions = on;
insert into evsource.events (position, version, recorded_at, stream, type) values (12, 2, '2001-01-02 00:00+00', 'b-1', 'Imported');
reset evsource.allow_passed_positions;
select evsource.state('names', 'b-1'), evsource.event_count('names');
select key, version, event_count from evsource.snapshot_metadata where key = 'b-1';

-- An inline projection with a handler or a query does not get what is imported: it says
-- so until it is rebuilt. One that would not have got it has nothing to say.
create table seen (position bigint);
create table seen_d (position bigint);
select evsource.create_projection('seen', tables => '{seen}',
    query => 'insert into seen select position from new_events');
select evsource.create_projection('seen_d', tables => '{seen_d}', categories => '{d}',
    query => 'insert into seen_d select position from new_events');
insert into evsource.events (position, version, recorded_at, stream, type) values (20, 2, '2001-01-02 00:00+00', 'c-1', 'Imported');
select projection, state, stale from evsource.projection_status order by 1;
select version from evsource.append('c-1', 'Appended');
select array_agg(position order by position) from seen;
call evsource.rebuild_projection('seen');
select projection, state, stale, event_count from evsource.projection_status order by 1;
select array_agg(position order by position) from seen;
-- So is one that is changed at the same time.
begin;
insert into evsource.events (position, version, recorded_at, stream, type) values (30, 1, '2001-01-01 00:00+00', 'd-1', 'Imported');
select evsource.pause_projection('seen_d');
commit;
select projection, state, stale from evsource.projection_status order by 1;

-- With the setting that holds for every projection: what is behind it is not for it.
select evsource.resume_projection('seen_d');
call evsource.rebuild_projection('seen_d');
call evsource.rebuild_projection('seen');
select evsource.create_projection('total', 'evsource.fold_count', mode => 'async', key => 'global');
select evsource.run_projection('total');
select evsource.save_snapshot('seen_d');
set evsource.allow_passed_positions = on;
insert into evsource.events (position, version, recorded_at, stream, type) values (8, 1, '2001-01-01 00:00+00', 'd-2', 'Imported');
reset evsource.allow_passed_positions;
select projection, stale from evsource.projection_status order by 1;
-- Nothing that was saved before hides it from a rebuild.
call evsource.rebuild_projection('seen_d', from_snapshot => true);
call evsource.rebuild_projection('total', from_snapshot => true);
select array_agg(position order by position) from seen_d;
select (evsource.state('total')->>'count')::bigint = count(*) as whole from evsource.events;

-- Registered in an empty log, such a projection opens it: an import in any order is
-- not for it.
\c
set evsource.allow_drop = on;
drop extension evsource cascade;
create extension evsource;
truncate seen;
select evsource.create_projection('seen', tables => '{seen}',
    query => 'insert into seen select position from new_events');
insert into evsource.events (position, version, recorded_at, stream, type) values (1, 1, '2001-01-01 00:00+00', 'a-1', 'Imported');
select projection, state, stale from evsource.projection_status;
insert into evsource.events (position, version, recorded_at, stream, type) values (3, 3, '2001-01-03 00:00+00', 'a-1', 'Imported');
\echo :LAST_ERROR_SQLSTATE

-- Nobody who follows a log goes anywhere in it before its first event, whatever was
-- drawn and taken back: so an import from the first position on is for them.
\c
set timezone = 'UTC';
set evsource.allow_drop = on;
drop extension evsource cascade;
create extension evsource;
select evsource.create_projection('total', 'evsource.fold_count', mode => 'async', key => 'global');
select evsource.create_subscription('follows');
begin;
select position from evsource.append_batch('x-1', '{A,A,A}', '{1,2,3}');
rollback;
select evsource.run_projection('total'), evsource.safe_position(), evsource.publish_safe_position();
select count(*) from evsource.fetch_events('follows');
select position from evsource.checkpoints;
select position from evsource.cursors;
insert into evsource.events (position, version, recorded_at, stream, type) values
    (2, 2, '2001-01-02 00:00+00', 'a-1', 'Imported'), (1, 1, '2001-01-01 00:00+00', 'a-1', 'Imported');
select evsource.run_projection('total'), evsource.state('total');
select position from evsource.fetch_events('follows');

-- Who has read on by read_all or read_category has come there, too, if so much was there.
\c
set timezone = 'UTC';
set evsource.allow_drop = on;
drop extension evsource cascade;
create extension evsource;
select position from evsource.read_all();
insert into evsource.events (position, version, recorded_at, stream, type) values (3, 1, '2001-01-01 00:00+00', 'a-1', 'Restored');
select position from evsource.read_all(4);
insert into evsource.events (position, version, recorded_at, stream, type) values (2, 1, '2001-01-01 00:00+00', 'a-2', 'Restored');
begin read only;
select position from evsource.read_category('a');
commit;
insert into evsource.events (position, version, recorded_at, stream, type) values (1, 1, '2001-01-01 00:00+00', 'a-3', 'Passed');
insert into evsource.events (position, version, recorded_at, stream, type) values (4, 1, '2001-01-01 00:00+00', 'a-3', 'Imported');
select position from evsource.read_all(3);

-- Positions that were drawn and taken back bring nobody anywhere before the first event: no
-- restore is waited for where there is none, and one may come later.
\c :home
drop database evsource_import_projections;
create database evsource_import_projections;
\c evsource_import_projections
create extension evsource;
create function names(s jsonb, e evsource.event) returns jsonb language sql immutable
    as $$ select jsonb_build_object('versions', coalesce(s->>'versions', '') || (e).version) $$;
create table named (stream text, version bigint);
select count(nextval('evsource.position_seq')) from generate_series(1, 8);
select evsource.create_projection('named', tables => '{named}', start_after => 5,
    query => 'insert into named select stream, version from new_events');
select evsource.create_projection('names', 'names');
select evsource.create_projection('now', 'names', start => 'now');
call evsource.rebuild_projection('names');
select projection, position from evsource.checkpoints order by projection;
insert into evsource.events (position, version, recorded_at, stream, type) values
    (1, 1, '2001-01-01 00:00+00', 'a-1', 'Restored'), (7, 2, '2001-01-01 00:00+00', 'a-1', 'Restored');
select version, position from evsource.append('a-1', 'Appended');
select p.projection, evsource.state(p.projection, 'a-1'), evsource.event_count(p.projection) from unnest('{names,now}'::text[]) p (projection);
table named;
select projection, stale from evsource.projection_status order by projection;

\c :home
drop database evsource_import_projections;
