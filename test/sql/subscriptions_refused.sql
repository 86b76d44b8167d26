-- What is wrong is said, with the way out; and who may do what.

\set VERBOSITY default
\set SHOW_CONTEXT never
select evsource.create_subscription('refused', categories => '{refused}', start => 'now');
select evsource.create_subscription('refused');
\echo :LAST_ERROR_SQLSTATE
-- A migration that runs again keeps it.
select evsource.create_subscription('refused', if_exists => 'keep');

select evsource.create_subscription(null);
\echo :LAST_ERROR_SQLSTATE
select evsource.create_subscription('');
select evsource.create_subscription(repeat('x', 201));
select evsource.create_subscription('wrong', categories => '{a-b}');
select evsource.create_subscription('wrong', categories => '{}');
select evsource.create_subscription('wrong', types => array[null]);
select evsource.create_subscription('wrong', types => '{""}');
select evsource.create_subscription('wrong', start => 'soon');
select evsource.create_subscription('wrong', start => 'now', start_after => 0);
select evsource.create_subscription('wrong', partitions => 0);
select evsource.create_subscription('wrong', partitions => 1025);
select evsource.create_subscription('wrong', max_attempts => -1);
select evsource.create_subscription('wrong', if_exists => 'drop');
select evsource.create_subscription('wrong', owner => 'regress_nobody');
\set VERBOSITY terse
select evsource.create_subscription('wrong', start_after => 9223372036854775807);
select evsource.seek_subscription('refused', -1);
\set VERBOSITY default

select evsource.fetch_events('unknown');
\echo :LAST_ERROR_SQLSTATE
select evsource.fetch_events(null);
select evsource.fetch_events('refused', 0);
select evsource.fetch_events('refused', null);
select evsource.fetch_events('refused', lease => '0');
select evsource.fetch_events('refused', lease => '-1 s');
select evsource.fetch_events('refused', lease => null);
select evsource.fetch_events('refused', wait => '-1 s');
select evsource.fetch_events('refused', max_bytes => 0);
select evsource.fetch_events('refused', consumer => '');
select evsource.fetch_events('refused', consumer => repeat('n', 201));
select count(*) from evsource.fetch_events('refused', wait => null);

-- A cursor moves by what others have done, which these levels do not see.
begin isolation level repeatable read;
select evsource.fetch_events('refused');
\echo :LAST_ERROR_SQLSTATE
rollback;
begin read only;
select evsource.fetch_events('refused');
\echo :LAST_ERROR_SQLSTATE
rollback;

select evsource.ack(null);
select evsource.ack('what?');
\echo :LAST_ERROR_SQLSTATE
select evsource.ack('0123456789abcdef.1.0.x1.refused');
select evsource.ack('0123456789abcdef.1.0.e1.');
\set VERBOSITY terse
select evsource.ack(' 123456789abcdef.1.0.e1.refused');
select evsource.ack('0123456789abcdef.+1.0.e1.refused');
select evsource.ack('0123456789abcdef.1.-1.e1.refused');
select evsource.ack('0123456789abcdef.1.0.e-1.refused');
select evsource.ack('0123456789abcdef.2147483648.0.e1.refused');
select evsource.ack('0123456789abcdef.1.0.e9223372036854775807.refused');
select evsource.ack('0123456789abcdef.1.0.e.refused');
select evsource.ack('0123456789ABCDEF.1.0.e1.refused');
select evsource.ack('123456789abcdef.1.0.e1.refused');
select evsource.ack('0123456789abcdef.2147483647.0.e9223372036854775806.refused');
\set VERBOSITY default
select evsource.nack('0123456789abcdef.1.0.e1.refused', retry_after => '-1 s');
select evsource.nack(null);
-- Receipts that are nobody's, or of what is gone, are late.
select evsource.ack('0123456789abcdef.1.0.e1.refused'), evsource.nack('0123456789abcdef.1.0.r1.gone');

select evsource.alter_subscription('unknown');
select evsource.drop_subscription('unknown');
select evsource.seek_subscription('unknown', 0);
select evsource.seek_subscription('refused');
select evsource.seek_subscription('refused', 0, now());
select evsource.retry_subscription_dead_letters('unknown');
select evsource.alter_subscription('refused', defaults => '{owner}');
select evsource.alter_subscription('refused', partitions => 0);

-- Rights: a subscription is its owner's; what is read must be readable.
create role regress_consumer;
create role regress_stranger;
select evsource.grant_access('regress_consumer', 'reader');
select evsource.grant_access('regress_stranger', 'reader');
select evsource.alter_subscription('refused', owner => 'regress_consumer');
select version from evsource.append('refused-1', 'Refused');
set role regress_consumer;
create temporary table got as select * from evsource.fetch_events('refused');
select stream from got;
grant select on got to regress_stranger;
select evsource.create_subscription('mine');
\echo :LAST_ERROR_SQLSTATE
set role regress_stranger;
select evsource.fetch_events('refused');
\echo :LAST_ERROR_SQLSTATE
select evsource.ack(receipt) from got;
select evsource.nack(receipt) from got;
select subscription, owner from evsource.subscription_status where subscription = 'refused';
update evsource.cursors set position = 0;
reset role;
revoke select on evsource.events from regress_consumer;
set role regress_consumer;
select evsource.fetch_events('refused');
\echo :LAST_ERROR_SQLSTATE
select evsource.ack(receipt) from got;
reset role;
grant select on evsource.events to regress_consumer;

