-- types: versions of event types: what is stored, and what is read.

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_types;
create database evsource_types;
\c evsource_types
create extension evsource;
\set VERBOSITY default
set client_min_messages = warning;

create schema bank;
set search_path = bank;

-- Nothing is defined: events have no version, and none but 1 can be given.
select version from evsource.append('account-1', 'Paid', '{"amount": 5}');
select version from evsource.append('account-1', 'Paid', '{"amount": 6}', schema_version => 1);
select version from evsource.append('account-1', 'Paid', '{"amount": 6}', schema_version => 2);
select version from evsource.append('account-1', 'Paid', schema_version => 0);
select version from evsource.append('account-1', 'Paid', schema_version => 40000);
select stream, version, schema_version from evsource.events order by position;

-- A rule from now on: what is stored already is not looked at.
create function has_amount(data jsonb) returns boolean language sql as $$ select data ? 'amount' $$;
select evsource.define_event_type('Paid', 1, '$.amount > 0', 'has_amount');
select type, version, schema_path, validator, upcaster, changes_stored from evsource.event_types;

-- It holds for every way in, and what does not satisfy it is not stored.
select version from evsource.append('account-1', 'Paid', '{"amount": 0}');
select * from evsource.append_batch('account-1', '{Opened,Paid,Paid}', array['{}', '{"amount": 1}', '{"cents": 1}']::jsonb[]);
select * from evsource.append_json('account-1', '[{"type": "Paid", "data": []}]');
insert into evsource.events (stream, type, data) values ('account-1', 'Paid', '{}');
copy evsource.events (stream, type, data) from stdin;
account-1	Paid	{"amount": 1}
account-1	Paid	{"amount": -1}
\.
select evsource.stream_version('account-1');
-- Version 1 is stored as before: it costs no byte.
select version from evsource.append('account-1', 'Paid', '{"amount": 7}');
select schema_version from evsource.events where stream = 'account-1' and version = 3;

-- Version 2 has cents; version 3 a currency, which depends on the event.
create function to_cents(data jsonb) returns jsonb language sql as
$$ select data - 'amount' || jsonb_build_object('cents', (data ->> 'amount')::numeric::int * 100) $$;
create function to_currency(e evsource.event) returns jsonb language plpgsql as
$$ begin return e.data || jsonb_build_object('currency', case when e.stream = 'account-1' then 'EUR' else 'USD' end); end $$;
-- What is wrong, or null: a validator can also say it in words.
create function check_currency(data jsonb) returns text language sql as
$$ select case when data ->> 'currency' !~ '^[A-Z]{3}$' then 'currency must be three letters' end $$;
select evsource.define_event_type('Paid', 2, '$.cents', upcaster => 'to_cents');
select evsource.define_event_type('Paid', 3, '$.cents', 'check_currency', 'to_currency');

-- New events are of the newest version; earlier ones can be given as such.
select version from evsource.append('account-1', 'Paid', '{"cents": 800, "currency": "CHF"}');
select version from evsource.append('account-1', 'Paid', '{"cents": 900, "currency": "francs"}');
select version from evsource.append('account-2', 'Paid', '{"cents": 100}', schema_version => 2);
select version from evsource.append('account-2', 'Paid', '{"amount": 2}', schema_version => 1);
select version from evsource.append('account-2', 'Paid', '{"cents": 2}', schema_version => 1);
select first_version, version from evsource.append_batch('account-2', '{Opened,Paid}', array['{}', '{"amount": 3}']::jsonb[], schema_versions => '{null,1}');
select version from evsource.append_json('account-2', '[{"type": "Paid", "data": {"amount": 4}, "schema_version": 1}]');
select version from evsource.append_json('account-2', '[{"type": "Paid", "schema_version": "1"}]');
insert into evsource.events (stream, type, data, schema_version) values ('account-2', 'Paid', '{"amount": 5}', 1);
copy evsource.events (stream, type, data, schema_version) from stdin;
account-2	Paid	{"amount": 6}	1
account-2	Paid	{"cents": 700}	2
account-2	Paid	{"cents": 800, "currency": "GBP"}	\N
\.
select version from evsource.append('account-2', 'Paid', '{}', schema_version => 4);

