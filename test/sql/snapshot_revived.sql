-- A snapshot that was rejected under its own state version does not come back with
-- a later one: migrate_state and is_compatible know what the version was at last.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_snapshot_revived;
create database evsource_snapshot_revived;
\c evsource_snapshot_revived
create extension evsource;

create function one(s jsonb, e evsource.event) returns jsonb language sql immutable as $$ select s || e.data || '{"by": 1}' $$;
create function two(s jsonb, e evsource.event) returns jsonb language sql immutable as $$ select s || e.data || '{"by": 2}' $$;
create function three(s jsonb, e evsource.event) returns jsonb language sql immutable as $$ select s || e.data || '{"by": 3}' $$;
create function up(d jsonb) returns jsonb language sql immutable as $$ select d || '{"up": true}' $$;
create function up3(d jsonb) returns jsonb language sql immutable as $$ select d || '{"up3": true}' $$;
create function yes(saved int, now int) returns bool language sql immutable as $$ select true $$;
create function no(saved int, now int) returns bool language sql immutable as $$ select false $$;
create function migrate(s jsonb, saved int) returns jsonb language sql immutable as $$ select s || jsonb_build_object('from', saved) $$;
create function look() returns table (key text, now jsonb, past jsonb, saved bool) language sql as
$$
    select s.key, s.state, evsource.state_at_version('p', s.key, 2), evsource.has_snapshot('p', s.key)
    from evsource.load_states('p') s order by 1
$$;

-- by another handler: s-1 has a snapshot of the first, s-2 one of the second, both have older ones
select evsource.create_projection('p', 'one', categories => '{s}', keep_snapshots => 3);
select evsource.append_batch('s-1', '{T,T}', array['{"a": 1}', '{"b": 2}']::jsonb[]) is not null as appended;
select evsource.save_snapshot('p');
select version from evsource.append('s-1', 'T', jsonb_build_object('c', (select string_agg(md5(i::text), '') from generate_series(1, 500) i)));
select evsource.save_snapshot('p');
select count(*) from evsource.snapshot_history;
select count(*) > 0 as parts from evsource.snapshot_parts;
select evsource.alter_projection('p', handler => 'two');
select evsource.append_batch('s-2', '{T,T,T}', array['{"a": 1}', '{"b": 2}', '{"c": 3}']::jsonb[]) is not null as appended;
select evsource.save_snapshot('p', 's-2');
select evsource.alter_projection('p', handler => 'three', state_version => 2, migrate_state => 'migrate');
select key, now - 'c' as now, past, saved from look();
select (select count(*) from evsource.snapshot_history) as history, (select count(*) from evsource.snapshot_parts) as parts;
-- it is saved anew
select evsource.save_snapshot('p');
select key, now - 'c' as now, past, saved from look();
select evsource.drop_projection('p');

-- by another upcaster ...
select evsource.create_projection('p', 'one', categories => '{s}');
select evsource.save_snapshot('p');
select evsource.define_event_type('T', 2, upcaster => 'up');
select evsource.alter_projection('p', state_version => 2, migrate_state => 'migrate');
select key, now - 'c' as now, past, saved from look();
-- ... unless it came in the transaction that gives the version: nothing was saved in between
select evsource.save_snapshot('p');
begin;
select evsource.define_event_type('T', 3, upcaster => 'up');
select evsource.alter_projection('p', handler => 'two', state_version => 3, migrate_state => 'migrate');
select key, now - 'c' as now, saved from look();
rollback;
begin;
select evsource.define_event_type('T', 3, upcaster => 'up');
rollback;
select evsource.alter_projection('p', handler => 'two', state_version => 3, migrate_state => 'migrate');
select key, now - 'c' as now, saved from look();
-- What that transaction has saved since is of neither: it goes, and nothing is brought up twice.
begin;
select evsource.define_event_type('T', 3, upcaster => 'up');
select evsource.save_snapshot('p', 's-1');
select evsource.alter_projection('p', state_version => 4);
select key, now - 'c' as now, saved from look();
rollback;
select evsource.alter_projection('p', snapshot_every => 1);
begin;
select evsource.define_event_type('T', 3, upcaster => 'up');
select version from evsource.append('s-1', 'T', '{"d": 4}', schema_version => 3);
select evsource.alter_projection('p', state_version => 4);
select key, now - 'c' as now, saved from look();
rollback;
select evsource.drop_projection('p');

