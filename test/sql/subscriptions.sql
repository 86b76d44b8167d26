-- A subscription hands out the events of the log in order, each until it is
-- acknowledged, to whoever comes.

\set VERBOSITY default
\set SHOW_CONTEXT never
select evsource.create_subscription('mailer', categories => '{letter}', start => 'now');
select count(*) from evsource.append_batch('letter-1', array['Asked', 'Sent', 'Read'], array['1', '2', '3']::jsonb[]);
select version from evsource.append('parcel-1', 'Sent');

-- What is fetched has the columns of an event, the attempt and a receipt; other
-- categories are left out.
select stream, version, type, data, metadata, id = (evsource.read_event(id)).id as same_id, occurred_at = recorded_at as same_time, attempt
from evsource.fetch_events('mailer');

-- It is out: nobody else gets it, until it is acknowledged or its time is over.
select count(*) from evsource.fetch_events('mailer');
select leased, lag, dead_letters from evsource.subscription_status where subscription = 'mailer';
select position is not null as is_there, lag from evsource.subscription_status where subscription = 'mailer';
update evsource.cursors set lease_until = clock_timestamp() where subscription = 'mailer';

-- Then the events that were out go out one by one, for one of them may be to blame.
create temporary table got as select * from evsource.fetch_events('mailer');
select version, attempt from got;
select evsource.ack(receipt) from got;
create temporary table got2 as select * from evsource.fetch_events('mailer');
select version, attempt from got2;
-- An ack covers all events before it, and may be repeated; not those of earlier receipts.
select evsource.ack(receipt) from got2;
select evsource.ack(receipt) from got2;
select evsource.ack(receipt) from got;
\set VERBOSITY sqlstate
select evsource.ack(receipt, required => true) from got;
\set VERBOSITY default
drop table got, got2;

-- The last of a batch is the ack of all; an earlier one leaves the rest out.
select count(*) from evsource.append_batch('letter-2', array['Asked', 'Sent', 'Read'], array['1', '2', '3']::jsonb[]);
select evsource.ack(receipt) from evsource.fetch_events('mailer');
create temporary table got as select * from evsource.fetch_events('mailer');
select stream, version, attempt from got order by position;
select evsource.ack(receipt) from got where stream = 'letter-2' and version = 1;
select lag, leased from evsource.subscription_status where subscription = 'mailer';
select evsource.ack(receipt) from got where stream = 'letter-2' and version = 3;
select lag, leased from evsource.subscription_status where subscription = 'mailer';
select count(*) from evsource.fetch_events('mailer');
drop table got;

-- Who acks in the transaction that stores the result has both or neither.
create table sent (id uuid primary key);
select version from evsource.append('letter-3', 'Asked');
begin;
create temporary table got as select * from evsource.fetch_events('mailer');
insert into sent select id from got;
select evsource.ack(receipt) from got;
rollback;
begin;
create temporary table got on commit drop as select * from evsource.fetch_events('mailer');
select stream, attempt from got;
insert into sent select id from got;
select evsource.ack(receipt, required => true) from got;
commit;
select count(*) from sent;
select count(*) from evsource.fetch_events('mailer');

-- Each event of a batch may be acknowledged, in any order.
select count(*) from evsource.append_batch('letter-31', array['A', 'B', 'C', 'D'], array['1', '2', '3', '4']::jsonb[]);
create temporary table work as select * from evsource.fetch_events('mailer');
select version, evsource.ack(receipt, required => true) from (select * from work order by position desc) w;
\set VERBOSITY sqlstate
-- So whoever cannot know whether it was done may repeat it; but not with the results, of all or a part.
select evsource.ack(receipt) from work where version = 4;
select evsource.ack(receipt) from work where version = 2;
select evsource.ack(receipt, required => true) from work where version = 4;
truncate work;
select count(*) from evsource.append_batch('letter-31', array['A', 'B', 'C', 'D'], array['1', '2', '3', '4']::jsonb[]);
insert into work select * from evsource.fetch_events('mailer');
select evsource.ack(receipt, required => true) from work where version = 6;
select evsource.ack(receipt) from work where version = 6;
select evsource.ack(receipt, required => true) from work where version = 6;
\set VERBOSITY default
-- What is rolled back was not acknowledged.
begin;
savepoint s;
select evsource.ack(receipt, required => true) from work where version = 8;
rollback to s;
select evsource.ack(receipt, required => true) from work where version = 7;
select evsource.ack(receipt, required => true) from work where version = 5;
commit;
select lag from evsource.subscription_status where subscription = 'mailer';
select evsource.ack(receipt, required => true) from work where version = 8;
drop table work;