-- Whoever reads gets the newest version ...
select version, type, data from evsource.read_stream('account-1');
select stream, version, data from evsource.read_category('account', 3, types => '{Paid}');
select count(*), count(*) filter (where data ? 'currency') from evsource.read_all() where type = 'Paid';
select e.data from evsource.events raw, evsource.read_event(evsource.event_id(raw)) e where raw.position = 1;
select data from evsource.read_stream('account-2', backward => true, max_count => 1);
-- ... but for the table and this view, which show what is stored.
select stream, version, schema_version, data, metadata from evsource.events_raw order by position;
select count(*) from evsource.events_raw r join evsource.events e using (position) where r.id = evsource.event_id(e);

-- An event that is sent again is recognised as what was stored, whatever the rules are now.
select version, stored from evsource.append('account-3', 'Paid', '{"cents": 1, "currency": "EUR"}', id => '00000000-0000-4000-8000-000000000001');
select evsource.define_event_type('Paid', 4, '$.cents > 1', upcaster => 'to_currency');
select version, stored from evsource.append('account-3', 'Paid', '{"cents": 1, "currency": "EUR"}', id => '00000000-0000-4000-8000-000000000001');
select evsource.drop_event_type('Paid', 4);

-- A path is a question answered by yes or no, or it asks whether something is there.
select evsource.define_event_type('Flag', 1, '$.on');
select version from evsource.append('flag-1', 'Flag', '{"on": false}');
select evsource.define_event_type('Switch', 1, '$.on == true && exists($.by)');
select version from evsource.append('flag-1', 'Switch', '{"on": true, "by": null}');
select version from evsource.append('flag-1', 'Switch', '{"on": false, "by": null}');
select evsource.define_event_type('List', 1, '$.items[*] ? (@.n > 2)');
select version from evsource.append('flag-1', 'List', '{"items": [{"n": 1}, {"n": 3}]}');
select version from evsource.append('flag-1', 'List', '{"items": [{"n": 1}, {"n": 2}]}');
-- What makes a path fail means that it does not hold.
-- A date or a time in the data is that of UTC where the path compares it with one that has a zone.
select evsource.define_event_type('Dated', 1, '$.at.datetime() < "2030-01-01 00:00:00+00:00".datetime()');
select version from evsource.append('dated-1', 'Dated', '{"at": "2020-01-01"}');
select version from evsource.append('dated-1', 'Dated', '{"at": "2020-01-01 00:00:00+00:00"}');
select version from evsource.append('dated-1', 'Dated', '{"at": "x"}');
set timezone = 'Pacific/Kiritimati';
select version from evsource.append('dated-1', 'Dated', '{"at": "2030-01-01"}');
\echo :LAST_ERROR_SQLSTATE
set timezone = 'Pacific/Honolulu';
select version from evsource.append('dated-1', 'Dated', '{"at": "2029-12-31"}');
show timezone;
reset timezone;
select evsource.define_event_type('Strict', 1, 'strict $.a.b');
select version from evsource.append('flag-1', 'Strict', '{"a": {"b": null}}');
select version from evsource.append('flag-1', 'Strict', '{"a": 1}');
select evsource.define_event_type('Sum', 1, '$.a + $.b');
select version from evsource.append('flag-1', 'Sum', '{"a": 1, "b": "x"}');

