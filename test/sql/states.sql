-- states: what a fold projection says of a key, now and in the past.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_states;
create database evsource_states;
\c evsource_states
create extension evsource;
\set SHOW_CONTEXT never
set timezone = 'UTC';
set datestyle = iso;

create function balance(state jsonb, e evsource.event) returns jsonb language plpgsql immutable as
$$begin
    return jsonb_build_object('balance', coalesce((state ->> 'balance')::numeric, 0) + (e.data ->> 'amount')::numeric, 'last', e.version);
end$$;
select evsource.create_projection('balance', 'balance', types => '{Paid}');
select evsource.create_projection('all', 'evsource.fold_count', key => 'global', mode => 'async');
create table paid (stream text primary key, events bigint);
select evsource.create_projection('paid', query => 'insert into paid select stream, count(*) from new_events group by stream on conflict (stream) do update set events = paid.events + excluded.events', tables => '{paid}');

-- A key without events has no state; a decision on it starts from {} at version 0.
select evsource.state('balance', 'account-1');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.load_state('balance', 'account-1');
select version from evsource.append('account-1', 'Opened', expected_version => (select version from evsource.load_state('balance', 'account-1')));

-- Events that the filter keeps out make no state, but the version to decide on.
select evsource.state('balance', 'account-1');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.load_state('balance', 'account-1');
select version from evsource.append('account-1', 'Paid', '{"amount": 10}', expected_version => (select version from evsource.load_state('balance', 'account-1')));
select evsource.state('balance', 'account-1');
select * from evsource.load_state('balance', 'account-1');
select version from evsource.append('account-1', 'Noted');
select * from evsource.load_state('balance', 'account-1');

-- What cannot be asked for is refused.
select evsource.state('unknown', 'account-1');
\echo :LAST_ERROR_SQLSTATE
select evsource.state('paid', 'account-1');
\echo :LAST_ERROR_SQLSTATE
select evsource.state('balance');
\echo :LAST_ERROR_SQLSTATE
select evsource.load_state('balance', null);
\echo :LAST_ERROR_SQLSTATE
select evsource.state(null, 'account-1');
\echo :LAST_ERROR_SQLSTATE
select evsource.state('all', 'account-1');
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('balance', 'account-1', null);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('balance', 'account-1', -1);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('balance', 'account-1', 4);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('balance', 'account-9', 1);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('all', null, 1);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('balance', 'account-1', null);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('balance', 'account-9', 'infinity');
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('unknown', 'account-1', now());
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('paid', 'account-1', now());
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('paid', 'account-1', 1);
\echo :LAST_ERROR_SQLSTATE
select evsource.load_states('paid');
\echo :LAST_ERROR_SQLSTATE
-- The one state of a global fold is known before it has events, but was none at any time.
select evsource.state('all') is null as no_events_yet;
select evsource.create_projection('none', 'evsource.fold_count', key => 'global', mode => 'manual', types => '{Never}');
select evsource.state_at_time('none', null, 'infinity');
\echo :LAST_ERROR_SQLSTATE
select evsource.drop_projection('none');

-- The state at a version is what it was after that event.
select count(*) from generate_series(4, 10) i, lateral evsource.append('account-1', 'Paid', jsonb_build_object('amount', i));
select v, evsource.state_at_version('balance', 'account-1', v) from generate_series(0, 10) v;
-- version 0 is before all events, of any stream; an event that is not the projection's makes no state either
select evsource.state_at_version('balance', 'account-9', 0) is null as nothing, evsource.state_at_version('balance', 'account-1', 1) is null as not_yet;

-- The state at a time is made of what had occurred before it, in the order of the log.
select count(*) from (values ('2024-03-01Z', 1), ('2024-01-01Z', 2), ('2024-02-01Z', 4), ('2024-02-01Z', 8)) v (at, amount),
    lateral evsource.append('account-2', 'Paid', jsonb_build_object('amount', amount), occurred_at => at::timestamptz);
