-- blockers.sql: who holds the log back, and what the log holds. See src/blockers.c.

create function evsource._holders(out bound bigint, out pid integer, out xid xid)
    returns setof record
    language c volatile parallel unsafe rows 10
    as 'MODULE_PATHNAME', 'evsource_holders';
comment on function evsource._holders() is 'Internal: the open and prepared transactions that have appended, see evsource.blockers.';

-- In functions of their own for the reason that those of monitor.sql have.

create function evsource._events_from("position" bigint) returns bigint
    language sql stable strict parallel unsafe security definer cost 1000
    set search_path = pg_catalog, pg_temp set jit = off
    as 'select count(*) from evsource.events e where e.position >= $1';
comment on function evsource._events_from(bigint) is 'Internal: how many events the log has from a position on.';

create function evsource._first_events() returns bigint
    language sql stable parallel unsafe security definer cost 1000
    set search_path = pg_catalog, pg_temp set jit = off
    as 'select count(*) from evsource.events e where e.version = 1';
comment on function evsource._first_events() is 'Internal: how many events are the first of their streams.';

-- The functions of this view look with the rights of who asks: of other roles'
-- sessions, pg_stat_activity tells only members of pg_read_all_stats.
create view evsource.blockers as
    select h.pid, p.gid, coalesce(a.usename, p.owner) as username, a.application_name, a.state, a.query,
           clock_timestamp() - coalesce(a.xact_start, p.prepared) as transaction_age,
           h.bound as first_position,
           evsource._events_from(h.bound) as events_withheld
    from evsource._holders() h
    left join pg_catalog.pg_stat_activity a on a.pid operator(pg_catalog.=) h.pid
    left join pg_catalog.pg_prepared_xacts p on p.transaction operator(pg_catalog.=) h.xid
    order by h.bound;
comment on view evsource.blockers is
'Open and prepared transactions that have appended; the first row holds the safe position back. events_withheld counts the committed events that no reader of the log gets before this transaction ends.';

-- Counting a large log takes its time. Above some size the counts are what the
-- planner would say: rows a page at the last VACUUM or ANALYZE, times the pages
-- of now.
create view evsource.stats as
    select case when s.estimated then s.events_density * s.pages
                else evsource._events_from(0) end::bigint as events,
           case when s.estimated then s.streams_density * s.first_pages
                else evsource._first_events() end::bigint
               + (select count(*) from evsource.truncations t
                  where not exists (select from evsource.events e where e.stream = t.stream and e.version = 1)) as streams,
           s.estimated,
           pg_total_relation_size('evsource.events'::regclass) as bytes,
           (select count(*) / greatest(extract(epoch from case
                        when count(*) = 10000 then clock_timestamp() - min(r.recorded_at)
                        else interval '10 s' end)::double precision, 0.001)
            from (select t.recorded_at
                  from (select e.recorded_at from evsource.events e order by e.position desc limit 10000) t
                  where t.recorded_at > clock_timestamp() - interval '10 s') r) as events_per_second,
           l.last_position, l.safe_position, h.in_flight, h.held_by
    from (
        select c.relpages > 0 and c.reltuples > 0 and f.relpages > 0
                   and pg_relation_size(c.oid) > 64 * 1024 * 1024 as estimated,
               c.reltuples / nullif(c.relpages, 0) as events_density,
               pg_relation_size(c.oid) / current_setting('block_size')::integer as pages,
               f.reltuples / nullif(f.relpages, 0) as streams_density,
               pg_relation_size(f.oid) / current_setting('block_size')::integer as first_pages
        from pg_class c, pg_class f
        -- by name: REINDEX CONCURRENTLY puts another index into its place
        where c.oid = 'evsource.events'::regclass
              and f.relname = 'events_first_idx' and f.relnamespace = c.relnamespace
    ) s
    cross join lateral (
        select count(*) as in_flight,
               (array_agg(coalesce('pid ' || h.pid, 'prepared transaction ' || p.gid) order by h.bound))[1] as held_by
        from evsource._holders() h
        left join pg_prepared_xacts p on p.transaction = h.xid
    ) h
    cross join lateral (
        select q.last_value - case when q.is_called then 0 else 1 end as last_position,
               evsource.safe_position() as safe_position
        from evsource.position_seq q
    ) l;
comment on view evsource.stats is
'One row: how much the log holds, how fast it grows, and how far it can be read. The rate is that of the last 10 seconds, or of the last 10000 events.';