-- Where row security hides events a cursor would pass over them.
alter table evsource.events enable row level security;
set role regress_consumer;
select evsource.fetch_events('refused');
\echo :LAST_ERROR_SQLSTATE
reset role;
alter table evsource.events disable row level security;

-- A subscription may be given only to a role that one could become.
select evsource.grant_access('regress_stranger', 'admin');
set role regress_stranger;
select evsource.create_subscription('gift', owner => 'regress_consumer');
\echo :LAST_ERROR_SQLSTATE
select evsource.drop_subscription('refused');
reset role;

-- An upcaster that takes the subscription away is told so, and has not.
select count(*) from evsource.append('taken-1', 'Taken', '{}');
create function take_away(data jsonb) returns jsonb language plpgsql as $$
begin
    perform evsource.drop_subscription('taken');
    return data;
end $$;
select evsource.define_event_type('Taken', 2, upcaster => 'take_away');
select evsource.create_subscription('taken', categories => '{taken}');
\set VERBOSITY default
select evsource.fetch_events('taken');
\set VERBOSITY terse
select evsource.drop_subscription('taken');
select evsource.drop_event_type('Taken');
drop function take_away(jsonb);

-- Cursors that evsource has not written, and that contradict each other, are an error to who
-- fetches, and no memory is overwritten. Who asks for the lag is told of it, and the lag of the others.
select version from evsource.append('refused-1', 'Refused');
set session_replication_role = replica;
\set VERBOSITY default
select evsource.create_subscription('odd', categories => '{refused}');
begin;
insert into evsource.cursors (subscription, generation, partition, partitions, definition, position)
    select 'odd', 1, n, 100, 1, 0 from generate_series(1, 99) n;
savepoint s;
select evsource.fetch_events('odd');
rollback to s;
select subscription, lag, lag_seconds > 0 as since, problem from evsource.subscription_status order by 1;
rollback;
begin;
update evsource.cursors set partition = 1000000 where subscription = 'odd';
savepoint s;
select evsource.fetch_events('odd');
rollback to s;
select subscription, lag, lag_seconds > 0 as since, problem from evsource.subscription_status order by 1;
rollback;
\set VERBOSITY terse
begin;
update evsource.cursors set partition = -1 where subscription = 'odd';
select evsource.fetch_events('odd');
rollback;
begin;
update evsource.cursors set partitions = 0 where subscription = 'odd';
select evsource.fetch_events('odd');
rollback;
begin;
update evsource.cursors set partitions = 2000000000 where subscription = 'odd';
select subscription, lag, lag_seconds > 0 as since, problem from evsource.subscription_status order by 1;
rollback;
\set VERBOSITY default
-- One that is missing would have its partition passed over: nobody is told of those events.
begin;
update evsource.cursors set partitions = 3 where subscription = 'odd';
insert into evsource.cursors (subscription, generation, partition, partitions, definition, position)
    values ('odd', 1, 2, 3, 1, 0);
savepoint s;
select evsource.fetch_events('odd');
rollback to s;
select subscription, lag, problem from evsource.subscription_status order by 1;
-- In an older generation those that are done are not there any more.
update evsource.cursors set until = 0 where subscription = 'odd';
insert into evsource.cursors (subscription, generation, partition, partitions, definition, position)
    select 'odd', 2, n, 2, 1, 0 from generate_series(0, 1) n;
select count(*) > 0 as fetches from evsource.fetch_events('odd');
select subscription, lag > 0 as lags, problem from evsource.subscription_status order by 1;
rollback;
-- Nor is nothing handed out for ever where an older generation stands before the newer one.
insert into evsource.cursors (subscription, generation, partition, partitions, definition, position)
    values ('odd', 0, 0, 1, 1, 0);
select evsource.fetch_events('odd');
select subscription, lag, problem from evsource.subscription_status order by 1;
begin;
delete from evsource.cursors where subscription = 'odd';
savepoint s;
select evsource.fetch_events('odd');
rollback to s;
select subscription, lag, problem from evsource.subscription_status order by 1;
select evsource.seek_subscription('odd', after_position => 0);
select count(*) > 0 as fetches from evsource.fetch_events('odd');
rollback;
reset session_replication_role;
\set VERBOSITY terse
-- This is the way out.
select evsource.seek_subscription('odd', after_position => 0);
select count(*) > 0 as fetches from evsource.fetch_events('odd');
-- An owner who is gone is shown, too: nobody but a superuser can fetch.
begin;
set local client_min_messages = error;
alter role regress_consumer rename to regress_consumer_gone;
select subscription, lag, problem from evsource.subscription_status order by 1;
\set VERBOSITY default
savepoint s;
set role regress_stranger;
select evsource.fetch_events('refused');
rollback to s;
\set VERBOSITY terse
rollback;
select subscription, lag, problem from evsource.subscription_status order by 1;
select evsource.drop_subscription('odd');

drop table got;
select evsource.drop_subscription('refused');
select count(*) from evsource.subscriptions;
select evsource.revoke_access('regress_consumer');
select evsource.revoke_access('regress_stranger');
drop role regress_consumer, regress_stranger;
