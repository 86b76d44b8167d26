-- dispatch_query: what a query is given to read, and what it makes of it.

-- A log of its own.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_dispatch_query;
create database evsource_dispatch_query;
\c evsource_dispatch_query
create extension evsource;

create schema shop;
set search_path = shop;

-- Of many events a query gets only the columns that it reads, however it reads
-- them: the same text over a view of the same events finds the same.
create view new_events as
    select (e).* from evsource.read_category('shape', max_count => 1000000) e where (e).version > 1;
create table other (stream text, n int);
insert into other select 'shape-' || i, i from generate_series(1, 3) i;
create table shapes (name text primary key, body text);
create table digests (name text, digest text);
insert into shapes values
    ('count', $$select 'x', count(*) from new_events$$),
    ('one', $$select stream, count(*) from new_events group by stream$$),
    ('all', $$select * from new_events$$),
    ('each', $$select position, stream, version, type, data, metadata, id, occurred_at, recorded_at from new_events$$),
    ('last', $$select recorded_at, id from new_events$$),
    ('row', $$select n::text from new_events n$$),
    ('row as value', $$select row(n.*)::evsource.event from new_events n$$),
    ('row to function', $$select row_to_json(n)::text from new_events n$$),
    ('row counted', $$select count(n) from new_events n$$),
    ('renamed', $$select c, e from new_events n (a, b, c, d, e)$$),
    ('where', $$select version from new_events where metadata = '{}' and data ->> 'n' like '%7'$$),
    ('order', $$select type from new_events order by occurred_at, version limit 10$$),
    ('distinct', $$select distinct on (stream) stream, data from new_events order by stream, position desc$$),
    ('window', $$select row_number() over (partition by stream order by id) from new_events$$),
    ('subquery', $$select y from (select version + position as y, id from new_events) s where y % 2 = 0$$),
    ('cte', $$with c as (select stream, version from new_events), d as (select count(*) as n from new_events where type = 'T1') select c.*, d.n from c, d$$),
    ('join', $$select e.data, o.n from new_events e join other o on o.stream = e.stream$$),
    ('join using', $$select stream, n, type from new_events join other using (stream)$$),
    ('join alias', $$select j.version, j.n from (new_events left join other using (stream)) as j$$),
    ('join whole', $$select j.* from (new_events join other using (stream)) as j$$),
    ('join row', $$select j::text from (new_events natural join other) as j$$),
    ('full join', $$select coalesce(n, 0), metadata from new_events full join other using (stream)$$),
    ('self join', $$select a.data, b.version from new_events a join new_events b on b.version = a.version + 1 and a.stream = b.stream$$),
    ('join in lateral', $$select s.x from (new_events e join other o using (stream)), lateral (select e.id::text || j.n as x from other j where j.stream = e.stream) s$$),
    ('alias in lateral', $$select s.x from (new_events join other using (stream)) as j, lateral (select j.id, j.occurred_at from other limit 1) s (x, y)$$),
    ('lateral', $$select k.key, k.value from new_events e, lateral jsonb_each(e.data) k$$),
    ('correlated', $$select n, (select max(e.position) from new_events e where e.stream = o.stream) from other o$$),
    ('outer', $$select (select o.n + e.version from other o where o.stream = e.stream) from new_events e$$),
    ('outer twice', $$select (select (select count(*) + e.version from other p where p.stream = o.stream) from other o where o.stream = e.stream) from new_events e$$),
    ('exists', $$select stream from other o where exists (select from new_events e where e.stream = o.stream and e.metadata ? 'm')$$),
    ('union', $$select version, type from new_events union select position, stream from new_events$$),
    ('values', $$select v.x from new_events e, lateral (values (e.type), (e.stream)) v (x)$$),
    ('filter', $$select count(*) filter (where metadata ? 'm'), max(stream) from new_events$$),
    ('grouping', $$select stream, type, count(*), grouping(stream, type) from new_events group by grouping sets ((stream), (type), ())$$),
    ('group by expression', $$select version % 3, sum(position) from new_events group by version % 3 having max(id::text) > ''$$);
