-- fold_sum: the fold that is told where in the events its numbers stand.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_fold_sum;
create database evsource_fold_sum;
\c evsource_fold_sum
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- It adds up what stands at the path; where there is nothing, or null, nothing is added.
select evsource.create_projection('balance', 'evsource.fold_sum', path => '{amount}');
select evsource.create_projection('tax', 'evsource.fold_sum', path => '{lines,0,tax}');
select evsource.create_projection('last_tax', 'evsource.fold_sum', path => '{lines,-1,tax}');
select version from evsource.append_batch('a-1', '{Paid,Paid,Noted,Refunded,Paid}', array[
    '{"amount": 10.10, "lines": [{"tax": 1}, {"tax": 2}]}', '{"amount": 5}', '{"lines": [{"tax": 0.5}]}',
    '{"amount": -2.1, "lines": []}', '{"amount": null, "lines": {"0": {"tax": 100}}}']::jsonb[]);
select projection, state, event_count from evsource.states order by 1;
-- the path is the projection's, so one function serves many
select projection, handler, path from evsource.projections order by 1;

-- A scalar has nothing inside.
select version from evsource.append('a-2', 'Paid', '17');
select version from evsource.append('a-2', 'Paid', '{"amount": 1, "lines": [3, [4]]}');
select projection, state from evsource.states where key = 'a-2' order by 1;

-- What is no number aborts the append, and says where it was.
\set VERBOSITY default
\set SHOW_CONTEXT errors
select evsource.append('a-1', 'Paid', '{"amount": "ten"}');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
\set SHOW_CONTEXT never
select evsource.append('a-1', 'Paid', '{"amount": {"value": 10}}');
select evsource.stream_version('a-1');

-- Its sums are exact, whatever their scale, and the same from a snapshot.
select count(*) from generate_series(1, 250) i, lateral evsource.append('a-3', 'Paid', jsonb_build_object('amount', (i % 7) * 0.001 + 1e20::numeric));
select state, (state ->> 'sum')::numeric = (select sum((data ->> 'amount')::numeric) from evsource.read_stream('a-3')) as exact
from evsource.load_state('balance', 'a-3');
select evsource.has_snapshot('balance', 'a-3');
\c
\set VERBOSITY terse
select state, (state ->> 'sum')::numeric = (select sum((data ->> 'amount')::numeric) from evsource.read_stream('a-3')) as exact
from evsource.load_state('balance', 'a-3');

-- It is a function like any other.
select evsource.fold_sum('{"sum": 1, "other": true}', e, '{amount}') from evsource.read_stream('a-1', 1, 1) e;
select evsource.fold_sum('{}', e, '{}') from evsource.read_stream('a-1', 1, 1) e;
select evsource.fold_sum('{}', e, '{amount,null}') from evsource.read_stream('a-1', 1, 1) e;

-- The state before the first event is no sum yet: it is that of any fold.
select evsource.create_projection('balance_count', 'evsource.fold_count', categories => '{a}');
select projection, l.* from unnest('{balance,balance_count}'::text[]) projection, lateral evsource.load_state(projection, 'a-none') l;

-- A fold of one's own may take a path, too.
create function collect(state jsonb, e evsource.event, path text[]) returns jsonb language sql immutable as
$$select state || coalesce(jsonb_build_object(e.version, e.data #> path), '{}')$$;
select evsource.create_projection('lines', 'collect', path => '{lines}', categories => '{a}');
select evsource.state('lines', 'a-1');

-- The path belongs to the definition: a change makes other states.
select evsource.create_projection('lines', 'collect', path => '{lines}', categories => '{a}', if_exists => 'alter');
select stale from evsource.projections where projection = 'lines';
select evsource.save_snapshot('lines') > 0 as saved;
select evsource.alter_projection('lines', path => '{amount}');
select stale from evsource.projections where projection = 'lines';
select evsource.state('lines', 'a-1');
-- it stays with the handler, and goes with it
select evsource.alter_projection('lines', state_version => 2);
select path from evsource.projections where projection = 'lines';
select evsource.alter_projection('lines', handler => 'evsource.fold_count');
select path from evsource.projections where projection = 'lines';
select evsource.state('lines', 'a-1');

-- Kept by an async run in other keys as well.
create function kind(e evsource.event) returns text language sql immutable as $$select (e).type$$;
select evsource.create_projection('by_type', 'evsource.fold_sum', path => '{amount}', key => 'kind', mode => 'async');
select evsource.run_projection('by_type') > 0 as applied;
select key, (state ->> 'sum')::numeric = (select coalesce(sum((data ->> 'amount')::numeric), 0) from evsource.events where type = key and jsonb_typeof(data) = 'object') as exact
from evsource.load_states('by_type');

-- What makes no sense is refused.
\set VERBOSITY default
select evsource.create_projection('bad', 'evsource.fold_sum');
select evsource.create_projection('bad', 'evsource.fold_count', path => '{amount}');
\set VERBOSITY terse
select evsource.create_projection('bad', 'evsource.fold_sum', path => '{}');
select evsource.create_projection('bad', 'evsource.fold_sum', path => '{a,null}');
select evsource.create_projection('bad', 'evsource.fold_sum', path => '{{a},{b}}');
select evsource.create_projection('bad', query => 'select from new_events', path => '{amount}');
select evsource.create_projection('bad', 'evsource.fold_count', keep_snapshots => 0);
select evsource.create_projection('bad', 'evsource.fold_count', keep_snapshots => 2, key => 'global', mode => 'async');

\c :home
drop database evsource_fold_sum;
