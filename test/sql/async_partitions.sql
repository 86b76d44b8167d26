-- async_partitions: a projection divided by stream among several workers has
-- applied each event once, wherever its partitions are.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_async_partitions;
create database evsource_async_partitions;
\c evsource_async_partitions
set client_min_messages = warning;
create extension evsource;

-- A stream's partition is the same for ever, on every machine.
select evsource._partition('account-1', 1) as one, evsource._partition('account-1', 4) as a,
    evsource._partition('account-2', 4) as b, evsource._partition('', 1000) as empty,
    evsource._partition('Grüße-🐘', 1000) as letters;
select evsource._partition('account-1', 0);
-- Streams are spread evenly.
select bool_and(n between 900 and 1100) from (
    select count(*) as n from generate_series(1, 8000) i group by evsource._partition('account-' || i, 8)) p;

create table applied (position bigint primary key, stream text not null, n bigserial);
create table obstacles (position bigint primary key);
create view difference as
    select (select count(*) from (select position from evsource.events except select position from applied) m) as missing,
           (select count(*) from (select position from applied except select position from evsource.events) s) as surplus,
           (select count(*) from (select position, lag(position) over (partition by stream order by n) as before from applied) o
            where before > position) as out_of_order;
create function remember(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from obstacles o where o.position = (e).position) then
        raise exception 'no way past position %', (e).position;
    end if;
    insert into applied values ((e).position, (e).stream);
end
$$;
select count(*) from generate_series(1, 300) i, lateral evsource.append_batch('account-' || i % 20,
    array_fill('Paid'::text, array[10]), array_fill('{}'::jsonb, array[10]));

-- Each partition has its own checkpoint; how far the projection is says the last.
select evsource.create_projection('applied', 'remember', mode => 'async', tables => '{applied}', partitions => 4);
select partition, position, event_count from evsource.partitions order by 1;
select position, lag, event_count from evsource.projection_status;
insert into obstacles values (1234);
select evsource.run_projection('applied', max_batches => 1);
select partition, position, event_count,
    (select count(*) from evsource.events e where e.position <= p.position and evsource._partition(e.stream, 4) = p.partition) as events
from evsource.partitions p order by 1;
select position, lag, event_count, lag + event_count as all, last_error from evsource.projection_status;
select evsource.event_count('applied');
select missing, surplus, out_of_order from difference;

-- One that fails does not hold up the others, until it stops them all.
select evsource.run_projection('applied');
select partition, position, attempts from evsource.projection_failures;
select position, lag, event_count from evsource.projection_status;
-- Who waits for all of them learns why it takes so long.
select evsource.wait_for('applied', timeout => '1 ms');
set evsource.async_attempts = 1;
select evsource.run_projection('applied');
select state, last_error_position from evsource.projection_status;

-- Parked events count as done with, not as applied.
select evsource.alter_projection('applied', on_error => 'dead_letter');
select evsource.resume_projection('applied');
select evsource.run_projection('applied');
select state, position, lag, event_count from evsource.projection_status;
select count(*), count(distinct stream), min(position) from evsource.dead_letters;
truncate obstacles;
select remaining from evsource.retry_dead_letters('applied');
select event_count from evsource.projection_status;
table difference;

-- Another number of partitions: nothing is lost, nothing applied twice.
select count(*) from generate_series(1, 300) i, lateral evsource.append_batch('account-' || i % 20,
    array_fill('Paid'::text, array[10]), array_fill('{}'::jsonb, array[10]));
insert into obstacles values (4000);
select evsource.run_projection('applied', max_batches => 1) > 0;
truncate obstacles;
select count(distinct position) > 1 as apart from evsource.partitions;
select evsource.alter_projection('applied', partitions => 7);
select count(*), count(distinct position), sum(event_count) from evsource.partitions;
select lag + event_count as all from evsource.projection_status;
select evsource.run_projection('applied', max_batches => 1) > 0;
select evsource.alter_projection('applied', partitions => 1);
select count(*) from evsource.partitions;
select lag + event_count as all from evsource.projection_status;
select evsource.alter_projection('applied', partitions => 3);
select evsource.run_projection('applied') >= 0;
select position, lag, event_count + (select count(*) from evsource.dead_letters) as all from evsource.projection_status;
select remaining from evsource.retry_dead_letters('applied');
select position, lag, event_count from evsource.projection_status;
table difference;

-- What a partition cannot be brought up to stops the change, and nothing changes.
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i, 'Paid');
insert into obstacles values (6020);
select evsource.alter_projection('applied', on_error => 'stop');
select evsource.run_projection('applied');
\set SHOW_CONTEXT never
select evsource.alter_projection('applied', partitions => 2);
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('applied', partitions => 1);
select count(*) from evsource.partitions;
select partitions from evsource.projections;
select state, last_error_position from evsource.projection_status where projection = 'applied';
truncate obstacles;
select evsource.alter_projection('applied', partitions => 2);
select state, lag, event_count from evsource.projection_status;
select evsource.resume_projection('applied');
select evsource.run_projection('applied') >= 0;
table difference;

