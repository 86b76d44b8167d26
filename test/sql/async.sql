-- async: an event that a handler cannot take is isolated, tried again, and then
-- stops the projection or is parked. No event is ever skipped, none applied twice.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_async;
create database evsource_async;
\c evsource_async
set client_min_messages = warning;
create extension evsource;

create table obstacles (position bigint primary key, sqlstate text not null default 'P0001');
create table applied (projection text, position bigint, stream text, version bigint, n bigserial, primary key (projection, position));
create function meet(e evsource.event) returns void language plpgsql as $$
declare
    state text := (select o.sqlstate from public.obstacles o where o.position = (e).position);
begin
    if state is not null then
        raise exception 'no way past position %', (e).position
            using errcode = state, detail = 'There is an obstacle.', hint = 'Remove it.';
    end if;
end
$$;
create function by_event(e evsource.event) returns void language plpgsql as $$
begin
    perform meet(e);
    insert into applied values ('event', (e).position, (e).stream, (e).version);
end
$$;
create function by_batch(es evsource.event[]) returns void language plpgsql as $$
begin
    perform meet(e) from unnest(es) e;
    insert into applied select 'batch', e.position, e.stream, e.version from unnest(es) e;
end
$$;
create function by_fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    perform meet(e);
    return jsonb_build_object('seen', coalesce(state -> 'seen', '[]') || to_jsonb((e).position));
end
$$;
create function pair(e evsource.event) returns text[] language sql immutable as $$
    select array(select jsonb_array_elements_text((e).data -> 'pair')) $$;
-- What each projection has applied, in its order; of folds what the states hold.
create view done as
    select projection, position, n from applied
    union all
    select s.projection, p.position::bigint, p.n
    from evsource.snapshots s, jsonb_array_elements_text(s.state -> 'seen') with ordinality p (position, n)
    where s.projection <> 'pairs';
-- The rule: up to its position, each event is applied once, or it is parked; of
-- a key nothing is applied after what is parked; applied in order; counted.
create view violations as
    select 'skipped' as what, p.projection, e.position
    from evsource.projections p join evsource._checkpoints c using (projection)
    join evsource.events e on e.position <= c.position and e.position > p.start_after
        and (p.types is null or e.type = any (p.types))
    where p.projection <> 'pairs' and not exists (select from done d where d.projection = p.projection and d.position = e.position)
        and not exists (select from evsource.dead_letters l where l.projection = p.projection and l.position = e.position)
    union all
    select 'ahead', c.projection, d.position from evsource._checkpoints c join done d using (projection) where d.position > c.position
    union all
    select 'twice', d.projection, d.position from done d group by 2, 3 having count(*) > 1
    union all
    select 'parked and applied', d.projection, d.position from done d join evsource.dead_letters l using (projection, position)
    union all
    select 'overtaken', d.projection, d.position
    from done d join evsource.events e using (position)
    join evsource.dead_letters l on l.projection = d.projection and l.position < d.position
    where e.stream = any (l.keys) and d.projection <> 'pairs'
    union all
    select 'out of order', d.projection, d.position
    from (select d.projection, d.position, lag(d.position) over (partition by d.projection, e.stream order by d.n) as before
          from done d join evsource.events e using (position)) d
    where d.before > d.position
    union all
    select 'counted wrong', c.projection, c.event_count
    from evsource._checkpoints c
    where c.projection <> 'pairs' and c.event_count <> (select count(*) from done d where d.projection = c.projection)
    union all
    select 'key not known', l.projection, l.position from evsource.dead_letters l, unnest(l.keys) k
    where not exists (select from evsource.parked_keys q where (q.projection, q.key, q.position) = (l.projection, k, l.position))
    union all
    select 'key of nothing', q.projection, q.position from evsource.parked_keys q
    where not exists (select from evsource.dead_letters l where (l.projection, l.position) = (q.projection, q.position));

select count(*) from generate_series(1, 60) i, lateral evsource.append('account-' || i % 5, 'Paid', jsonb_build_object('pair', array['a' || i % 7, 'b' || i % 3]));
select evsource.create_projection('event', 'by_event', mode => 'async');
select evsource.create_projection('batch', 'by_batch', mode => 'async');
select evsource.create_projection('fold', 'by_fold', mode => 'async', snapshot_every => 1);
select evsource.create_projection('pairs', 'by_fold', key => 'pair', mode => 'async');
select evsource.create_projection('query', mode => 'async',
    query => $$insert into applied select 'query', e.position, e.stream, e.version from new_events e, lateral meet(row(e.*)::evsource.event)$$);