select evsource.state_at_time('balance', 'account-2', '2024-01-01Z');
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('all', null, '2024-01-01Z');
\echo :LAST_ERROR_SQLSTATE
select at::date, evsource.state_at_time('balance', 'account-2', at) from
    unnest('{2024-01-02Z,2024-02-01Z,2024-02-02Z,2024-04-01Z}'::timestamptz[]) at;
-- an event that does not say when, occurred when it was recorded
select version from evsource.append('account-2', 'Paid', '{"amount": 16}');
select evsource.state_at_time('balance', 'account-2', '2024-04-01Z'), evsource.state_at_time('balance', 'account-2', 'infinity');
select evsource.state_at_time('balance', 'account-2', '-infinity');
\echo :LAST_ERROR_SQLSTATE
-- what occurs at infinity has occurred before no instant, what did at -infinity before every one
select version from evsource.append('account-7', 'Paid', '{"amount": 1}', occurred_at => 'infinity');
select evsource.state_at_time('balance', 'account-7', 'infinity');
\echo :LAST_ERROR_SQLSTATE
select version from evsource.append('account-7', 'Paid', '{"amount": 2}', occurred_at => '-infinity');
select occurred_at from evsource.read_stream('account-7');
select at, evsource.state_at_time('balance', 'account-7', at) from unnest('{4713-01-01 BC,2100-01-01,infinity}'::timestamptz[]) with ordinality a (at, n) order by n;
select evsource.state_at_time('balance', 'account-7', '-infinity');
\echo :LAST_ERROR_SQLSTATE
select evsource.state('balance', 'account-7');
-- of a fold with one state it is that of the whole log
select evsource.state_at_time('all', null, '2024-02-02Z'), evsource.state('all'), evsource.state_at_time('all', 'global', 'infinity');

-- The states of all keys at a time are those of the keys that had one, each at its version of then.
select * from evsource.load_states('balance', '2024-02-02Z');
select at, s.key, s.state = evsource.state_at_time('balance', s.key, at) as same, s.event_count from unnest('{2024-01-02Z,2024-03-02Z,infinity}'::timestamptz[]) at, lateral evsource.load_states('balance', at) s order by 1, 2;
select count(*) from evsource.load_states('balance', '-infinity');
select count(*) from evsource.load_states('all', '2024-02-02Z');

-- All states are a relation; a condition on projection leaves the others alone.
select evsource.run_projection('all') > 0;
select * from evsource.load_states('balance');
select * from evsource.load_states('all', '2024-02-02Z');
select projection, key, state, event_count from evsource.states order by projection, key;
create function broken(state jsonb, e evsource.event) returns jsonb language plpgsql as $$begin raise 'broken'; end$$;
select evsource.create_projection('broken', 'broken', mode => 'async');
select key, state from evsource.states where projection = 'balance' order by key;
select key from evsource.states where projection = 'broken';
select evsource.drop_projection('broken');

-- What rolls back is in no state, whoever asked for it meanwhile.
begin;
select version from evsource.append('account-1', 'Paid', '{"amount": 1000}');
select evsource.state('balance', 'account-1');
rollback;
select evsource.state('balance', 'account-1');
begin;
select version from evsource.append('account-1', 'Paid', '{"amount": 100}');
savepoint a;
select version from evsource.append('account-1', 'Paid', '{"amount": 1000}');
savepoint b;
select version from evsource.append('account-1', 'Paid', '{"amount": 10000}');
select evsource.state('balance', 'account-1');
release b;
select evsource.state('balance', 'account-1');
rollback to a;
select evsource.state('balance', 'account-1');
select version from evsource.append('account-1', 'Paid', '{"amount": 1}');
commit;
select evsource.state('balance', 'account-1');
do $$
begin
    perform evsource.append('account-1', 'Paid', '{"amount": 7}');
    begin
        perform evsource.append('account-1', 'Paid', '{"amount": 7}');
        perform evsource.state('balance', 'account-1');
        perform evsource.append('account-1', 'Paid', '{"amount": "seven"}');
    exception when others then
        perform evsource.append('account-1', 'Paid', '{"amount": 70}');
    end;
