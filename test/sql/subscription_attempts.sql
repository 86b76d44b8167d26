-- subscription_attempts: an event is charged with the attempts that it has failed itself.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_subscription_attempts;
create database evsource_subscription_attempts;
\c evsource_subscription_attempts
create extension evsource;
\set SHOW_CONTEXT never
create function get(subscription text, most int default 100) returns text language sql as
$$select string_agg(stream || ' ' || type || ' ' || attempt, ', ' order by position) from evsource.fetch_events(subscription, most, 'c')$$;
create function append(category text, types text[]) returns bigint language sql as
$$select count(*) from (select evsource.append(category || '-' || i, t) from unnest(types) with ordinality u (t, i)) a$$;

-- The one that was to blame is not wanted any more: the next has failed with the batch, once.
select evsource.create_subscription('a', categories => '{a}');
select append('a', '{Bad,Good,Good}');
select get('a');
select get('a'), get('a'), get('a');
select evsource.alter_subscription('a', types => '{Good}');
select get('a');
select get('a');
select count(*) from evsource.subscription_dead_letters;
select evsource.ack(receipt) from evsource.fetch_events('a', consumer => 'c');
select get('a');

-- Or its stream was truncated.
select evsource.create_subscription('b', categories => '{b}');
select append('b', '{Bad,Good}');
select get('b');
select get('b'), get('b'), get('b');
select evsource.append('b-1', 'Good') is not null;
select evsource.truncate_stream('b-1', 2, force => true);
select get('b');
select count(*) from evsource.subscription_dead_letters;

-- One that was named is the only one that has failed: others go out together, and are not charged.
select evsource.create_subscription('c', categories => '{c}');
select append('c', '{Bad}');
create function fail() returns bool language sql as $$select evsource.nack(receipt, 'bad', '0') from evsource.fetch_events('c', consumer => 'c')$$;
select fail(), fail(), fail(), fail();
select evsource.alter_subscription('c', types => '{Good}');
select append('c', '{Good,Good,Good}');
select get('c');
select get('c');
select fail(), get('c');
select count(*) from evsource.subscription_dead_letters;

-- Other partitions know what has been handed out before.
select evsource.create_subscription('u', categories => '{z}');
select count(*) from evsource.append_batch('z-1', '{A,A,A,A}', array['{}','{}','{}','{}']::jsonb[]);
create temp table b as select * from evsource.fetch_events('u');
select evsource.nack(receipt, 'x', '0') from b order by position limit 1;
select evsource.alter_subscription('u', partitions => 2);
select evsource.alter_subscription('u', partitions => 3);
select version, attempt, evsource.ack(receipt) from evsource.fetch_events('u');
select evsource.alter_subscription('u', partitions => 2);
select version, attempt, evsource.ack(receipt) from evsource.fetch_events('u');
select count(*) from evsource.append_batch('z-1', '{A,A}', array['{}','{}']::jsonb[]);
select version, attempt, evsource.ack(receipt) from evsource.fetch_events('u');

\c :home
drop database evsource_subscription_attempts;
