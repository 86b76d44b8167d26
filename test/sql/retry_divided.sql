-- retry_divided: events that a truncation has released are applied by whichever partition has
-- them, also where the projection is divided while that is under way.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_retry_divided;
create database evsource_retry_divided;
\c evsource_retry_divided
create extension evsource;
set evsource.async_attempts = 1;
set evsource.daemon = off;
set client_min_messages = error;

create table done (stream text, version bigint);
create table broken ();
create function take(e evsource.event) returns void language plpgsql as $$
begin
    if e.type = 'Bad' and to_regclass('public.broken') is not null then raise exception 'cannot take it'; end if;
    insert into done values (e.stream, e.version);
end $$;
select evsource.create_projection('taken', 'take', mode => 'async', on_error => 'dead_letter', tables => '{done}',
    categories => '{s1,s2,s3,s4}');

-- Eight streams, of each of which two events have waited. A worker that leaves some of them to
-- its next batch has left a mark at the first of its partition alone.
create procedure park(round int) language plpgsql as $$
begin
    perform evsource.append('s' || round || '-' || n, type) from unnest('{Bad,Good,Good}'::text[]) type, generate_series(1, 8) n;
    commit;
    perform evsource.run_projection();
    commit;
end $$;
create procedure release(round int, partitions int) language plpgsql as $$
begin
    perform evsource.truncate_stream('s' || round || '-' || n, 2, force => true) from generate_series(1, 8) n;
    update evsource.dead_letters set retry = position in (
        select min(position) from evsource.dead_letters where retry group by projection, evsource._partition(stream, partitions))
        where retry;
end $$;
create view marked as select case projection when 'taken' then 'taken' else 'beside' end as version, stream
    from evsource.dead_letters where retry order by 1, position;

call park(1);
call release(1, 1);
select * from marked;
select evsource.alter_projection('taken', partitions => 4);
select * from marked;
select evsource.run_projection();
select count(*), (select count(*) from evsource.dead_letters) from done;

-- From so many to as many others, and to none.
call park(2);
call release(2, 4);
select * from marked;
select evsource.alter_projection('taken', partitions => 3);
select * from marked;
select evsource.run_projection();
select count(*), (select count(*) from evsource.dead_letters) from done;
call park(3);
call release(3, 3);
select evsource.alter_projection('taken', partitions => 1);
select evsource.run_projection();
select count(*), (select count(*) from evsource.dead_letters) from done;

-- Those of an old version that is kept are its own when it comes back.
call park(4);
drop table broken;
call evsource.rebuild_projection('taken', online => true, keep_old => true);
call release(4, 1);
select * from marked;
select evsource.alter_projection('taken', partitions => 4);
select evsource.revert_rebuild('taken');
select * from marked;
select evsource.run_projection();
select stream, count(*) from done where stream like 's4%' group by 1 order by 1;
select stream, count(*) from evsource.dead_letters group by 1 order by 1;

\c :home
set client_min_messages = warning;
drop database evsource_retry_divided;
