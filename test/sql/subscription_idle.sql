-- subscription_idle: who fetches from one partition leaves alone what is out from another.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_subscription_idle;
create database evsource_subscription_idle;
\c evsource_subscription_idle
create extension evsource;
-- streams of either partition
select min('job-' || n) filter (where evsource._partition('job-' || n, 2) = 0) as s0,
    min('job-' || n) filter (where evsource._partition('job-' || n, 2) = 1) as s1 from generate_series(1, 9) n \gset
select evsource.create_subscription('late', types => '{First,Second,Third,Fourth}', partitions => 2, max_attempts => 1);
select version from evsource.append(:'s1', 'First');
insert into evsource.events (stream, type) select 'other-' || n, 'T' from generate_series(1, 2000) n;
select version from evsource.append(:'s1', 'Second');
select version from evsource.append(:'s0', 'Third');

-- Two consumers have a partition each; one of them is slower than its lease, and the other goes on.
create temp table ones as select * from evsource.fetch_events('late', consumer => 'one');
create temp table twos as select * from evsource.fetch_events('late', consumer => 'two');
select type from ones;
select type from twos;
select evsource.ack(receipt) from ones where type = 'First';
update evsource.cursors set lease_until = clock_timestamp() where subscription = 'late';
create temp table threes as select * from evsource.fetch_events('late', consumer => 'three');
select type, attempt from threes;

-- Nobody has fetched what it has: it is no dead letter, and its late ack counts.
select type, attempts from evsource.subscription_dead_letters;
-- But what lies before it is not searched again and again.
select c.position >= ones.position + 2000 as moved from evsource.cursors c, ones
where c.subscription = 'late' and c.consumer = 'two' and ones.type = 'First';
select evsource.ack(receipt, required => true) from twos;

-- What was out is gone from the log, and nothing else is left: then the cursor goes on.
select evsource.ack(receipt) from threes;
select version from evsource.append(:'s0', 'Fourth');
create temp table gone as select * from evsource.fetch_events('late', consumer => 'two');
select type from gone;
select version from evsource.append(:'s0', 'Unwanted');
set client_min_messages = error;
select evsource.truncate_stream(:'s0', 3, force => true);
reset client_min_messages;
insert into evsource.events (stream, type) select 'other-' || n, 'T' from generate_series(1, 2000) n;
update evsource.cursors set lease_until = clock_timestamp() where subscription = 'late';
select type from evsource.fetch_events('late', consumer => 'three');
select count(*) from evsource.cursors where subscription = 'late' and token is not null;
\c :home
drop database evsource_subscription_idle;
