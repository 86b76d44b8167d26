-- inserter.sql: indexes of the user's own are maintained by appends, whenever
-- they come, change and go, though a session keeps their definitions. In a
-- database of its own, where no other events are in the way.

select current_database() as home \gset
create database evsource_inserter;
\c evsource_inserter
create extension evsource;
\set VERBOSITY default
set enable_seqscan = off;
set enable_bitmapscan = off;

create function pg_temp.append(stream text, type text, n int) returns bigint language sql as
$$ select version from evsource.append(stream, type, jsonb_build_object('inserted', n)) $$;

-- This session appends before there is any index but evsource's.
select pg_temp.append('inserter-1', 'InserterPlaced', 1);

-- An index that comes later has what was appended before it and after it.
create index by_type on evsource.events (type, position);
select pg_temp.append('inserter-1', 'InserterShipped', 2);
explain (costs off) select data from evsource.events where type = 'InserterShipped';
select data from evsource.events where type in ('InserterPlaced', 'InserterShipped') order by position;

-- A partial one has the events of its predicate, one by one and in a batch.
create index big on evsource.events (((data->>'inserted')::int)) where (data->>'inserted')::int > 100;
select pg_temp.append('inserter-1', 'InserterChanged', 50), pg_temp.append('inserter-1', 'InserterChanged', 150);
select version from evsource.append_batch('inserter-2', array_fill('InserterCounted'::text, array[300]),
    (select array_agg(jsonb_build_object('inserted', n)) from generate_series(1, 300) n));
explain (costs off) select count(*) from evsource.events where (data->>'inserted')::int > 100;
select count(*), min((data->>'inserted')::int) from evsource.events where (data->>'inserted')::int > 100;

-- So has one of another access method.
set enable_bitmapscan = on;
create index in_data on evsource.events using gin (data);
select pg_temp.append('inserter-3', 'InserterTagged', 1000);
explain (costs off) select stream from evsource.events where data @> '{"inserted": 1000}';
select stream from evsource.events where data @> '{"inserted": 1000}';
drop index evsource.in_data;
set enable_bitmapscan = off;

-- An expression that fails makes the append fail, and nothing after it.
create function pg_temp.reciprocal(data jsonb) returns numeric immutable language sql as
$$ select 1.0 / (data->>'inserted')::int $$;
create index reciprocals on evsource.events (pg_temp.reciprocal(data)) where type = 'InserterDivided';
select pg_temp.append('inserter-4', 'InserterDivided', 4);
select pg_temp.append('inserter-4', 'InserterDivided', 0);
select pg_temp.append('inserter-4', 'InserterDivided', 5);
explain (costs off) select version from evsource.events where type = 'InserterDivided' and pg_temp.reciprocal(data) = 0.2;
select version from evsource.events where type = 'InserterDivided' and pg_temp.reciprocal(data) = 0.2;
drop index evsource.reciprocals;

-- A function that gets a new body is used as it is now.
create function evsource_test_label(type text) returns text immutable language plpgsql as
$$ begin return 'old ' || type; end $$;
create index labels on evsource.events (evsource_test_label(type));
select pg_temp.append('inserter-5', 'InserterNamed', 1);
create or replace function evsource_test_label(type text) returns text immutable language plpgsql as
$$ begin return 'new ' || type; end $$;
select pg_temp.append('inserter-5', 'InserterNamed', 2);
explain (costs off) select version from evsource.events where evsource_test_label(type) = 'new InserterNamed';
select version from evsource.events where evsource_test_label(type) = 'new InserterNamed';
select version from evsource.events where evsource_test_label(type) = 'old InserterNamed';
drop index evsource.labels;
drop function evsource_test_label;

-- A unique index of the user's own refuses, under its own name.
create unique index once on evsource.events (stream) where type = 'InserterClosed';
select pg_temp.append('inserter-6', 'InserterClosed', 1);
select pg_temp.append('inserter-6', 'InserterClosed', 2);
drop index evsource.once;
select pg_temp.append('inserter-6', 'InserterClosed', 2);

-- An index's own function may append: both events are stored.
create function evsource_test_witness(type text) returns text immutable language plpgsql as
$$ begin
    if type = 'InserterSeen' then perform evsource.append('inserter-8', 'InserterNoted'); end if;
    return type;
end $$;
create index witness on evsource.events (evsource_test_witness(type));
select pg_temp.append('inserter-7', 'InserterSeen', 1);
select pg_temp.append('inserter-7', 'InserterSeen', 2);
select stream, version, type from evsource.events where evsource_test_witness(type) = 'InserterNoted' order by 2;
drop index evsource.witness;
drop function evsource_test_witness;

