-- rebuild_restored: a rebuild from snapshots of an async fold by stream parks what its
-- handler cannot take, as one of the whole log does.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_restored;
create database evsource_rebuild_restored;
\c evsource_rebuild_restored
set client_min_messages = notice;
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never
set evsource.async_attempts = 1;

create table obstacles (position bigint primary key);
create function count_up(state jsonb, e evsource.event) returns jsonb language plpgsql as
$$begin
    if exists (select from public.obstacles o where o.position = e.position) then
        raise exception 'no way past position %', e.position;
    end if;
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end$$;
select evsource.create_projection('fold', 'count_up', mode => 'async', on_error => 'dead_letter', snapshot_every => 3);
create view status as
    select state, position, lag, event_count, dead_letters, (select count(*) from evsource.parked_keys) as parked
    from evsource.projection_status where projection = 'fold';
create view letters as select position, stream, attempts > 0 as failed from evsource.dead_letters order by 1;

-- Twenty events are applied, the next ones are not yet, and one of these is bad.
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i % 4, 'Paid');
select evsource.run_projection('fold');
select count(*) from generate_series(21, 28) i, lateral evsource.append('account-' || i % 4, 'Paid');
insert into obstacles values (21);
call evsource.rebuild_projection('fold', from_snapshot => true);
select * from status;
table letters;
select key, state from evsource.load_states('fold') order by 1;
select * from evsource.verify_projection('fold', max_differences => null);

-- What is parked is tried again: what fails again is parked again,
select count(*) from generate_series(29, 32) i, lateral evsource.append('account-' || i % 4, 'Paid');
select evsource.run_projection('fold');
table letters;
call evsource.rebuild_projection('fold', from_snapshot => true);
select * from status;
table letters;
-- also in a transaction block,
begin;
call evsource.rebuild_projection('fold', from_snapshot => true);
select * from status;
commit;
table letters;
-- and what does not is applied, with no need to replay what the snapshots hold.
truncate obstacles;
call evsource.rebuild_projection('fold', from_snapshot => true);
select * from status;
select key, state from evsource.load_states('fold') order by 1;
select count(*) from generate_series(33, 36) i, lateral evsource.append('account-' || i % 4, 'Paid');
select evsource.run_projection('fold');
select * from status;
select * from evsource.verify_projection('fold', max_differences => null);

-- Partitions are at different positions, and no event is left out or applied twice.
select evsource.alter_projection('fold', partitions => 3);
select count(*) from generate_series(37, 48) i, lateral evsource.append('account-' || i % 4, 'Paid');
insert into obstacles values (38), (41);
call evsource.rebuild_projection('fold', from_snapshot => true);
select * from status;
table letters;
truncate obstacles;
select * from evsource.retry_dead_letters('fold');
select * from status;
select key, state from evsource.load_states('fold') order by 1;
select * from evsource.verify_projection('fold', max_differences => null);

-- Too many dead letters end it, as they end a replay; it goes on when it is called again.
select count(*) from generate_series(49, 52) i, lateral evsource.append('account-' || i % 4, 'Paid');
insert into obstacles values (49), (50);
set evsource.max_dead_letters = 1;
call evsource.rebuild_projection('fold', from_snapshot => true);
reset evsource.max_dead_letters;
call evsource.rebuild_projection('fold', from_snapshot => true);
select * from status;
table letters;

-- Where an error is to stop the projection it ends the rebuild, and nothing has changed.
truncate obstacles;
select * from evsource.retry_dead_letters('fold');
select evsource.alter_projection('fold', on_error => 'stop');
select count(*) from generate_series(53, 56) i, lateral evsource.append('account-' || i % 4, 'Paid');
insert into obstacles values (54);
call evsource.rebuild_projection('fold', from_snapshot => true);
select evsource.cancel_rebuild('fold');
select * from status;

\c :home
set client_min_messages = warning;
drop database evsource_rebuild_restored;
