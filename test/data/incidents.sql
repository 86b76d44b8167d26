-- incidents.sql: the audit log of a help desk; an incident's state is the merge of its changes.
--
-- Every event is appended by a call of its own, with its id and the version that
-- its stream must have.

-- (What evsource.fold_merge does, too.)
create function incident(state jsonb, e evsource.event) returns jsonb
    language sql immutable
    as $$ select coalesce(state, '{}') || e.data $$;
select evsource.create_projection('incident', 'incident(jsonb, evsource.event)');

create table work as
    select n, line, row_number() over (partition by line ->> 'stream' order by n) - 1 as version from lines;
create index on work (n);

create table told (stored boolean not null, version_is_right boolean not null);

-- Appends the whole file, 500 events a transaction; notes what each call returned.
create procedure append_all(right_version boolean)
    language plpgsql
    as $$
begin
    for start in 1 .. (select max(n) from work) by 500 loop
        insert into told
            select a.stored, a.version = w.version + 1
            from (select * from work where n between start and start + 499 order by n) as w,
                lateral evsource.append(
                    stream => w.line ->> 'stream', type => w.line ->> 'type',
                    data => w.line -> 'data', metadata => w.line -> 'metadata',
                    expected_version => case when right_version then w.version else w.version + 1000 end,
                    id => (w.line ->> 'id')::uuid, occurred_at => (w.line ->> 'time')::timestamptz) as a;
        commit;
    end loop;
end
$$;

call append_all(right_version => true);
select expect('every event was stored, at its version', (select count(*) from told where stored and version_is_right), (select count(*) from work));

-- Once more, by the same ids: nothing is stored, whatever version is expected.
truncate told;
call append_all(right_version => false);
select expect('no event was stored twice', (select count(*) from told where version_is_right and not stored), (select count(*) from work));
analyze evsource.events;

\set category incident
\ir log.sql

-- By id, too, an event is found where the file has it.
select expect('read_event finds an event by its id', (
    select count(*) from (select * from work where n % 97 = 0) as w, lateral evsource.read_event((w.line ->> 'id')::uuid) as e
    where e.stream = w.line ->> 'stream' and e.version = w.version + 1 and e.data = w.line -> 'data'
        and e.metadata = w.line -> 'metadata' and e.occurred_at = (w.line ->> 'time')::timestamptz),
    (select count(*) from work where n % 97 = 0));

create temp table first_events as select * from evsource.read_all(0, 50000);
select compare('after_the_first_50000_events/streams', (select count(distinct stream) from first_events));
select compare('after_the_first_50000_events/events_per_type', (select jsonb_object_agg(type, c)
    from (select type, count(*) as c from first_events group by type) as t));

-- The states at the end.
create temp table states as
    select stream, evsource.state('incident', stream) as state from evsource.streams;
select compare('ending_incident_state', (select jsonb_object_agg(v, c)
    from (select state ->> 'incident_state' as v, count(*) as c from states group by 1) as t));
select compare('ending_made_sla', (select jsonb_object_agg(v, c)
    from (select state ->> 'made_sla' as v, count(*) as c from states group by 1) as t));
select compare('ending_priority', (select jsonb_object_agg(v, c)
    from (select state ->> 'priority' as v, count(*) as c from states group by 1) as t));
select compare('sum_of_ending_reassignment_count', (select sum((state ->> 'reassignment_count')::int) from states));
select compare('sum_of_ending_reopen_count', (select sum((state ->> 'reopen_count')::int) from states));
select compare('top5_ending_assignment_group', (select jsonb_agg(jsonb_build_array(v, c) order by c desc, v)
    from (select state ->> 'assignment_group' as v, count(*) as c from states
        where state ->> 'assignment_group' is not null group by 1 order by 2 desc, 1 limit 5) as t));
select compare('ending_without_assignment_group', (select count(*) from states where state ->> 'assignment_group' is null));
select compare('top5_ending_closed_code', (select jsonb_agg(jsonb_build_array(v, c) order by c desc, v)
    from (select state ->> 'closed_code' as v, count(*) as c from states
        where state ->> 'closed_code' is not null group by 1 order by 2 desc, 1 limit 5) as t));

-- Questions to the log.
select compare('top5_actors_by_events', (select jsonb_agg(jsonb_build_array(v, c) order by c desc, v)
    from (select metadata ->> 'actor' as v, count(*) as c from evsource.events group by 1 order by 2 desc, 1 limit 5) as t));
select compare('top5_streams_by_IncidentReassigned', (select jsonb_agg(jsonb_build_array(stream, c) order by c desc, stream)
    from (select stream, count(*) as c from evsource.read_category('incident', 0, 10000000, array['IncidentReassigned'])
        group by 1 order by 2 desc, 1 limit 5) as t));
create temp view open_for as
    select o.stream, extract(epoch from max(c.occurred_at) - o.occurred_at)::bigint as seconds
    from evsource.events as o join evsource.events as c on c.stream = o.stream
    where o.type = 'IncidentOpened' and c.type = 'IncidentClosed'
    group by o.stream, o.occurred_at;
select compare('sum_of_seconds_from_IncidentOpened_to_last_IncidentClosed', (select sum(seconds) from open_for));
select compare('longest5_seconds_open', (select jsonb_agg(jsonb_build_array(stream, seconds) order by seconds desc, stream)
    from (select * from open_for order by seconds desc, stream limit 5) as t));