-- A batch is bounded by count and by bytes; one event goes out at least.
select count(*) from evsource.append_batch('letter-4', array_fill('Big'::text, array[10]), array_fill(to_jsonb(repeat('x', 1000)), array[10]));
create function take(count int default 100, bytes bigint default 16777216) returns bigint language plpgsql as $$
declare
    receipts text[] := array(select f.receipt from evsource.fetch_events('mailer', count, max_bytes => bytes) f order by f.position);
begin
    perform evsource.ack(receipts[cardinality(receipts)], true) where cardinality(receipts) > 0;
    return cardinality(receipts);
end $$;
select take(3), take(100, 2500), take(100, 1), take(100), take();

-- A consumer with a name gets back what it has not acknowledged, at once.
select count(*) from evsource.append_batch('letter-5', array['A', 'B'], array['1', '2']::jsonb[]);
select version, attempt from evsource.fetch_events('mailer', consumer => 'one');
select version, attempt from evsource.fetch_events('mailer', consumer => 'two');
select version, attempt from evsource.fetch_events('mailer', consumer => 'one');
select evsource.seek_subscription('mailer', evsource.safe_position()) = evsource.safe_position();
select take();
-- The receipts of before are no good any more.
select evsource.ack(receipt, false) from (select '0123456789abcdef.1.0.e1.mailer' as receipt) r;

-- An event that fails comes again after those before it have been acknowledged,
-- and what follows it waits.
select count(*) from evsource.append_batch('letter-6', array['Good', 'Bad', 'Late'], array['1', '2', '3']::jsonb[]);
select version from evsource.append('letter-7', 'Good');
create temporary table got as select * from evsource.fetch_events('mailer');
select evsource.nack(receipt, 'no such address', retry_after => '1 hour') from got where type = 'Bad';
select evsource.nack(receipt, 'no such address') from got where type = 'Bad';
select count(*) from evsource.fetch_events('mailer');
update evsource.cursors set retry_at = clock_timestamp() where subscription = 'mailer';
truncate got;
insert into got select * from evsource.fetch_events('mailer');
select stream, type, attempt from got;
select evsource.ack(receipt) from got;
truncate got;
insert into got select * from evsource.fetch_events('mailer');
select stream, type, attempt from got;

-- After so many attempts it is a dead letter, with the later events of its stream
-- behind it; others go on.
select evsource.alter_subscription('mailer', max_attempts => 2);
select evsource.nack(receipt, 'no such address', retry_after => '0') from got;
truncate got;
insert into got select * from evsource.fetch_events('mailer');
select stream, type, attempt from got;
select evsource.ack(receipt) from got;
select stream, type, attempts, reason, retry from evsource.subscription_dead_letters where subscription = 'mailer' order by position;
select lag, dead_letters, last_error from evsource.subscription_status where subscription = 'mailer';

-- They are handed out again, one by one, when that is asked for: in order.
select evsource.retry_subscription_dead_letters('mailer', 'letter-7');
select evsource.retry_subscription_dead_letters('mailer');
truncate got;
insert into got select * from evsource.fetch_events('mailer');
select stream, type, attempt from got;
select evsource.nack(receipt, 'still not') from got;
select stream, type, attempts, reason, retry from evsource.subscription_dead_letters where subscription = 'mailer' order by position;
select count(*) from evsource.fetch_events('mailer');
select evsource.retry_subscription_dead_letters('mailer', 'letter-6');
select take(), take(), take();
select count(*) from evsource.subscription_dead_letters where subscription = 'mailer';
select version from evsource.append('letter-6', 'Good');
select take(), take();
drop table got;

