-- An event that cannot be brought to its newest version holds back its own partition
-- for some attempts, and then its own stream.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_upcasters;
create database evsource_upcasters;
\c evsource_upcasters
create extension evsource;
set evsource.async_retry_delay = '10 min';
create view letters as select stream, version, attempts, reason, retry from evsource.subscription_dead_letters where subscription = 'reader' order by position;
create function take(most int default 100) returns text language sql as $$
    with got as materialized (select * from evsource.fetch_events('reader', most)),
         acked as materialized (select evsource.ack(receipt) from got order by position desc limit 1)
    select string_agg(stream || ' ' || version || ' ' || attempt, ', ' order by position) from got, acked $$;
create function later() returns bigint language sql as $$
    with u as (update evsource.cursors set retry_at = null where retry_at > now() + interval '5 min' returning 1) select count(*) from u $$;
create function bring(data jsonb) returns jsonb language plpgsql as $$
begin
    if data ? 'bad' then raise exception 'cannot bring it there'; end if;
    return data || '{"new": true}';
end $$;
select evsource.create_subscription('reader', categories => '{brought}', start => 'now', max_attempts => 3, partitions => 2);
select n, evsource._partition('brought-' || n, 2) from unnest(array[1, 2, 3]) n;
select count(evsource.append(s, 'Brought', d::jsonb)) from (values
    ('brought-1', '{}'), ('brought-1', '{"bad": 1}'), ('brought-1', '{}'), ('brought-3', '{}'), ('brought-2', '{}')) v (s, d);
select evsource.define_event_type('Brought', 2, upcaster => 'bring');

-- What is before it is handed out, then it fails; the other partition goes on.
select take();
\set VERBOSITY terse
select take();
select take();
-- It is tried again, and is a dead letter in the end; what is behind it joins it, and others come.
select later();
select take();
select later();
select take();
select * from letters;
select lag, dead_letters, last_error from evsource.subscription_status where subscription = 'reader';

-- It may fail again when it is tried again, or come.
select evsource.retry_subscription_dead_letters('reader');
select take();
select * from letters;
create or replace function bring(data jsonb) returns jsonb language sql as $$ select data || '{"new": true}' $$;
select evsource.retry_subscription_dead_letters('reader');
select take(), take(), take();
select * from letters;

-- While it is tried again nothing else of its partition comes, and with other attempts left it is no dead letter.
create or replace function bring(data jsonb) returns jsonb language plpgsql as $$ begin raise exception 'cannot bring anything there'; end $$;
insert into evsource.events (stream, type, schema_version) values ('brought-1', 'Brought', 1);
insert into evsource.events (stream, type) values ('brought-2', 'Fine');
select take(), take();
-- What passes, such as a cancellation, is no failure of the event.
create or replace function bring(data jsonb) returns jsonb language plpgsql as $$ begin raise query_canceled using message = 'not now'; end $$;
select later();
select take();
select max(attempts) from evsource.cursors where subscription = 'reader';


\c :home
drop database evsource_upcasters;