-- Of each kind what comes before the event is applied, whatever the batch was,
-- and the failure is on record. The other projections go on.
insert into obstacles values (42);
select evsource.alter_projection('batch', types => '{Paid,Nothing}');
select evsource.run_projection();
select projection, state, position, lag, event_count, last_error, last_error_position from evsource.projection_status order by 1;
select projection, position, attempts, sqlstate, message, detail, hint, context, retry_at > failed_at as will_be_tried
from evsource.projection_failures order by 1;
table violations;
select evsource.create_projection('other', 'by_event', types => '{None}', mode => 'async');
select evsource.run_projection();
select position from evsource.checkpoints where projection = 'other';

-- After the last attempt it stops, and says why. It is not run then.
\set VERBOSITY terse
set evsource.async_attempts = 3;
select evsource.run_projection();
select projection, state, last_error_position from evsource.projection_status where state <> 'active' order by 1;
select distinct attempts, retry_at from evsource.projection_failures;
select evsource.run_projection();
\set VERBOSITY default
select evsource.run_projection('event');
select evsource.resume_projection(projection) from evsource.projections where projection <> 'event';
select projection, position, attempts from evsource.projection_failures;

-- A retry that succeeds goes on to the end; nothing is left of the failure.
\set VERBOSITY terse
select evsource.run_projection('query');
select attempts from evsource.projection_failures where projection = 'query';
truncate obstacles;
select evsource.run_projection();
select evsource.resume_projection('event');
select evsource.run_projection();
select projection, state, position, lag, event_count, last_error from evsource.projection_status order by 1;
table evsource.projection_failures;
table violations;

-- What is nobody's fault gets out: nothing is recorded, counted or parked.
select evsource.alter_projection('event', on_error => 'dead_letter');
set evsource.async_attempts = 1;
select version from evsource.append('account-1', 'Paid');
insert into obstacles values (61);
do $$
declare
    state text;
begin
    foreach state in array array['08001', '08006', 'HV00N', '40001', '40P01', '55P03', '57014', '53100', '53200', '58030'] loop
        update public.obstacles set sqlstate = state;
        begin
            perform evsource.run_projection('event');
            raise warning '% was taken', state;
        exception when query_canceled or others then
            if sqlstate <> state then raise; end if;
        end;
    end loop;
end
$$;
select count(*) from evsource.projection_failures;
select count(*) from evsource.dead_letters;
truncate obstacles;
select evsource.run_projection();
table violations;

-- Parked: the event, and behind it the later events of its stream. Others go on.
insert into obstacles values (64);
select count(*) from generate_series(1, 6) i, lateral evsource.append('account-' || i % 2, 'Paid', '{"pair": []}');
select evsource.run_projection('event');
select position, stream, version, type, keys, attempts, sqlstate, message, detail, hint, context, failed_at is not null as failed
from evsource.dead_letters order by 1;
select state, position, lag, event_count, dead_letters, last_error from evsource.projection_status where projection = 'event';
select count(*) from evsource.projection_failures;
table violations;
-- So are those that come later, also when it parks no more.
select evsource.alter_projection('event', on_error => 'stop');
select count(*) from generate_series(1, 2) i, lateral evsource.append('account-' || i % 2, 'Paid', '{"pair": []}');
select evsource.run_projection('event');
select position, stream, attempts from evsource.dead_letters order by 1;
table violations;
-- Tried again they keep their places until the first of them is applied.
\set VERBOSITY default
select * from evsource.retry_dead_letters('event');
\set VERBOSITY terse
select position, attempts from evsource.dead_letters order by 1;
insert into obstacles values (68);
delete from obstacles where position = 64;
select * from evsource.retry_dead_letters('event');
select position, attempts, message from evsource.dead_letters order by 1;
table violations;
truncate obstacles;
select * from evsource.retry_dead_letters('event');
select * from evsource.retry_dead_letters('event');
select event_count = (select count(*) from evsource.events) as all from evsource.projection_status where projection = 'event';
table violations;
select evsource.run_projection();

