-- commands_rights: whose rights a command needs, and whose its decider has.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_commands_rights;
create database evsource_commands_rights;
\c evsource_commands_rights
create extension evsource;
set client_min_messages = warning;

create role regress_commands_owner;
create role regress_commands_writer;
create schema bank authorization regress_commands_owner;
select evsource.grant_access('regress_commands_owner', 'admin');
grant create on database evsource_commands_rights to regress_commands_owner;

-- The decider runs as its owner, with the search_path of then; the append is the caller's.
set role regress_commands_owner;
set search_path = bank;
create table limits (most int);
insert into limits values (10);
create function decide(state jsonb, command jsonb) returns evsource.new_event[] language plpgsql as $$
begin
    if command::int > (select most from limits) then
        raise '% is too much, says %', command, current_user;
    end if;
    return array[evsource.new_event('Moved', command)];
end $$;
select evsource.create_projection('moves', 'evsource.fold_count');
select evsource.create_decider('mover', 'decide', 'moves');
reset role;
reset search_path;
select evsource.grant_access('regress_commands_writer', 'writer');
set role regress_commands_writer;
\set SHOW_CONTEXT never
select version from evsource.execute_command('mover', 's-1', '11');
select version from evsource.execute_command('mover', 's-1', '9');
select version, stored from evsource.execute_command('mover', 's-1', '9', '10000000-0000-4000-8000-000000000001');
select version, stored from evsource.execute_command('mover', 's-1', '9', '10000000-0000-4000-8000-000000000001');
-- A writer may neither register nor drop, nor write the tables.
select evsource.create_decider('other', 'bank.decide', 'moves');
select evsource.drop_decider('mover');
select evsource.forget_commands('infinity');
insert into evsource.deciders values ('x', 'x', 'x', 'x', 'x');
delete from evsource.commands;
reset role;

-- Whoever may not append may not do so by a command; whoever may not read is shown no state.
revoke insert on evsource.events from regress_commands_writer;
set role regress_commands_writer;
select version from evsource.execute_command('mover', 's-1', '9');
reset role;
grant insert on evsource.events to regress_commands_writer;
revoke select on evsource.events from regress_commands_writer;
set role regress_commands_writer;
select version from evsource.execute_command('mover', 's-1', '9');
reset role;
grant select on evsource.events to regress_commands_writer;

-- Nor is the decider's owner, as soon as that role may not.
revoke select on evsource.events from regress_commands_owner;
select evsource.alter_projection('moves', owner => current_user);
set role regress_commands_writer;
select version from evsource.execute_command('mover', 's-1', '9');
reset role;
grant select on evsource.events to regress_commands_owner;
set role regress_commands_writer;
select version from evsource.execute_command('mover', 's-1', '9');
reset role;

-- Not a function of others, nor a decider of others.
create role regress_commands_admin;
select evsource.grant_access('regress_commands_admin', 'admin');
grant usage on schema bank to regress_commands_admin;
set role regress_commands_admin;
select evsource.create_decider('other', 'bank.decide', 'moves');
select evsource.create_decider('mover', 'bank.decide', 'moves', if_exists => 'alter');
select evsource.drop_decider('mover');
reset role;
-- A superuser does not run what others can replace.
select evsource.create_decider('other', 'bank.decide', 'moves');
select evsource.drop_decider('mover');

\c :home
set client_min_messages = warning;
drop database evsource_commands_rights;
drop role regress_commands_owner, regress_commands_writer, regress_commands_admin;
