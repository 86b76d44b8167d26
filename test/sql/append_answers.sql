-- What is wrong with an append is said in one order, whatever a session remembers:
-- an id that is stored already, then the expected version, then the data. In a
-- database of its own: it defines types.
select current_database() as home \gset
create database evsource_append_answers;
\c evsource_append_answers
create extension evsource;
\set VERBOSITY terse
select evsource.define_event_type('Paid', 1, '$.amount > 0');

-- A session that stored an event, which is not the stream's last one any more.
select version from evsource.append('a-1', 'Paid', '{"amount": 1}', expected_version => 0);
insert into evsource.events (stream, type, data) values ('a-1', 'Paid', '{"amount": 2}');
select version from evsource.append('a-1', 'Paid', '{"amount": -1}', expected_version => 1);
\echo :LAST_ERROR_SQLSTATE
select version from evsource.append('a-1', 'Other', expected_version => 1, schema_version => 2);
\echo :LAST_ERROR_SQLSTATE
-- A session that remembers nothing says the same.
\c
\set VERBOSITY terse
select version from evsource.append('a-1', 'Paid', '{"amount": -1}', expected_version => 1);
\echo :LAST_ERROR_SQLSTATE
-- With the right version it is the data.
select version from evsource.append('a-1', 'Paid', '{"amount": -1}', expected_version => 2);
\echo :LAST_ERROR_SQLSTATE

-- What was stored is recognised with a wrong version, and by rules that it breaks.
select version, stored from evsource.append('a-1', 'Paid', '{"amount": 3}', expected_version => 2, id => 'a5000000-0000-4000-8000-000000000001');
select evsource.drop_event_type('Paid');
select evsource.define_event_type('Paid', 1, '$.amount > 100');
select version, stored from evsource.append('a-1', 'Paid', '{"amount": 3}', expected_version => 7, id => 'a5000000-0000-4000-8000-000000000001');

-- Without types a version that the type does not have comes last, too.
select evsource.drop_event_type('Paid');
select version from evsource.append('a-2', 'Paid', expected_version => 0);
insert into evsource.events (stream, type) values ('a-2', 'Paid');
select version from evsource.append('a-2', 'Paid', expected_version => 1, schema_version => 2);
\echo :LAST_ERROR_SQLSTATE
select version from evsource.append('a-2', 'Paid', expected_version => 2, schema_version => 2);
\echo :LAST_ERROR_SQLSTATE
\c :home
drop database evsource_append_answers;
