-- monitor.sql: what is registered, how far it is, what is under way.

-- Counting is left to whoever asks for these columns: an inline projection
-- keeps no counter, so that no append waits for another.
create view evsource.projection_status as
    select p.projection, p.mode, p.kind, p.state, p.stale,
           case when s.live then (select coalesce(max(e.position), 0) from evsource.events e)
                else c.position
           end as position,
           case when s.live then 0
                when p.categories is null then (
                    select count(*) from evsource.events e
                    where e.position > c.position
                      and e.position > p.start_after
                      and (p.types is null or e.type = any (p.types))
                      and (p.partitions = 1 or e.position > (
                          select q.position from evsource.partitions q
                          where q.projection = p.projection and q.partition = evsource._partition(e.stream, p.partitions))))
                else (
                    select count(*) from evsource.events e
                    where e.position > c.position
                      and e.position > p.start_after
                      and evsource.category(e.stream) = any (p.categories)
                      and (p.types is null or e.type = any (p.types))
                      and (p.partitions = 1 or e.position > (
                          select q.position from evsource.partitions q
                          where q.projection = p.projection and q.partition = evsource._partition(e.stream, p.partitions))))
           end as lag,
           case when s.live then 0.0::double precision
                else coalesce((
                    select extract(epoch from clock_timestamp() - e.recorded_at)::double precision
                    from evsource.events e
                    where e.position > c.position and e.position > p.start_after
                      and (p.categories is null or evsource.category(e.stream) = any (p.categories))
                      and (p.types is null or e.type = any (p.types))
                      and (p.partitions = 1 or e.position > (
                          select q.position from evsource.partitions q
                          where q.projection = p.projection and q.partition = evsource._partition(e.stream, p.partitions)))
                    order by e.position
                    limit 1), 0.0::double precision)
           end as lag_seconds,
           c.event_count + case
                when not s.live then 0
                when p.categories is null then (
                    select count(*) from evsource.events e
                    where e.position > c.position
                      and (p.types is null or e.type = any (p.types)))
                else (
                    select count(*) from evsource.events e
                    where e.position > c.position
                      and evsource.category(e.stream) = any (p.categories)
                      and (p.types is null or e.type = any (p.types)))
           end as event_count,
           p.state_version, p.owner,
           f.message as last_error,
           f.position as last_error_position,
           f.failed_at as last_error_at
    from evsource.projections p
    join evsource._checkpoints c using (projection)
    left join lateral (
        select s.message, s.position, s.failed_at from evsource.projection_failures s
        where s.projection = p.projection
        order by s.retry_at is not null, s.position, s.partition
        limit 1) f on true
    cross join lateral (select p.mode = 'inline' and p.state = 'active') s (live);
comment on view evsource.projection_status is
'Registered projections: how far each is, how many events it lags behind and how many it has applied.';

create view evsource.progress as
    select p.projection, p.state,
           c.event_count as events_done,
           greatest(c.total, c.event_count) as events_total,
           case when c.total > 0
                then round(100.0 * least(c.event_count, c.total) / c.total, 1)
                else 100.0
           end as percent,
           c.position, c.started_at, c.updated_at
    from evsource._checkpoints c
    join evsource.projections p using (projection)
    where c.started_at is not null;
comment on view evsource.progress is
'Projections that are rebuilt or catch up: how many events are applied, and of how many.';