-- Reset and rebuild begin all of them again.
select evsource.reset_projection('applied');
select partition, position, event_count from evsource.partitions order by 1;
select position, lag, event_count from evsource.projection_status;
select evsource.run_projection('applied');
select position, lag, event_count from evsource.projection_status;
table difference;
call evsource.rebuild_projection('applied');
select partition, position from evsource.partitions order by 1;
select state, position, lag, event_count from evsource.projection_status;
table difference;

-- A fold per stream: the states are those of one worker.
select evsource.create_projection('count1', 'evsource.fold_count(jsonb, evsource.event)', mode => 'async');
select evsource.create_projection('count5', 'evsource.fold_count(jsonb, evsource.event)', mode => 'async', partitions => 5);
select evsource.run_projection('count1'), evsource.run_projection('count5');
select count(*) from (
    select key, state, event_count from evsource.snapshots where projection = 'count1' except
    select key, state, event_count from evsource.snapshots where projection = 'count5') d;
select distinct position, event_count from evsource.projection_status where projection <> 'applied';

-- Only async projections have them, and folds per stream.
select evsource.alter_projection('count5', mode => 'manual');
select evsource.alter_projection('count5', key => 'global');
select evsource.alter_projection('count5', mode => 'inline', partitions => 1);
select count(*) from evsource.partitions where projection = 'count5';
select evsource.create_projection('query', mode => 'async', partitions => 2, types => '{Paid}', if_exists => 'alter',
    query => $$insert into applied select -e.position, e.stream from new_events e$$);
select evsource.create_projection('query', mode => 'async', partitions => 2, types => '{Paid}', if_exists => 'alter',
    query => $$insert into applied select -e.position, e.stream from new_events e$$);
select evsource.run_projection('query') = (select count(*) from evsource.events) as all;
select count(*) from evsource.partitions where projection = 'query';
select evsource.drop_projection('query');
select count(*) from evsource.partitions where projection = 'query';

-- Partitions that are far apart are not brought together in one transaction.
select evsource.create_projection('apart', 'evsource._noop', mode => 'async', categories => '{apart}', partitions => 2);
select stored from evsource.append_batch('apart-a', array_fill('Paid'::text, array[11002]), array_fill('{}'::jsonb, array[11002]));
select stored from evsource.append('apart-b', 'Paid');
select evsource.run_projection('apart', max_batches => 2);
select evsource.alter_projection('apart', partitions => 1);
select evsource.run_projection('apart');
select evsource.alter_projection('apart', partitions => 1);
select evsource.drop_projection('apart');

-- Nor those that take long to come together: ten times async_batch_time is the most,
-- which two events take here.
create function takes_long(e evsource.event) returns void language plpgsql as $$begin
    if (e).stream = 'slow-a' and current_setting('slow.works', true) is distinct from 'on' then raise exception 'not yet'; end if;
    perform pg_sleep(0.03);
end$$;
select evsource.create_projection('slow', 'takes_long', mode => 'async', categories => '{slow}', partitions => 2);
select stored from evsource.append_batch('slow-a', array_fill('Paid'::text, array[6]), array_fill('{}'::jsonb, array[6]));
select stored from evsource.append('slow-b', 'Paid');
select evsource.run_projection('slow');
set slow.works = 'on';
set evsource.async_batch_time = '5ms';
select evsource.alter_projection('slow', partitions => 1);
reset evsource.async_batch_time;
select evsource.alter_projection('slow', partitions => 1);
select event_count from evsource.projection_status where projection = 'slow';
select evsource.drop_projection('slow');

-- A rebuild knows how many events there are to apply, also where partitions are apart.
create table apart (position bigint primary key);
create function refuse(e evsource.event) returns void language plpgsql as $$
begin
    if (e).stream = 'split-3' then raise exception 'no'; end if;
    insert into apart values ((e).position);
end$$;
select count(evsource.append('split-' || i % 8, 'Paid')) from generate_series(1, 40) i;
select evsource.create_projection('apart', 'refuse', mode => 'async', categories => '{split}', tables => '{apart}', partitions => 4);
set evsource.async_attempts = 1;
select evsource.run_projection('apart') > 0 as some;
select state, lag > 0 as apart, lag + event_count as all from evsource.projection_status where projection = 'apart';
\set VERBOSITY terse
call evsource.rebuild_projection('apart', online => false);
\set VERBOSITY default
select events_total from evsource.progress where projection = 'apart';
reset evsource.async_attempts;
select evsource.drop_projection('apart');

-- A snapshot that is older than what workers have committed does not show where partitions are.
select evsource.create_projection('seen', 'evsource._noop', mode => 'async', categories => '{seen}');
begin isolation level repeatable read;
select evsource.alter_projection('seen', partitions => 2);
rollback;
begin isolation level serializable;
select evsource.create_projection('seen', 'evsource._noop', mode => 'async', categories => '{seen}', partitions => 2, if_exists => 'alter');
rollback;
begin isolation level repeatable read;
select evsource.alter_projection('seen', on_error => 'dead_letter');
commit;
select evsource.alter_projection('seen', partitions => 2);
select evsource.drop_projection('seen');

\c :home
drop database evsource_async_partitions;
