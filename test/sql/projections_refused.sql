-- projections_refused: bad input gets an error that says what is accepted, and
-- registers nothing.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_projections_refused;
create database evsource_projections_refused;
\c evsource_projections_refused
create extension evsource;

create schema bad;
set search_path = bad;
create table model (n int);
create view model_view as select * from model;
create function event_handler(e evsource.event) returns void language sql as '';
create function batch_handler(e evsource.event[]) returns void language sql as '';
create function fold(state jsonb, e evsource.event) returns jsonb language sql as 'select state';
create function key_function(e evsource.event) returns text language sql as 'select (e).type';
create function returns_int(e evsource.event) returns integer language sql as 'select 1';
create function returns_set(e evsource.event) returns setof void language sql as '';
create function two_of_them(e evsource.event) returns void language sql as '';
create function two_of_them(e evsource.event[]) returns void language sql as '';
create function empty_model() returns void language sql as '';
create procedure a_procedure(e evsource.event) language sql as '';

-- The name.
select evsource.create_projection(null, 'event_handler');
select evsource.create_projection('', 'event_handler');
select evsource.create_projection(repeat('x', 64), 'event_handler');

-- A handler or a query, and one of them only.
select evsource.create_projection('p');
select evsource.create_projection('p', 'event_handler', query => 'select from new_events');

-- The handler: missing, ambiguous, of another signature.
select evsource.create_projection('p', 'nowhere');
select evsource.create_projection('p', 'nowhere.nothing');
select evsource.create_projection('p', 'event_handler(integer)');
select evsource.create_projection('p', 'two_of_them');
select evsource.create_projection('p', 'returns_int');
select evsource.create_projection('p', 'returns_set');
select evsource.create_projection('p', 'a_procedure');
select evsource.create_projection('p', 'pg_catalog.now');
select evsource.create_projection('p', 'not a name');
create function pg_temp.temporary(e evsource.event) returns void language sql as '';
select evsource.create_projection('p', 'pg_temp.temporary');

-- The query: does not parse, several statements, none, no reader of new_events,
-- no statement that it may be, a table that only this session has.
select evsource.create_projection('p', query => 'insert into model selec 1');
select evsource.create_projection('p', query => 'insert into model select position from new_event');
select evsource.create_projection('p', query => 'insert into model select stream from new_events');
select evsource.create_projection('p', query => 'select from new_events; select 1');
select evsource.create_projection('p', query => ' -- nothing');
select evsource.create_projection('p', query => 'insert into model select 1');
select evsource.create_projection('p', query => 'create table t as select * from new_events');
select evsource.create_projection('p', query => 'truncate model');
select evsource.create_projection('p', query => 'insert into model select $1 from new_events');
create temporary table scratch (n bigint);
select evsource.create_projection('p', query => 'insert into scratch select position from new_events');

-- A query may read new_events wherever it likes.
begin;
select evsource.create_projection('cte', query => 'with e as (select position from new_events) insert into model select position from e');
select evsource.create_projection('subquery', query => 'insert into model select 1 where exists (select from new_events where type = ''x'')');
select evsource.create_projection('update', query => 'update model set n = n + 1 where n in (select position from new_events)');
rollback;

-- Words.
select evsource.create_projection('p', 'event_handler', mode => 'outline');
select evsource.create_projection('p', 'event_handler', start => 'yesterday');
select evsource.create_projection('p', 'event_handler', on_error => 'ignore');
select evsource.create_projection('p', 'event_handler', if_exists => 'replace');
select evsource.create_projection('p', 'event_handler', snapshots => 'often');
select evsource.create_projection('p', 'event_handler', snapshot_every => -1);
select evsource.create_projection('p', 'event_handler', snapshot_every => 10);
select evsource.create_projection('p', 'event_handler', snapshot_after_batch => false);
select evsource.create_projection('p', 'event_handler', restore_from_snapshot => true);
select evsource.create_projection('p', 'event_handler', state_version => 0);

-- Where to begin.
select evsource.create_projection('p', 'event_handler', start => 'now', start_after => 1);
select evsource.create_projection('p', 'event_handler', start_after => -1);
select evsource.create_projection('p', 'event_handler', start_after => 1000000);

-- Filters.
select evsource.create_projection('p', 'event_handler', categories => '{}');
select evsource.create_projection('p', 'event_handler', types => '{}');
select evsource.create_projection('p', 'event_handler', types => '{a,null}');
select evsource.create_projection('p', 'event_handler', types => '{a,""}');
select evsource.create_projection('p', 'event_handler', types => '{{a,b}}');
select evsource.create_projection('p', 'event_handler', categories => '{account-42}');

