-- append_json: the same from one JSON array.

select first_version, version, stored from evsource.append_json('json-1', '[
    {"type": "Opened", "data": {"n": 1}},
    {"type": "Noted", "data": "text", "metadata": {"by": "ann"}, "id": "15000000-0000-4000-8000-000000000001"},
    {"type": "Closed", "occurred_at": "2001-02-03T04:05:06Z"},
    {"type": "Closed", "data": null, "time": "2001-02-03T04:05:06+02", "metadata": {}},
    {"type": "Closed", "data": [1, {"a": [2]}], "metadata": null, "id": null, "occurred_at": null, "time": null}]');
select version, type, data, metadata, occurred_at at time zone 'UTC' as occurred_at, id
    from evsource.events where stream = 'json-1' order by version;

-- Expected versions and ids work as in append_batch.
select first_version, version, stored from evsource.append_json('json-1', '[{"type": "Reopened"}]', expected_version => 5);
select * from evsource.append_json('json-1', '[{"type": "Reopened"}]', expected_version => 5);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-1', '[{"type": "Reopened"}]', -1);
\echo :LAST_ERROR_SQLSTATE
select first_version, version, stored from evsource.append_json('json-1', '[{"type": "Noted", "data": "text", "id": "15000000-0000-4000-8000-000000000001"}]', 0);
select * from evsource.append_json('json-1', '[{"type": "Noted", "data": "other", "id": "15000000-0000-4000-8000-000000000001"}]');
\echo :LAST_ERROR_SQLSTATE
-- An empty array checks the expected version and stores nothing.
select * from evsource.append_json('json-1', '[]', 6);
select * from evsource.append_json('json-1', '[]', 5);

-- Many elements, some of them long.
select first_version, version from evsource.append_json('json-many',
    (select jsonb_agg(jsonb_build_object('type', 'Ticked', 'data', jsonb_build_object('i', i, 'pad', repeat('x', i % 7 * 1000)))) from generate_series(1, 1000) i));
select count(*), bool_and((data ->> 'i')::int = version and length(data ->> 'pad') = version % 7 * 1000) as right
    from evsource.events where stream = 'json-many';

--
-- What is malformed is named by its element, and nothing is stored
--
select * from evsource.append_json('json-bad', null);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json(null, '[]');
select * from evsource.append_json('', '[]');
select * from evsource.append_json('json-bad', '{"type": "One"}');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '"One"');
select * from evsource.append_json('json-bad', 'null');

select * from evsource.append_json('json-bad', '[{"type": "One"}, "Two"]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": "One"}, null]');
select * from evsource.append_json('json-bad', '[[{"type": "One"}]]');
select * from evsource.append_json('json-bad', '[{"type": "One"}, {"type": "Two"}, {"data": 3}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{}]');
select * from evsource.append_json('json-bad', '[{"type": "One"}, {"type": ""}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": "One"}, {"type": null}]');
select * from evsource.append_json('json-bad', '[{"type": 1}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": {"name": "One"}}]');
select * from evsource.append_json('json-bad', '[{"type": "One", "metadata": "m"}]');
select * from evsource.append_json('json-bad', '[{"type": "One", "metadata": []}]');
select * from evsource.append_json('json-bad', '[{"type": "One", "id": 7}]');
select * from evsource.append_json('json-bad', '[{"type": "One", "id": "not a uuid"}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": "One", "occurred_at": 1234567890}]');
select * from evsource.append_json('json-bad', '[{"type": "One", "time": "yesteryear"}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": "One", "time": "2001-01-01", "occurred_at": "2001-01-01"}]');
select * from evsource.append_json('json-bad', '[{"type": "One"}, {"type": "Two", "occured_at": "2001-01-01"}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": "One", "version": 3}]');
select * from evsource.append_json('json-bad',
    '[{"type": "One", "id": "15000000-0000-4000-8000-000000000002"}, {"type": "One", "id": "15000000-0000-4000-8000-000000000002"}]');
\echo :LAST_ERROR_SQLSTATE
-- A version is not rounded.
select * from evsource.append_json('json-bad', '[{"type": "One", "schema_version": 1.5}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": "One", "schema_version": 99999999999}]');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_json('json-bad', '[{"type": "One", "schema_version": 40000}]');
-- The element's number is not left behind in the context of later errors.
select * from evsource.append('json-1', 'Opened', expected_version => 0);
select evsource.stream_version('json-bad');