-- A consumer that dies over an event again and again leaves a dead letter, too,
-- but only one that was out alone.
select count(*) from evsource.append_batch('letter-8', array['Deadly', 'Late'], array['1', '2']::jsonb[]);
select count(*) from evsource.fetch_events('mailer', consumer => 'one');
select type, attempt from evsource.fetch_events('mailer', consumer => 'one');
select type, attempt from evsource.fetch_events('mailer', consumer => 'one');
select type, attempts, reason from evsource.subscription_dead_letters where subscription = 'mailer' order by position;

-- It can be moved to where it has been, or to a time.
select evsource.seek_subscription('mailer', 0) = 0 as begins_anew;
select count(*) from evsource.subscription_dead_letters where subscription = 'mailer';
select stream, version from evsource.fetch_events('mailer', 1);
select evsource.seek_subscription('mailer', as_of => now()) = evsource.safe_position();
select evsource.seek_subscription('mailer', as_of => '2000-01-01') < evsource.safe_position();

-- Types filter, too, and can be taken back; the cursor stays where it is.
select evsource.alter_subscription('mailer', types => '{Read}');
select stream, type from evsource.fetch_events('mailer', consumer => 'one');
select evsource.alter_subscription('mailer', defaults => '{types}');
select count(*) > 2 from evsource.fetch_events('mailer', consumer => 'two', max_count => 3);
select evsource.drop_subscription('mailer');
select evsource.drop_subscription('mailer', if_exists => true);
select evsource.drop_subscription('mailer');

-- A migration that runs again: an equal definition changes nothing, another one takes the place
-- of the old; what is left out has its default.  The cursors stay where they are.
create view migrated as
    select s.categories, s.types, s.partitions, s.max_attempts, s.definition, s.owner = current_user as mine,
        (select count(*) from evsource.cursors c where c.subscription = 'migrated') as cursors
    from evsource.subscriptions s where s.subscription = 'migrated';
select evsource.create_subscription('migrated', '{mail}', '{Ok}', max_attempts => 3, if_exists => 'alter');
select evsource.append('mail-2', 'Ok') is not null as appended;
create temporary table got as select * from evsource.fetch_events('migrated');
select evsource.ack(receipt) from got order by position desc limit 1;
table migrated;
begin isolation level repeatable read;
select evsource.create_subscription('migrated', '{mail}', '{Ok}', max_attempts => 3, if_exists => 'alter');
select evsource.create_subscription('migrated', '{mail}', if_exists => 'alter');
rollback;
table migrated;
select evsource.create_subscription('migrated', '{mail}', start => 'now', partitions => 2, if_exists => 'alter');
table migrated;
select lag from evsource.subscription_status where subscription = 'migrated';
create role subscription_migrator;
select evsource.grant_access('subscription_migrator', 'admin');
set role subscription_migrator;
select evsource.create_subscription('migrated', '{mail}', max_attempts => 1, if_exists => 'alter');
reset role;
select evsource.create_subscription('migrated', owner => 'subscription_migrator', if_exists => 'alter');
set role subscription_migrator;
select evsource.create_subscription('migrated', if_exists => 'alter');
select evsource.create_subscription('migrated', max_attempts => 1, if_exists => 'alter');
reset role;
select owner, max_attempts from evsource.subscriptions where subscription = 'migrated';
select evsource.drop_subscription('migrated');
drop view migrated;
drop table got;
select evsource.revoke_access('subscription_migrator');
drop role subscription_migrator;

-- A long way without anything is gone once.
select evsource.create_subscription('patient', categories => '{nothing}', start => 'now');
select count(*) from evsource.append_batch('letter-9', array_fill('Sent'::text, array[1100]), array_fill('1'::jsonb, array[1100]));
select count(*) from evsource.fetch_events('patient');
select c.position = evsource.safe_position() as moved from evsource.cursors c where subscription = 'patient';
select evsource.drop_subscription('patient');