-- As of an instant: the fold of the events that had occurred before it.
\set as_of 2016-04-01T00:00:00Z
create temp table as_of as
    select stream, evsource.state_at_time('incident', stream, :'as_of') as state
    from evsource.events where version = 1 and occurred_at < :'as_of';
select compare('as_of_' || :'as_of' || '/streams', (select count(*) from as_of));
select compare('as_of_' || :'as_of' || '/by_incident_state', (select jsonb_object_agg(v, c)
    from (select state ->> 'incident_state' as v, count(*) as c from as_of group by 1) as t));
select expect('the states of all at a time are those of each', (
    select count(*) from as_of full join evsource.load_states('incident', :'as_of') as l on l.key = stream
    where as_of.state is distinct from l.state), 0::bigint);

-- The same by projections that were rebuilt up to that point of the log: a
-- table, and a fold whose states are rows of their own.
select max(position) as upto from evsource.events where occurred_at < :'as_of' \gset
select expect('what had occurred by then stands before what had not', (
    select count(*) from evsource.events where position <= :upto and occurred_at >= :'as_of'), 0::bigint);
create table incidents_then (incident text primary key, incident_state text);
create function note_incident(e evsource.event) returns void
    language sql
    as $$
insert into public.incidents_then as i values (e.stream, e.data ->> 'incident_state')
    on conflict (incident) do update set incident_state = case when e.data ? 'incident_state' then excluded.incident_state else i.incident_state end
$$;
create function whose(e evsource.event) returns text language sql immutable as $$ select (e).stream $$;
select evsource.create_projection('incidents_then', 'note_incident', tables => '{incidents_then}', mode => 'manual');
select evsource.create_projection('incident_then', 'incident(jsonb, evsource.event)', key => 'whose', mode => 'manual');
select expect('it has applied every event up to there', evsource.run_projection('incidents_then', up_to => :upto),
    (select count(*) from evsource.events where occurred_at < :'as_of'));
select expect('so has the fold', evsource.run_projection('incident_then', up_to => :upto),
    (select count(*) from evsource.events where occurred_at < :'as_of'));
select compare('as_of_' || :'as_of' || '/streams', (select count(*) from incidents_then));
select compare('as_of_' || :'as_of' || '/by_incident_state', (select jsonb_object_agg(v, c)
    from (select incident_state as v, count(*) as c from incidents_then group by 1) as t));
select compare('as_of_' || :'as_of' || '/by_incident_state', (select jsonb_object_agg(v, c)
    from (select state ->> 'incident_state' as v, count(*) as c from evsource.load_states('incident_then') group by 1) as t));
select expect('rebuilt up to a point, every state is what state_at_time says of it', (
    select count(*) from as_of full join evsource.load_states('incident_then') as l on l.key = stream
    where as_of.state is distinct from l.state), 0::bigint);
-- and on to the end
select expect('it goes on to the end', evsource.run_projection('incident_then'), (select count(*) from evsource.events where position > :upto));
select expect('and ends as the states of the streams', (
    select count(*) from states full join evsource.load_states('incident_then') as l on l.key = stream
    where states.state is distinct from l.state), 0::bigint);
select evsource.run_projection('incidents_then');

-- The incidents that the file shows, at their end and at a version.
do $$
declare
    stream text;
begin
    for stream in select jsonb_object_keys(answers -> 'ending_states') from public.answers loop
        perform public.compare('ending_states/' || stream || '/version', evsource.stream_version(stream));
        perform public.compare('ending_states/' || stream || '/state', evsource.state('incident', stream));
    end loop;
end
$$;
select compare('state_of_incident-0019396_at_version_20', evsource.state_at_version('incident', 'incident-0019396', 20));
create aggregate merged (jsonb) (sfunc = jsonb_concat, stype = jsonb, initcond = '{}');
select compare('state_of_incident-0019396_at_version_20', (
    select merged(data order by version) from evsource.read_stream('incident-0019396', max_count => 20)));
select expect('a backward read ends where a forward read begins', (
    select array_agg(version) from evsource.read_stream('incident-0019396', 20, 20, backward => true)),
    (select array_agg(v) from generate_series(20::bigint, 1, -1) as v));

-- Whatever a state begins at, it is the same: plain SQL over the log, a fold made
-- afterwards on the history, snapshots of every state, no snapshot at all.
create temp view wrong_states as
    select s.stream from states as s full join evsource.load_states('incident') as l on l.key = s.stream
    where s.state is distinct from l.state or l.version is distinct from evsource.stream_version(s.stream);
select expect('states by load_states', (select count(*) from wrong_states), 0::bigint);
select expect('states by plain SQL', (
    select count(*) from states full join (
        select stream, merged(data order by version) as state from evsource.events group by stream) as m using (stream)
    where states.state is distinct from m.state), 0::bigint);
select evsource.create_projection('incident_again', 'evsource.fold_merge');
select expect('states from history', (
    select count(*) from states where state is distinct from evsource.state('incident_again', stream)), 0::bigint);
select evsource.save_snapshot('incident');
select expect('a snapshot of every state', (
    select count(*) from evsource.snapshots as n join states as s on n.key = s.stream
    where n.projection = 'incident' and n.state = s.state and n.version = evsource.stream_version(s.stream)),
    (select count(*) from states));
select expect('states from snapshots', (select count(*) from wrong_states), 0::bigint);
select evsource.clear_snapshots('incident');
select expect('states without snapshots', (select count(*) from wrong_states), 0::bigint);
select expect('every projection has applied every event, and says so', (
    select array_agg(distinct evsource.event_count(projection)) from evsource.projections),
    (select array[count(*)] from evsource.events));
