-- A rebuild that began with a snapshot and was interrupted, or cancelled, is not what a
-- request for all of it continues: the mistakes of the old handler are in the snapshot.
create database evsource_replaced;
\set home :DBNAME
\c evsource_replaced
\set VERBOSITY terse
\set ECHO all
set client_min_messages = warning;
create extension evsource;
reset client_min_messages;
set evsource.daemon = off;

create table rows (position bigint primary key, value int);
create table handler (value int, fails boolean);
insert into handler values (1, false);
create function handle(e evsource.event) returns void language plpgsql as $$
begin
    if (select fails from handler) then
        raise 'no';
    end if;
    insert into rows select e.position, value from handler;
end $$;
create function fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if (select fails from handler) then
        raise 'no';
    end if;
    return jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (select value from handler));
end $$;
select evsource.create_projection('rows', 'handle', tables => '{rows}');
select evsource.create_projection('sums', 'fold', key => 'global', mode => 'async');

-- A value of 1 is a mistake, which is in the snapshots of the first events; it is mended when
-- the others are appended, but for something that they fail at.
\set interrupt 'update handler set value = 1, fails = false; call evsource.rebuild_projection(:projection, online => false); select evsource.save_snapshot(:projection); select version from evsource.append(''account-1'', ''Paid''); update handler set value = 2, fails = true; call evsource.rebuild_projection(:projection, from_snapshot => true); update handler set fails = false;'
\set projection '''rows'''
select version from evsource.append('account-1', 'Paid');
:interrupt
select state, from_snapshot, online from evsource.rebuilds;

-- All of it is called for.
call evsource.rebuild_projection('rows');
select value, count(*) from rows group by 1 order by 1;
select state, stale, event_count from evsource.projection_status where projection = 'rows';
:interrupt
call evsource.rebuild_projection('rows', online => false);
select value, count(*) from rows group by 1 order by 1;

-- It is requested.
:interrupt
select evsource.request_rebuild('rows');
select state, from_snapshot from evsource.rebuilds;
call evsource.rebuild_projection('rows');
select value, count(*) from rows group by 1 order by 1;

-- It is called for when the other one was cancelled.
:interrupt
\set VERBOSITY default
select evsource.cancel_rebuild('rows');
\set VERBOSITY terse
call evsource.rebuild_projection('rows');
select value, count(*) from rows group by 1 order by 1;

-- The same is called for: it continues, or begins with the snapshot again.
:interrupt
call evsource.rebuild_projection('rows', from_snapshot => true);
select value, count(*) from rows group by 1 order by 1;
:interrupt
select evsource.cancel_rebuild('rows');
call evsource.rebuild_projection('rows', from_snapshot => true);
select value, count(*) from rows group by 1 order by 1;

-- What began without one continues, whatever is asked for: there is no mistake in it.
update handler set fails = true;
call evsource.rebuild_projection('rows', online => false);
update handler set fails = false;
call evsource.rebuild_projection('rows', from_snapshot => true);
select value, count(*) from rows group by 1 order by 1;

-- States of a fold.
\set projection '''sums'''
update handler set value = 1;
select evsource.run_projection('sums');
:interrupt
call evsource.rebuild_projection('sums');
select event_count, state from evsource.load_states('sums');
:interrupt
select evsource.cancel_rebuild('sums');
call evsource.rebuild_projection('sums');
select event_count, state from evsource.load_states('sums');
:interrupt
call evsource.rebuild_projection('sums', from_snapshot => true);
select event_count, state from evsource.load_states('sums');

select count(*) from evsource.rebuilds;
\c :home
drop database evsource_replaced;