end$$;
select evsource.state('balance', 'account-1');
begin;
select version from evsource.append('account-3', 'Paid', '{"amount": 1}');
select evsource.state('balance', 'account-3');
rollback;
select evsource.state('balance', 'account-3');
\echo :LAST_ERROR_SQLSTATE

-- In one statement: each state as it is at that moment.
select version, evsource.state('balance', 'account-4') ->> 'balance' as balance
from generate_series(1, 3) i, lateral evsource.append('account-4', 'Paid', jsonb_build_object('amount', i));

-- Reading in a transaction that may not write.
begin read only;
select evsource.state('balance', 'account-1');
select count(*) from evsource.states;
rollback;

-- A projection of the same name is another one; so is one with another handler.
select evsource.drop_projection('balance');
select evsource.create_projection('balance', 'evsource.fold_merge', types => '{Paid}');
select evsource.state('balance', 'account-1');
select evsource.alter_projection('balance', handler => 'evsource.fold_count');
select evsource.state('balance', 'account-1');
begin;
select evsource.alter_projection('balance', types => '{Paid,Noted,Opened}');
select evsource.state('balance', 'account-1');
rollback;
select evsource.state('balance', 'account-1');
-- a function whose body changes is not noticed, until the projection is
create function flavour(state jsonb, e evsource.event) returns jsonb language sql as $$select '{"flavour": "old"}'::jsonb$$;
select evsource.create_projection('flavour', 'flavour');
select evsource.state('flavour', 'account-1');
create or replace function flavour(state jsonb, e evsource.event) returns jsonb language sql as $$select '{"flavour": "new"}'::jsonb$$;
select evsource.state('flavour', 'account-1');
call evsource.rebuild_projection('flavour');
select evsource.state('flavour', 'account-1');
select evsource.drop_projection('flavour');

-- A paused projection has the states of its log all the same; resumed it has no others.
select evsource.pause_projection('balance');
select version from evsource.append('account-4', 'Paid', '{"amount": 1}');
select evsource.state('balance', 'account-4');
select evsource.resume_projection('balance');
select evsource.state('balance', 'account-4');

-- Without a cache, and with one in which nothing fits, states are the same.
set evsource.state_cache_size = 0;
select evsource.state('balance', 'account-4'), evsource.state('balance', 'account-4');
select version from evsource.append('account-4', 'Paid', '{"amount": 1}');
select evsource.state('balance', 'account-4');
set evsource.state_cache_size = 1;
select version from evsource.append('account-4', 'Paid', jsonb_build_object('amount', 1, 'note', repeat('x', 5000)));
select evsource.state('balance', 'account-4'), evsource.state('balance', 'account-1');
reset evsource.state_cache_size;

