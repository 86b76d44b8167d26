-- monitor.sql: what is registered, how far it is, what is under way.

-- Exactly where there are at most so many events to look at; else an estimate.
create function evsource._projection_lag(
    projection text, at_most bigint,
    out lag bigint, out estimated boolean, out lag_seconds double precision)
    language c stable strict parallel unsafe cost 1000
    as 'MODULE_PATHNAME', 'evsource_projection_lag';
comment on function evsource._projection_lag(text, bigint) is
'Internal: how many events a projection that is not live has yet to apply, and how long ago the first of them was recorded.';

-- How many events are after a position the planner cannot know, and it guesses a third
-- of them all: for that many it would compile the query, which takes seconds. So the
-- events are counted in a function of their own, where it does not. It is the view's:
-- with its owner's rights, as the view is.

create function evsource._projection_uncounted(text) returns bigint
    language sql stable strict parallel unsafe security definer cost 1000
    set search_path = pg_catalog, pg_temp set jit = off
    as $$
select case
    when p.categories is null then (
        select count(*) from evsource.events e
        where e.position > c.position
          and (p.types is null or e.type = any (p.types)))
    else (
        select count(*) from evsource.events e
        where e.position > c.position
          and evsource.category(e.stream) = any (p.categories)
          and (p.types is null or e.type = any (p.types)))
    end
from evsource.projections p join evsource._checkpoints c using (projection)
where p.projection = $1
$$;
comment on function evsource._projection_uncounted(text) is
'Internal: how many events a live projection has applied that its checkpoint does not count.';

-- Counting is left to whoever asks for these columns: an inline projection
-- keeps no counter, so that no append waits for another. And it is done once
-- for the three of the lag: "offset 0" keeps the subquery as it is.
create view evsource.projection_status as
    select p.projection, p.mode, p.kind, p.state, p.stale,
           case when s.live then (select coalesce(max(e.position), 0) from evsource.events e)
                else c.position
           end as position,
           case when s.live then 0 else (l.counted).lag end as lag,
           not s.live and (l.counted).estimated as lag_estimated,
           case when s.live then 0.0::double precision else (l.counted).lag_seconds end as lag_seconds,
           c.event_count + case when s.live then evsource._projection_uncounted(p.projection) else 0 end as event_count,
           p.state_version, p.owner,
           f.message as last_error,
           f.position as last_error_position,
           f.failed_at as last_error_at,
           c.conflicts,
           w.pid as worker_pid,
           w.heartbeat,
           (select count(*) from evsource.dead_letters d where d.projection = p.projection) as dead_letters,
           h.held_by
    from evsource.projections p
    join evsource._checkpoints c using (projection)
    left join lateral (
        (select s.message, s.position, s.failed_at from evsource.projection_failures s
         where s.projection = p.projection
         order by s.retry_at is not null, s.position, s.partition
         limit 1)
        union all
        -- what it has got past by leaving it aside
        (select d.message, d.position, d.failed_at from evsource.dead_letters d
         where d.projection = p.projection and d.failed_at is not null
         order by d.failed_at desc, d.position desc
         limit 1)
        limit 1) f on true
    left join (
        select distinct on (v.projection) v.projection, v.pid, v.heartbeat
        from evsource._projection_workers() v
        order by v.projection, v.busy desc, v.partition) w on w.projection = p.projection
    -- A session that works on one has a lock of its name to the end of its transaction: of
    -- the hash, see src/lock_classes.h. A prepared transaction has no
    -- pid; it is known by the lock of its own id.
    left join (
        select l.classid, l.objid,
               string_agg(distinct coalesce('pid ' || l.pid, 'prepared transaction ' || x.gid), ', ') as held_by
        from pg_locks l
        left join (
            select t.virtualtransaction, q.gid
            from pg_prepared_xacts q
            join pg_locks t on t.locktype = 'transactionid' and t.transactionid = q.transaction and t.pid is null
        ) x on l.pid is null and x.virtualtransaction = l.virtualtransaction
        where l.locktype = 'advisory' and l.objsubid = 231 and l.granted
              and l.database = (select d.oid from pg_database d where d.datname = current_database())
              and not exists (select from evsource._daemon_workers() v where v.pid = l.pid)
        group by l.classid, l.objid
    ) h on h.classid = (hashtextextended(p.projection, 0) >> 32 & 4294967295)::oid
           and h.objid = (hashtextextended(p.projection, 0) & 4294967295)::oid
    cross join lateral (select p.mode = 'inline' and p.state = 'active') s (live)
    cross join lateral (
        select evsource._projection_lag(case when not s.live then p.projection end, 100000) as counted offset 0) l;