select count(evsource.create_projection('shape ' || name, start => 'now', query => format(
    'insert into digests select %L, md5(string_agg(t, '','' order by t collate "C")) from (select s::text as t from (%s) s) s', name, body)))
from shapes;
-- after one event of each stream, which the view leaves out: 1500 events
insert into evsource.events (stream, type) select 'shape-' || i, 'T' from generate_series(0, 4) i;
delete from digests;
insert into evsource.events (stream, type, data, metadata, occurred_at, id)
    select 'shape-' || i % 5, 'T' || i % 3, jsonb_build_object('n', i, 'm', i % 10),
        case when i % 2 = 0 then jsonb_build_object('m', i) end,
        case when i % 7 = 0 then '2020-02-20'::timestamptz + i * interval '1 minute' end,
        case when i % 11 = 0 then md5(i::text)::uuid end
    from generate_series(1, 1500) i;
create function digest(body text) returns text language plpgsql
set timezone = 'UTC' set datestyle = 'ISO, MDY' -- as handlers have it
as $$
declare
    result text;
begin
    execute format('select md5(string_agg(t, '','' order by t collate "C")) from (select s::text as t from (%s) s) s', body) into result;
    return result;
end
$$;
select count(*) as queries, count(digest) as answers, count(distinct digest) > 25 as many_answers from digests;
select name, body from shapes s left join digests d using (name) where d.digest is distinct from digest(s.body) order by name;
select count(evsource.drop_projection('shape ' || name)) from shapes;
-- A name that a change of another table makes a name of ours.
create table answers (what text);
alter table other add column type text default 'of the other';
select evsource.create_projection('names', query => $$
    insert into answers select distinct (select type from other limit 1) from new_events$$, categories => '{name}');
insert into evsource.events (stream, type) select 'name-1', 'of the event' from generate_series(1, 1200) i;
alter table other drop column type;
insert into evsource.events (stream, type) select 'name-1', 'of the event' from generate_series(1, 1200) i;
select * from answers order by what;
select evsource.drop_projection('names');
-- UPDATE, DELETE and (where there is one) MERGE read it too.
create table stock (item text primary key, n int, seen bigint);
insert into stock select 'item ' || i, 0, 0 from generate_series(0, 9) i;
select evsource.create_projection('a_stock', query => $$
    update stock s set n = s.n + e.n, seen = e.last
    from (select data ->> 'item' as item, count(*) as n, max(version) as last from new_events group by 1) e where s.item = e.item$$,
    categories => '{stock}');
select evsource.create_projection('b_gone', query => $$
    delete from stock using new_events e where type = 'Gone' and item = e.data ->> 'item'$$, categories => '{stock}');
do $do$
begin
    perform evsource.create_projection('c_merged', categories => '{stock}', query => case
        when current_setting('server_version_num')::int >= 150000 then
            $$merge into stock s using (select distinct data ->> 'item' as item, metadata from new_events where type = 'New') e on s.item = e.item
            when matched then update set n = -1 when not matched then insert values (e.item, 0, 0)$$
        else
            $$insert into stock select data ->> 'item', 0, 0 from new_events where type = 'New' on conflict (item) do update set n = -1$$ end);
end
$do$;
insert into evsource.events (stream, type, data)
    select 'stock-1', case i when 1490 then 'Gone' when 1500 then 'New' else 'Sold' end,
        jsonb_build_object('item', 'item ' || case i when 1490 then 3 when 1500 then 10 else i % 10 end)
    from generate_series(1, 1500) i;
select * from stock order by item;
select evsource.drop_projection(p) from unnest('{a_stock,b_gone,c_merged}'::text[]) p;

\c :home
drop database evsource_dispatch_query;
