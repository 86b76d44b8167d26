-- rebuild_stale: an event that fails for what a function remembers in the session is not
-- parked by a rebuild in it.  A new session tells whether it is the event's fault.
select current_database() as home \gset
create database evsource_rebuild_stale;
\c evsource_rebuild_stale
set client_min_messages = error;
create extension evsource;
-- A PL/pgSQL function keeps the types that the fields of a record once had.
create table prices (price integer);
insert into prices values (5);
create table charged (stream text, version bigint, price numeric);
create function charge(e evsource.event) returns void language plpgsql as $$
declare r record; doubled numeric;
begin
    select * into r from public.prices;
    doubled := r.price * 2;
    if doubled < 0 then
        raise 'negative' using errcode = 'datatype_mismatch', hint = 'Charge more.';
    end if;
    insert into charged values (e.stream, e.version, doubled);
end $$;
select evsource.create_projection('charged', 'charge', mode => 'async', on_error => 'dead_letter', tables => '{charged}');
select count(*) from evsource.append_batch('a-1', '{Charged,Charged,Charged}', array_fill('{}'::jsonb, array[3]));
select evsource.run_projection('charged');
create view result as select (select count(*) from charged) as charged, (select count(*) from evsource.dead_letters) as parked;

\c
set client_min_messages = error;
call evsource.rebuild_projection('charged', online => false);
alter table prices alter price type numeric;
call evsource.rebuild_projection('charged', online => false);
\echo :LAST_ERROR_SQLSTATE
begin;
call evsource.rebuild_projection('charged');
rollback;
\c
set client_min_messages = error;
table result;
call evsource.rebuild_projection('charged', online => false);
table result;

-- One that a new session cannot take, either, is parked there; but not for what may be the fault of
-- the copies of the tables.
update prices set price = -5;
call evsource.rebuild_projection('charged', online => true);
table result;
select evsource.cancel_rebuild('charged');
\c
set client_min_messages = error;
set evsource.async_attempts = 1;
call evsource.rebuild_projection('charged', online => true);
\echo :LAST_ERROR_SQLSTATE
table result;
\c
set client_min_messages = error;
set evsource.async_attempts = 1;
call evsource.rebuild_projection('charged', online => false);
table result;

\c :home
set client_min_messages = warning;
drop database evsource_rebuild_stale;
