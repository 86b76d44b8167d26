-- How far a projection is behind is counted up to a limit of events, and estimated
-- beyond it. The views' limit is 100000; here the function is asked with smaller ones.

create function create_lagging(projection text, partitions integer default 1, variadic filter text[] default '{}') returns text language sql as $$
    select evsource.create_projection(projection, 'evsource._noop', mode => 'async', start => 'now', partitions => partitions,
        categories => nullif(array(select substr(f, 3) from unnest(filter) f where f like 'c:%'), '{}'),
        types => nullif(array(select substr(f, 3) from unnest(filter) f where f like 't:%'), '{}'))
$$;
select create_lagging('lag_all');
select create_lagging('lag_types', 1, 't:Even');
select create_lagging('lag_rare', 1, 't:Rare');
select create_lagging('lag_none', 1, 't:None');
select create_lagging('lag_category', 1, 'c:lag');
select create_lagging('lag_categories', 1, 'c:lag', 'c:other');
select create_lagging('lag_no_category', 1, 'c:none');
select create_lagging('lag_parts', 4);

-- At most so many events are looked at. Is it what there is, when it says so? And how
-- far is an estimate off?
create function look(projection text, at_most bigint, takes bigint) returns text language sql as $$
    select case when l.estimated then 'estimated' else 'exact' end || ', ' ||
        case when l.lag = takes then l.lag::text
             when not l.estimated then format('WRONG: %s, not %s', l.lag, takes)
             when l.lag between takes * 0.8 and takes * 1.2 then 'about ' || takes
             else format('%s for %s', l.lag, takes) end ||
        case when (l.lag_seconds > 0) <> (takes > 0) then ', WRONG: ' || l.lag_seconds || ' s' else '' end
    from evsource._projection_lag(projection, at_most) l
$$;
create view looks as
    select p.projection, x.takes, look(p.projection, 10, x.takes) as at_most_10, look(p.projection, 99, x.takes) as at_most_99,
        look(p.projection, 1000, x.takes) as at_most_1000, s.lag = x.takes as shown, s.lag_estimated
    from evsource.projections p
    join evsource.projection_status s using (projection)
    cross join lateral (
        select count(*) as takes from evsource.events e
        where e.position > p.start_after
            and (p.types is null or e.type = any (p.types)) and (p.categories is null or evsource.category(e.stream) = any (p.categories))) x
    where p.projection like 'lag\_%'
    order by 1;

-- Nothing is behind.
select projection, at_most_10, shown, lag_estimated from looks;

-- A hundred events: every other one Even, the last one Rare; a fifth of another category.
select count(*) from generate_series(1, 100) i, lateral evsource.append(
    case when i % 5 = 0 then 'other-' else 'lag-' end || i % 20, case when i = 100 then 'Rare' when i % 2 = 0 then 'Even' else 'Odd' end);
select * from looks;

-- What is at the limit exactly is counted; with one more event behind it, it is not.
select lag, estimated from evsource._projection_lag('lag_all', 100);
select lag, estimated from evsource._projection_lag('lag_all', 99);
select lag > 0 as some, estimated from evsource._projection_lag('lag_all', 0);
-- Where it takes none of these, what there is behind counts.
select lag, estimated from evsource._projection_lag('lag_rare', 0);
select lag, estimated from evsource._projection_lag('lag_none', 0);
select lag, estimated from evsource._projection_lag('nobody', 10);

-- Partitions are at different positions.
update evsource.partitions set position = (select max(position) from evsource.events) where projection = 'lag_parts' and partition < 2;
select l.lag = e.lag as counted, not l.estimated as exact, h.lag between e.lag * 0.6 and e.lag * 1.4 as near, h.estimated
from evsource._projection_lag('lag_parts', 100) l, evsource._projection_lag('lag_parts', 50) h,
    lateral (select count(*) as lag from evsource.events v where v.position > (select start_after from evsource.projections where projection = 'lag_parts')
        and evsource._partition(v.stream, 4) >= 2) e;

-- Applied, nothing is behind again.
select count(evsource.run_projection(projection)) from evsource.projections where projection like 'lag\_%';
select projection, at_most_10 is not null as looked, (select lag from evsource._projection_lag(projection, 0)) as lag, lag_estimated from looks;

-- The view's limit. One that is applied within the append has no lag, and nothing to estimate.
select evsource.create_projection('lag_inline', 'evsource._noop', start => 'now', categories => '{none}');
select count(*) from generate_series(1, 100) i, lateral evsource.append_json('lag-' || i,
    (select jsonb_agg('{"type": "Many"}'::jsonb) from generate_series(1, 1001)));
select projection, lag_estimated, lag, lag_seconds > 0 as behind from evsource.projection_status where projection like 'lag\_%' order by 1;

-- It is counted once for all columns, and not where none of them is asked for.
create function times(query text) returns bigint language plpgsql as $$
declare
    counter constant oid := 'evsource._projection_lag(text, bigint)'::regprocedure;
    before bigint := coalesce(pg_stat_get_xact_function_calls(counter), 0);
begin
    execute query;
    return coalesce(pg_stat_get_xact_function_calls(counter), 0) - before;
end
$$;
begin;
set local track_functions = 'all';
select times($$select * from evsource.projection_status where projection = 'lag_all'$$) as one,
    times($$select projection, state, position, event_count from evsource.projection_status$$) as none,
    times($$select * from evsource.projection_status where projection = 'lag_inline'$$) as live;
rollback;

select evsource.drop_projection(projection) from evsource.projections where projection like 'lag\_%';
drop view looks;
drop function look, create_lagging, times;