-- Nor does it come back two versions later: what the version before could not use any
-- more is gone as well, from the past, too.
select evsource.create_projection('p', 'one', categories => '{s}', keep_snapshots => 3);
select evsource.save_snapshot('p');
select version from evsource.append('s-1', 'T', '{"d": 4}', schema_version => 2);
select evsource.save_snapshot('p');
select evsource.alter_projection('p', state_version => 2, migrate_state => 'migrate');
-- both versions are spoken for as long as nothing changes but the version
select evsource.save_snapshot('p', 's-2');
select evsource.alter_projection('p', state_version => 3);
select key, now - 'c' as now, saved from look();
select evsource.state_at_version('p', 's-1', 3) - 'c' as past;
select evsource.alter_projection('p', handler => 'two');
select key, now - 'c' as now, saved from look();
select evsource.alter_projection('p', state_version => 4);
select key, now - 'c' as now, saved from look();
select evsource.state_at_version('p', 's-1', 3) - 'c' as past;
select count(*) from evsource.snapshot_history;
-- by an upcaster
select evsource.save_snapshot('p');
select evsource.alter_projection('p', state_version => 5);
select evsource.define_event_type('T', 3, upcaster => 'up3');
select evsource.alter_projection('p', state_version => 6);
select key, now - 'c' as now, saved from look();
-- ... unless that came in the transaction that gives the version
select evsource.save_snapshot('p');
select evsource.alter_projection('p', state_version => 7);
begin;
select evsource.define_event_type('T', 4, upcaster => 'up');
select evsource.alter_projection('p', state_version => 8);
select evsource.alter_projection('p', state_version => 9);
select key, now - 'c' as now, saved from look();
rollback;
select evsource.drop_projection('p');

-- Nor when one of the functions is given anew: the other is the one that it was.
select evsource.create_projection('p', 'one', categories => '{s}', keep_snapshots => 3);
select evsource.save_snapshot('p');
select evsource.alter_projection('p', state_version => 2, migrate_state => 'migrate');
select evsource.alter_projection('p', handler => 'two');
select evsource.alter_projection('p', is_compatible => 'no');
select key, now - 'c' as now, saved from look();
-- What a function has not brought up a better one may.
select evsource.save_snapshot('p');
select evsource.alter_projection('p', handler => 'three', state_version => 3, defaults => '{migrate_state}');
select key, now - 'c' as now, saved from look();
select evsource.alter_projection('p', migrate_state => 'migrate');
select key, now - 'c' as now, saved from look();
select evsource.drop_projection('p');

-- tables, too
create table seen (stream text, by int);
select evsource.create_projection('t', query => 'insert into seen select stream, 1 from new_events', categories => '{s}', tables => '{seen}');
select evsource.save_snapshot('t');
select evsource.alter_projection('t', query => 'insert into seen select stream, 2 from new_events');
select evsource.alter_projection('t', state_version => 2, is_compatible => 'yes');
select count(*) from evsource.table_snapshots;
call evsource.rebuild_projection('t', from_snapshot => true);
select by, count(*) from seen group by 1;
-- what is of the version as it was last comes back
select evsource.save_snapshot('t');
select evsource.alter_projection('t', query => 'insert into seen select stream, 3 from new_events', state_version => 3);
call evsource.rebuild_projection('t', from_snapshot => true);
select by, count(*) from seen group by 1;
-- but not two versions later, when the one between has changed
select evsource.alter_projection('t', query => 'insert into seen select stream, 4 from new_events');
select evsource.alter_projection('t', state_version => 4);
call evsource.rebuild_projection('t', from_snapshot => true);
select by, count(*) from seen group by 1;
select evsource.save_snapshot('t');
select count(*), bool_and(exists (select from evsource.table_snapshots s where s.position = r.position)) from evsource.table_snapshot_rows r;

-- States that are stored nowhere else stay.
select evsource.create_projection('g', 'one', categories => '{s}', key => 'global', mode => 'async');
select evsource.run_projection('g');
select evsource.alter_projection('g', handler => 'two');
select evsource.alter_projection('g', state_version => 2, is_compatible => 'yes');
select evsource.state('g') - 'c' as state;

\c :home
drop database evsource_snapshot_revived;