-- The keys of a fold: an event is parked behind any of its keys, and then all
-- of them are. The states are those of a replay in the end.
select evsource.alter_projection('pairs', on_error => 'dead_letter');
insert into obstacles values (71);
select count(*) from unnest(array['{a,b}', '{b,c}', '{c,d}', '{d,e}', '{x,y}', '{y}']::text[]) p,
    lateral evsource.append('pair-1', 'Paid', jsonb_build_object('pair', p::text[]));
select evsource.run_projection('pairs');
select position, keys, attempts from evsource.dead_letters order by 1;
select key, state from evsource.snapshots where projection = 'pairs' and key ~ '^.$' order by 1;
truncate obstacles;
select * from evsource.retry_dead_letters('pairs');
select key, state from evsource.snapshots where projection = 'pairs' and key ~ '^.$' order by 1;
create table before as select key, state from evsource.snapshots where projection = 'pairs';
call evsource.rebuild_projection('pairs');
select count(*) from (table before except select key, state from evsource.snapshots where projection = 'pairs') d;
-- Whose key is not known has no place to be parked at: it stops.
insert into obstacles values (76);
create or replace function pair(e evsource.event) returns text[] language plpgsql immutable as $$
begin
    perform meet(e);
    return array(select jsonb_array_elements_text((e).data -> 'pair'));
end
$$;
select version from evsource.append('pair-1', 'Paid', '{"pair": ["z"]}');
select evsource.run_projection('pairs');
select state, last_error, last_error_position from evsource.projection_status where projection = 'pairs';
select count(*) from evsource.dead_letters;
-- While others are parked, too.
truncate obstacles;
insert into obstacles values (78);
create or replace function by_fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if (e).data ? 'bad' then raise exception 'bad'; end if;
    return jsonb_build_object('seen', coalesce(state -> 'seen', '[]') || to_jsonb((e).position));
end
$$;
select evsource.resume_projection('pairs');
select version from evsource.append('pair-1', 'Paid', '{"pair": ["z"], "bad": 1}');
select version from evsource.append('pair-1', 'Paid', '{"pair": ["w"]}');
select evsource.run_projection('pairs');
select state, position, last_error, last_error_position from evsource.projection_status where projection = 'pairs';
select position, keys, attempts, message from evsource.dead_letters;
truncate obstacles;
select evsource.resume_projection('pairs');
select evsource.run_projection('pairs');
select state, position, last_error from evsource.projection_status where projection = 'pairs';
select evsource.drop_projection('pairs');
create or replace function by_fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    perform meet(e);
    return jsonb_build_object('seen', coalesce(state -> 'seen', '[]') || to_jsonb((e).position));
end
$$;
select (select count(*) from evsource.dead_letters) as letters, (select count(*) from evsource.parked_keys) as keys,
    (select count(*) from evsource.projection_failures) as failures;

-- A handler that cannot be called is not the event's fault: it stops.
select evsource.alter_projection('event', on_error => 'dead_letter');
alter function by_event(evsource.event) rename to elsewhere;
select version from evsource.append('account-1', 'Paid');
select evsource.run_projection('event');
select state, last_error from evsource.projection_status where projection = 'event';
alter function elsewhere(evsource.event) rename to by_event;
select evsource.resume_projection('event');
-- Nor is a query that cannot be planned.
select evsource.alter_projection('query', on_error => 'dead_letter');
alter table applied rename to away;
select evsource.run_projection('query');
select state, last_error from evsource.projection_status where projection = 'query';
alter table away rename to applied;
select evsource.resume_projection('query');
select count(*) from evsource.dead_letters;
-- Nor are events to blame when all of them fail.
set evsource.max_dead_letters = 2;
alter table applied add constraint nothing check (projection <> 'event') not valid;
select count(*) from generate_series(1, 9) i, lateral evsource.append('account-' || i % 5, 'Paid');
\set VERBOSITY default
select evsource.run_projection('event');
\set VERBOSITY terse
select state, position, last_error_position from evsource.projection_status where projection = 'event';
select position, stream, attempts, sqlstate from evsource.dead_letters order by 1;
alter table applied drop constraint nothing;
reset evsource.max_dead_letters;
select evsource.resume_projection('event');
select evsource.run_projection();
table violations;

-- Appends would pass what is parked: no inline projection begins with dead letters.
select evsource.alter_projection('event', mode => 'inline', on_error => 'stop');
select * from evsource.retry_dead_letters('event');
select evsource.alter_projection('event', mode => 'inline', on_error => 'stop');
select version from evsource.append('account-1', 'Paid');
select count(*) from violations where projection = 'event' and what in ('skipped', 'twice');
select evsource.alter_projection('event', mode => 'async', on_error => 'dead_letter');

