-- A query that reads new_events once gets many events as a stream; what it computes is the same.
insert into evsource.events (stream, type, data)
select 'streamed-' || i % 100, case when i % 10 = 0 then 'Withdrawn' else 'Deposited' end,
    jsonb_build_object('amount', i, 'text', repeat(md5(i::text), 4))
from generate_series(1, 25000) i;

create view streamed as select * from evsource.read_all(0, 100000, categories => '{streamed}');
create table facts (fact text primary key, value text);
create function check_query(query text, expected text) returns text language plpgsql
set timezone = 'UTC' set datestyle = 'ISO, MDY' -- as handlers have it
as $$
declare
    found text;
    applied bigint;
begin
    truncate facts;
    perform evsource.create_projection('facts', mode => 'manual', query => query, tables => '{facts}', categories => '{streamed}');
    applied := evsource.run_projection('facts');
    perform evsource.drop_projection('facts');
    execute expected into found;
    return format('%s events, %s', applied,
        case when (select string_agg(value, ',' order by fact) from facts) is not distinct from found then 'equal' else 'different: '
            || coalesce((select string_agg(value, ',' order by fact) from facts), 'nothing') || ' instead of ' || coalesce(found, 'nothing') end);
end $$;

-- Aggregates, with conditions on columns that are not selected.
select check_query($$ insert into facts select 'sum', sum((data->>'amount')::int) from new_events where type = 'Withdrawn' and version > 10 $$,
    $$ select sum((data->>'amount')::int) from streamed where type = 'Withdrawn' and version > 10 $$);

-- Every column is there, also in a whole row.
select check_query($$ insert into facts select 'all', md5(string_agg(new_events::text, '' order by position)) from new_events $$,
    $$ select md5(string_agg(e::text, '' order by position)) from streamed e $$);
select check_query($$ insert into facts select 'all', md5(string_agg(concat_ws(' ', position, stream, version, type, data, metadata, id, occurred_at, recorded_at), '' order by position))
        from new_events $$,
    $$ select md5(string_agg(concat_ws(' ', position, stream, version, type, data, metadata, id, occurred_at, recorded_at), '' order by position))
        from streamed $$);

-- They come in order, the first of them, which were stored, before the others.
select check_query($$ insert into facts select 'order', md5(array_agg(position)::text) from new_events $$,
    $$ select md5(array_agg(position order by position)::text) from streamed $$);

-- Subqueries, windows, grouping sets and DISTINCT read their input once.
select check_query($$
        insert into facts select stream, max(lag) from (
            select stream, version - lag(version) over (partition by stream order by version) as lag from (
                select * from new_events offset 0) e) lags
        where lag is not null group by stream $$,
    $$ select string_agg('1', ',') from generate_series(1, 100) $$);
select check_query($$ insert into facts select coalesce(type, stream, 'all'), count(*) from new_events
        group by grouping sets ((type), (stream), ()) having count(*) > 1000 $$,
    $$ select '22500,2500,25000' where (select array_agg(x order by x) from (values ('Deposited'), ('Withdrawn'), ('all')) v (x)) is not null $$);
select check_query($$ insert into facts select distinct on (stream) stream, position from new_events order by stream, version desc $$,
    $$ select string_agg(max::text, ',' order by stream) from (select stream, max(position) from streamed group by stream) last $$);

-- A query that stops early has applied them all.
select check_query($$ insert into facts select 'first', position from new_events where type = 'Withdrawn' limit 1 $$,
    $$ select min(position) from streamed where type = 'Withdrawn' $$);
select check_query($$ insert into facts select 'late', position from new_events where (data->>'amount')::int > 20000 limit 1 $$,
    $$ select min(position) from streamed where (data->>'amount')::int > 20000 $$);

-- An upsert gets a stream as well: so many events as rows would not fit into memory.
set maintenance_work_mem = '4MB';
set log_temp_files = 0;
set client_min_messages = log;
select check_query($$ insert into facts as f select stream, sum(length(data::text)) from new_events group by stream
        on conflict (fact) do update set value = f.value::int + excluded.value::int where f.value <> excluded.value $$,
    $$ select string_agg(sum::text, ',' order by stream) from (select stream, sum(length(data::text)) from evsource.events where stream like 'streamed-%' group by stream) s $$);
reset client_min_messages;
reset log_temp_files;
reset maintenance_work_mem;

