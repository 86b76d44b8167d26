-- async_rebuild: a rebuild parks what the handler cannot take, as a run does, and
-- what it can take now is not a dead letter any more.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_async_rebuild;
create database evsource_async_rebuild;
\c evsource_async_rebuild
set client_min_messages = warning;
create extension evsource;
set evsource.async_attempts = 2;
set evsource.async_retry_delay = 1;

create table obstacles (position bigint primary key);
create table sums (stream text primary key, total bigint not null, seen bigint[] not null default '{}');
create function add_up(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from public.obstacles o where o.position = e.position) then
        raise exception 'no way past position %', e.position;
    end if;
    insert into sums values (e.stream, 1, array[e.position])
    on conflict (stream) do update set total = sums.total + 1, seen = sums.seen || e.position;
end
$$;
create function by_fold(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if exists (select from public.obstacles o where o.position = e.position) then
        raise exception 'no way past position %', e.position;
    end if;
    return coalesce(state, '[]') || to_jsonb(e.position);
end
$$;
create function of_all(e evsource.event) returns text[] language sql immutable as $$ select array['all', e.stream] $$;
select evsource.create_projection('sums', 'add_up', mode => 'async', on_error => 'dead_letter', tables => '{sums}');
select evsource.create_projection('fold', 'by_fold', mode => 'async', on_error => 'dead_letter');
select count(*) from generate_series(1, 40) i, lateral evsource.append('account-' || i % 4, 'Paid');
select evsource.run_projection();

create view letters as
    select projection, stream, count(*), min(position), count(*) filter (where attempts > 0) as failed,
        (select count(*) from evsource.parked_keys k where k.projection = d.projection and k.key = d.stream) as keys
    from evsource.dead_letters d group by 1, 2;
-- Each stream up to its first dead letter, and nothing after it.
create view wrong as
    select e.position from evsource.events e left join sums s using (stream)
    where coalesce(e.position = any (s.seen), false) = exists (
        select from evsource.dead_letters d where d.projection = 'sums' and d.stream = e.stream and d.position <= e.position);

-- In place, in transactions of its own and in one: what fails is parked again.
insert into obstacles values (10), (15), (18);
\set VERBOSITY default
call evsource.rebuild_projection('sums', online => false);
\set VERBOSITY terse
select state, position, lag, event_count, last_error from evsource.projection_status where projection = 'sums';
select * from letters order by 1, 2;
table wrong;
delete from obstacles where position = 10;
begin;
call evsource.rebuild_projection('sums');
commit;
select * from letters order by 1, 2;
table wrong;
call evsource.rebuild_projection('fold');
select * from letters order by 1, 2;
select state, position, lag, event_count from evsource.projection_status where projection = 'fold';

-- Beside the old version: it has dead letters of its own until the exchange.
insert into obstacles values (21);
delete from obstacles where position = 18;
call evsource.rebuild_projection('sums', online => true, keep_old => true);
select * from letters where projection in (select projection from evsource.projections) order by 1, 2;
select state, position, lag, event_count from evsource.projection_status where projection = 'sums';
table wrong;
-- The way back brings back what was not in the old version.
select evsource.revert_rebuild('sums');
select * from letters where projection = 'sums' order by 1, 2;
table wrong;
select evsource.accept_rebuild('sums');
select distinct projection from evsource.dead_letters order by 1;

-- What can be taken now is no dead letter any more.
truncate obstacles;
call evsource.rebuild_projection('sums', online => true);
call evsource.rebuild_projection('fold');
select * from letters;
select count(*) from evsource.parked_keys;
select count(*) from evsource.projection_failures;
table wrong;
select projection, event_count, lag from evsource.projection_status order by 1;

-- A rebuild that is given up leaves nothing of what it has parked.
insert into obstacles select generate_series(1, 40);
set evsource.max_dead_letters = 3;
call evsource.rebuild_projection('sums', online => true);
select state, event_count from evsource.projection_status where projection = 'sums';
select evsource.cancel_rebuild('sums');
call evsource.rebuild_projection('fold');
select state from evsource.projection_status where projection = 'fold';
select count(*) from evsource.dead_letters where projection <> 'fold';
-- It goes on where it stopped.
reset evsource.max_dead_letters;
delete from obstacles where position > 6;
call evsource.rebuild_projection('fold');
select * from letters order by 1, 2;
select state, lag from evsource.projection_status where projection = 'fold';
select evsource.drop_projection('fold');

-- One that stops at errors ends with the error, and the old version is there.
select evsource.alter_projection('sums', on_error => 'stop');
call evsource.rebuild_projection('sums', online => true);
select evsource.cancel_rebuild('sums');
select state, event_count from evsource.projection_status where projection = 'sums';
call evsource.rebuild_projection('sums', online => false);
truncate obstacles;
call evsource.rebuild_projection('sums', online => false);
select state, event_count, lag from evsource.projection_status where projection = 'sums';
table wrong;

-- Divided: the parts are at different positions until their tables are saved.
select evsource.alter_projection('sums', on_error => 'dead_letter', partitions => 3);
select count(*) from generate_series(1, 40) i, lateral evsource.append('account-' || i % 7, 'Paid');
insert into obstacles values (51);
set evsource.async_attempts = 5;
select evsource.run_projection('sums');
select count(distinct position) > 1 as apart from evsource.partitions;
truncate obstacles;
select evsource.save_snapshot('sums');
select count(distinct position) from evsource.partitions;
create table saved as table sums;
call evsource.rebuild_projection('sums', from_snapshot => true);
select count(*) from (table saved except table sums) d;
select event_count, lag from evsource.projection_status where projection = 'sums';
table wrong;
-- And they are rebuilt together, and parted again.
insert into obstacles values (51);
set evsource.async_attempts = 1;
call evsource.rebuild_projection('sums', online => false);
select * from letters order by 1, 2;
table wrong;
call evsource.rebuild_projection('sums', online => true);
select * from letters order by 1, 2;
table wrong;
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i % 7, 'Paid');
select evsource.run_projection('sums');
truncate obstacles;
select * from evsource.retry_dead_letters('sums');
select event_count, lag from evsource.projection_status where projection = 'sums';
table wrong;

\c :home
drop database evsource_async_rebuild;
