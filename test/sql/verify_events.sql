-- verify_events: a difference is told with the event that explains it.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_verify_events;
create database evsource_verify_events;
\c evsource_verify_events
set client_min_messages = warning;
create extension evsource;
\set SHOW_CONTEXT never

-- Amounts are positions: so a sum says what is in it.
create table sums ("Of Stream" varchar(20), kind int, n numeric not null, primary key ("Of Stream", kind));
create function add_up(e evsource.event) returns void language plpgsql as $$
begin
    if e.type = 'Closed' then
        delete from sums where "Of Stream" = e.stream;
    else
        insert into sums values (e.stream, 1, e.position)
            on conflict ("Of Stream", kind) do update set n = sums.n + excluded.n;
    end if;
end
$$;
create table counts (stream text primary key, n bigint, last bigint);
create function count_up(state jsonb, e evsource.event) returns jsonb language plpgsql immutable as
$$begin return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1, 'last', e.position); end$$;
create function digit(e evsource.event) returns text language sql immutable as $$select right(e.stream, 1)$$;
create function event_text(p bigint) returns text language sql as
$$select format('%s/%s', stream, version) from evsource.events where position = p$$;

select evsource.create_projection('sums', 'add_up', tables => '{sums}');
select evsource.create_projection('counts', query => $$
    insert into counts select stream, count(*), max(position) from new_events group by 1
    on conflict (stream) do update set n = counts.n + excluded.n, last = excluded.last$$,
    mode => 'async', tables => '{counts}', types => '{Paid}');
select evsource.create_projection('digits', 'count_up', key => 'digit', mode => 'async', types => '{Paid}');

-- s-0 has 7, 14, ..., s-1 has 1, 8, ...
select count(*) from generate_series(1, 60) i, lateral evsource.append('s-' || i % 7, 'Paid');
select count(*) from evsource.append('s-3', 'Closed');
select evsource.run_projection();
select p.projection, v.* from evsource.projections p, evsource.verify_projection(p.projection) v;

-- An event handler. A row that is missing: its first event is.
delete from sums where "Of Stream" = 's-1';
-- one that lacks its last event; one that lacks all but the first
update sums set n = n - 60 where "Of Stream" = 's-4';
update sums set n = 5 where "Of Stream" = 's-5';
-- what it has never been: the last event that wrote it. An event was applied
-- twice, one was left out, a row that was deleted is there with other values
update sums set n = n + 23 where "Of Stream" = 's-2';
update sums set n = n - 34 where "Of Stream" = 's-6';
insert into sums values ('s-3', 1, 0);
-- what no event has written
insert into sums values ('t-9', 1, 1);
select * from evsource.verify_projection('sums', max_differences => null);
-- a row that was deleted, as it was before that
update sums set n = (select sum(position) from evsource.events where stream = 's-3' and type = 'Paid') where "Of Stream" = 's-3';
select key, position, stream, version, is_missing from evsource.verify_projection('sums', max_differences => null)
    where key like '%s-3%';
-- columns that are not compared do not count here, either
select key, position, is_missing from evsource.verify_projection('sums', max_differences => null, ignore => '{n}');
-- by default the first one
select key, position, is_missing from evsource.verify_projection('sums');

-- A query.
delete from counts where stream = 's-1';
update counts set n = 3, last = 16 where stream = 's-2';
update counts set n = n + 1 where stream = 's-3';
update counts set n = n - 1 where stream = 's-4';
insert into counts values ('t-9', 1, 1);
select * from evsource.verify_projection('counts', max_differences => null);

-- A fold with other keys.
delete from evsource.snapshots where projection = 'digits' and key = '1';
update evsource.snapshots set state = '{"n": 3, "last": 16}', event_count = 3, position = 16 where projection = 'digits' and key = '2';
update evsource.snapshots set state = '{"n": 4, "last": 16}', event_count = 3, position = 16 where projection = 'digits' and key = '3';
update evsource.snapshots set state = state || '{"n": 99}' where projection = 'digits' and key = '4';
update evsource.snapshots set key = '9' where projection = 'digits' and key = '5';
select * from evsource.verify_projection('digits', max_differences => null);

-- A longer log is looked at a thousand times, and gone through event by event
-- where that shows something.
create table last_two (stream text primary key, last bigint, before bigint);
create function note(e evsource.event) returns void language plpgsql as $$
begin
    insert into last_two as l values (e.stream, e.position) on conflict (stream) do update set last = e.position, before = l.last;
end
$$;
select count(*) from generate_series(1, 2939) i, lateral evsource.append('s-' || i % 7, 'Paid');
select evsource.create_projection('last_two', 'note', tables => '{last_two}', types => '{Paid}');
select * from evsource.verify_projection('last_two');
update last_two set (last, before) = (select position, lag(position) over (order by position) from evsource.events
        where stream = 's-2' and type = 'Paid' order by position offset 99 limit 1)
    where stream = 's-2';
delete from last_two where stream = 's-4';
update last_two set before = 0 where stream = 's-6';
select key, position, stream, version, is_missing from evsource.verify_projection('last_two', max_differences => null);

-- More than a hundred differences: of the others no event is told.
create table each (position bigint primary key);
select evsource.create_projection('each', query => 'insert into each select position from new_events', tables => '{each}', mode => 'manual');
select evsource.run_projection('each');
delete from each where position <= 150;
select min(n) as from, max(n) as to, bool_and(position = n and is_missing) as told
    from (select position, is_missing, row_number() over () as n from evsource.verify_projection('each', max_differences => null)) v
    group by position is null order by 1;

-- A table without a primary key has no rows that could be followed.
create table journal (stream text);
select evsource.create_projection('journal', query => 'insert into journal select stream from new_events where position = 5', tables => '{journal}');
delete from journal;
select * from evsource.verify_projection('journal');

-- A divided projection: each row by the events of its partition.
select evsource.create_projection('divided', 'note', tables => '{last_two}', types => '{Paid}', mode => 'async', partitions => 3);
delete from last_two;
select evsource.run_projection('divided');
select * from evsource.verify_projection('divided');
delete from last_two where stream in ('s-0', 's-4');
update last_two set before = 0 where stream in ('s-1', 's-6');
select key, position, stream, version, is_missing from evsource.verify_projection('divided', max_differences => null);

-- All of it in the snapshot of a transaction, too, and nothing is left behind.
begin isolation level repeatable read;
select key, position, stream, version, is_missing from evsource.verify_projection('divided', max_differences => null);
commit;
select nspname from pg_namespace where nspname like 'evsource\_%';
select projection from evsource.snapshots where projection like '%verify%';

\c :home
set client_min_messages = warning;
drop database evsource_verify_events;