-- Queries that read new_events more often, or together with something else, are right as well.
select check_query($$ insert into facts select 'both', count(*) from new_events a join new_events b using (position) $$, 'select 25000');
select check_query($$ insert into facts select 'in', count(*) from new_events where position in (select max(position) from new_events group by stream) $$,
    'select 100');
-- Also where that is a subquery that PostgreSQL makes a join of.
create table few as select 'streamed-' || n as stream from generate_series(1, 3) n;
set enable_hashjoin = off;
set enable_mergejoin = off;
set enable_material = off;
select check_query($$ insert into facts select 'few', count(*) from new_events where stream in (select stream from few) $$, 'select 750');
select check_query($$ insert into facts select 'few', count(*) from new_events e where exists (select from few f where f.stream = e.stream) $$, 'select 750');
reset enable_hashjoin;
reset enable_mergejoin;
reset enable_material;
select check_query($$ insert into facts select 'joined', count(*) from generate_series(1, 2) g, new_events where version % 50 = g $$, 'select 1000');
select check_query($$ insert into facts select 'once', (select count(*) from new_events) from generate_series(1, 1) $$, 'select 25000');
select check_query($$ insert into facts select 'or', count(*) from (select 1 from new_events union all select 2 from new_events) u $$, 'select 50000');
select check_query($$ with e as (select * from new_events), n as (select count(*) from e)
        insert into facts select 'with', n.count from n where exists (select 1 from e) $$, 'select 25000');

-- A trigger's own new_events is another one, and so is what a handler's appends are dispatched with.
create table seen (rows bigint);
create function see() returns trigger language plpgsql as $$
begin
    insert into seen select count(*) from new_events;
    return null;
end $$;
create trigger see after insert on facts referencing new table as new_events for each statement execute function see();
create table notes (events bigint);
select evsource.create_projection('notes', query => 'insert into notes select count(*) from new_events', categories => '{streamnote}');
create function append_note(facts) returns bigint language sql as $$ select (evsource.append('streamnote-1', 'Noted', '{}')).position $$;
create function note() returns trigger language plpgsql as $$
begin
    perform append_note(new);
    return null;
end $$;
create trigger note after insert on facts for each row execute function note();
select check_query($$ insert into facts select type, count(*) from new_events group by type $$, $$ select '22500,2500' $$);
select rows from seen;
select sum(events) as noted from notes;
drop trigger see on facts;
drop trigger note on facts;

-- An error on the way takes back what was streamed: the rest is applied when the reason is gone.
create function not_yet(bigint) returns bigint language plpgsql as $$
begin
    if $1 > 20000 and current_setting('stream.fails', true) = 'on' then
        raise exception 'not yet';
    end if;
    return $1;
end $$;
truncate facts;
select evsource.create_projection('fails', mode => 'manual', tables => '{facts}', categories => '{streamed}',
    query => 'insert into facts as f select stream, sum(not_yet(version * 100)) from new_events group by stream
        on conflict (fact) do update set value = f.value::numeric + excluded.value::numeric');
set stream.fails = on;
set client_min_messages = error;
select evsource.run_projection('fails');
reset client_min_messages;
select count(*) from facts;
set stream.fails = off;
select evsource.run_projection('fails');
select count(*), sum(value::numeric) from facts;
-- So it is when the query's tables have changed.
alter table facts add column more int;
select evsource.reset_projection('fails');
select evsource.run_projection('fails');
select evsource.drop_projection('fails');

-- A rule that makes two statements of the query reads new_events twice.
create rule also as on insert to facts do also insert into seen values (new.value::bigint);
select check_query($$ insert into facts select 'sum', sum(version) from new_events $$, 'select 3137500');
select rows from seen where rows > 100;
drop rule also on facts;

-- Streamed events are stored nowhere: only what reads them twice needs a place for them.
set maintenance_work_mem = '1MB';
set temp_file_limit = '4MB';
select check_query($$ insert into facts select 'length', sum(length(data::text)) from new_events $$,
    $$ select sum(length(data::text)) from evsource.events where evsource.category(stream) = 'streamed' $$);
do $$
begin
    perform evsource.create_projection('twice', query => 'insert into facts select count(*) from new_events a join new_events b using (position, data)',
        categories => '{streamed}');
exception when configuration_limit_exceeded then
    raise notice 'too much to be stored';
end $$;
reset temp_file_limit;
reset maintenance_work_mem;

select evsource.drop_projection('notes');
drop view streamed;
drop function check_query(text, text), see(), note(), append_note(facts), not_yet(bigint);
drop table facts, seen, notes, few;
