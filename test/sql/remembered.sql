-- remembered.sql: a session remembers where it stored the last event of a
-- stream; whatever has become of it since, an append's expected version is
-- checked against what the stream holds. In a database of its own: it empties the log.
select current_database() as home \gset
create database evsource_remembered;
\c evsource_remembered
set client_min_messages = warning;
create extension evsource;
create function note(stream text, expected bigint) returns text language plpgsql as $$
declare detail text;
begin
    return 'stored version ' || (evsource.append(stream, 'Noted', expected_version => expected)).version;
exception when sqlstate 'VE001' then
    get stacked diagnostics detail = pg_exception_detail;
    return detail;
end $$;

-- One by one, each behind the other.
select note('a-1', n) from generate_series(0, 3) n;

-- Behind an event that is not the last any more, and one that is not there yet.
insert into evsource.events (stream, type) values ('a-1', 'Inserted');
select note('a-1', 4);
select note('a-1', 6);
select note('a-1', 5);

-- A batch that is behind as well stores nothing, also when it is long.
insert into evsource.events (stream, type) values ('a-1', 'Inserted');
select version from evsource.append_batch('a-1', array_fill('Noted'::text, array[300]), array_fill('{}'::jsonb, array[300]), expected_version => 6);
select version from evsource.append_batch('a-1', '{}', '{}', expected_version => 6);
select version from evsource.append_batch('a-1', array_fill('Noted'::text, array[300]), array_fill('{}'::jsonb, array[300]), expected_version => 7);
select note('a-1', 307);

-- What a savepoint or the transaction took back was never there.
begin;
select note('a-2', 0);
savepoint s;
select note('a-2', 1);
rollback to s;
select note('a-2', 2);
select note('a-2', 1);
rollback;
select note('a-2', 2);
select note('a-2', 1);
select note('a-2', 0);

-- Who expects nothing goes on behind the last event that is there, be it an earlier one.
begin;
select note('d-1', n) from generate_series(0, 2) n;
rollback;
select version from evsource.append('d-1', 'Noted');
select version from evsource.append('d-1', 'Noted');
begin;
alter table evsource.events disable trigger immutable;
delete from evsource.events where stream = 'd-1' and version = 2;
alter table evsource.events enable always trigger immutable;
commit;
insert into evsource.events (stream, type) select 'd-1', 'Inserted' from generate_series(1, 3);
select version from evsource.append('d-1', 'Noted');

-- An event that was removed, by who may, is not there; nor is its place.
select note('a-2', 1);
begin;
alter table evsource.events disable trigger immutable;
delete from evsource.events where stream = 'a-2';
alter table evsource.events enable always trigger immutable;
commit;
select note('a-2', 2);
vacuum evsource.events;
select note('a-2', 2);
select note('b-1', 0);
begin;
alter table evsource.events disable trigger immutable;
truncate evsource.events;
alter table evsource.events enable always trigger immutable;
commit;
select note('b-1', 1);
select note('b-1', 0);

-- Another stream's event in its place is not taken for it.
begin;
alter table evsource.events disable trigger immutable;
truncate evsource.events;
alter table evsource.events enable always trigger immutable;
commit;
select note('b-2', 0);
select note('b-1', 1);

-- Who repeats a request that was stored gets its answer, not an error.
select version, stored from evsource.append('c-1', 'Opened', expected_version => 0, id => '01234567-89ab-4def-8123-456789abcdef');
select version, stored from evsource.append('c-1', 'Paid', expected_version => 1, id => '11234567-89ab-4def-8123-456789abcdef');
select version, stored from evsource.append('c-1', 'Paid', expected_version => 1, id => '11234567-89ab-4def-8123-456789abcdef');

-- Where an INSERT has to run, it is checked as well.
create function nothing() returns trigger language plpgsql as 'begin return new; end';
create trigger a_foreign_one before insert on evsource.events for each row execute function nothing();
select note('c-1', 2);
insert into evsource.events (stream, type) values ('c-1', 'Inserted');
select note('c-1', 3);
select note('c-1', 4);

-- No version is missing or taken twice.
select stream, count(*), min(version), max(version) from evsource.events group by stream order by stream;

\c :home
drop database evsource_remembered;
