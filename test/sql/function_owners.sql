-- function_owners: no function runs with the rights of who registered it after it has come to
-- belong to somebody else, who could replace it, whatever it was registered for.
-- (Handlers: projections_rights.)
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_function_owners;
create database evsource_function_owners;
\c evsource_function_owners
create extension evsource;
\set SHOW_CONTEXT never
create role regress_functions_owner;
create role regress_functions_stranger;
select evsource.grant_access('regress_functions_owner', 'admin');
grant usage, create on schema public to regress_functions_owner, regress_functions_stranger;

set role regress_functions_owner;
create function key_of(e evsource.event) returns text language sql as 'select e.stream';
create function fold(state jsonb, e evsource.event) returns jsonb language sql immutable as $$ select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1) $$;
create function compatible(saved int, current int) returns bool language sql as 'select current < 3';
create function migrate(state jsonb, saved int) returns jsonb language sql as $$ select state || '{"migrated": true}' $$;
create function empty() returns void language sql as '';
create function valid(data jsonb) returns bool language sql as 'select true';
create function up(data jsonb) returns jsonb language sql as $$ select data || '{"up": true}' $$;
create function decide(state jsonb, command jsonb) returns evsource.new_event[] language sql stable as $$ select array[evsource.new_event('Decided', '{}')] $$;
select evsource.create_projection('keyed', 'fold', key => 'key_of', mode => 'manual');
select evsource.create_projection('states', 'fold');
create table emptied (stream text);
select evsource.create_projection('emptied', query => 'insert into emptied select stream from new_events', tables => '{emptied}', on_reset => 'empty');
select evsource.define_event_type('Checked', 1, validator => 'valid');
select evsource.create_decider('decide', 'decide', 'states');
reset role;
select version from evsource.append('a-1', 'Happened');

-- What happens when a function is another's, when the owner may not call it, and when all is well.
create procedure call_as(who text, statement text) language plpgsql as $$
declare
    detail text;
    result text;
begin
    execute statement into result;
    raise notice '%: %', who, result;
exception when insufficient_privilege then
    get stacked diagnostics detail = pg_exception_detail;
    raise notice '%: % (%)', who, sqlerrm, detail;
end $$;
create procedure call_as_all(function regprocedure, statement text) language plpgsql as $$
begin
    execute format('alter function %s owner to regress_functions_stranger', function);
    call call_as('foreign', statement);
    execute format('alter function %s owner to regress_functions_owner', function);
    execute format('revoke execute on function %s from public, regress_functions_owner', function);
    call call_as('revoked', statement);
    execute format('grant execute on function %s to public', function);
    call call_as('granted', statement);
end $$;
set client_min_messages = notice;
call call_as_all('key_of(evsource.event)', $$ select evsource.run_projection('keyed') $$);
call call_as_all('empty()', $$ select evsource.reset_projection('emptied') $$);
call call_as_all('valid(jsonb)', $$ select version from evsource.append('a-2', 'Checked') $$);
call call_as_all('decide(jsonb,jsonb)', $$ select version from evsource.execute_command('decide', 'a-1', '{}') $$);
set role regress_functions_owner;
select evsource.define_event_type('Checked', 2, upcaster => 'up');
reset role;
call call_as_all('up(jsonb)', $$ select data from evsource.read_stream('a-2') $$);
-- What speaks for snapshots is not asked: they are not used.
select evsource.save_snapshot('states');
select evsource.alter_projection('states', state_version => 2, is_compatible => 'compatible', migrate_state => 'migrate');
alter function compatible(integer, integer) owner to regress_functions_stranger;
select evsource.state('states', 'a-1');
alter function compatible(integer, integer) owner to regress_functions_owner;
select evsource.state('states', 'a-2');
select key, reason, message from evsource.snapshot_rejections;
select evsource.save_snapshot('states');
select evsource.alter_projection('states', state_version => 3);
alter function migrate(jsonb, integer) owner to regress_functions_stranger;
select evsource.state('states', 'a-1');
alter function migrate(jsonb, integer) owner to regress_functions_owner;
select evsource.state('states', 'a-2');
select evsource.save_snapshot('states');
select evsource.alter_projection('states', state_version => 4);
revoke execute on function migrate(jsonb, integer) from public, regress_functions_owner;
select evsource.state('states', 'a-1');
select key, reason, message from evsource.snapshot_rejections order by reason;

-- A reset finds what the projection's search_path shows, whoever asks for it.
create schema apart;
set search_path = apart, public;
create table remains (n int);
create function empty_apart() returns void language plpgsql as 'begin delete from remains; end';
select evsource.create_projection('apart', query => 'insert into remains select 1 from new_events', on_reset => 'empty_apart');
reset search_path;
select count(*) from apart.remains;
select evsource.reset_projection('apart');
select count(*) from apart.remains;

\c :home
drop database evsource_function_owners;
drop role regress_functions_owner, regress_functions_stranger;
