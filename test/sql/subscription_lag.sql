-- subscription_lag: subscription_status walks the log once, however many subscriptions
-- there are, and counts what a plain query would.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_subscription_lag;
create database evsource_subscription_lag;
\c evsource_subscription_lag
create extension evsource;

-- How many events were looked at in this transaction, and those before it in this session.
create view looked_at as
    select coalesce(idx_tup_fetch, 0) + coalesce(seq_tup_read, 0) as events
    from pg_stat_xact_all_tables where relid = 'evsource.events'::regclass;

-- Two hundred that nobody fetches from, by type and by category.
select count(evsource.create_subscription('idle' || i, types => case when i % 2 = 0 then array['T' || i % 20] end,
    categories => case when i % 2 = 1 then array['c' || i % 20, 'd'] end)) from generate_series(1, 200) i;
insert into evsource.events (stream, type) select 'c' || i % 10 || '-' || i, 'T' || i % 7 from generate_series(1, 5000) i;
begin;
select coalesce(sum(events), 0) as before from looked_at \gset
select count(*), sum(lag) as lag, bool_and((lag_seconds > 0) = (lag > 0)) as since from evsource.subscription_status;
-- the log for those by type, and a few categories
select case when events - :before < 15000 then 'few' else (events - :before)::text end as looks from looked_at;
commit;
begin;
select coalesce(sum(events), 0) as before from looked_at \gset
select lag from evsource.subscription_status where subscription = 'idle1';
select events - :before as looks from looked_at;
commit;

-- Any filter, any partitions, some of them drained, cursors anywhere.
create view plain as
    select s.subscription, count(e.position) as lag, min(e.recorded_at) as oldest
    from evsource.subscriptions s
    left join (evsource.events e cross join lateral (
            select q.* from evsource.cursors q
            where q.partition = evsource._partition(e.stream, q.partitions)
                and e.position > q.position and (q.until is null or e.position <= q.until)) q)
        on q.subscription = s.subscription
            and (s.categories is null or evsource.category(e.stream) = any (s.categories))
            and (s.types is null or e.type = any (s.types))
    group by s.subscription;
select setseed(0.5);
create procedure fetch_some() language plpgsql as $$
declare
    s text;
begin
    for i in 1 .. 80 loop
        perform evsource.create_subscription('any' || i,
            categories => case when random() < 0.6 then array(select 'c' || (random() * 12)::int from generate_series(0, i % 4)) end,
            types => case when random() < 0.6 then array(select 'T' || (random() * 9)::int from generate_series(0, i % 3)) end,
            start => case when random() < 0.2 then 'now' else 'beginning' end, partitions => 1 + (random() * 5)::int);
    end loop;
    commit;
    for i in 1 .. 300 loop
        s := 'any' || 1 + (random() * 79)::int;
        if random() < 0.2 then
            perform evsource.alter_subscription(s, partitions => 1 + (random() * 5)::int);
        else
            perform evsource.ack(receipt) from (
                select receipt from evsource.fetch_events(s, 1 + (random() * 300)::int) order by position desc limit 1) last;
        end if;
        commit;
    end loop;
end $$;
call fetch_some();
insert into evsource.events (stream, type) select 'c' || i % 14 || '-' || i, 'T' || i % 11 from generate_series(1, 300) i;
select count(*) as subscriptions, count(*) filter (where p.lag > 0) > 50 as behind, count(distinct p.lag) > 20 as differently,
    count(*) filter (where p.lag <> v.lag or (p.oldest is null) <> (v.lag_seconds = 0)) as wrong
from plain p join evsource.subscription_status v using (subscription);
select bool_or(draining) as some_draining from evsource.subscription_status;
-- One at a time they are the same, and in any plan.
select count(*) as wrong from plain p
where lag <> (select lag from evsource.subscription_status v where v.subscription = p.subscription);

-- None at all.
select count(evsource.drop_subscription(subscription)) from evsource.subscriptions;
select * from evsource.subscription_status;
\c :home
drop database evsource_subscription_lag;
