-- diff_state: what differs between two states of a stream.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_diff_state;
create database evsource_diff_state;
\c evsource_diff_state
create extension evsource;
\set VERBOSITY terse
\set SHOW_CONTEXT never

select evsource.create_projection('details', 'evsource.fold_merge', categories => '{c}', snapshot_every => 2);
select version from evsource.append_batch('c-1', '{A,B,C,D,E}', array[
    '{"name": "Ada", "address": {"city": "London", "lines": [1, 2]}, "tags": null}',
    '{"address": {"city": "Paris", "lines": [1, 2]}, "age": 36}',
    '{"address": {"city": "Paris", "lines": [1, 3], "zip": {"code": "75"}}, "tags": {}}',
    '{"address": "unknown"}',
    '{"age": 36.0}']::jsonb[]);

-- A path each, in objects at any depth; arrays as a whole.
select v, d.* from generate_series(1, 5) v, lateral evsource.diff_state('details', 'c-1', v - 1, v) d order by v, path;
-- over several versions, and backwards
select * from evsource.diff_state('details', 'c-1', 1, 4);
select * from evsource.diff_state('details', 'c-1', 4, 1);
-- nothing
select * from evsource.diff_state('details', 'c-1', 3, 3);
select * from evsource.diff_state('details', 'c-1', 0, 0);
-- a state need not be an object
create function last(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select case when e.version = 1 then '[]' else to_jsonb(e.version) end$$;
select evsource.create_projection('last', 'last', categories => '{c}');
select * from evsource.diff_state('last', 'c-1', 0, 1);
select * from evsource.diff_state('last', 'c-1', 1, 2);

-- However deep a state is, that takes a moment.
create function deep(leaf text) returns jsonb language sql as
$$select (repeat('{"note": "' || repeat('x', 2000) || '", "inner": ', 1000) || leaf || repeat('}', 1000))::jsonb$$;
create function whole(state jsonb, e evsource.event) returns jsonb language sql immutable as 'select e.data';
select evsource.create_projection('whole', 'whole', categories => '{d}');
select version from evsource.append_batch('d-1', '{A,B}', array[deep('1'), deep('{"b": 0, "aa": null}')]);
set statement_timeout = '5s';
select cardinality(path), before, after from evsource.diff_state('whole', 'd-1', 1, 2);
reset statement_timeout;
-- Paths are in the order of their keys, not in that in which objects keep them.
select version from evsource.append_batch('d-2', '{A,B}', '{"{\"b\": 0, \"aa\": {\"c\": 1, \"bb\": 1}}", "{\"b\": 0.0, \"aa\": {\"bb\": 2}, \"a\": null}"}'::jsonb[]);
select * from evsource.diff_state('whole', 'd-2', 0, 1);
select * from evsource.diff_state('whole', 'd-2', 1, 2);

-- What cannot be is refused.
select * from evsource.diff_state('unknown', 'c-1', 1, 2);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.diff_state('details', 'c-1', 1, 6);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.diff_state('details', 'c-1', -1, 2);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.diff_state('details', null, 1, 2);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.diff_state('details', 'c-1', null, 2);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.diff_state('details', 'c-9', 0, 1);
\echo :LAST_ERROR_SQLSTATE

\c :home
drop database evsource_diff_state;
