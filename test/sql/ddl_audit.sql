-- An event trigger that appends what DDL was executed: also where evsource makes
-- tables of its own, to verify, try and rebuild.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_ddl_audit;
create database evsource_ddl_audit;
\c evsource_ddl_audit
create extension evsource;
\set SHOW_CONTEXT never

\set upsert 'on conflict (stream) do update set events = p.events + excluded.events'
create table per_stream (stream text primary key, events bigint not null);
\set count 'insert into per_stream as p select stream, count(*) from new_events group by 1 ' :upsert
\set count_tens 'insert into per_stream as p select stream, 10 * count(*) from new_events group by 1 ' :upsert
\set count_itself 'insert into public.per_stream as p select stream, count(*) from new_events group by 1 ' :upsert
select evsource.create_projection('per_stream', tables => '{per_stream}', query => :'count');
select version from evsource.append('a-1', 'A');
create function append_ddl() returns event_trigger language plpgsql as
$$begin
    perform evsource.append('ddl-1', 'Executed', jsonb_build_object('command', tg_tag));
end$$;
create event trigger append_ddl on ddl_command_end execute function append_ddl();

-- What a trial appends by making its tables is not history.
select * from evsource.verify_projection('per_stream');
select * from evsource.try_projection('per_stream', query => :'count_tens');
begin isolation level repeatable read;
select * from evsource.verify_projection('per_stream');
select * from evsource.try_projection('per_stream', query => :'count_tens');
rollback;

-- What the transaction has appended before is, of other DDL, too.
begin;
select version from evsource.append('a-1', 'A');
create table other ();
select * from per_stream order by 1;
select * from evsource.verify_projection('per_stream');
select * from evsource.try_projection('per_stream', query => :'count_tens');
delete from per_stream where stream = 'ddl-1';
select stream, version, is_missing from evsource.verify_projection('per_stream');
rollback;

-- A rebuild is in place, and says why.
call evsource.rebuild_projection('per_stream');
call evsource.rebuild_projection('per_stream', online => true);
\echo :LAST_ERROR_SQLSTATE
select * from per_stream order by 1;
select * from evsource.verify_projection('per_stream');
alter event trigger append_ddl disable;
call evsource.rebuild_projection('per_stream', online => true);

-- A policy that the new tables get may read the old ones.
create policy of_many on per_stream using (exists (select from per_stream where events > 100));
call evsource.rebuild_projection('per_stream');
drop policy of_many on per_stream;

-- The reason of a handler is another one.
select evsource.alter_projection('per_stream', query => :'count_itself');
call evsource.rebuild_projection('per_stream');
select * from per_stream order by 1;

\c :home
set client_min_messages = warning;
drop database evsource_ddl_audit;