-- What an index computes follows the rows of a long batch: what they have in common,
-- what each has of its own, and what begins or ends in the middle of it.
create function evsource_test_whole(e evsource.events) returns text immutable language plpgsql as
$$ begin return e.type || ' ' || e.version; end $$;
create index whole on evsource.events (evsource_test_whole(events.*));
create index late on evsource.events (upper(stream), version) include (type) where version between 400 and 900;
create index with_id on evsource.events ((id::text), position) where id is not null;
create index next on evsource.events ((position % 10)) where position > 0;
select version from evsource.append_batch('inserter-9', array_fill('InserterLined'::text, array[1000]),
    array_fill('{}'::jsonb, array[1000]),
    ids => (select array_agg(case when n > 995 then ('00000000-0000-0000-0000-00000000' || n + 1000)::uuid end order by n) from generate_series(1, 1000) n));
select count(*), min(version), max(version) from evsource.events where upper(stream) = 'INSERTER-9' and version between 400 and 900;
select version from evsource.events where evsource_test_whole(events.*) = 'InserterLined 777';
select version, id from evsource.events where id is not null and id::text like '%-00000000%' and position > 0 order by version;
explain (costs off) select count(*) from evsource.events where position % 10 = 5 and position > 0;
select (select count(*) from evsource.events where position % 10 = 5 and position > 0)
    = (select count(*) from evsource.read_all(0, 1000000) e where e."position" % 10 = 5) as same;
-- Its positions are in the order of its versions.
select count(*) from (select position > lag(position) over (order by version) as later
    from evsource.events where stream = 'inserter-9') e where later;
drop index evsource.whole, evsource.late, evsource.with_id, evsource.next;
drop function evsource_test_whole;

-- The rows of a batch are those of single appends, whatever they have in common with
-- the row before: type, metadata, occurred_at, data that is short, long, or very long.
create table inserter_mix as select n, 'InserterMixed' || n % 3 / 2 as type,
    to_jsonb(repeat('x', case when n % 11 = 0 then 1 when n % 13 = 0 then 10000 when n % 17 = 0 then 119 + n % 7 else 130 + n end)) as data,
    case when n % 19 = 0 then '{"by": "ann"}'::jsonb end as metadata,
    case when n % 23 = 0 then timestamptz '2020-01-01 00:00+00' end as occurred_at
    from generate_series(1, 600) n;
select first_version, version from evsource.append_batch('inserter-mix1', (select array_agg(type order by n) from inserter_mix),
    (select array_agg(data order by n) from inserter_mix), (select array_agg(metadata order by n) from inserter_mix),
    occurred_at => (select array_agg(occurred_at order by n) from inserter_mix));
select max(r.version) from (select * from inserter_mix order by n) m,
    lateral evsource.append('inserter-mix2', m.type, m.data, m.metadata, occurred_at => m.occurred_at) r;
select count(*), count(distinct one.type), count(one.metadata), count(one.occurred_at) from evsource.events one
    join evsource.events two on two.stream = 'inserter-mix2' and two.version = one.version
    join inserter_mix m on m.n = one.version
    where one.stream = 'inserter-mix1' and (one.type, one.data) = (m.type, m.data) and (two.type, two.data) = (m.type, m.data)
    and (one.metadata, one.occurred_at) is not distinct from (m.metadata, m.occurred_at)
    and pg_column_size(one.data) = pg_column_size(two.data);
drop table inserter_mix;

-- Long batches that go somewhere into the middle of the index by stream leave its
-- pages well filled, not half full: an entry takes 40 bytes.
select pg_relation_size('evsource.events_stream_version_key') as before \gset
select count(*) from (select evsource.append_batch('inserter-fill' || n, array_fill('InserterFilled'::text, array[1000]),
    array_fill('{}'::jsonb, array[1000])) from generate_series(29, 10, -1) n offset 0) appended;
select (pg_relation_size('evsource.events_stream_version_key') - :before) / 20000 < 60 as full;

-- After all this the indexes of evsource hold what the table holds.
select (select count(*) from evsource.events) = (select count(*) from evsource.read_all(0, 1000000)) as by_position,
    (select count(*) from evsource.events where evsource.category(stream) = 'inserter')
        = (select count(*) from evsource.events where stream like 'inserter-%') as by_category;
drop index evsource.by_type, evsource.big;

\c :home
drop database evsource_inserter;
