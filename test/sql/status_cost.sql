-- The views for monitoring count few events of a log that may be large. PostgreSQL
-- must not believe that they count many: it would compile them first (jit), which
-- takes seconds.

create table costed (position bigint);
select evsource.create_projection('costed_inline', query => 'insert into costed select position from new_events',
    categories => '{costed}', start => 'now');
select evsource.create_projection('costed_async', 'evsource._noop', mode => 'async', categories => '{costed}', start => 'now');
select evsource.create_projection('costed_parts', 'evsource._noop', mode => 'async', categories => '{costed}', partitions => 2,
    start => 'now');
select evsource.create_subscription('costed', categories => '{costed}', start => 'now');
select count(*) from generate_series(1, 10) i, lateral evsource.append('costed-' || i % 3, 'Placed');

create function estimate(view text, what text) returns float language plpgsql as $$
declare
    plan json;
begin
    execute format('explain (format json) select * from evsource.%I', view) into plan;
    return plan -> 0 -> 'Plan' ->> what;
end
$$;

-- A log that the planner takes for a hundred million events, or more.
begin;
update pg_class set reltuples = 1e8, relpages = 1 where oid = 'evsource.events'::regclass;
update pg_class set reltuples = 1e8
    where oid in (select i.indexrelid from pg_index i where i.indrelid = 'evsource.events'::regclass);
select estimate('events', 'Plan Rows') >= 1e8 as many;
select v as view, estimate(v, 'Total Cost') < current_setting('jit_above_cost')::float as below_jit
    from unnest(array['projection_status', 'subscription_status', 'progress', 'blockers', 'daemon_status', 'stats',
        'snapshot_stats', 'snapshot_status']) v;
rollback;

-- They count them, all the same.
create view costed_lags as
    select projection as name, lag, lag_seconds > 0 as behind, event_count from evsource.projection_status
    union all
    select 'subscription ' || subscription, lag, lag_seconds > 0, null from evsource.subscription_status;
select * from costed_lags where name like '%costed%' order by 1;
select evsource.run_projection(p) from unnest('{costed_async,costed_parts}'::text[]) p;
select count(evsource.ack(receipt)) from evsource.fetch_events('costed');
select * from costed_lags where name like '%costed%' order by 1;
begin;
select position from evsource.append('costed-1', 'Placed') \gset
select first_position = :position as first, events_withheld from evsource.blockers;
select events = (select count(*) from evsource.events) as events,
       streams = (select count(*) from evsource.streams) as streams
    from evsource.stats where not estimated;
rollback;

select evsource.drop_subscription('costed');
select evsource.drop_projection(p) from unnest('{costed_inline,costed_async,costed_parts}'::text[]) p;
drop view costed_lags;
drop function estimate;
drop table costed;