-- How far it is behind is counted in one go, whatever the number of its partitions.
select evsource.create_subscription('divided', categories => '{letter}', partitions => 100);
begin;
select sum(seq_tup_read + idx_tup_fetch) as before from pg_stat_xact_all_tables where relid = 'evsource.cursors'::regclass \gset
select s.lag = count(*) as all_of_it, s.lag > 1000 as much from evsource.subscription_status s, evsource.events e
where s.subscription = 'divided' and evsource.category(e.stream) = 'letter' group by s.lag;
select sum(seq_tup_read + idx_tup_fetch) - :before < 2000 as few from pg_stat_xact_all_tables where relid = 'evsource.cursors'::regclass;
commit;
select evsource.drop_subscription('divided');

-- Streams are divided; each partition is one consumer's at a time.
select evsource.create_subscription('group', categories => '{team}', start => 'now', partitions => 4);
select count(*) from (select evsource.append('team-' || n % 20, 'Played', to_jsonb(n)) from generate_series(1, 200) n) a;
create table taken (consumer text, stream text, version bigint, partition int, at serial);
create function work(who text, most int default 10) returns bigint language sql as $$
    with got as materialized (select * from evsource.fetch_events('group', most, who)),
         kept as (insert into taken select who, stream, version, evsource._partition(stream, 4) from got order by position)
    select count(*) from (select evsource.ack(receipt, true) from got order by position desc limit 1) a
$$;
select consumer, n, distinct_partitions from (
    select 'one' as consumer, (select count(*) from evsource.fetch_events('group', consumer => 'one')) > 0 as n,
           (select count(distinct evsource._partition(stream, 4)) from evsource.fetch_events('group', consumer => 'two')) as distinct_partitions) a;
select count(*) from evsource.cursors where subscription = 'group' and lease_until is not null;
select evsource.seek_subscription('group', as_of => '2000-01-01') is not null;
do $$ begin for i in 1 .. 7 loop perform work('one'); perform work('two'); end loop; end $$;

-- Other partitions: the old ones are drained first, nothing is lost or comes twice.
select evsource.alter_subscription('group', partitions => 2);
select count(*) > 0 as draining from evsource.cursors where subscription = 'group' and until is not null;
do $$ begin for i in 1 .. 5 loop perform work('one', 3); perform work('two', 3); end loop; end $$;
select evsource.alter_subscription('group', partitions => 3);
select count(*) from (select evsource.append('team-' || n % 20, 'Played', to_jsonb(n)) from generate_series(1, 50) n) a;
do $$ begin while work('one') > 0 loop end loop; end $$;
select partition, partitions, until from evsource.cursors where subscription = 'group' order by 1;
select count(*), count(distinct (stream, version)), (select count(*) from evsource.events where evsource.category(stream) = 'team') as events from taken;
select count(*) as out_of_order from (
    select version - lag(version, 1, 0::bigint) over (partition by stream order by at) as step from taken) s where step <> 1;
select evsource.drop_subscription('group');
drop table taken, sent;
drop function work, take;

-- What is stored is in its newest version when it is handed out.
create function double(data jsonb) returns jsonb language sql immutable as $$ select to_jsonb(data::int * 2) $$;
select evsource.create_subscription('typed', categories => '{retyped}', start => 'now');
select version from evsource.append('retyped-1', 'Doubled', '21');
select evsource.define_event_type('Doubled', 2, upcaster => 'double');
select data from evsource.fetch_events('typed');
select evsource.drop_event_type('Doubled');
drop function double;
select evsource.drop_subscription('typed');

-- A receipt is as long as the name asks for, whatever stands before it in the row.
select length(evsource.create_subscription(repeat('n', 150), categories => '{lengthy}'));
select count(*) from (select evsource.append('lengthy-' || n, repeat('T', n), to_jsonb(repeat('x', n * n))) from generate_series(1, 12) n) a;
create temporary table got as select * from evsource.fetch_events(repeat('n', 150));
select count(*), bool_and(f.receipt like '%.' || repeat('n', 150)) as named, bool_and(f.attempt = 1) as first,
       bool_and((f.position, f.stream, f.version, f.type, f.data, f.metadata, f.id, f.occurred_at, f.recorded_at)::evsource.event = r) as same
from got f join evsource.read_category('lengthy', 0, null) r using (position);
select evsource.ack(receipt) from got order by position desc limit 1;
drop table got;
select evsource.drop_subscription(repeat('n', 150));
