-- read_plans: what plain SQL over events and streams costs: which index a
-- predicate uses, and how many rows are read for it.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_read_plans;
create database evsource_read_plans;
\c evsource_read_plans
create extension evsource;
set timezone = 'UTC';

-- Interleaved: many short streams, few long ones in a small category, and one
-- stream that is far longer than all others.
insert into evsource.events (stream, type, data)
    select case when i % 50 = 0 then 'invoice-' || i % 250 when i % 10 = 1 then 'ledger' else 'order-' || i % 400 end,
           case when i % 100 = 7 then 'Cancelled' else 'Changed' end, to_jsonb(i)
    from generate_series(1, 20000) i;
insert into evsource.events (stream, type, id) values ('single-1', 'Placed', '6a6f0000-0000-4000-8000-000000000001');
insert into evsource.events (stream, type, id)
    select 'imported-' || i, 'Imported', md5(i::text)::uuid from generate_series(1, 500) i;
vacuum analyze evsource.events;

-- A page of a stream, in either direction, and its last event.
explain (costs off) select * from evsource.events where stream = 'ledger' and version >= 100 order by version limit 10;
explain (costs off) select * from evsource.events where stream = 'ledger' order by version desc limit 10;

-- A page of a category.
explain (costs off) select * from evsource.events where evsource.category(stream) = 'invoice' and position > 100 order by position limit 10;

-- A page of the log.
explain (costs off) select * from evsource.events where position > 100 order by position limit 10;
explain (costs off) select * from evsource.events where position between 100 and 110;

-- The event that a client gave an id.
explain (costs off) select * from evsource.events where id = '6a6f0000-0000-4000-8000-000000000001';

-- A type has an index when the user makes one; appends maintain it.
create index events_type_idx on evsource.events (type, position);
analyze evsource.events;
explain (costs off) select * from evsource.events where type = 'Cancelled' and position > 100 order by position limit 10;
select from evsource.append('single-1', 'Shipped');
insert into evsource.events (stream, type) values ('single-1', 'Shipped');
set enable_seqscan = off;
select stream, version from evsource.events where type = 'Shipped' order by position;
reset enable_seqscan;

-- event_id is inlined: it reads no more than the three columns it needs.
explain (costs off, verbose) select evsource.event_id(e) from evsource.events e where position = 1;

-- One stream, and the streams of one category. (The lines that name what is
-- read, and by what: releases differ in what they put between.)
create function scans_of(query text) returns setof text language plpgsql as $$
declare
    line text;
begin
    for line in execute 'explain (costs off) ' || query loop
        if line ~ 'Scan|Cond|Filter' and line !~ 'Join Filter' then
            return next regexp_replace(line, '^ *(-> *)?', '');
        end if;
    end loop;
end
$$;
select * from scans_of($$select * from evsource.streams where stream = 'ledger'$$);
select * from scans_of($$select * from evsource.streams where category = 'invoice'$$);

-- The streams of other rows, each looked up by itself: OFFSET 0 keeps it from being a join.
create table orders (id integer primary key, stream text not null);
insert into orders select i, 'order-' || i from generate_series(1, 400) i;
analyze orders;
create view looked_up as
    select o.id, s.version from orders o
    left join lateral (select * from evsource.streams s where s.stream = o.stream offset 0) s on true;
create view subselected as
    select o.id, (select s.version from evsource.streams s where s.stream = o.stream) as version from orders o;
select * from scans_of('select * from looked_up where id = 7') s where s like '%Scan% on events %';
select * from scans_of('select * from subselected where id = 7') s where s like '%Scan% on events %';

-- Streams that were truncated cost nothing where they are not asked for.
set session_replication_role = replica; -- not a restore
insert into evsource.truncations select 'gone-' || i, 2, now(), now() from generate_series(1, 2000) i;
reset session_replication_role;
analyze evsource.truncations;
select * from scans_of($$select * from evsource.streams where category = 'invoice'$$) s where s like '%truncations%';

-- What a query reads: rows that scans of events returned or threw away, and
-- whether pages of shared buffers stayed below a bound.
create function cost_of(query text, max_pages int, out rows_read bigint, out within boolean)
    language plpgsql as $$
declare
    plan json;
    top json;
begin
    execute 'explain (analyze, buffers, costs off, timing off, summary off, format json) ' || query into plan;
    with recursive nodes (node) as (
        select plan -> 0 -> 'Plan'
        union all
        select child.value from nodes, json_array_elements(node -> 'Plans') child
    )
    select sum((coalesce((node ->> 'Actual Rows')::numeric, 0) + coalesce((node ->> 'Rows Removed by Filter')::numeric, 0)
                + coalesce((node ->> 'Rows Removed by Index Recheck')::numeric, 0)) * (node ->> 'Actual Loops')::numeric)
        into rows_read
        from nodes where node ->> 'Relation Name' = 'events';
    top := plan -> 0 -> 'Plan';
    within := (top ->> 'Shared Hit Blocks')::int + (top ->> 'Shared Read Blocks')::int <= max_pages;
end
$$;

-- One stream takes two rows, its first and its last, whether it has 1, 50 or
-- 2000 events.
select version, c.* from evsource.streams,
        lateral cost_of(format('select * from evsource.streams where stream = %L', stream), 16) c
    where stream in ('imported-7', 'order-7', 'ledger') order by version;

-- So do the streams of other rows.
select l.*, c.* from looked_up l, cost_of('select * from looked_up where id = 7', 20) c where id = 7;
select l.*, c.* from subselected l, cost_of('select * from subselected where id = 7', 20) c where id = 7;
select c.* from cost_of('select * from looked_up where id between 2 and 9', 150) c;

-- A category takes two rows a stream, however many events they have.
select category, count(*) as streams, sum(version) as events, c.rows_read
    from evsource.streams,
        lateral cost_of(format('select * from evsource.streams where category = %L', category), 0) c
    where category <> 'single'
    group by category, c.rows_read order by category;

-- So it is for each page of a stream, a category and the log: as many rows as asked for.
select * from cost_of('select * from evsource.events where stream = ''ledger'' and version >= 100 order by version limit 10', 20);
select * from cost_of('select * from evsource.events where evsource.category(stream) = ''invoice'' and position > 100 order by position limit 10', 20);
select * from cost_of('select * from evsource.events where position > 15000 order by position limit 10', 20);

-- The reading functions read what they return, and so the pages they touch do
-- not grow with the log, the stream or the category before it.
create function pages_of(query text) returns bigint language plpgsql as $$
declare
    plan json;
begin
    execute query;                          -- catalogs are cached after it
    execute 'explain (analyze, buffers, costs off, timing off, summary off, format json) ' || query into plan;
    return (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::bigint;
end
$$;
select q.what, pages_of(q.query) <= 20 as few_pages
    from (values
        ('ten of 2000', 'select * from evsource.read_stream(''ledger'', 1500, 10)'),
        ('the last ten', 'select * from evsource.read_stream(''ledger'', null, 10, true)'),
        ('the version', 'select evsource.stream_version(''ledger'')'),
        ('ten of a category', 'select * from evsource.read_category(''invoice'', 15000, 10)'),
        ('ten of one category in the log', 'select * from evsource.read_all(15000, 10, categories => ''{invoice}'')'),
        ('ten of the log', 'select * from evsource.read_all(15000, 10)'),
        ('an id of the server', 'select * from evsource.read_event((select id from evsource.read_stream(''order-7'', 5, 1)))'),
        ('an id of a client', 'select * from evsource.read_event(''6a6f0000-0000-4000-8000-000000000001'')')) q (what, query);

\c :home
drop database evsource_read_plans;
