-- scan_categories: a reader that wants a few categories does not look at the events of others
-- that lie before the first of its own.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_scan_categories;
create database evsource_scan_categories;
\c evsource_scan_categories
create extension evsource;

-- How many events were looked at in this transaction, and those before it in this session.
create view looked_at as
    select coalesce(idx_tup_fetch, 0) + coalesce(seq_tup_read, 0) as events
    from pg_stat_xact_all_tables where relid = 'evsource.events'::regclass;
create procedure expect_few(what text, query text) language plpgsql as $$
declare
    before bigint := (select events from looked_at);
    counted bigint;
    looks bigint;
begin
    execute 'select count(*) from ' || query into counted;
    looks := (select events from looked_at) - before;
    raise notice '%: % returned, % looked at', what, counted,
        case when looks <= counted + 20 then 'few' else looks::text end;
end $$;

select evsource.create_subscription('two', categories => '{one,two}', start => 'now');
select evsource.create_subscription('many', categories => '{c1,c2,c3,c4,c5,c6,c7,c8}', start => 'now', partitions => 4);
create function noted(e evsource.event[]) returns void language sql as '';
select evsource.create_projection('two', 'noted', mode => 'async', categories => '{one,two}', start => 'now');
insert into evsource.events (stream, type) select 'other-' || i % 1000, 'T' from generate_series(1, 100000) i;
set client_min_messages = notice;

-- None there.
call expect_few('read_all', $$ evsource.read_all(0, null, '{one,two}') $$);
call expect_few('a subscription to two', $$ evsource.fetch_events('two') $$);
call expect_few('to eight', $$ evsource.fetch_events('many') $$);
call expect_few('again', $$ evsource.fetch_events('many') $$);
call expect_few('a wait', $$ evsource.fetch_events('many', wait => '10 ms') $$);
call expect_few('a projection', $$ evsource.run_projection('two') $$);
select lag from evsource.subscription_status where subscription in ('two', 'many');
select lag from evsource.projection_status;

-- A few at the end.
insert into evsource.events (stream, type) select 'other-' || i % 1000, 'T' from generate_series(1, 100000) i;
insert into evsource.events (stream, type) values ('two-1', 'T'), ('c8-1', 'T'), ('one-1', 'T'), ('c2-1', 'T');
call expect_few('read_all', $$ evsource.read_all(0, null, '{one,two}') $$);
call expect_few('with a type', $$ evsource.read_all(0, null, '{one,two}', '{T}') $$);
call expect_few('with another', $$ evsource.read_all(0, null, '{one,two}', '{Other}') $$);
call expect_few('a subscription to two', $$ evsource.fetch_events('two') $$);
call expect_few('a projection', $$ evsource.run_projection('two') $$);

-- What is read is what a plain filter lets through, in order: here from a log in which some
-- categories are rare, and much was rolled back.
set client_min_messages = warning;
select setseed(0.5);
create temp table words as
    select i, case when random() < 0.9 then 'often' else 'rare' || (random() * random() * 12)::int end || '-' || i % 7 as stream,
        'T' || (random() * 3)::int as type
    from generate_series(1, 4000) i;
begin;
insert into evsource.events (stream, type) select stream, type from words where i % 3 = 0 order by i;
rollback;
insert into evsource.events (stream, type) select stream, type from words order by i;
create temp table asked as
    select i, (select min(position) from evsource.events where stream ~ '^(often|rare)') - 10 + (random() * 4200)::int as after,
        1 + (random() * 30)::int as most,
        array(select 'rare' || (random() * 16)::int from generate_series(0, 1 + i % 9)) as categories,
        case when random() < 0.3 then '{T1,T3}'::text[] end as types
    from generate_series(1, 400) i;
select count(*) as asked, count(*) filter (where wanted <> '{}') > 0 as answered, count(*) filter (where wanted = '{}') > 0 as in_vain,
    count(*) filter (where wanted is distinct from got) as wrong
from (select array(select e.position from evsource.events e
                   where e.position > after and evsource.category(e.stream) = any (categories) and (types is null or e.type = any (types))
                   order by e.position limit most) as wanted,
             array(select r.position from evsource.read_all(after, most, categories, types) r) as got
      from asked) answers;

-- And so does a subscription hand it out, over its partitions.
select evsource.create_subscription('rare', categories => '{rare0,rare3,rare7,rare12,none}', partitions => 3);
create temp table fetched (nth serial, position bigint, stream text);
create procedure fetch_all() language plpgsql as $$
declare
    got evsource.fetched_event[];
begin
    loop
        got := array(select f from evsource.fetch_events('rare', 7) f);
        exit when got = '{}';
        insert into fetched (position, stream) select position, stream from unnest(got);
        perform evsource.ack(got[cardinality(got)].receipt, required => true);
        commit;
    end loop;
end $$;
call fetch_all();
select count(*) > 50 as many from fetched;
select position from fetched except all
    select position from evsource.events where evsource.category(stream) in ('rare0', 'rare3', 'rare7', 'rare12');
select position from evsource.events where evsource.category(stream) in ('rare0', 'rare3', 'rare7', 'rare12')
    except all select position from fetched;
select count(*) as out_of_order from fetched a join fetched b using (stream) where a.nth < b.nth and a.position > b.position;
select lag, leased from evsource.subscription_status where subscription = 'rare';
\c :home
drop database evsource_scan_categories;
