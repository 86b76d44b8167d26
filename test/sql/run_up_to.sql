-- run_up_to: a read model as it was at a position of the log.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_run_up_to;
create database evsource_run_up_to;
\c evsource_run_up_to
create extension evsource;
\set SHOW_CONTEXT never

create table sums (stream text primary key, sum bigint, events bigint);
select evsource.create_projection('sums', mode => 'manual', tables => '{sums}', query => 'insert into sums as s select stream, sum((data ->> ''n'')::bigint), count(*) from new_events group by stream on conflict (stream) do update set sum = s.sum + excluded.sum, events = s.events + excluded.events');
select evsource.create_projection('counted', 'evsource.fold_count', key => 'global', mode => 'manual');
select evsource.create_projection('shared', 'evsource.fold_sum', path => '{n}', mode => 'async', partitions => 3);
select evsource.create_projection('inline', 'evsource.fold_count');
select count(*) from generate_series(1, 100) i, lateral evsource.append('s-' || i % 4, 'Added', jsonb_build_object('n', i));

-- A manual projection stops where it is told to, and stays there.
select evsource.run_projection('sums', up_to => 40);
select evsource.run_projection('counted', up_to => 40), evsource.state('counted');
select * from sums order by stream;
select projection, position, event_count, lag from evsource.projection_status where mode = 'manual' order by 1;
-- to be there already is nothing to do
select evsource.run_projection('sums', up_to => 40);
-- then it goes on, an event, or as many as there are
select evsource.run_projection('sums', up_to => 41);
select sum(sum) = 41 * 42 / 2 as right from sums;
select evsource.run_projection('sums', 1, up_to => 45), evsource.run_projection('sums', up_to => 1000000);
select sum(sum) from sums;
select evsource.run_projection('counted'), evsource.state('counted');
-- at every position it is what the log was
create table wrong (upto bigint);
do $$
begin
    for upto in 0 .. 100 by 7 loop
        perform evsource.reset_projection('sums');
        perform evsource.run_projection('sums', up_to => upto);
        insert into wrong select upto from (
            select stream, sum((data ->> 'n')::bigint), count(*) from evsource.events where position <= upto group by stream) e (stream, sum, events)
            full join sums s using (stream) where (e.sum, e.events) is distinct from (s.sum, s.events);
    end loop;
end$$;
select count(*) as wrong from wrong;
-- an async one stops there as well; the next run goes on, whoever does it
select evsource.run_projection('shared', up_to => 50), evsource.run_projection('shared', up_to => 60), evsource.run_projection('shared');
select sum((state ->> 'sum')::int), sum(event_count) from evsource.load_states('shared');

-- There is no way back but to begin anew.
select evsource.run_projection('counted', up_to => 99);
\echo :LAST_ERROR_SQLSTATE
select evsource.run_projection('shared', up_to => 99);
\echo :LAST_ERROR_SQLSTATE
select evsource.reset_projection('counted');
select evsource.run_projection('counted', up_to => 99), evsource.state('counted');

-- With events of its own, a transaction that rolls back stops there too.
begin;
select position from evsource.append_batch('s-9', '{Added,Added}', array['{"n": 1}', '{"n": 2}']::jsonb[]);
select evsource.run_projection('counted', include_own => true, up_to => 101), evsource.state('counted');
rollback;

-- What cannot be meant is refused.
select evsource.run_projection('sums', up_to => -1);
\echo :LAST_ERROR_SQLSTATE
select evsource.run_projection(up_to => 100);
\echo :LAST_ERROR_SQLSTATE
select evsource.run_projection('inline', up_to => 100);
\echo :LAST_ERROR_SQLSTATE

\c :home
drop database evsource_run_up_to;