-- Rights: to read states takes SELECT on the events, or to be the projection's owner.
create role evsource_states_reader;
create role evsource_states_owner;
create role evsource_states_stranger;
select evsource.grant_access('evsource_states_reader', 'reader');
grant usage on schema evsource to evsource_states_stranger;
grant execute on all functions in schema evsource to evsource_states_stranger;
set role evsource_states_reader;
select evsource.state('balance', 'account-4');
select key, event_count from evsource.states where projection = 'balance' and key = 'account-4';
reset role;
set role evsource_states_stranger;
select evsource.state('balance', 'account-4');
\echo :LAST_ERROR_SQLSTATE
select evsource.load_states('balance');
\echo :LAST_ERROR_SQLSTATE
select evsource.load_states('balance', now());
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_version('balance', 'account-4', 1);
\echo :LAST_ERROR_SQLSTATE
select evsource.state_at_time('balance', 'account-4', now());
\echo :LAST_ERROR_SQLSTATE
reset role;
-- the fold runs as the projection's owner, whoever asks
create schema owned authorization evsource_states_owner;
grant usage on schema owned to evsource_states_reader;
select evsource.grant_access('evsource_states_owner', 'admin');
set role evsource_states_owner;
create function owned.who(state jsonb, e evsource.event) returns jsonb language sql as
$$select jsonb_build_object('user', current_user, 'path', current_setting('search_path'))$$;
revoke execute on function owned.who(jsonb, evsource.event) from public;
select evsource.create_projection('who', 'owned.who');
reset role;
set role evsource_states_reader;
select evsource.state('who', 'account-4') ->> 'user' as "user", current_user;
reset role;
-- row security would be bypassed by a state: who is subject to it is refused
alter table evsource.events enable row level security;
create policy few on evsource.events for select to evsource_states_reader using (stream = 'account-1');
set role evsource_states_reader;
select evsource.state('who', 'account-4');
\echo :LAST_ERROR_SQLSTATE
reset role;
alter table evsource.events disable row level security;
drop policy few on evsource.events;
select evsource.drop_projection('who');
drop schema owned cascade;
drop owned by evsource_states_reader, evsource_states_owner, evsource_states_stranger;
drop role evsource_states_reader, evsource_states_owner, evsource_states_stranger;

-- Whatever is done in whatever order, a state is the fold of its events. The log
-- below and all that is done to it are made by a hash of a number.
create function pseudo(i bigint) returns int language sql immutable as $$select ('x' || substr(md5(i::text), 1, 7))::bit(28)::int$$;
create function change(i bigint) returns jsonb language sql immutable as
$$select coalesce(jsonb_object_agg('field' || pseudo(i + n) % 12, to_jsonb(pseudo(i * n) % 100)), '{}') from generate_series(1, pseudo(i) % 5) n$$;
create function merge_plpgsql(state jsonb, e evsource.event) returns jsonb language plpgsql as $$begin return state || e.data; end$$;
create function merge_1(state jsonb, e evsource.event) returns jsonb language sql as $$select state || (e).data$$;
create aggregate merged(jsonb) (sfunc = jsonb_concat, stype = jsonb, initcond = '{}');

select evsource.create_projection('p_default', 'merge_plpgsql', categories => '{case}', snapshot_every => 5);
select evsource.create_projection('p_fast', 'evsource.fold_merge', categories => '{case}', snapshots => 'high_performance', snapshot_every => 4);
-- what is left to those who ask for states is saved by an append when nobody asks
select evsource.create_projection('p_late', 'evsource.fold_count', categories => '{late}', snapshots => 'high_performance', snapshot_every => 4);
select count(evsource.append('late-1', 'T')) from generate_series(1, 79);
select count(*) from evsource.snapshots where projection = 'p_late';
select count(evsource.append('late-1', 'T')) from generate_series(1, 40);
select version from evsource.snapshots where projection = 'p_late';
select evsource.drop_projection('p_late');
select evsource.create_projection('p_each', 'merge_1', categories => '{case}', snapshot_every => 1);
select evsource.create_projection('p_none', 'evsource.fold_merge', categories => '{case}', snapshots => 'disabled');
select evsource.create_projection('p_unused', 'merge_1', categories => '{case}', snapshot_every => 3, restore_from_snapshot => false);
select evsource.create_projection('p_types', 'evsource.fold_merge', categories => '{case}', types => '{A,C}', snapshot_every => 2);
select evsource.create_projection('p_async', 'evsource.fold_merge', categories => '{case}', mode => 'async');

-- what the states must be
create function expected(projection text) returns table (key text, state jsonb, version bigint, "position" bigint, event_count bigint) language sql as
$$select stream, merged(data order by version) filter (where type = any (types)),
    max(version), max(position) filter (where type = any (types)), count(*) filter (where type = any (types))
  from evsource.events, lateral (select case projection when 'p_types' then array['A', 'C'] else array['A', 'B', 'C'] end) t (types)
  where evsource.category(stream) = 'case' group by stream having count(*) filter (where type = any (types)) > 0$$;
