-- The extension comes and goes in one session: nothing of the old one is kept.
-- In a database of its own.

select current_database() as home \gset
create database evsource_reinstall;
\c evsource_reinstall
set evsource.allow_drop = on;

create function append_one(stream text) returns bigint language plpgsql as $$
begin
    return (select version from evsource.append(stream, 'One', id => gen_random_uuid()));
end $$;
create procedure use_it(seen text) language plpgsql as $$
declare
    id uuid;
begin
    execute format('create table %I (stream text, version bigint)', seen);
    perform evsource.create_projection('seen', query => format('insert into %I select stream, version from new_events', seen));
    perform append_one('a-1');
    perform evsource.append_batch('a-1', array['Two', 'Three'], array['2', '3']::jsonb[], expected_version => 1);
    insert into evsource.events (stream, type) values ('a-1', 'Four'), ('b-1', 'One');
    id := (select (evsource.append('a-1', 'Five')).id);
    if (select stored from evsource.append('a-1', 'Five', id => id)) then
        raise exception 'the id is not known';
    end if;
end $$;

create extension evsource;
call use_it('first');
select version, type from evsource.read_stream('a-1');
select stream, max(version) from first group by stream order by stream;
select origin as first_origin from evsource.store \gset

-- Dropped, nothing of it answers.
drop extension evsource;
\set VERBOSITY sqlstate
select append_one('a-1');
\set VERBOSITY default
-- Made again, it is another log from position 1 on.
create extension evsource;
call use_it('second');
select position, stream, version, type from evsource.read_all();
select stream, max(version) from second group by stream order by stream;
select origin <> :'first_origin' as another_origin from evsource.store;
select count(*) from first;

-- Also in a transaction that is rolled back, and in one that is not.
begin;
drop extension evsource;
create extension evsource;
call use_it('third');
select position, stream, version from evsource.read_all();
rollback;
select position, stream, version, type from evsource.events order by position;
select append_one('c-1');
begin;
drop extension evsource;
savepoint one;
create extension evsource;
call use_it('fourth');
rollback to one;
create extension evsource;
call use_it('fifth');
commit;
select stream, max(version), max(position) from evsource.events group by stream order by stream;
select stream, max(version) from fifth group by stream order by stream;

-- The ids of each are those of its origin, whoever asks.
create table ids as select position, id from evsource.read_all();
\c
select count(*), bool_and(e.id = i.id) as same from evsource.read_all() e join ids i using (position);

\c :home
drop database evsource_reinstall;
