-- fold: a state per key, computed from the key's events in their order.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_fold;
create database evsource_fold;
\c evsource_fold
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never

create function trail(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('types', coalesce(state -> 'types', '[]') || to_jsonb((e).type), 'version', (e).version)$$;
create function balance(state jsonb, e evsource.event) returns jsonb language plpgsql as
$$begin
    return jsonb_build_object('balance', coalesce((state ->> 'balance')::numeric, 0) + (e.data ->> 'amount')::numeric);
end$$;

-- The first event is folded into {}: a strict function is called as any other.
create function first_seen(state jsonb, e evsource.event) returns jsonb language sql strict immutable as
$$select state || jsonb_build_object('called_with', coalesce(state -> 'called_with', '[]') || jsonb_build_array(state - 'called_with'))$$;
select evsource.create_projection('first_seen', 'first_seen');
select evsource.create_projection('trail', 'trail');
select evsource.create_projection('balance', 'balance', types => '{Paid,Refunded}');
select version from evsource.append('account-1', 'Opened');
select evsource.state('first_seen', 'account-1');

-- Events of a call are folded in order; what the filter keeps out is in no state, but in the version.
select version from evsource.append_batch('account-1', '{Paid,Noted,Paid,Refunded}',
    array['{"amount": 10}', '{}', '{"amount": 2.5}', '{"amount": -2}']::jsonb[]);
select evsource.state('trail', 'account-1');
select * from evsource.load_state('balance', 'account-1');

-- INSERT and COPY are folded as any append is, stream by stream.
insert into evsource.events (stream, type, data) values
    ('account-2', 'Paid', '{"amount": 1}'), ('account-3', 'Paid', '{"amount": 5}'), ('account-2', 'Paid', '{"amount": 2}');
copy evsource.events (stream, type, data) from stdin;
account-3	Paid	{"amount": 6}
account-2	Paid	{"amount": 3}
\.
select key, state, version, event_count from evsource.load_states('balance');
select evsource.event_count('balance');

-- A category is a filter, too.
select evsource.create_projection('orders', 'evsource.fold_count', categories => '{order,invoice}');
select count(*) from unnest(array['order-1', 'order', 'ordered-1', 'order.1', 'invoice-7', 'order-1']) s, lateral evsource.append(s, 'Made');
select key, state from evsource.load_states('orders');

-- A projection that starts now knows nothing of what was before.
select evsource.create_projection('later', 'evsource.fold_count', start => 'now');
select version from evsource.append('account-1', 'Paid', '{"amount": 100}');
select * from evsource.load_state('later', 'account-1');
select * from evsource.load_state('balance', 'account-1');

-- What a fold raises aborts the append, and says where it was.
create function tell(statement text, out error text, out message text, out context text) language plpgsql as
$$declare full_context text;
begin
    execute statement;
exception when others then
    get stacked diagnostics error = returned_sqlstate, message = message_text, full_context = pg_exception_context;
    select string_agg(line, '; ') into context from regexp_split_to_table(full_context, '\n') line where line like 'projection%';
end$$;
select * from tell($$select evsource.append('account-1', 'Paid', '{"amount": "ten"}')$$);
select evsource.stream_version('account-1'), evsource.state('balance', 'account-1');

-- So does a state that is null.
create function lost(state jsonb, e evsource.event) returns jsonb language sql as $$select state || nullif(e.data, '{"lost": true}')$$;
select evsource.create_projection('lost', 'lost');
\set VERBOSITY default
select evsource.append('account-1', 'Lost', '{"lost": true}');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
select version from evsource.append('account-1', 'Found', '{"lost": false}');
select evsource.state('lost', 'account-1');
select evsource.drop_projection('lost');

-- One that does not come to an end is cancelled as any statement is, whoever waits for it.
create function endless(state jsonb, e evsource.event) returns jsonb language plpgsql as
$$begin
    while e.type = 'Endless' loop end loop;
    return state || '{"ended": true}';
end$$;
select evsource.create_projection('endless', 'endless', categories => '{endless}');
select version from evsource.append('endless-1', 'Short');
set statement_timeout = '100ms';
select version from evsource.append('endless-1', 'Endless');
\echo :LAST_ERROR_SQLSTATE
reset statement_timeout;
select evsource.stream_version('endless-1'), evsource.state('endless', 'endless-1');
select evsource.pause_projection('endless');
select version from evsource.append('endless-1', 'Endless');
set statement_timeout = '100ms';
select evsource.state('endless', 'endless-1');
\echo :LAST_ERROR_SQLSTATE
select evsource.resume_projection('endless');
\echo :LAST_ERROR_SQLSTATE
reset statement_timeout;
select evsource.state_at_version('endless', 'endless-1', 1);
select evsource.drop_projection('endless');

-- A fold may return the state that it was passed, again and again.
create function keep(state jsonb, e evsource.event) returns jsonb language plpgsql as
$$begin
    if e.type = 'Kept' then return state; end if;
    return state || e.data;
end$$;
select evsource.create_projection('keep', 'keep');
select version from evsource.append_batch('keep-1', '{Set,Kept,Kept,Set,Kept}',
    array['{"a": "x"}', '{}', '{}', '{"b": "y"}', '{}']::jsonb[]);
select evsource.state('keep', 'keep-1');

-- It may ask for states itself, even for the one that is being computed.
create function curious(state jsonb, e evsource.event) returns jsonb language plpgsql as
$$begin
    if e.version > 2 then return state || jsonb_build_object('deep', true); end if;
    return state || jsonb_build_object('n', e.version, 'count', evsource.state('orders', 'order-1') -> 'count',
        'self', case when e.version = 2 then evsource.state_at_version('curious', e.stream, 1) end);
end$$;
select evsource.create_projection('curious', 'curious', categories => '{curious}');
select version from evsource.append('curious-1', 'Asked');
select version from evsource.append('curious-1', 'Asked');
select evsource.state('curious', 'curious-1');

-- It must not append: see states_append.
create function chain(state jsonb, e evsource.event) returns jsonb language plpgsql as
$$begin
    perform evsource.append(e.stream, 'Chained');
    return state;
end$$;
select evsource.create_projection('chain', 'chain', categories => '{chain}');
select version from evsource.append('chain-1', 'Chained');
\echo :LAST_ERROR_SQLSTATE
select evsource.drop_projection('chain');

-- A handler that is gone is named.
select evsource.create_projection('gone', 'keep', categories => '{gone}');
alter function keep(jsonb, evsource.event) rename to kept;
select evsource.append('gone-1', 'Made');
\echo :LAST_ERROR_SQLSTATE
alter function kept(jsonb, evsource.event) rename to keep;
select version from evsource.append('gone-1', 'Made');
select evsource.drop_projection('gone');
select evsource.drop_projection('keep');

-- Inline folds are keyed by stream; the others by what their key function says.
select evsource.create_projection('all', 'evsource.fold_count', key => 'global');
\echo :LAST_ERROR_SQLSTATE
create function actor(e evsource.event) returns text language sql immutable as $$select (e).metadata ->> 'actor'$$;
create function tags(e evsource.event) returns text[] language sql immutable as
$$select array(select jsonb_array_elements_text((e).data -> 'tags'))$$;
select evsource.create_projection('all', 'evsource.fold_count', key => 'global', mode => 'async');
select evsource.create_projection('by_actor', 'balance', key => 'actor', mode => 'async', types => '{Paid}');
select evsource.create_projection('by_tag', 'trail', key => 'tags', mode => 'manual');
select version from evsource.append('account-5', 'Paid', '{"amount": 3, "tags": ["new", "big", null, "new"]}', '{"actor": "ann"}');
select version from evsource.append('account-6', 'Paid', '{"amount": 4, "tags": ["big"]}', '{"actor": "bob"}');
select version from evsource.append('account-5', 'Paid', '{"amount": 5, "tags": []}', '{"actor": "ann"}');

-- Their states are those of the checkpoint, a row a key.
select evsource.state('all') is null as not_yet;
select evsource.state('by_actor', 'ann');
\echo :LAST_ERROR_SQLSTATE
select evsource.run_projection() > 0;
select (evsource.state('all') ->> 'count')::bigint = (select count(*) from evsource.events) as all_counted;
select key, state, version, event_count from evsource.load_states('by_actor');
select evsource.run_projection('by_tag') = (select count(*) from evsource.events) as all_applied;
select key, state, event_count from evsource.load_states('by_tag');
select key, position, event_count, state from evsource.snapshots where projection = 'by_tag' order by key;
select version from evsource.append('account-5', 'Paid', '{"amount": 50, "tags": ["big"]}', '{"actor": "ann"}');
select evsource.state('by_actor', 'ann');
select evsource.run_projection('by_actor'), evsource.run_projection('by_tag'), evsource.run_projection('by_actor');
select evsource.state('by_actor', 'ann'), evsource.state('by_tag', 'big') -> 'version';

-- A key has at least one byte, and not too many.
select version from evsource.append('account-7', 'Paid', '{"amount": 1}', '{"actor": ""}');
\set VERBOSITY default
select evsource.run_projection('by_actor');
select position, attempts, sqlstate from evsource.projection_failures;
\set VERBOSITY terse
create or replace function actor(e evsource.event) returns text language sql immutable as $$select repeat('x', 1025)$$;
select evsource.run_projection('by_actor');
create or replace function actor(e evsource.event) returns text language sql immutable as $$select nullif((e).metadata ->> 'actor', '')$$;
select evsource.run_projection('by_actor');
select key, event_count from evsource.load_states('by_actor');

-- Keyed by stream, an async fold that saves each state keeps its rows current, and its states ahead of them.
select evsource.create_projection('async', 'balance', mode => 'async', categories => '{account}', types => '{Paid}', snapshot_every => 1);
select evsource.run_projection('async') > 0;
select s.key, s.version, s.event_count, s.state from evsource.snapshots s where projection = 'async' order by key;
select version from evsource.append('account-2', 'Paid', '{"amount": 1000}');
select evsource.state('async', 'account-2'), (select state from evsource.load_snapshot('async', 'account-2'));
select evsource.run_projection('async');
select (select state from evsource.load_snapshot('async', 'account-2'));

-- fold_merge does what || does, whatever the objects are.
create function pseudo(i int) returns int language sql immutable as $$select ('x' || substr(md5(i::text), 1, 7))::bit(28)::int$$;
create function value(i int, depth int) returns jsonb language plpgsql immutable as
$$begin
    case pseudo(i) % (case when depth = 0 then 6 else 8 end)
        when 0 then return 'null';
        when 1 then return to_jsonb(pseudo(i + 1) % 2 = 0);
        when 2 then return to_jsonb(pseudo(i + 1)::numeric * 10 ^ (pseudo(i + 2) % 40 - 20));
        when 3 then return to_jsonb(pseudo(i + 1));
        when 4 then return to_jsonb(repeat('é', pseudo(i + 1) % 9));
        when 5 then return to_jsonb(repeat('x', pseudo(i + 1) % 300));
        when 6 then return (select coalesce(jsonb_agg(value(i + n * 7, depth - 1)), '[]') from generate_series(1, pseudo(i + 1) % 4) n);
        else return (select coalesce(jsonb_object_agg(pseudo(i + n) % 9, value(i + n * 11, depth - 1)), '{}') from generate_series(1, pseudo(i + 1) % 5) n);
    end case;
end$$;
create function object(i int) returns jsonb language sql immutable as
$$select coalesce(jsonb_object_agg(substr(md5((pseudo(i + n) % 50)::text), 1, pseudo(i * n) % 6), value(i + n * 13, 2)), '{}')
  from generate_series(1, pseudo(i) % (case when i % 10 = 0 then 200 else 12 end)) n$$;
create table pairs as select object(i) as a, object(i + 5000) as b from generate_series(1, 1000) i;
select count(*), max((select count(*) from jsonb_object_keys(a || b))) > 70 as large from pairs;
create function event_with(data jsonb) returns evsource.event language sql as
$$select row(1, 's', 1, 't', data, '{}', null, now(), now())::evsource.event$$;
select count(*) from pairs, evsource.fold_merge(a, event_with(b)) m
where m <> (a || b) or m::text <> (a || b)::text or pg_column_size(evsource.fold_merge(a, event_with(b))) <> pg_column_size(a || b) or jsonb_send(m) <> jsonb_send(a || b)
    or exists (select from jsonb_object_keys(a || b) k where m -> k is distinct from (a || b) -> k);
select evsource.fold_merge('{"a": 1}', event_with('[2]')), evsource.fold_merge('[1]', event_with('2')), evsource.fold_merge('{}', event_with('{}'));
select evsource.fold_merge('1', event_with('{}'));
select evsource.fold_count('{"count": 41}', event_with('{}')), evsource.fold_count('{}', event_with('{}')), evsource.fold_count('[]', event_with('{}'));

-- As a handler it makes the same states as a function that uses ||.
create function merge(state jsonb, e evsource.event) returns jsonb language sql immutable as $$select state || (e).data$$;
select evsource.create_projection('merge_c', 'evsource.fold_merge', categories => '{pair}');
select evsource.create_projection('merge_sql', 'merge', categories => '{pair}');
insert into evsource.events (stream, type, data) select 'pair-' || i % 7, 'Merged', object(i) from generate_series(1, 300) i;
select count(*), count(*) filter (where c.state = s.state and c.event_count = s.event_count and c.version = s.version) as equal
from evsource.load_states('merge_c') c full join evsource.load_states('merge_sql') s using (key);
select evsource.create_projection('merge_later', 'evsource.fold_merge', categories => '{pair}');
select count(*) from evsource.load_states('merge_later') l join evsource.load_states('merge_sql') s using (key) where l.state = s.state;

-- A count does not wrap around.
select evsource.fold_count('{"count": 9223372036854775806}', event_with('{}'));
select evsource.fold_count('{"count": 9223372036854775807}', event_with('{}'));
select evsource.create_projection('counted', 'evsource.fold_count', categories => '{counted}');
insert into evsource.events (stream, type) values ('counted-1', 'Made');
select evsource.save_snapshot('counted');
update evsource.snapshots set state = '{"count": 9223372036854775806}' where projection = 'counted';
select evsource.alter_projection('counted', snapshot_every => 1000);
insert into evsource.events (stream, type) values ('counted-1', 'Made');
select evsource.state('counted', 'counted-1');
insert into evsource.events (stream, type) values ('counted-1', 'Made');

-- Many streams at once, each its own: more than fit into any cache.
set evsource.state_cache_size = 64;
select evsource.create_projection('many', 'evsource.fold_count', categories => '{many}');
insert into evsource.events (stream, type) select 'many-' || i % 3000, 'Made' from generate_series(1, 9000) i;
insert into evsource.events (stream, type) select 'many-' || i % 3000, 'Made' from generate_series(1, 6000) i;
select count(*), min(state ->> 'count'), max(state ->> 'count'), sum(event_count) from evsource.load_states('many');
select evsource.event_count('many');
reset evsource.state_cache_size;
\c :home
drop database evsource_fold;
