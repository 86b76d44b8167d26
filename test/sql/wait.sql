-- wait: read your own writes; who sleeps is in test/t/020_wait.pl.

\set SHOW_CONTEXT never
set client_min_messages = warning;
create table wait_seen (position bigint primary key, type text);
select evsource.create_projection('wait_seen', query => 'insert into wait_seen select position, type from new_events',
    categories => '{waited}', mode => 'async', start => 'now', notify => false, tables => '{wait_seen}');
create table wait_inline (position bigint primary key);
select evsource.create_projection('wait_inline', query => 'insert into wait_inline select position from new_events',
    categories => '{waited}', tables => '{wait_inline}');

-- What is applied needs no waiting, whatever is waited for; the position
-- reached is returned.
select position as written from evsource.append('waited-1', 'Written') \gset
select evsource.run_projection('wait_seen');
select evsource.wait_for('wait_seen', :written) >= :written as reached;
select evsource.wait_for('wait_seen', 1) >= :written as reached;
select evsource.wait_for('wait_seen', timeout => '0') >= :written as reached;
select evsource.wait_for('wait_seen', :written, null) >= :written as reached;

-- An inline projection is up to date by construction.
select position as written from evsource.append('waited-1', 'Written') \gset
select evsource.wait_for('wait_inline', :written) >= :written as reached;
select count(*) from wait_inline where position = :written;

-- Nobody applies it: when the time is over that is an error, with how far it is.
do $$
declare
    about text;
begin
    perform evsource.wait_for('wait_seen', timeout => '30 ms');
exception when sqlstate 'VE009' then
    get stacked diagnostics about = pg_exception_detail;
    raise warning '% %', sqlstate, regexp_replace(about, '\d+', 'N', 'g');
end $$;
select evsource.run_projection('wait_seen');
select count(*) from wait_seen where position = :written;

-- Who is paused or has failed would be waited for in vain.
select evsource.append('waited-1', 'Written') is null;
select evsource.pause_projection('wait_seen');
do $$
begin
    perform evsource.wait_for('wait_seen', timeout => null);
exception when object_not_in_prerequisite_state then
    raise warning '%', sqlerrm;
end $$;
select evsource.resume_projection('wait_seen');

-- What was parked holds nobody up: the projection is past it, without it.
create function wait_refuse(e evsource.event) returns void language plpgsql as $$ begin raise 'cannot take it'; end $$;
select evsource.create_projection('wait_parks', 'wait_refuse', mode => 'async', types => '{Refused}', start => 'now', on_error => 'dead_letter');
set evsource.async_attempts = 1;
set client_min_messages = error;
select position as written from evsource.append('waited-1', 'Refused') \gset
select evsource.run_projection('wait_parks');
select evsource.wait_for('wait_parks', :written) >= :written as reached,
    exists (select from evsource.dead_letters where projection = 'wait_parks' and position = :written) as parked;

-- What it fails at has a position, or none: a commit that fails, another server that cannot be reached.
select evsource.alter_projection('wait_parks', on_error => 'stop');
select evsource.append('waited-2', 'Refused') is null;
select evsource.run_projection('wait_parks');
set client_min_messages = warning;
create procedure wait_detail() language plpgsql as $$
declare
    about text;
begin
    perform evsource.wait_for('wait_parks', timeout => '0');
exception when others then
    get stacked diagnostics about = pg_exception_detail;
    raise warning '% %', sqlstate, regexp_replace(about, '[1-9]\d*', 'N', 'g');
end $$;
call wait_detail();
update evsource.projection_failures set position = null where projection = 'wait_parks';
call wait_detail();
update evsource.projections set state = 'active' where projection = 'wait_parks';
call wait_detail();
drop procedure wait_detail();
reset evsource.async_attempts;
select evsource.drop_projection('wait_parks');
drop function wait_refuse(evsource.event);

-- What this transaction has appended cannot be waited for before it commits; what
-- was there before can.
begin;
select position as own from evsource.append('waited-1', 'Own') \gset
select evsource.run_projection('wait_seen');
select evsource.wait_for('wait_seen', :own - 1) = :own - 1 as reached;
do $$
begin
    perform evsource.wait_for('wait_seen');
exception when object_not_in_prerequisite_state then
    raise warning '% %', sqlstate, sqlerrm;
end $$;
rollback;

-- A fixed snapshot would not show the read model.
begin isolation level repeatable read;
select evsource.wait_for('wait_seen', 1);
\echo :LAST_ERROR_SQLSTATE
rollback;

select evsource.wait_for('wait_unknown');
\echo :LAST_ERROR_SQLSTATE
select evsource.wait_for(null);
\echo :LAST_ERROR_SQLSTATE
do $$
begin
    perform evsource.wait_for('wait_seen', 281474976710000);
exception when invalid_parameter_value then
    raise warning '%', sqlerrm;
end $$;
select evsource.wait_for('wait_seen', timeout => '-1 s');
\echo :LAST_ERROR_SQLSTATE

-- A handler would wait for itself, or for a worker that may wait for it.
create function wait_in_handler(e evsource.event) returns void language plpgsql as $$
begin
    perform evsource.wait_for('wait_handler', e.position, '1 s');
end $$;
select evsource.create_projection('wait_handler', 'wait_in_handler', mode => 'manual', start => 'now');
select count(*) from evsource.append('waited-1', 'Happened');
set client_min_messages = error;
select evsource.run_projection('wait_handler');
reset client_min_messages;
select state, sqlstate, message, hint from evsource.projection_status join evsource.projection_failures using (projection) where projection = 'wait_handler';
select evsource.drop_projection('wait_handler');
drop function wait_in_handler;

select evsource.drop_projection('wait_seen'), evsource.drop_projection('wait_inline');
drop table wait_seen, wait_inline;
