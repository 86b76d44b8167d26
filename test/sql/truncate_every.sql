-- truncate_every: where every state is saved, it still is when all of its events were truncated.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate_every;
create database evsource_truncate_every;
\c evsource_truncate_every
create extension evsource;
set client_min_messages = warning;

select evsource.create_projection('every', 'evsource.fold_count', types => '{Counted}', snapshot_every => 1);
select max(a.version) from (values ('Counted'), ('Counted'), ('Other'), ('Other'), ('Other')) v (type), lateral evsource.append('s-1', v.type) a;
select evsource.truncate_stream('s-1', 4);
select version, seen_version, event_count, state from evsource.snapshots;
select version, upto, event_count, state from evsource.snapshot_history;
-- a state between its last event and what it has seen is not made of it, but nothing is wrong with it
select evsource.state_at_version('every', 's-1', 4);
select count(*) from evsource.snapshot_rejections;
select evsource.load_state('every', 's-1'), evsource.event_count('every');
-- it is used, and goes on
\c
set client_min_messages = debug1;
select evsource.state('every', 's-1');
set client_min_messages = warning;
select version from evsource.append('s-1', 'Other');
select evsource.truncate_stream('s-1', 6);
select version, seen_version, event_count, state from evsource.snapshots;
select version from evsource.append('s-1', 'Counted');
select version, seen_version, event_count, state from evsource.snapshots;
-- what has events left is saved as it was
select evsource.truncate_stream('s-1', 7);
select version, seen_version, event_count, state from evsource.snapshots;
-- cleared and restored
select version from evsource.append('s-1', 'Other');
select evsource.truncate_stream('s-1', 8);
select evsource.clear_snapshots('every');
select evsource.restore_projection('every');
select version, seen_version, event_count, state from evsource.snapshots;
-- A rebuild does not lose it either, though it writes rows only of events that it meets.
call evsource.rebuild_projection('every');
select state, event_count from evsource.load_state('every', 's-1');
select key, state, event_count from evsource.load_states('every');
select evsource.event_count('every'), evsource.has_snapshot('every', 's-1');
select evsource.save_snapshot('every');
select version, seen_version, event_count, state from evsource.snapshots;

\c :home
set client_min_messages = warning;
drop database evsource_truncate_every;