create function wrong(projection text) returns bigint language sql as
$$select count(*) from expected(projection) e full join evsource.load_states(projection) s using (key)
  where (e.state, e.version, e.position, e.event_count) is distinct from (s.state, s.version, s.position, s.event_count)$$;
create function wrong_by_key(projection text) returns bigint language sql as
$$select count(*) from expected(projection) e, lateral evsource.load_state(projection, e.key) s
  where (e.state, e.version, e.position, e.event_count) is distinct from (s.state, s.version, s.position, s.event_count)$$;

create procedure act(i bigint) language plpgsql as $$
declare
    stream text := 'case-' || pseudo(i) % 6;
    projection text := (array['p_default', 'p_fast', 'p_each', 'p_none', 'p_unused', 'p_types', 'p_async'])[1 + pseudo(i + 1) % 7];
    type text := (array['A', 'B', 'C'])[1 + pseudo(i + 2) % 3];
begin
    case pseudo(i + 3) % 12
        when 0, 1, 2 then perform evsource.append(stream, type, change(i));
        when 3 then perform evsource.append_batch(stream, array[type, 'B', 'A'], array[change(i), change(i + 1), change(i + 2)]);
        when 4 then insert into evsource.events (stream, type, data) select 'case-' || pseudo(i + n) % 6, type, change(i + n) from generate_series(1, 9) n;
        when 5, 6 then perform evsource.state(projection, stream);
        when 7 then
            begin
                perform evsource.append(stream, type, change(i));
                perform evsource.state(projection, stream);
                if pseudo(i + 4) % 3 > 0 then raise 'taken back'; end if;
            exception when raise_exception then null;
            end;
        when 8 then perform evsource.save_snapshot(projection, case when pseudo(i + 5) % 2 = 0 then stream end);
        when 9 then perform set_config('evsource.state_cache_size', (array['0', '1', '64', '4MB'])[1 + pseudo(i + 5) % 4], false);
        when 10 then
            if pseudo(i + 5) % 4 = 0 then perform evsource.clear_snapshots(projection);
            elsif pseudo(i + 5) % 4 = 1 then call evsource.rebuild_projection(projection, from_snapshot => true);
            else perform evsource.restore_projection(projection);
            end if;
        else perform evsource.run_projection('p_async');
    end case;
end$$;
create table mistakes (i bigint, projection text, mistakes bigint);
do $$
declare projection text;
begin
    for i in 1..600 loop
        call act(i * 1000);
        if i % 20 = 0 then
            projection := (array['p_default', 'p_fast', 'p_each', 'p_none', 'p_unused', 'p_types', 'p_async'])[1 + i / 20 % 7];
            insert into mistakes select i, projection, wrong(projection) + wrong_by_key(projection);
            if i % 60 = 0 then commit; end if;
        end if;
    end loop;
end$$;
select count(*), sum(mistakes) as mistakes from mistakes;
select projection, wrong(projection), wrong_by_key(projection),
    evsource.event_count(projection) = (select sum(event_count) from expected(projection)) as counted
from evsource.projections where projection like 'p\_%' and mode = 'inline' order by 1;
select (select count(*) from evsource.events where stream like 'case-%') > 500 as enough_events,
    (select count(distinct projection) from evsource.snapshots) > 4 as enough_snapshots,
    (select sum(restores) from evsource.snapshots) > 10 as enough_restores;
-- and a state of every version of every stream
select count(*) from evsource.events e, lateral unnest('{p_default,p_fast,p_types}'::text[]) p
where stream like 'case-%' and version % 10 = 0
    and evsource.state_at_version(p, stream, version) is distinct from
        (select merged(data order by version) from evsource.events f
         where f.stream = e.stream and f.version <= e.version and (p <> 'p_types' or f.type in ('A', 'C')));
reset evsource.state_cache_size;
\c :home
drop database evsource_states;
