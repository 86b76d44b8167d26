-- commands: load, decide, append, in one call and once a command.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_commands;
create database evsource_commands;
\c evsource_commands
create extension evsource;
set client_min_messages = warning;

create schema bank;
set search_path = bank;
create function account(state jsonb, e evsource.event) returns jsonb language sql as $$
select state || case (e).type
    when 'Opened' then '{"open": true, "balance": 0}'
    when 'Closed' then '{"open": false}'
    else jsonb_build_object('balance', (state ->> 'balance')::int + ((e).data ->> 'amount')::int)
end $$;
select evsource.create_projection('account', 'account', categories => '{account}');

create function decide(state jsonb, command jsonb) returns evsource.new_event[] language plpgsql as $$
begin
    case command ->> 'do'
    when 'open' then
        if state ? 'open' then return null; end if;
        return array[evsource.new_event('Opened'),
                     evsource.new_event('Moved', jsonb_build_object('amount', coalesce((command ->> 'amount')::int, 0)))];
    when 'move' then
        if not coalesce((state ->> 'open')::bool, false) then
            raise 'account is not open' using errcode = 'BA001';
        end if;
        if (state ->> 'balance')::int + (command ->> 'amount')::int < 0 then
            raise 'not enough money' using errcode = 'BA002', detail = format('There are %s.', state ->> 'balance');
        end if;
        return array[evsource.new_event('Moved', jsonb_build_object('amount', command -> 'amount'))];
    when 'close' then
        return case when state -> 'open' = 'true' then array[evsource.new_event('Closed')] else '{}' end;
    when 'null' then return array[null::evsource.new_event];
    when 'no type' then return array[evsource.new_event(null)];
    when 'no data' then return array[evsource.new_event('Moved', null)];
    when 'own id' then
        return array[evsource.new_event('Moved', '{"amount": 1}', '{"by": "decider"}', '00000000-0000-4000-8000-000000000001', '2026-01-01Z')];
    end case;
end $$;
select evsource.create_decider('teller', 'decide', 'account');
select decider, projection, handler, search_path from evsource.deciders;

-- The events and the state, which is the one that load_state gives.
create view result as select null::jsonb as state, null::bigint as version, null::bigint as position, null::boolean as stored, null::text as events;
create function run(stream text, command jsonb, id uuid default null) returns setof result language sql as $$
select r.state, r.version, r.position, r.stored,
    (select string_agg(e.version || ' ' || e.type || ' ' || e.data, ', ' order by e.version) from unnest(r.events) e)
from evsource.execute_command('teller', stream, command, id) r $$;
select * from run('account-1', '{"do": "open", "amount": 100}');
select * from run('account-1', '{"do": "move", "amount": -30}');
select * from evsource.load_state('account', 'account-1');
select version, type, data from evsource.read_stream('account-1');

-- What the decider raises passes through; nothing is stored.
select * from evsource.execute_command('teller', 'account-1', '{"do": "move", "amount": -71}');
\set SHOW_CONTEXT never
select * from run('account-1', '{"do": "move", "amount": -71}');
\echo :LAST_ERROR_SQLSTATE
select * from run('account-2', '{"do": "move", "amount": 1}');
select evsource.stream_version('account-1'), evsource.stream_version('account-2');
-- No events, as an empty array or as null: the state and the version as they are.
select * from run('account-1', '{"do": "open"}');
select * from run('account-2', '{"do": "close"}');
select events from evsource.execute_command('teller', 'account-2', '{"do": "close"}');

