-- event_count: exact for an inline projection, which keeps no counter; asking
-- for it does not count the whole log for ever.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_event_count;
create database evsource_event_count;
\c evsource_event_count
create extension evsource;
create function nothing(e evsource.event[]) returns void language sql as '';
select evsource.create_projection('all', 'nothing');
select evsource.create_projection('some', 'nothing', categories => '{a}', types => '{Odd}');
select evsource.create_projection('paused', 'nothing');
select evsource.pause_projection('paused');
select count(*) from generate_series(1, 2) i, lateral evsource.append_batch('a-' || i,
    array(select case n % 2 when 1 then 'Odd' else 'Even' end from generate_series(1, 4000) n), array_fill('{}'::jsonb, array[4000]));
select projection, event_count from evsource.projection_status order by 1;

-- A run of all projections writes down what is far behind, and nothing sooner.
select evsource.run_projection();
select projection, position, event_count from evsource.checkpoints order by 1;
select version from evsource.append_batch('b-1', array_fill('Odd'::text, array[4000]), array_fill('{}'::jsonb, array[4000]));
select evsource.run_projection();
select projection, position, event_count from evsource.checkpoints order by 1;
select projection, event_count from evsource.projection_status order by 1;

-- Asking never writes, so it is possible in a transaction that only reads.
begin read only;
select evsource.event_count('all');
commit;
select version from evsource.append('a-1', 'Odd');
select projection, event_count from evsource.projection_status order by 1;

-- What was written down counts once, whatever becomes of the projection.
select evsource.pause_projection('some');
select evsource.resume_projection('some');
select evsource.resume_projection('paused');
select projection, event_count from evsource.projection_status order by 1;

\c :home
drop database evsource_event_count;
