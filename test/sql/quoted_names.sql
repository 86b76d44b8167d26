-- What is stored of names does not depend on quote_all_identifiers, nor does what
-- is compared with it.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_quoted;
create database evsource_quoted;
\c evsource_quoted
set client_min_messages = warning;
create extension evsource;
create schema quoted;
create table quoted.log (position bigint, note text);
create table quoted."Odd ""one"".log" (position bigint);
create function quoted.by_event(e evsource.event) returns void language sql as $$ insert into quoted.log values (e.position) $$;
create function quoted.fold(s jsonb, e evsource.event) returns jsonb language sql immutable as $$ select e.data $$;
create function quoted.up(d jsonb) returns jsonb language sql immutable as $$ select d $$;
create function quoted.decide(state jsonb, command jsonb) returns evsource.new_event[] language sql as 'select null::evsource.new_event[]';
create function pg_temp.tries(command text) returns text language plpgsql as $$
begin
    execute command;
    return 'done';
exception when others then
    return sqlstate || ' ' || sqlerrm;
end $$;
create view pg_temp.drops as select unnest(array[
    'function quoted.by_event', 'function quoted.fold', 'table quoted.log', 'table quoted."Odd ""one"".log"',
    'function quoted.up', 'function quoted.decide', 'schema quoted cascade']) as object;

-- registered without it, dropped with it
select evsource.create_projection('quoted_events', 'quoted.by_event', categories => '{quoted}', tables => '{quoted.log,"quoted.\"Odd \"\"one\"\".log\""}');
select evsource.create_projection('quoted_fold', 'quoted.fold', categories => '{quoted}');
select evsource.define_event_type('QuotedT', 1);
select evsource.define_event_type('QuotedT', 2, upcaster => 'quoted.up');
select evsource.create_decider('quoted', 'quoted.decide', 'quoted_fold');
set quote_all_identifiers = on;
select object, pg_temp.tries('drop ' || object) from pg_temp.drops;

-- the same definition changes nothing
select evsource.create_projection('quoted_events', 'quoted.by_event', categories => '{quoted}', tables => '{quoted.log,"quoted.\"Odd \"\"one\"\".log\""}', if_exists => 'alter');
select evsource.create_projection('quoted_fold', 'quoted.fold', categories => '{quoted}', if_exists => 'alter');
select projection, stale from evsource.projections where projection like 'quoted%' order by 1;
select evsource.drop_decider('quoted'), evsource.drop_projection('quoted_events'), evsource.drop_projection('quoted_fold');
select evsource.drop_event_type('QuotedT');

-- registered with it, dropped without it
select evsource.create_projection('quoted_events', 'quoted.by_event', categories => '{quoted}', tables => '{quoted.log,"quoted.\"Odd \"\"one\"\".log\""}');
select evsource.create_projection('quoted_fold', 'quoted.fold', categories => '{quoted}');
select evsource.define_event_type('QuotedT', 1);
select evsource.define_event_type('QuotedT', 2, upcaster => 'quoted.up');
select evsource.create_decider('quoted', 'quoted.decide', 'quoted_fold');
-- a fold with a path is known by its last argument
select pg_temp.tries($$ select evsource.create_projection('quoted_sum', 'evsource.fold_sum', categories => '{quoted}') $$);
select evsource.create_projection('quoted_sum', 'evsource.fold_sum', categories => '{quoted}', path => '{a}');
reset quote_all_identifiers;
select projection, handler, tables, search_path from evsource.projections where projection like 'quoted%' order by 1;
select version from evsource.append('quoted-1', 'QuotedT', '{"a": 2}');
select evsource.state('quoted_sum', 'quoted-1');
select object, pg_temp.tries('drop ' || object) from pg_temp.drops;

-- nor does whether saved tables fit those that are there: who rebuilds from them keeps them
create function pg_temp.saved() returns text language sql as $$ select string_agg(shape, '; ') from evsource.table_snapshots $$;
select evsource.save_snapshot('quoted_events');
select pg_temp.saved();
set quote_all_identifiers = on;
call evsource.rebuild_projection('quoted_events', from_snapshot => true, online => false);
select pg_temp.saved();
select evsource.clear_snapshots('quoted_events');
select evsource.save_snapshot('quoted_events');
select pg_temp.saved();
reset quote_all_identifiers;
call evsource.rebuild_projection('quoted_events', from_snapshot => true, online => false);
select pg_temp.saved();

-- others that only look alike go
create schema "quoted.log";
create table "quoted.log"."log" ();
create function quoted."by_event(evsource"() returns void language sql as '';
create function quoted.by_event(e int) returns void language sql as '';
drop table "quoted.log"."log";
drop function quoted."by_event(evsource"();
drop function quoted.by_event(int);
drop schema "quoted.log";

\c :home
drop database evsource_quoted;
