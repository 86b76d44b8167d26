-- subscription_late: a call that finds nothing to hand out ends before it is cancelled,
-- and the next one goes on from there.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_subscription_late;
create database evsource_subscription_late;
\c evsource_subscription_late
create extension evsource;
\set SHOW_CONTEXT never
-- Half of the time that the statement seems to have is over when it begins. (The timeout
-- itself began with the statement, when there was none: however slow it is, nothing is cancelled.)
create function fetch_late(subscription text, wait interval default '0') returns text language plpgsql as $$
begin
    perform set_config('statement_timeout', '1ms', true);
    perform pg_sleep(0.002);    -- as is a lease of 1 ms
    return (select string_agg(stream || ' ' || version, ', ') from evsource.fetch_events(subscription, wait => wait));
end $$;
create view cursor as select subscription, c.position - first as after from evsource.cursors c, (select min(position) as first from evsource.events) e;

-- Behind a dead letter: each call parks one at least.
select evsource.create_subscription('hot', categories => '{hot}', max_attempts => 1);
insert into evsource.events (stream, type) select 'hot-1', 'T' from generate_series(1, 4);
select version from evsource.append('hot-2', 'T');
select evsource.nack(receipt, 'bad') from evsource.fetch_events('hot', 1);
select fetch_late('hot');
select * from cursor;
-- also when it waits, and has nothing out
select fetch_late('hot', '1 hour');
select version, attempts from evsource.subscription_dead_letters order by 1;
select leased from evsource.subscription_status where subscription = 'hot';
-- one that has the time does all of it
select stream, version from evsource.fetch_events('hot');
select count(*) from evsource.subscription_dead_letters;

-- What nobody wants, for long.
insert into evsource.events (stream, type) select 'cold-' || n % 3, 'T' from generate_series(1, 5000) n;
select version from evsource.append('cold-4', 'Rare');
select evsource.create_subscription('rare', types => '{Rare}', partitions => 2);
select fetch_late('rare');
select after > 1000 and after < 4000 as got_on from cursor where subscription = 'rare';
select fetch_late('rare');
select after > 3000 and after < 5000 as got_on from cursor where subscription = 'rare';
select stream, version from evsource.fetch_events('rare');
-- A batch ends there, too.
insert into evsource.events (stream, type) select 'cold-4', case n % 2500 when 0 then 'Rare' else 'T' end from generate_series(1, 10000) n;
select evsource.create_subscription('batch', types => '{Rare}', start_after => (select max(position) - 10001 from evsource.events));
select count(*) from evsource.fetch_events('batch', lease => '1 ms');
select fetch_late('batch');

\c :home
drop database evsource_subscription_late;