-- With an id a command is executed once; sent again it returns what it returned first.
\set one '''10000000-0000-4000-8000-000000000001'''
\set two '''01990000-1111-7222-8333-000000000002'''
select * from run('account-3', '{"do": "open", "amount": 5}', :one);
select * from run('account-3', '{"do": "move", "amount": -5}', :two);
select * from run('account-3', '{"do": "close"}');
select * from run('account-3', '{"do": "open", "amount": 5}', :one);
select * from run('account-3', '{"do": "move", "amount": -5}', :two);
-- The ids of its events are derived from its own, and it is what caused them.
select version, id, metadata from evsource.read_stream('account-3', max_count => 3);
-- Where there were no events, that is remembered: now it would have one.
\set three '''10000000-0000-4000-8000-000000000003'''
select * from run('account-4', '{"do": "close"}', :three);
select * from run('account-4', '{"do": "open"}');
select * from run('account-4', '{"do": "close"}', :three);
select evsource.state('account', 'account-4');
-- So it is where the decider gave its events ids.
\set four '''10000000-0000-4000-8000-000000000004'''
select * from run('account-4', '{"do": "own id"}', :four);
select * from run('account-4', '{"do": "move", "amount": 1}');
select * from run('account-4', '{"do": "own id"}', :four);
select id, metadata, occurred_at = '2026-01-01Z' as then from evsource.read_stream('account-4', 3, 1);
select command_id, stream, version, event_count from evsource.commands order by 1;
-- What was rejected was not executed: it may succeed another time.
\set five '''10000000-0000-4000-8000-000000000005'''
select * from run('account-5', '{"do": "move", "amount": 1}', :five);
select * from run('account-5', '{"do": "open"}');
select * from run('account-5', '{"do": "move", "amount": 1}', :five);
-- An id stands for one command: not for one of another stream.
select * from run('account-6', '{"do": "open"}', :one);
select * from run('account-6', '{"do": "close"}', :three);
-- Nor for another one of the same stream, nor for another decider's.
select evsource.create_decider('other teller', 'decide', 'account');
\set VERBOSITY default
select * from run('account-3', '{"do": "move", "amount": -4}', :two);
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
select * from evsource.execute_command('other teller', 'account-3', '{"do": "move", "amount": -5}', :two);
select * from run('account-4', '{"do": "open"}', :three);
select * from run('account-4', '{"do": "own id", "why": null}', :four);
select * from run('account-3', '[{"do": "move", "amount": -5}]', :two);
\set VERBOSITY default
-- it is the same in other words
select stored from run('account-3', '{"amount": -5.0, "do": "move"}', :two);
select evsource.drop_decider('other teller');
-- Forgotten commands are new ones.
select evsource.forget_commands('infinity');
select * from run('account-4', '{"do": "close"}', :three);

-- Metadata: what the session says about the cause wins.
begin;
select evsource.set_metadata('{"causation_id": "mail", "user": "ann"}');
select version from run('account-7', '{"do": "open"}', '10000000-0000-4000-8000-000000000007');
commit;
select version, metadata from evsource.read_stream('account-7');

-- In one transaction: each command sees what the ones before it did.
begin;
select * from run('account-8', '{"do": "open", "amount": 1}');
select * from run('account-8', '{"do": "move", "amount": 2}');
savepoint a;
select * from run('account-8', '{"do": "move", "amount": -4}');
rollback to a;
select * from run('account-8', '{"do": "move", "amount": -3}');
commit;
begin isolation level repeatable read;
select * from run('account-8', '{"do": "move", "amount": 1}');
select * from run('account-8', '{"do": "move", "amount": 1}');
commit;
begin read only;
select * from run('account-8', '{"do": "move", "amount": 1}');
rollback;

-- Rules of event types count, and the state is made of what readers get.
select evsource.define_event_type('Moved', 1, '$.amount < 1000');
select * from run('account-8', '{"do": "move", "amount": 1000}');
\echo :LAST_ERROR_SQLSTATE
select evsource.drop_event_type('Moved');

-- Handlers that append to the stream come after the command's own events: the
-- result is that of the command.
create function bonus(e evsource.event) returns void language plpgsql as $$
begin
    if (e.data ->> 'amount')::int = 77 then
        perform evsource.append(e.stream, 'Moved', '{"amount": 7}');
    end if;
end $$;
select evsource.create_projection('bonus', 'bonus', types => '{Moved}');
select * from run('account-9', '{"do": "open", "amount": 77}');
select evsource.state('account', 'account-9'), evsource.stream_version('account-9');
select evsource.drop_projection('bonus');

-- Many events of one command are found again, too.
create function many(state jsonb, command jsonb) returns evsource.new_event[] language sql as
$$ select array_agg(evsource.new_event('Opened', to_jsonb(n))) from generate_series(1, 1000) n $$;
select evsource.create_decider('many', 'bank.many(jsonb, jsonb)', 'account');
select r.version, r.stored, cardinality(events), events[1000].data from evsource.execute_command('many', 'account-10', '{}', :two::uuid) r;
select r.version, r.stored, cardinality(events), events[1000].data from evsource.execute_command('many', 'account-10', '{}', '20000000-0000-4000-8000-000000000001') r;
select evsource.append('account-10', 'Closed') is not null as closed;
select r.version, r.stored, cardinality(events), events[1000].data, r.state from evsource.execute_command('many', 'account-10', '{}', '20000000-0000-4000-8000-000000000001') r;

-- What a decider does beside deciding stays, unless it has to decide again: one
-- that appends to its own stream never decides on what is there.
create table notes (note text);
create function writes(state jsonb, command jsonb) returns evsource.new_event[] language plpgsql as $$
begin
    insert into bank.notes values (command ->> 'note');
    if command ? 'append' then perform evsource.append('account-11', 'Opened'); end if;
    return array[evsource.new_event('Opened')];