-- Keys, dead letters and partitions.
select evsource.create_projection('p', 'fold', key => 'global');
select evsource.create_projection('p', 'fold', key => 'key_function');
select evsource.create_projection('p', 'fold', key => 'returns_int', mode => 'async');
select evsource.create_projection('p', 'event_handler', key => 'key_function', mode => 'async');
select evsource.create_projection('p', 'event_handler', on_error => 'dead_letter');
select evsource.create_projection('p', 'event_handler', partitions => 0, mode => 'async');
select evsource.create_projection('p', 'event_handler', partitions => 17, mode => 'async');
select evsource.create_projection('p', 'event_handler', partitions => 2);
select evsource.create_projection('p', 'event_handler', partitions => 2, mode => 'manual');
select evsource.create_projection('p', 'fold', key => 'global', partitions => 2, mode => 'async');

-- What belongs to it.
select evsource.create_projection('p', 'event_handler', tables => '{nowhere}');
select evsource.create_projection('p', 'event_handler', tables => '{model_view}');
select evsource.create_projection('p', 'event_handler', tables => '{scratch}');
select evsource.create_projection('p', 'event_handler', tables => '{evsource.projections}');
select evsource.create_projection('p', 'event_handler', tables => '{pg_class}');
select evsource.create_projection('p', 'event_handler', tables => '{information_schema.sql_features}');
select evsource.create_projection('p', 'event_handler', tables => '{null}');
select evsource.create_projection('p', 'event_handler', on_reset => 'event_handler');
select evsource.create_projection('p', 'fold', is_compatible => 'fold');
select evsource.create_projection('p', 'fold', migrate_state => 'fold');

-- Nothing of all this is registered.
select count(*) from evsource.projections;

-- A projection that does not exist, or is in another state.
select evsource.alter_projection('p', mode => 'async');
select evsource.pause_projection('p');
select evsource.resume_projection('p');
select evsource.reset_projection('p');
select evsource.run_projection('p');
select evsource.event_count('p');
call evsource.rebuild_projection('p');
call evsource.activate_projection('p');
select evsource.create_projection('p', 'event_handler');
select evsource.create_projection('q', 'event_handler', mode => 'async');
select evsource.alter_projection('p', query => 'select 1');
select evsource.alter_projection('p', handler => 'fold', key => 'global');
select evsource.alter_projection('p', defaults => '{mode}');
select evsource.alter_projection('p', owner => 'nobody at all');
select evsource.run_projection('p');
select evsource.run_projection('q', max_batches => 0);
select evsource.pause_projection('q');
select evsource.run_projection('q');
call evsource.activate_projection('q');
call evsource.rebuild_projection('q');
call evsource.rebuild_projection('q', lock_timeout => '-1s');
select projection, kind, handler, mode, state from evsource.projections order by 1;

-- An error of the handler while history is replayed registers nothing.
create function raises(e evsource.event) returns void language plpgsql as
$$begin raise exception 'cannot do %', (e).type; end$$;
select version from evsource.append('stream-1', 'Something');
select evsource.create_projection('r', 'raises');
select count(*) from evsource.projections where projection = 'r';

-- A snapshot that is older than the log cannot replay it.
begin isolation level repeatable read;
select evsource.create_projection('r', 'event_handler');
rollback;
begin isolation level serializable;
select evsource.create_projection('r', 'event_handler', start => 'now');
rollback;
begin isolation level repeatable read;
select evsource.run_projection('q');
rollback;

-- A handler, or a trigger on the log, is no place to change projections.
create function meddles(e evsource.event) returns void language plpgsql as
$$begin perform evsource.drop_projection('p'); end$$;
select evsource.create_projection('meddler', 'meddles', start => 'now');
select version from evsource.append('stream-1', 'Something');
with e as (insert into evsource.events (stream, type) values ('stream-1', 'Something') returning 1)
    select evsource.drop_projection('p') from e;
select evsource.drop_projection('meddler');

-- A handler that is gone all the same (its name was changed) is named by the
-- append that misses it.
alter function event_handler(evsource.event) rename to renamed;
select version from evsource.append('stream-1', 'Something');
select evsource.alter_projection('p', handler => 'renamed');
select version from evsource.append('stream-1', 'Something');

select evsource.drop_projection('p');
select evsource.drop_projection('q');
-- The SQLSTATE tells programs what it was: a NULL, a bad argument, a syntax error,
-- an unknown function, a bad one, an ambiguous one, a name taken, one unknown, a
-- wrong state, a wrong transaction.
select evsource.create_projection('p', 'renamed');
\set VERBOSITY sqlstate
select evsource.create_projection(null, 'raises');
select evsource.create_projection('q', 'raises', mode => 'outline');
select evsource.create_projection('q', query => 'selec');
select evsource.create_projection('q', 'nowhere');
select evsource.create_projection('q', 'returns_int');
select evsource.create_projection('q', 'two_of_them');
select evsource.create_projection('p', 'renamed');
select evsource.pause_projection('q');
select evsource.run_projection('p');
begin isolation level repeatable read;
select evsource.create_projection('q', 'raises');
rollback;
\set VERBOSITY default

\c :home
drop database evsource_projections_refused;
