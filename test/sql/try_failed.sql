-- try_projection of a handler that is mended: what the projection has failed at is
-- a difference, and does not end the call.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = error;
drop database if exists evsource_try_failed;
create database evsource_try_failed;
\c evsource_try_failed
set client_min_messages = error;
create extension evsource;
set evsource.async_attempts = 1;
\set SHOW_CONTEXT never

create table parks (stream text primary key, n int);
create table stops (stream text primary key, n int);
create function park(e evsource.event) returns void language plpgsql as $$
begin
    insert into parks values (e.stream, (e.data ->> 'n')::int) on conflict (stream) do update set n = parks.n + excluded.n;
end $$;
create function stop(e evsource.event) returns void language plpgsql as $$
begin
    insert into stops values (e.stream, (e.data ->> 'n')::int) on conflict (stream) do update set n = stops.n + excluded.n;
end $$;
create function park_mended(e evsource.event) returns void language plpgsql as $$
begin
    if jsonb_typeof(e.data -> 'n') = 'number' then
        perform park(e);
    end if;
end $$;
create function stop_mended(e evsource.event) returns void language plpgsql as $$
begin
    if jsonb_typeof(e.data -> 'n') = 'number' then
        perform stop(e);
    end if;
end $$;
create function total(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + (e.data ->> 'n')::int)$$;
create function total_mended(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select case when jsonb_typeof(e.data -> 'n') = 'number' then public.total(state, e) else state end$$;
select evsource.create_projection('parks', 'park', mode => 'async', on_error => 'dead_letter', tables => '{parks}');
select evsource.create_projection('stops', 'stop', mode => 'async', tables => '{stops}');
select evsource.create_projection('total', 'total', mode => 'async', on_error => 'dead_letter');
select position from evsource.append('s-1', 'Counted', '{"n": 1}');
select position from evsource.append('s-2', 'Counted', '{"n": "many"}');
select position from evsource.append('s-2', 'Counted', '{"n": 2}');
select position from evsource.append('s-3', 'Counted', '{"n": 3}');
select evsource.run_projection();
select projection, state, dead_letters from evsource.projection_status order by 1;

-- One event has failed, another one waits behind it: the read model would have that one.
select * from evsource.try_projection('parks', 'park_mended');
select * from evsource.try_projection('total', 'total_mended');

-- What is stuck has got nothing from there on.
select * from evsource.try_projection('stops', 'stop_mended');

-- In another part of the log nothing has failed; and one difference is one.
select * from evsource.try_projection('parks', 'park_mended', 4);
select * from evsource.try_projection('stops', 'stop_mended', to_position => 1);
select * from evsource.try_projection('stops', 'stop_mended', max_differences => 1);

-- A handler that fails there as well says so.
select * from evsource.try_projection('parks', 'park');

-- Once it is applied, nothing has failed.
create or replace function total(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + case jsonb_typeof(e.data -> 'n') when 'number' then (e.data ->> 'n')::int else 0 end)$$;
select * from evsource.retry_dead_letters('total');
select * from evsource.try_projection('total', 'total_mended');

\c :home
set client_min_messages = error;
drop database evsource_try_failed;
