-- verify_async: a read model without what was parked, at several positions, and
-- one whose log has lost its begin, is what it should be.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_verify_async;
create database evsource_verify_async;
\c evsource_verify_async
set client_min_messages = warning;
create extension evsource;
\set SHOW_CONTEXT never
set evsource.async_attempts = 1;

create table obstacles (position bigint primary key);
create table sums (stream text primary key, n bigint not null);
create sequence told;     -- a rollback does not take back what is drawn
create function add_up(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from public.obstacles o where o.position = e.position) then
        raise exception 'no way past position %', e.position;
    end if;
    if not evsource.replaying() then
        perform nextval('public.told');
    end if;
    insert into sums values (e.stream, 1) on conflict (stream) do update set n = sums.n + 1;
end
$$;
create function pair(e evsource.event) returns text[] language sql immutable as $$ select array['all', e.stream] $$;
create function count_up(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if exists (select from public.obstacles o where o.position = e.position) then
        raise exception 'no way past position %', e.position;
    end if;
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end
$$;
select evsource.create_projection('sums', 'add_up', mode => 'async', on_error => 'dead_letter', tables => '{sums}');
select evsource.create_projection('fold', 'count_up', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('pairs', 'count_up', key => 'pair', mode => 'async', on_error => 'dead_letter');
select count(*) from generate_series(1, 40) i, lateral evsource.append('account-' || i % 4, 'Paid');
insert into obstacles values (10), (27);
\set VERBOSITY terse
select evsource.run_projection();
\set VERBOSITY default
select projection, count(*), min(position) from evsource.dead_letters group by 1 order by 1;

-- What is parked is not in the read model, and not in what it is compared with.
truncate obstacles;
select projection, v.* from evsource.projections p, lateral evsource.verify_projection(p.projection, max_differences => null) v;
update sums set n = n + 1 where stream = 'account-2';
select key, position, is_missing, stored, computed from evsource.verify_projection('sums', max_differences => null);
update sums set n = n - 1 where stream = 'account-2';
select projection, applied, remaining from evsource.projections p, lateral evsource.retry_dead_letters(p.projection) order by 1;
select projection, v.* from evsource.projections p, lateral evsource.verify_projection(p.projection, max_differences => null) v;

-- The handler was told that it runs for nobody; a run tells it nothing of the kind.
select last_value > 1 as told from told;
select setval('told', 1, false);
select count(*) from evsource.verify_projection('sums');
select is_called from told;

-- Partitions that are at different positions.
select evsource.alter_projection('sums', on_error => 'stop', partitions => 4);
set evsource.async_attempts = 9;
select count(*) from generate_series(1, 40) i, lateral evsource.append('account-' || i % 9, 'Paid');
insert into obstacles values (53);
\set VERBOSITY terse
select evsource.run_projection('sums');
\set VERBOSITY default
select count(distinct position) > 1 as apart from evsource.partitions;
truncate obstacles;
select * from evsource.verify_projection('sums', max_differences => null);
select evsource.run_projection();
select * from evsource.verify_projection('sums', max_differences => null);

-- Truncated streams: a fold by stream has what was kept; of others it is said
-- that the begin is missing.
select count(*) from evsource.save_snapshot('fold');
select evsource.truncate_stream('account-1', 5);
select evsource.run_projection();
select * from evsource.verify_projection('fold', max_differences => null);
select key, stored, computed from evsource.verify_projection('sums', max_differences => null);
select evsource.alter_projection('pairs', categories => '{other}');
select count(*) from evsource.verify_projection('pairs', max_differences => 1);

\c :home
drop database evsource_verify_async;