-- Handlers of all kinds, inline, by replay and by run, are told the newest version.
create table told (projection text, stream text, version bigint, data jsonb);
create function tell(e evsource.event) returns void language sql as
$$ insert into bank.told values ('event', (e).stream, (e).version, (e).data) $$;
create function tell_all(events evsource.event[]) returns void language sql as
$$ insert into bank.told select 'batch', stream, version, data from unnest(events) $$;
create function balance(state jsonb, e evsource.event) returns jsonb language sql as
$$ select jsonb_build_object('cents', coalesce((state ->> 'cents')::int, 0) + ((e).data ->> 'cents')::int) $$;
select evsource.create_projection('event', 'tell', types => '{Paid}');
select evsource.create_projection('batch', 'tell_all', types => '{Paid}');
select evsource.create_projection('query', query => $$insert into bank.told select 'query', stream, version, data from new_events$$, types => '{Paid}');
select evsource.create_projection('async', query => $$insert into bank.told select 'async', stream, version, data from new_events$$, mode => 'async', types => '{Paid}');
select evsource.create_projection('balance', 'balance', types => '{Paid}', snapshots => 'max_durability');
create function currency(e evsource.event) returns text language sql as $$ select (e).data ->> 'currency' $$;
select evsource.create_projection('by_currency', 'balance', key => 'currency', types => '{Paid}', mode => 'async');
select version from evsource.append('account-4', 'Paid', '{"amount": 1}', schema_version => 1);
insert into evsource.events (stream, type, data, schema_version) values ('account-4', 'Paid', '{"cents": 200}', 2);
select evsource.run_projection('async');
select projection, count(*), count(*) filter (where data ? 'currency' and data ? 'cents') from told group by 1 order by 1;
select projection, version, data from told where stream = 'account-4' order by 1, 2;
select evsource.state('balance', 'account-4'), evsource.state('balance', 'account-2');
select evsource.state_at_version('balance', 'account-2', 2), evsource.state_at_time('balance', 'account-1', 'infinity');
select evsource.run_projection('by_currency');
select key, state from evsource.states where projection = 'by_currency' order by 1;

-- Many events: a column that a query does not read is left out of new_events.
select first_version, version from evsource.append_batch('account-5', array_fill('Paid'::text, array[2500]),
    array_fill('{"amount": 1}'::jsonb, array[2500]), schema_versions => array_fill(1, array[2500]));
create table sums (what text, n bigint);
select evsource.create_projection('sum', query => $$insert into bank.sums select 'cents', sum((data ->> 'cents')::int) from new_events where stream = 'account-5'$$);
select evsource.create_projection('count', query => $$insert into bank.sums select 'events', count(version) from new_events where stream = 'account-5'$$);
select * from sums;
select evsource.drop_projection('sum'), evsource.drop_projection('count');

-- Where row security applies, readers get the newest version too.
create role regress_types_teller;
grant usage on schema bank to regress_types_teller;
select evsource.grant_access('regress_types_teller', 'writer');
alter table evsource.events enable row level security;
create policy own on evsource.events for all to regress_types_teller using (stream = 'account-1') with check (true);
set role regress_types_teller;
select version, data from evsource.read_stream('account-1', max_count => 2);
select count(*) from evsource.events_raw;
select version from evsource.append('account-1', 'Paid', '{"amount": 9}', schema_version => 1);
select version from evsource.append('account-1', 'Paid', '{"amount": 9}');
reset role;
drop policy own on evsource.events;
alter table evsource.events disable row level security;
select schema_version, data from evsource.events_raw where stream = 'account-1' order by version desc limit 1;

-- Where the user's triggers make us INSERT, what they make of an event is validated.
create function double() returns trigger language plpgsql as
$$ begin new.data = new.data || '{"cents": 1000}'; return new; end $$;
create trigger double before insert on evsource.events for each row execute function double();
select version from evsource.append('account-6', 'Paid', '{"currency": "EUR"}');
select version from evsource.append('account-6', 'Paid', '{"currency": "euro"}');
select version from evsource.append('account-6', 'Paid', '{"currency": "EUR"}', schema_version => 2);
drop trigger double on evsource.events;
select schema_version, data from evsource.events_raw where stream = 'account-6' order by version;

-- A restored row is stored as it is, and read as what it is.
insert into evsource.events (position, version, recorded_at, stream, type, data) values (100000, 1, '2020-01-01', 'account-7', 'Paid', '{"amount": 1}');
insert into evsource.events (position, version, recorded_at, stream, type, data, schema_version) values (100001, 2, '2020-01-01', 'account-7', 'Paid', '{}', 0);
select data from evsource.read_stream('account-7');
-- One of a version that is not defined here: as it is.
insert into evsource.events (position, version, recorded_at, stream, type, data, schema_version) values (100001, 2, '2020-01-01', 'account-7', 'Paid', '{"new": 1}', 9);
select data from evsource.read_stream('account-7');

set client_min_messages = warning;
reset role;
\c :home
drop database evsource_types;
drop role regress_types_teller;