comment on view evsource.projection_status is
'Registered projections: how far each has applied the log, how many events it lags behind, has applied and has set aside, which worker of the daemon applies it, and which other sessions hold it.';

-- A session's rate is what it has done since it began to work on it, so that a
-- rebuild which was interrupted for a day does not look slow. Whether it is online was
-- decided with its first step; until then it is what was asked for.
create view evsource.progress as
    select w.projection, w.state, w.online, w.events_done,
           case when w.total is not null then greatest(w.total, w.events_done) end as events_total,
           case when w.total > 0
                then round(100.0 * least(w.events_done, w.total) / w.total, 1)
                when w.total = 0 then 100.0
           end as percent,
           round(r.rate::numeric, 1) as events_per_second,
           case when r.rate > 0 and b.pids is null
                then make_interval(secs => greatest(w.total - w.events_done, 0) / r.rate)
           end as time_left,
           w.position, w.started_at, w.updated_at, w.last_error,
           case when a.at_work then w.pid end as pid,
           b.pids as waits_for,
           w.last_error_position, w.sqlstate, w.detail, w.hint, w.context
    from (
        select p.projection, case b.state when 'failed' then b.state else p.state end as state, false as online, c.event_count as events_done, c.total,
               c.position, c.started_at, c.updated_at, c.resumed_at, c.resumed_count, b.last_error,
               b.projection is not null as is_rebuild, b.background, b.pid, b.waits_for,
               b.last_error_position, b.sqlstate, b.detail, b.hint, b.context
        from evsource._checkpoints c
        join evsource.projections p using (projection)
        left join (evsource.rebuilds b
            cross join lateral (select b.shadow is not null or b.started_at is null and b.online) d (online))
            on b.projection = p.projection and not d.online
        where c.started_at is not null
        union all
        select b.projection, case b.state when 'building' then 'rebuilding' when 'kept' then 'dropping' else b.state end,
               d.online, b.event_count, case when b.started_at is not null then b.total end,
               b.position, b.started_at, b.updated_at, b.resumed_at, b.resumed_count, b.last_error,
               true, b.background, b.pid, b.waits_for,
               b.last_error_position, b.sqlstate, b.detail, b.hint, b.context
        from evsource.rebuilds b
            cross join lateral (select b.shadow is not null or b.started_at is null and b.online) d (online)
        where (b.state <> 'kept' or not b.keep_old or b.last_error is not null) and (d.online or b.state in ('requested', 'failed'))
            and not exists (select from evsource.checkpoints c
                            where c.projection = b.projection and c.started_at is not null and not d.online)
    ) w
    -- A worker is at it between two transactions, too. Who has called for it is in
    -- one; and not in that which asks here.
    cross join lateral (
        select case when w.background
                    then exists (select from pg_stat_activity p where p.pid = w.pid)
                    else w.pid <> pg_backend_pid() and exists (
                        select from pg_locks l where l.pid = w.pid and l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock')
               end as at_work) a
    -- who has gone meanwhile is in nobody's way
    cross join lateral (
        select case when a.at_work then (
                        select array_agg(distinct l.pid order by l.pid) from pg_locks l
                        where l.pid = any (w.waits_for) and l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock')
               end as pids) b
    cross join lateral (
        select case when w.updated_at > w.resumed_at and (a.at_work or not w.is_rebuild)
                    then (w.events_done - w.resumed_count) / extract(epoch from w.updated_at - w.resumed_at)::double precision
               end as rate) r;
comment on view evsource.progress is
'Rebuilds that are requested, under way or have failed, and projections that catch up: how many events are applied, of how many, how fast.';
