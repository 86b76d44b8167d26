-- Parked events and the states of a fold keyed by stream: what one stream's event
-- raises is that stream's affair.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_states_parked;
create database evsource_states_parked;
\c evsource_states_parked
create extension evsource;
set evsource.async_attempts = 1;

create table broken ();
create function noted(state jsonb, e evsource.event) returns jsonb
language plpgsql as $$
begin
    if e.data ? 'bad' and to_regclass('public.broken') is not null then
        raise exception 'bad event';
    end if;
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end
$$;
select evsource.create_projection('noted', 'noted', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('kept', 'noted', mode => 'async', on_error => 'dead_letter', snapshot_every => 1);

-- Three streams of five events; of the second the third one is bad, of the fourth the first one.
select count(*) from generate_series(1, 5) v, unnest('{a-1,a-2,a-3}'::text[]) s,
    lateral evsource.append(s, 'Noted', case when s = 'a-2' and v = 3 then '{"bad": 1}' else '{}' end::jsonb,
        occurred_at => '2024-01-01'::timestamptz + v * interval '1 day');
select version from evsource.append('a-4', 'Noted', '{"bad": 1}', occurred_at => '2024-01-01');
select evsource.run_projection();
select projection, state, event_count, dead_letters from evsource.projection_status order by 1;

-- The states of all streams are what was applied: as many events as the status says.
select projection, key, state, version, event_count from evsource.states order by 1, 2;
select key, state, version from evsource.load_states('noted', as_of => '2024-01-05') order by 1;
select sum(event_count) from evsource.load_states('noted');

-- They are saved, too.
select evsource.save_snapshot('noted'), evsource.save_snapshot();
select key, state, version from evsource.snapshots where projection = 'noted' order by 1;
select evsource.restore_projection('noted');

-- Who asks for that stream to decide on it must not miss an event: it is told why.
\set VERBOSITY terse
select evsource.state('noted', 'a-2');
select * from evsource.load_state('kept', 'a-2');
\set VERBOSITY default
select evsource.state('noted', 'a-3');

-- With a handler that is mended, and once they are applied, none is missing.
drop table broken;
select evsource.state('noted', 'a-2');
select key, state, version from evsource.states where projection = 'noted' order by 1;
select * from evsource.retry_dead_letters('noted');
select key, state, version from evsource.states where projection = 'noted' order by 1;
select evsource.save_snapshot('noted');
select * from evsource.verify_projection('noted');

\c :home
set client_min_messages = warning;
drop database evsource_states_parked;
