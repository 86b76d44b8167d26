-- truncate_tables: tables keep what truncated events have come to, and nobody takes for it
-- what is left: neither a snapshot from before them, nor a replay without a word.
create schema cut;
set search_path = cut;
set client_min_messages = warning;
create table cut.totals (stream text primary key, n int);
create function cut.count_one(e evsource.event) returns void language sql as
    $$insert into totals values ((e).stream, 1) on conflict (stream) do update set n = totals.n + 1$$;
select evsource.create_projection('totals', 'cut.count_one', tables => '{cut.totals}', categories => '{cut}', types => '{E}');
create function cut.add(n int, type text default 'E') returns bigint language sql as
    $$select count(evsource.append('cut-1', type)) from generate_series(1, n)$$;
create view cut.now as select t.n, s.event_count, s.stale, s.state from cut.totals t, evsource.projection_status s where s.projection = 'totals';

-- What is in the snapshot may go, and what the projection does not take.
select cut.add(3), evsource.save_snapshot('totals'), cut.add(2, 'Other');
select evsource.truncate_stream('cut-1', 5);
select truncated from evsource.table_snapshots where projection = 'totals';
select cut.add(3);
update cut.totals set n = 0;
select evsource.restore_projection('totals');
table cut.now;

-- Once events are gone that came after it, it is not used, and the tables stay as they are.
select evsource.truncate_stream('cut-1', 8);
select truncated from evsource.table_snapshots where projection = 'totals';
select evsource.restore_projection('totals');
call evsource.rebuild_projection('totals', from_snapshot => true);
table cut.now;
-- a newer one is
select evsource.save_snapshot('totals'), cut.add(1);
select truncated from evsource.table_snapshots where projection = 'totals';
update cut.totals set n = 0;
select evsource.restore_projection('totals');
table cut.now;
update cut.totals set n = 0;
call evsource.rebuild_projection('totals', from_snapshot => true);
table cut.now;
-- unless the tables are not those that were saved
alter table cut.totals add column x int;
select evsource.restore_projection('totals');
alter table cut.totals drop column x;
-- and of several the newest that is of use
select evsource.alter_projection('totals', keep_snapshots => 2);
select cut.add(1), evsource.save_snapshot('totals'), cut.add(1);
select evsource.truncate_stream('cut-1', 11);
select truncated from evsource.table_snapshots where projection = 'totals' order by position;
select cut.add(1);
update cut.totals set n = 0;
begin;
call evsource.rebuild_projection('totals', from_snapshot => true);
commit;
table cut.now;

-- Who wants what is left gets it, and is told.
begin;
call evsource.rebuild_projection('totals');
table cut.now;
rollback;
begin;
select evsource.reset_projection('totals');
select count(*) from cut.totals;
rollback;
call evsource.rebuild_projection('totals', online => false);
table cut.now;
-- from there on it is as any other
call evsource.rebuild_projection('totals', online => false);
select evsource.restore_projection('totals');
-- also beside what there is
select cut.add(1), evsource.truncate_stream('cut-1', 12);
call evsource.rebuild_projection('totals', online => true);
table cut.now;
call evsource.rebuild_projection('totals', online => true);

-- What goes by force before it was applied is in no tables, so no snapshot lacks it.
create table cut.late (stream text, v bigint);
select evsource.create_projection('late', query => 'insert into cut.late select stream, version from new_events', tables => '{cut.late}', categories => '{late}', mode => 'async');
create function cut.add_late(n int) returns bigint language sql as
    $$select count(evsource.append('late-1', 'E')) from generate_series(1, n)$$;
select cut.add_late(6);
select evsource.run_projection('late');
select evsource.truncate_stream('late-1', 4), evsource.save_snapshot('late');
select cut.add_late(4);
select evsource.truncate_stream('late-1', 9, true);
select truncated from evsource.table_snapshots where projection = 'late';
delete from cut.late;
select evsource.restore_projection('late');
select v from cut.late order by 1;
-- what was applied is
select cut.add_late(1);
select evsource.run_projection('late');
select evsource.truncate_stream('late-1', 10);
select truncated from evsource.table_snapshots where projection = 'late';
select evsource.restore_projection('late');
select v from cut.late order by 1;

select evsource.drop_projection('late'), evsource.drop_projection('totals');
reset search_path;
drop schema cut cascade;
reset client_min_messages;