-- In a test that rolls back an error is an error; and what rolls back was not.
begin;
select version from evsource.append('account-1', 'Paid', '{}');
insert into obstacles select max(position) from evsource.events;
select evsource.run_projection('event', include_own => true);
rollback;
insert into obstacles select max(position) + 2 from evsource.events;
select version from evsource.append('account-1', 'Paid');
begin;
select evsource.run_projection('event');
rollback;
select count(*) from evsource.dead_letters;
table violations;

-- A reset, a rebuild and a new definition that begins anew clear the dead letters.
select evsource.alter_projection('event', tables => '{applied}');
select evsource.run_projection('event');
select count(*) from evsource.dead_letters;
begin;
select evsource.reset_projection('event');
select (select count(*) from evsource.dead_letters) as letters, (select count(*) from evsource.parked_keys) as keys;
rollback;
truncate obstacles;
begin;
call evsource.rebuild_projection('event');
select (select count(*) from evsource.dead_letters) as letters, (select count(*) from evsource.parked_keys) as keys;
rollback;
select * from evsource.retry_dead_letters('event');
select evsource.run_projection();
table violations;

-- Whoever may run it may retry it if it is theirs.
create role regress_async_owner;
create role regress_async_other;
select evsource.grant_access('regress_async_other', 'admin');
set role regress_async_other;
select * from evsource.retry_dead_letters('event');
select * from evsource.retry_dead_letters('nowhere');
reset role;
select evsource.revoke_access('regress_async_other');
drop role regress_async_owner, regress_async_other;

-- Any mix of obstacles, batches and kinds: what is not parked is applied, and in
-- the end all is.
select setseed(0.5);
create procedure mix(rounds int) language plpgsql as $$
declare
    p text;
    found text;
begin
    for round in 1 .. rounds loop
        perform evsource.append('account-' || (random() * 8)::int, 'Paid') from generate_series(1, (random() * 40)::int);
        commit;
        delete from public.obstacles where random() < 0.2;
        insert into public.obstacles select position from evsource.events where random() < 0.05
            and position > (select max(position) from evsource._checkpoints)
            on conflict do nothing;
        foreach p in array array['event', 'batch', 'fold', 'query'] loop
            perform evsource.run_projection(p, max_batches => 1 + (random() * 3)::int);
            if random() < 0.3 then
                perform evsource.retry_dead_letters(p);
            end if;
        end loop;
        select string_agg(v::text, ' ') into found from public.violations v;
        if found is not null then raise exception 'round %: %', round, found; end if;
    end loop;
end
$$;
select evsource.alter_projection(projection, on_error => 'dead_letter') from evsource.projections;
set client_min_messages = error;
call mix(40);
reset client_min_messages;
select count(*) filter (where attempts = 1) > 0 as failed, count(*) filter (where attempts > 1) > 0 as failed_again,
    count(*) filter (where attempts = 0) > 0 as waiting, count(distinct projection) > 1 as several
from evsource.dead_letters;
truncate obstacles;
select projection, remaining from (select projection, (evsource.retry_dead_letters(projection)).* from evsource.projections) r order by 1;
select count(*) > 0 from (select evsource.run_projection()) r;
table violations;
select distinct event_count = (select count(*) from evsource.events) as all, lag from evsource.projection_status where projection <> 'other';

-- What the filter does not want any more is not applied, and does not count.
create table narrow (position bigint);
create function by_narrow(e evsource.event) returns void language plpgsql as $$
begin
    perform meet(e);
    insert into narrow values ((e).position);
end
$$;
select evsource.create_projection('narrow', 'by_narrow', mode => 'async', on_error => 'dead_letter',
    types => '{Wide,Narrow}', start => 'now');
select position as wide from evsource.append('narrow-1', 'Wide') \gset
select count(*) from unnest('{narrow-1,narrow-2}'::text[]) s, lateral evsource.append(s, 'Narrow');
insert into obstacles values (:wide);
set evsource.async_attempts = 1;
set client_min_messages = error;
select evsource.run_projection('narrow');
select evsource.alter_projection('narrow', types => '{Narrow}');
truncate obstacles;
select * from evsource.retry_dead_letters('narrow');
select (select count(*) from narrow) as applied, event_count from evsource.projection_status where projection = 'narrow';

\c :home
drop database evsource_async;
