-- retry_order: of dead letters those are applied that wait for no other, whatever comes
-- after them; and what a truncation has released.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_retry_order;
create database evsource_retry_order;
\c evsource_retry_order
create extension evsource;
set evsource.async_attempts = 1;
set evsource.daemon = off;
set client_min_messages = error;

create table broken (stream text);
create table done (n bigint generated always as identity, stream text);
create function keys_of(e evsource.event) returns text[] language sql immutable as
    $$ select array(select jsonb_array_elements_text(e.data)) $$;
create function keyed(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if exists (select from public.broken b where b.stream = e.stream) then
        raise exception 'cannot take %', e.stream;
    end if;
    insert into public.done (stream) values (e.stream);
    return coalesce(state, '[]') || to_jsonb(e.stream);
end $$;
select evsource.create_projection('keyed', 'keyed', mode => 'async', key => 'keys_of', on_error => 'dead_letter', types => '{T}');
insert into broken values ('s-1'), ('s-2'), ('s-3');
select count(evsource.append('s-' || n, 'T', keys)) from unnest(array[
    '["a"]', '["c"]', '["b"]', '["b"]', '["b", "a"]', '["b"]', '["d"]']::jsonb[]) with ordinality e (keys, n);
select evsource.run_projection();
select position, keys, attempts from evsource.dead_letters order by position;

-- What has one key that is free is applied, also where a later event has it together with
-- one that is not.
delete from broken where stream = 's-3';
select * from evsource.retry_dead_letters('keyed');
select stream from done order by n;
select position, keys, attempts from evsource.dead_letters order by position;
delete from broken where stream = 's-1';
select * from evsource.retry_dead_letters('keyed');
select stream from done order by n;
select position, keys, attempts from evsource.dead_letters order by position;
delete from broken;
select * from evsource.retry_dead_letters('keyed');
select string_agg(stream, ' ' order by n) from done;
select count(*) from evsource.parked_keys;
select * from evsource.verify_projection('keyed');

-- So it is with what waits no longer since what it waited for has been truncated; also
-- after more than are read at a time of those that wait on.
truncate done;
select evsource.drop_projection('keyed');
create function plain(e evsource.event) returns void language plpgsql as $$
begin
    if e.type = 'Bad' and exists (select from public.broken b where b.stream = e.stream) then
        raise exception 'cannot take %', e.stream;
    end if;
    insert into public.done (stream) values (e.stream || ':' || e.version);
end $$;
select evsource.create_projection('plain', 'plain', mode => 'async', on_error => 'dead_letter', categories => '{w,x,y}');
insert into broken values ('x'), ('y-1'), ('y-2');
select count(evsource.append(stream, 'Bad')) from unnest('{x,y-1,y-2}'::text[]) stream;
select version from evsource.append_batch('x', array_fill('Good'::text, '{2500}'), array_fill('{}'::jsonb, '{2500}'));
select count(evsource.append('y-' || n % 2 + 1, 'Good')) from generate_series(1, 6) n;
select version from evsource.append_batch('x', array_fill('Good'::text, '{2500}'), array_fill('{}'::jsonb, '{2500}'));
select evsource.append('y-1', 'Good') is not null;
select evsource.run_projection();
select stream, attempts, count(*) from evsource.dead_letters group by 1, 2 order by 1, 2;
select evsource.truncate_stream('y-1', 2, force => true);
select evsource.run_projection();
select stream from done order by n;
select stream, attempts, count(*) from evsource.dead_letters group by 1, 2 order by 1, 2;
truncate broken, done;
select * from evsource.retry_dead_letters('plain');
select count(*), count(distinct stream) from done;
select bool_and(version = row) from (select split_part(stream, ':', 2)::int as version,
    row_number() over (partition by split_part(stream, ':', 1) order by n) as row from done) d;
select count(*) from evsource.parked_keys;

-- What was released is tried once, however many attempts events of the log have: it is parked
-- already, and does not hold up others. The call says what it has left.
set evsource.async_attempts = 1;
truncate done;
select evsource.drop_projection('plain', force => true);
select evsource.create_projection('plain', 'plain', mode => 'async', on_error => 'dead_letter', categories => '{z}', start => 'now');
insert into broken values ('z-1');
select count(evsource.append('z-1', type)) from unnest('{Bad,Good,Bad,Good}'::text[]) type;
select evsource.run_projection();
select count(evsource.append('z-2', type)) from unnest('{Good,Good}'::text[]) type;
select evsource.truncate_stream('z-1', 2, force => true);
set evsource.async_attempts = 5;
set client_min_messages = warning;
\set SHOW_CONTEXT never
select evsource.run_projection();
select stream from done order by n;
select version, attempts, retry from evsource.dead_letters order by 1;
select position = (select max(position) from evsource.events) as at_end, dead_letters from evsource.projection_status;
-- another call has nothing to do; nor has it failed
select evsource.run_projection();
select version, attempts, retry from evsource.dead_letters order by 1;
select count(*) from evsource.projection_failures;
truncate broken;
select * from evsource.retry_dead_letters('plain');
select stream from done order by n;

-- What the process died at would end it again, here too: that is tried when it is asked for.
insert into broken values ('z-1'), ('z-2');
select count(evsource.append('z-' || n, type)) from generate_series(1, 2) n, unnest('{Bad,Good}'::text[]) type;
set evsource.async_attempts = 1;
set client_min_messages = error;
select evsource.run_projection();
update evsource.dead_letters set sqlstate = '57P02' where stream = 'z-1' and attempts > 0;
truncate broken, done;
set client_min_messages = notice;
select * from evsource.retry_dead_letters('plain');
select stream from done order by n;
select * from evsource.retry_dead_letters('plain', crashed => true);
select stream from done order by n;
set client_min_messages = warning;

-- However few there were when this session removed some before: of many, too, each is found and
-- removed one by one.
create procedure park(n int) language plpgsql as $$ begin
    insert into broken values ('z-3');
    perform evsource.append('z-3', 'Bad');
    perform evsource.append_batch('z-3', array_fill('Good'::text, array[n]), array_fill('{}'::jsonb, array[n]));
    commit;
    perform evsource.run_projection();
    truncate broken;
    commit;
end $$;
set client_min_messages = error;
set evsource.async_attempts = 1;
do $$ begin for i in 1..12 loop call park(1); perform evsource.retry_dead_letters('plain'); commit; end loop; end $$;
vacuum analyze evsource.dead_letters, evsource.parked_keys;
do $$ begin for i in 1..12 loop call park(1); perform evsource.retry_dead_letters('plain'); commit; end loop; end $$;
call park(9999);
begin;
create temp table reads as select relname, seq_tup_read + idx_tup_fetch as rows from pg_stat_xact_all_tables
    where relid in ('evsource.dead_letters'::regclass, 'evsource.parked_keys'::regclass);
select * from evsource.retry_dead_letters('plain');
select relname, s.seq_tup_read + s.idx_tup_fetch - r.rows <= 30000 as read_three_times_at_most
    from pg_stat_xact_all_tables s join reads r using (relname) where s.schemaname = 'evsource' order by 1;
commit;

\c :home
set client_min_messages = warning;
drop database evsource_retry_order;
