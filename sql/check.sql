-- check.sql: is the log whole? For after a restore, an import or a repair by
-- hand: appends see to it themselves.

create function evsource.check_log(
    out stream text, out version bigint, out "position" bigint, out problem text)
    returns setof record
    language sql stable parallel unsafe security definer set search_path = pg_catalog, pg_temp
    as $$
with events as (
    select e.stream, e.version, e.position,
           lag(e.version, 1, coalesce(t.version, 1) - 1) over by_version as last_version,
           lag(e.position) over by_version as last_position
    from evsource.events e
        left join evsource.truncations t on t.stream = e.stream and t.truncated_at is not null
    window by_version as (partition by e.stream order by e.version)
)
select e.stream, e.version, e.position, p.problem
from events e
    cross join lateral (
        select case
                   when e.version <= e.last_version then 'the stream was truncated to a later version'
                   when e.version = e.last_version + 2 then format('version %s is missing', e.version - 1)
                   else format('versions %s to %s are missing', e.last_version + 1, e.version - 1)
               end
        where e.version <> e.last_version + 1
        union all
        select 'the position is below that of the version before'
        where e.position < e.last_position
    ) p (problem)
union all
select e.stream, e.version, e.position, 'the next position is not above this one'
from (select max(x.position) from evsource.events x) last (position)
    join evsource.events e on e.position = last.position
    cross join evsource.position_seq s
where s.last_value + s.is_called::int <= e.position
union all
select null, null, null, format('index %I is missing or not valid', n.name)
from unnest('{events_pkey, events_stream_version_key, events_id_key, events_category_idx, events_first_idx}'::name[]) n (name)
where not exists (
    select from pg_index i
        join pg_class c on c.oid = i.indexrelid
    where i.indrelid = 'evsource.events'::regclass and c.relname = n.name and i.indisvalid)
order by 3, 4
$$;
comment on function evsource.check_log() is
'Checks the whole log and returns what is wrong with it: missing versions, positions that contradict the order of a stream, a sequence that is behind, an index that is not there. Returns no rows when the log is sound.';