end $$;
select evsource.create_decider('writes', 'writes', 'account');
select version from evsource.execute_command('writes', 'account-11', '{"note": "first"}');
select version from evsource.execute_command('writes', 'account-11', '{"note": "second", "append": true}');
\echo :LAST_ERROR_SQLSTATE
select * from notes;

-- Errors.
select * from evsource.execute_command('nobody', 'account-1', '{}');
select * from evsource.execute_command(null, 'account-1', '{}');
select * from evsource.execute_command('teller', null, '{}');
select * from evsource.execute_command('teller', '', '{}');
select * from evsource.execute_command('teller', 'account-1', null);
select * from evsource.execute_command('teller', 'customer-1', '{"do": "open"}');
select * from run('account-1', '{"do": "null"}');
select * from run('account-1', '{"do": "no type"}');
select * from run('account-1', '{"do": "no data"}');
select evsource.create_decider('teller', 'decide', 'account');
select evsource.create_decider('teller', 'nowhere', 'nothing', if_exists => 'keep');
select evsource.create_decider('teller', 'many', 'account', if_exists => 'alter');
select handler from evsource.deciders where decider = 'teller';
select evsource.create_decider('teller', 'decide', 'account', if_exists => 'alter');
select evsource.create_decider('teller', 'decide', 'account', if_exists => 'perhaps');
select evsource.create_decider('other', 'account', 'account');
select evsource.create_decider('other', 'decide', 'nothing');
select evsource.create_projection('all', 'evsource.fold_count', key => 'global', mode => 'async');
select evsource.create_decider('other', 'decide', 'all');
select evsource.create_decider('', 'decide', 'account');
select evsource.create_decider(null, 'decide', 'account');
select evsource.create_decider('other', 'decide', null);
select evsource.drop_decider('nobody');
select evsource.drop_decider('nobody', if_exists => true);
select evsource.drop_decider(null);
-- Deciders may execute commands, but not without end.
create function again(state jsonb, command jsonb) returns evsource.new_event[] language plpgsql as $$
begin
    if (command -> 'times')::int > 0 then
        perform evsource.execute_command('again', 'account-again-' || (command ->> 'times'),
            jsonb_build_object('times', (command -> 'times')::int - 1));
    end if;
    return array[evsource.new_event('Opened')];
end $$;
select evsource.create_decider('again', 'again', 'account');
select count(*) from evsource.execute_command('again', 'account-again', '{"times": 16}');
\set VERBOSITY terse
select evsource.execute_command('again', 'account-again', '{"times": 17}');
select evsource.execute_command('again', 'account-again', '{"times": 1000000}');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
-- the one that failed counts no more
select count(*) from evsource.execute_command('again', 'account-again', '{"times": 16}');
set evsource.max_dispatch_depth = 0;
select count(*) from evsource.execute_command('again', 'account-again', '{"times": 0}');
reset evsource.max_dispatch_depth;
select evsource.drop_decider('again');
-- An upcaster of events that the state leaves out is not called, with an id either.
create function moves(state jsonb, command jsonb) returns evsource.new_event[] language sql as $$
select array[evsource.new_event('Moved', command)] $$;
create function fails(data jsonb) returns jsonb language plpgsql immutable as $$ begin raise 'upcaster fails'; end $$;
select evsource.create_projection('moves', 'evsource.fold_count', categories => '{purse}', types => '{Moved}');
select evsource.create_decider('mover', 'moves', 'moves');
select evsource.define_event_type('Noted', 1);
select version from evsource.append('purse-1', 'Noted');
select state, version, stored from evsource.execute_command('mover', 'purse-1', '{}', '00000000-0000-4000-8000-00000000000a');
select version from evsource.append('purse-1', 'Noted');
select evsource.define_event_type('Noted', 2, upcaster => 'fails');
select state, version, stored from evsource.execute_command('mover', 'purse-1', '{}', '00000000-0000-4000-8000-00000000000a');
select state, version, stored from evsource.execute_command('mover', 'purse-1', '{}', '00000000-0000-4000-8000-00000000000b');
-- A handler in use is not dropped.
drop function decide(jsonb, jsonb);
alter event trigger evsource_guard_drops disable;
drop function decide(jsonb, jsonb);
alter event trigger evsource_guard_drops enable;
select * from run('account-1', '{"do": "open"}');
select evsource.drop_decider('teller');
select evsource.drop_projection('account');
select evsource.drop_projection('account', force => true);
select * from evsource.execute_command('many', 'account-1', '{}');

reset role;
\c :home
set client_min_messages = warning;
drop database evsource_commands;
