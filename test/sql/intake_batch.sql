-- What an INSERT or COPY has stored is one batch to the inline projections, however long it
-- is and whatever others store meanwhile (test/specs/intake_interleaved.spec).

create table intake_batch_calls (n int generated always as identity, projection text, events bigint, first bigint, last bigint, in_order boolean);
select evsource.create_projection('intake_batch_1', query => $$
    insert into intake_batch_calls (projection, events, first, last, in_order)
        select 'query', count(*), min(version), max(version), bool_and(version = before + 1)
            from (select version, lag(version, 1, version - 1) over (order by position) as before from new_events) s having count(*) > 0 $$,
    categories => '{intake_batch}', start => 'now');
-- One that can have no stream, and reads its events twice.
select evsource.create_projection('intake_batch_2', query => $$
    insert into intake_batch_calls (projection, events) select 'twice', count(*) from new_events a where exists (select from new_events b where b.version = a.version) $$,
    categories => '{intake_batch,intake_batch_other}', types => '{Happened}', start => 'now');
create function intake_batch_call(events evsource.event[]) returns void language sql as $$
    insert into intake_batch_calls (projection, events, first, last) values ('batch', cardinality(events), events[1].version, events[cardinality(events)].version) $$;
select evsource.create_projection('intake_batch_3', 'intake_batch_call', categories => '{intake_batch}', start => 'now');
create table intake_batch_seen (n int generated always as identity, version bigint);
create function intake_batch_see(e evsource.event) returns void language sql as $$ insert into intake_batch_seen (version) values (e.version) $$;
select evsource.create_projection('intake_batch_4', 'intake_batch_see', categories => '{intake_batch}', start => 'now');
create function intake_batch_fold(state jsonb, e evsource.event) returns jsonb language sql as $$ select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1) $$;
select evsource.create_projection('intake_batch_5', 'intake_batch_fold', categories => '{intake_batch}', start => 'now');

create function pg_temp.calls() returns table (projection text, calls bigint, events numeric, first bigint, last bigint, in_order boolean) language sql as $$
    with gone as (delete from intake_batch_calls returning *)
        select projection, count(*), sum(events), min(first), max(last), bool_and(in_order) from gone group by projection
    union all
        select 'event', null, count(*), min(version), max(version), bool_and(version = before + 1)
            from (select version, lag(version, 1, version - 1) over (order by n) as before from intake_batch_seen) s
    order by projection $$;

-- Somebody draws a position between any two rows.
insert into evsource.events (stream, type) select 'intake_batch-a', 'Happened' from generate_series(1, 100) where nextval('evsource.position_seq') > 0;
select * from pg_temp.calls();
select evsource.state('intake_batch_5', 'intake_batch-a');
-- More than are copied;
insert into evsource.events (stream, type) select 'intake_batch-a', 'Happened' from generate_series(1, 10001);
select * from pg_temp.calls();
insert into evsource.events (stream, type) select 'intake_batch-a', 'Happened' from generate_series(1, 15000) where nextval('evsource.position_seq') > 0;
select * from pg_temp.calls();
-- or more than fit into memory.
set work_mem = '64kB';
insert into evsource.events (stream, type) select 'intake_batch-a', 'Happened' from generate_series(1, 2000);
reset work_mem;
select * from pg_temp.calls();
select evsource.state('intake_batch_5', 'intake_batch-a');
-- What comes toasted from another table counts with all that it holds: of 1 MB each 10 are many, 3 are not.
create table intake_batch_large as select jsonb_build_object('a', repeat('a', 1000000)) as data;
insert into evsource.events (stream, type, data) select 'intake_batch-a', 'Happened', data from intake_batch_large, generate_series(1, 10);
select * from pg_temp.calls();
insert into evsource.events (stream, type, data) select 'intake_batch-a', 'Happened', data from intake_batch_large, generate_series(1, 3);
select * from pg_temp.calls();
-- One that concerns nobody.
insert into evsource.events (stream, type) select 'intake_batch_none-' || i % 100, 'Happened' from generate_series(1, 10500) i;
select * from pg_temp.calls();

-- A handler that appends during a long batch, by a long INSERT too: that is the next batch.
create function intake_batch_answer(events evsource.event[]) returns void language sql as $$
    insert into evsource.events (stream, type) select 'intake_batch-b', 'Answered' from generate_series(1, 11000) where events[1].version = 1 $$;
select evsource.create_projection('intake_batch_0', 'intake_batch_answer', categories => '{intake_batch_other}', start => 'now');
truncate intake_batch_seen;
insert into evsource.events (stream, type) select 'intake_batch_other-a', 'Happened' from generate_series(1, 10500);
select * from pg_temp.calls();

select evsource.drop_projection('intake_batch_' || i) from generate_series(0, 5) i;
drop function intake_batch_call, intake_batch_see, intake_batch_fold, intake_batch_answer;
drop table intake_batch_calls, intake_batch_seen, intake_batch_large;
