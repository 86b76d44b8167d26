-- A rebuild begins with a transaction of few events, however they are applied: nobody
-- knows yet how long each of them takes.  What is quick goes on with many.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_bounded;
create database evsource_bounded;
\c evsource_bounded
create extension evsource;
set client_min_messages = warning;
select count(*) from generate_series(1, 50) i, lateral evsource.append_batch('a-' || i,
    array_fill('T'::text, array[100]), array_fill('{}'::jsonb, array[100]));

create table streamed (position bigint);
create table stored (position bigint);
create table batched (position bigint);
create function by_batch(e evsource.event[]) returns void language sql as
    $$ insert into batched select (x).position from unnest(e) x $$;
select evsource.create_projection('streamed', mode => 'async', tables => '{streamed}',
    query => 'insert into streamed select position from new_events');
select evsource.create_projection('stored', mode => 'async', tables => '{stored}',
    query => 'insert into stored select a.position from new_events a where exists (select from new_events b where b.position = a.position)');
select evsource.create_projection('batched', handler => 'by_batch(evsource.event[])', mode => 'async', tables => '{batched}');

-- of the transaction that applied this event; online the first hundred have one of their own
create function pg_temp.small(model regclass, out events bigint, out is_small boolean) language plpgsql as $$
begin
    execute format('select sum(n), bool_and(n <= 1000) filter (where is_early) '
                   'from (select count(*) as n, bool_or(position = 150) as is_early from %s group by xmin::text) t', model)
    into events, is_small;
end $$;
call evsource.rebuild_projection('streamed', online => false);
select * from pg_temp.small('streamed');
call evsource.rebuild_projection('streamed', online => true);
select * from pg_temp.small('streamed');
call evsource.rebuild_projection('stored', online => false);
select * from pg_temp.small('stored');
call evsource.rebuild_projection('batched', online => false);
select * from pg_temp.small('batched');
call evsource.rebuild_projection('batched', online => true);
select * from pg_temp.small('batched');

-- Where a statement takes its time whatever it gets, few events do not help: it gets as many
-- as an array may have, though a transaction ends with it.
create function by_batch_slowly(e evsource.event[]) returns void language plpgsql as $$
begin
    perform pg_sleep(1.05);
    insert into batched select (x).position from unnest(e) x;
end $$;
select evsource.alter_projection('batched', handler => 'by_batch_slowly(evsource.event[])');
call evsource.rebuild_projection('batched', online => false);
select count(distinct xmin::text) <= 7 as are_few, count(*) from batched;

-- To wait for the next attempt at an event that fails is not to be quick.
create table parked (position bigint);
create function apply_slowly(e evsource.event) returns bigint language plpgsql as $$
begin
    if e.type = 'Bad' then raise exception 'bad'; end if;
    perform pg_sleep(0.0005);
    return e.position;
end $$;
select version from evsource.append('bad-1', 'Bad');
select count(*) from generate_series(1, 40) i, lateral evsource.append_batch('b-' || i,
    array_fill('T'::text, array[100]), array_fill('{}'::jsonb, array[100]));
set evsource.async_retry_delay = 0;
set evsource.async_attempts = 3;
select evsource.create_projection('parked', mode => 'async', tables => '{parked}', categories => '{bad,b}', on_error => 'dead_letter',
    query => 'insert into parked select public.apply_slowly(n) from new_events n');
call evsource.rebuild_projection('parked', online => false);
select max(n) <= 2000 as are_bounded, sum(n) from (select count(*) as n from parked group by xmin::text) t;

\c :home
set client_min_messages = warning;
drop database evsource_bounded;
