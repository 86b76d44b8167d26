-- truncate_subscriptions: no event is taken away from a subscription that has not had it.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_truncate_subscriptions;
create database evsource_truncate_subscriptions;
\c evsource_truncate_subscriptions
create extension evsource;
\set SHOW_CONTEXT never

create function done(subscription text, most int default 100) returns bigint language sql as
$$select count(*) from (select evsource.ack(receipt) from evsource.fetch_events(subscription, most)) a$$;
select evsource.create_subscription('relay', categories => '{meter}', partitions => 4);
select evsource.create_subscription('reads', categories => '{meter}', types => '{Read}');
select count(*) from evsource.append_batch('meter-1', '{Installed,Read,Read,Read}', array['{}','{}','{}','{}']::jsonb[]);
select count(*) from evsource.append_batch('other-1', '{Read,Read}', array['{}','{}']::jsonb[]);

-- Refused until each has acknowledged what goes: what it wants of it.
select evsource.truncate_stream('meter-1', 4);
\echo :LAST_ERROR_SQLSTATE
select done('relay', 3);
-- one event is left, which stays, and that is enough
select evsource.truncate_stream('meter-1', 4);
select evsource.truncate_stream('meter-1', 2);
select evsource.truncate_stream('other-1', 2);
-- fetched is not acknowledged
create temp table batch as select * from evsource.fetch_events('reads', 3);
select evsource.truncate_stream('meter-1', 4);
select evsource.ack(receipt) from batch order by position limit 1;
select evsource.truncate_stream('meter-1', 4);
-- acknowledged in the same transaction is
begin;
select evsource.ack(receipt) from batch order by position desc limit 1;
select evsource.truncate_stream('meter-1', 4);
rollback;
select evsource.truncate_stream('meter-1', 3);
-- what it does not want, or begins after, is no reason
select evsource.create_subscription('installed', types => '{Installed}');
select evsource.create_subscription('others', categories => '{other}');
select evsource.create_subscription('later', start => 'now');
select evsource.ack(receipt) from batch order by position desc limit 1;
select evsource.truncate_stream('meter-1', 4);

-- Whatever partitions there are: each event is looked for in those that it belongs to.
select done('relay'), done('reads'), done('later'), done('others');
select count(*) from evsource.append_batch('meter-1', '{Read,Read,Read,Read}', array['{}','{}','{}','{}']::jsonb[]);
truncate batch;
insert into batch select * from evsource.fetch_events('relay', 2);
select evsource.alter_subscription('relay', partitions => 7);
select done('reads'), done('later');
select evsource.truncate_stream('meter-1', 6);
select evsource.ack(receipt) from batch order by position desc limit 1;
select evsource.truncate_stream('meter-1', 8);
select evsource.truncate_stream('meter-1', 7);
select done('relay'), done('relay');
select evsource.truncate_stream('meter-1', 8);

-- Dead letters go, as they always do: they have been handed out, or wait behind one that was.
select evsource.alter_subscription('relay', max_attempts => 1);
select count(*) from evsource.append_batch('meter-1', '{Read,Read}', array['{}','{}']::jsonb[]);
select done('reads'), done('later');
select evsource.nack(receipt, 'broken') from evsource.fetch_events('relay', 1);
select done('relay');
select version, attempts from evsource.subscription_dead_letters;
select evsource.truncate_stream('meter-1', 10);
select version, attempts from evsource.subscription_dead_letters;
select evsource.retry_subscription_dead_letters('relay');
select done('relay');

-- With force they go, and who does not get them is named.
select count(*) from evsource.append_batch('meter-1', '{Other,Read,Other}', array['{}','{}','{}']::jsonb[]);
select evsource.truncate_stream('meter-1', 12, force => true);
select version from evsource.fetch_events('relay');
select version from evsource.fetch_events('reads');
select version from evsource.fetch_events('later') where stream = 'meter-1';

-- One that starts over has had nothing.
select evsource.drop_subscription('relay'), evsource.drop_subscription('reads'), evsource.drop_subscription('later');
select evsource.seek_subscription('others', 0);
select evsource.append('other-1', 'Read') is not null;
select evsource.truncate_stream('other-1', 3);
select done('others');
select evsource.truncate_stream('other-1', 3);

\c :home
drop database evsource_truncate_subscriptions;
