-- Dead letters of a subscription that are tried again: one by one, each stream in
-- order, and none once it is done.

\set SHOW_CONTEXT never
select evsource.create_subscription('clerk', categories => '{clerk}', start => 'now', max_attempts => 1);
create view letters as select stream, version, attempts, retry from evsource.subscription_dead_letters where subscription = 'clerk' order by position;
create function fail(most int default 1) returns bigint language sql as $$
    select count(*) from (select evsource.nack(receipt, 'not now', '0') from evsource.fetch_events('clerk', most)) n $$;
create function take() returns text language sql as $$
    select string_agg(stream || ' ' || version || ' ' || attempt || ' ' || evsource.ack(receipt), ', ') from evsource.fetch_events('clerk') $$;

-- A consumer that comes back has failed at the letter that it was at: this stream
-- is not tried again until somebody asks for it.
select count(evsource.append('clerk-' || n % 2, 'Asked')) from generate_series(1, 4) n;
select fail(), fail(), fail();
select evsource.retry_subscription_dead_letters('clerk');
select stream, version, attempt from evsource.fetch_events('clerk', consumer => 'one');
select stream, version, attempt from evsource.fetch_events('clerk', consumer => 'one');
select * from letters;
select evsource.retry_subscription_dead_letters('clerk', 'clerk-1');
select evsource.ack(receipt) from evsource.fetch_events('clerk', consumer => 'one');
select take(), take(), take();
select * from letters;

select evsource.retry_subscription_dead_letters('clerk');
select take(), take(), take();
select * from letters;

-- The letters of a stream that is truncated go with its events, and what is left is tried again.
select count(evsource.append('clerk-' || n % 2, 'Asked')) from generate_series(1, 8) n;
select fail(), fail(), fail();
select evsource.retry_subscription_dead_letters('clerk');
select evsource.truncate_stream('clerk-0', 6);
select * from letters;
select take(), take(), take(), take(), take(), take();

-- One without an event, that was locked then, is passed over when its turn comes.
set session_replication_role = replica; -- not a restore
insert into evsource.subscription_dead_letters (subscription, position, stream, version, type, attempts, reason, retry)
select 'clerk', n, 'clerk-0', 1, 'Asked', 1, 'not now', true from generate_series(-1, 0) n;
reset session_replication_role;
select version from evsource.append('clerk-0', 'Asked');
select take(), take();
select count(*) from letters;

-- With no limit of attempts there are none.
select evsource.alter_subscription('clerk', max_attempts => 0);
select version from evsource.append('clerk-2', 'Asked');
do $$ begin for i in 1 .. 50 loop perform fail(); end loop; end $$;
select stream, attempt from evsource.fetch_events('clerk', consumer => 'one');
select stream, attempt from evsource.fetch_events('clerk', consumer => 'one');
select count(*) from letters;
select evsource.ack(receipt) from evsource.fetch_events('clerk', consumer => 'one');
select evsource.alter_subscription('clerk', max_attempts => 1);

-- Many of them cost those nothing that have none: a few rows are read, whatever there is.
insert into evsource.events (stream, type) select 'clerk-many' || n % 5000, 'Asked' from generate_series(1, 10000) n;
select evsource.seek_subscription('clerk', as_of => 'infinity') is not null;
set session_replication_role = replica;
insert into evsource.subscription_dead_letters (subscription, position, stream, version, type, attempts, reason)
select 'clerk', position, stream, version, type, 1, 'not now' from evsource.events where stream ~ '^clerk-many' order by position;
reset session_replication_role;
analyze evsource.subscription_dead_letters;
create function read() returns bigint language sql as $$
    select sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_xact_all_tables where relid = 'evsource.subscription_dead_letters'::regclass $$;
select count(evsource.append('clerk-alive' || n % 5, 'Asked')) from generate_series(1, 50) n;
select count(evsource.append('clerk-many' || n % 5, 'Asked')) from generate_series(1, 50) n;
begin;
select read() as before \gset
select count(*) from evsource.fetch_events('clerk', 100, lease => '1 ms');
select read() - :before < 1000 as few;
rollback;
-- To try them again costs each as much.
select evsource.retry_subscription_dead_letters('clerk') as retried;
begin;
select read() as before \gset
select stream, version from evsource.fetch_events('clerk', lease => '1 ms');
select read() - :before < 1000 as few;
rollback;
drop function read;

-- Who comes too late with a receipt of what is a dead letter meanwhile is told so, also
-- if it was good for an event before; that ack may be repeated.
select evsource.create_subscription('slow', categories => '{slow}', start => 'now', max_attempts => 1);
select count(evsource.append('slow-1', 'Asked')) from generate_series(1, 3);
create temp table got as select version, receipt from evsource.fetch_events('slow');
select evsource.ack(receipt) from got where version = 1;
update evsource.cursors set lease_until = clock_timestamp() where subscription = 'slow';
select version, attempt from evsource.fetch_events('slow');
update evsource.cursors set lease_until = clock_timestamp() where subscription = 'slow';
select version, attempt from evsource.fetch_events('slow');
select version, attempts from evsource.subscription_dead_letters where subscription = 'slow' order by position;
select version, evsource.ack(receipt) from got order by version;
\set VERBOSITY sqlstate
select evsource.ack(receipt, required => true) from got where version = 2;
\set VERBOSITY default
-- A reason as long as you like does not make a letter as long.
select evsource.append('slow-2', 'Asked') is not null;
select evsource.nack(receipt, repeat('reason ', 100000)) from evsource.fetch_events('slow');
select length(reason) < 10000 as short from evsource.subscription_dead_letters where subscription = 'slow' and stream = 'slow-2';
drop table got;
select evsource.drop_subscription('slow');

select evsource.drop_subscription('clerk');
drop view letters;
drop function fail, take;
