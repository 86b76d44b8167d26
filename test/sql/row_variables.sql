-- row_variables: a function has the row types of its variables from its first call in a
-- session.  Where that is a replay they are those of the tables all the same, and not of
-- their copies, so that whatever the session calls it for afterwards works.
select current_database() as home \gset
create database evsource_row_variables;
\c evsource_row_variables
set client_min_messages = warning;
create extension evsource;

create table assigned (stream text primary key, n bigint not null);
create function count_assigned(e evsource.event) returns void language plpgsql as $$
declare old assigned; new assigned;
begin
    select * into old from assigned where stream = e.stream;
    new := old;
    new.stream := e.stream;
    new.n := coalesce(old.n, 0) + 1;
    insert into assigned select new.* on conflict (stream) do update set n = excluded.n;
end $$;
create table populated (like assigned including all);
create function count_populated(e evsource.event) returns void language plpgsql as $$
declare r populated;
begin
    r := jsonb_populate_record(null::populated, jsonb_build_object('stream', e.stream, 'n', 1));
    insert into populated as p values (r.*) on conflict (stream) do update set n = p.n + r.n;
end $$;
create table compared (like assigned including all);
create function count_compared(e evsource.event) returns void language plpgsql as $$
declare r compared;
begin
    r := row(e.stream, 1);
    if r is distinct from null then
        insert into compared as c values (r.stream, r.n) on conflict (stream) do update set n = c.n + r.n;
    end if;
end $$;
create table looped (like assigned including all);
create function count_looped(e evsource.event) returns void language plpgsql as $$
declare a looped[]; r looped; before bigint := 0;
begin
    a := array(select l from looped l where l.stream = e.stream);
    foreach r in array a loop
        before := before + r.n;
    end loop;
    insert into looped values (e.stream, before + 1) on conflict (stream) do update set n = excluded.n;
end $$;
-- Those that a handler calls, too, with and without a collation.
create table helped (like assigned including all);
create function raise_helped(name text) returns helped language plpgsql as $$
declare old helped; new helped;
begin
    select * into old from helped where stream = name;
    new := old;
    new.n := coalesce(old.n, 0) + 1;
    return new;
end $$;
create function write_helped(e evsource.event) returns void language plpgsql
security definer set timezone = 'Europe/Berlin' as $$
declare new helped; copy helped;
begin
    new := raise_helped(e.stream);
    new.stream := e.stream;
    copy := new;
    insert into helped select copy.* on conflict (stream) do update set n = excluded.n;
end $$;
create function count_helped(e evsource.event) returns void language plpgsql as $$
begin
    perform write_helped(e);
end $$;

create view names as select unnest(array['assigned', 'compared', 'helped', 'looped', 'populated']) as name;
select evsource.create_projection(name, 'count_' || name, tables => array[name]) from names;
select count(*) from generate_series(1, 6) i, evsource.append('a-' || i % 3, 'Happened');
create view counts as
    select (select sum(n) from assigned) as assigned, (select sum(n) from compared) as compared, (select sum(n) from helped) as helped,
        (select sum(n) from looped) as looped, (select sum(n) from populated) as populated,
        (select count(*) from evsource.events) as events, (select count(*) from evsource.dead_letters) as parked;

-- A session that begins with verify_projection.
\c
set client_min_messages = warning;
select name, v.* from names left join lateral evsource.verify_projection(name) v on true;
select count(*) from evsource.append('a-1', 'Happened');
select name, v.* from names left join lateral evsource.verify_projection(name) v on true;
discard all;
select count(*) from evsource.append('a-1', 'Happened');
table counts;
\c
begin;
select name, v.* from names left join lateral evsource.verify_projection(name) v on true;
rollback;
select count(*) from evsource.append('a-2', 'Happened');

-- With try_projection.
\c
select name, t.* from names left join lateral evsource.try_projection(name, 'count_' || name) t on true;
select count(*) from evsource.append('a-1', 'Happened');
select name, v.* from names left join lateral evsource.verify_projection(name) v on true;

-- With a rebuild.
\c
set client_min_messages = warning;
call evsource.rebuild_projection('assigned', online => true);
call evsource.rebuild_projection('compared', online => true);
call evsource.rebuild_projection('helped', online => true);
call evsource.rebuild_projection('looped', online => true);
call evsource.rebuild_projection('populated', online => true);
select count(*) from evsource.append('a-1', 'Happened');
call evsource.rebuild_projection('assigned', online => true);
call evsource.rebuild_projection('compared', online => true);
call evsource.rebuild_projection('helped', online => true, keep_old => true);
call evsource.rebuild_projection('looped', online => true);
call evsource.rebuild_projection('populated', online => true);
select count(*) from evsource.append('a-2', 'Happened');
select evsource.revert_rebuild('helped');
select evsource.accept_rebuild('helped');
select count(*) from evsource.append('a-2', 'Happened');
table counts;

-- A function that is replaced while the session has it, and tables that are another shape since.
\c
set client_min_messages = warning;
select count(*) from evsource.append('a-1', 'Happened');
alter table assigned add column note text;
alter function count_assigned(evsource.event) cost 101;
alter function raise_helped(text) cost 101;
analyze assigned, compared, helped, looped, populated;
select name, v.* from names left join lateral evsource.verify_projection(name) v on true;
select count(*) from evsource.append('a-1', 'Happened');
call evsource.rebuild_projection('assigned', online => true);
select count(*) from evsource.append('a-1', 'Happened');
table counts;

-- Nothing is parked that a new session would take.
select evsource.alter_projection(name, mode => 'async', on_error => 'dead_letter') from names;
\c
set client_min_messages = warning;
select name, v.* from names left join lateral evsource.verify_projection(name) v on true;
call evsource.rebuild_projection('assigned', online => true);
call evsource.rebuild_projection('compared', online => true);
call evsource.rebuild_projection('helped', online => true);
call evsource.rebuild_projection('looped', online => true);
call evsource.rebuild_projection('populated', online => true);
table counts;
call evsource.rebuild_projection('assigned', online => true);
call evsource.rebuild_projection('compared', online => true);
call evsource.rebuild_projection('helped', online => true);
call evsource.rebuild_projection('looped', online => true);
call evsource.rebuild_projection('populated', online => true);
select count(*) from evsource.append('a-1', 'Happened');
select evsource.run_projection(name) from names;
table counts;

-- An expression that has a variable and a row of a copy, which are of two types: an online rebuild
-- fails, in any session, and parks nothing that the table itself takes.
set client_min_messages = error;
create table coalesced (stream text primary key, n bigint not null);
create function count_coalesced(e evsource.event) returns void language plpgsql as $$
declare r coalesced; before bigint;
begin
    r := row(e.stream, 0)::coalesced;
    select (coalesce(c, r)).n into before from (values (1)) v left join coalesced c on c.stream = e.stream;
    insert into coalesced values (e.stream, before + 1) on conflict (stream) do update set n = excluded.n;
end $$;
create table appended (like coalesced including all);
create function count_appended(e evsource.event) returns void language plpgsql as $$
declare a appended[] := '{}';
begin
    a := a || array(select c from appended c where stream = e.stream);
    insert into appended values (e.stream, coalesce(a[1].n, 0) + 1) on conflict (stream) do update set n = excluded.n;
end $$;
create table matched (like coalesced including all);
create function count_matched(e evsource.event) returns void language plpgsql as $$
declare r matched; before bigint;
begin
    r := row(e.stream, 0)::matched;
    before := (select (array[m, r])[1].n from matched m where stream = e.stream);
    insert into matched values (e.stream, coalesce(before, 0) + 1) on conflict (stream) do update set n = excluded.n;
end $$;
create table computed (like coalesced including all);
create function next(computed) returns bigint language sql as $$ select $1.n + 1 $$;
create function count_computed(e evsource.event) returns void language plpgsql as $$
declare following bigint;
begin
    select c.next into following from computed c where c.stream = e.stream;
    insert into computed values (e.stream, coalesce(following, 1)) on conflict (stream) do update set n = excluded.n;
end $$;
create view mixed as select unnest(array['appended', 'coalesced', 'computed', 'matched']) as name;
create view mixed_counts as
    select (select sum(n) from appended) as appended, (select sum(n) from coalesced) as coalesced, (select sum(n) from computed) as computed, (select sum(n) from matched) as matched,
        (select count(*) from evsource.dead_letters) as parked;
select evsource.create_projection(name, 'count_' || name, mode => 'async', on_error => 'dead_letter', tables => array[name], types => '{Mixed}') from mixed;
select count(*) from generate_series(1, 6) i, evsource.append('a-' || i % 3, 'Mixed');
select evsource.run_projection(name) from mixed;
table mixed_counts;
set evsource.async_attempts = 1;
call evsource.rebuild_projection('coalesced', online => true);
\c
set client_min_messages = error;
set evsource.async_attempts = 1;
call evsource.rebuild_projection('coalesced', online => true);
call evsource.rebuild_projection('coalesced');
call evsource.rebuild_projection('appended', online => true);
call evsource.rebuild_projection('computed', online => true);
\c
set client_min_messages = error;
call evsource.rebuild_projection('matched', online => true);
\echo :LAST_ERROR_SQLSTATE
call evsource.rebuild_projection('matched', online => true);
\echo :LAST_ERROR_SQLSTATE
table mixed_counts;
call evsource.rebuild_projection('coalesced', online => false);
call evsource.rebuild_projection('appended', online => false);
call evsource.rebuild_projection('computed', online => false);
call evsource.rebuild_projection('matched', online => false);
table mixed_counts;

-- One function that has a version for each type of its argument, and for each collation.
\c
set client_min_messages = error;
create table versions (stream text primary key, n bigint not null);
create function one_more(name text, what anyelement) returns bigint language plpgsql as $$
declare old versions; new versions;
begin
    select * into old from versions where stream = name;
    new := old;
    new.n := coalesce(old.n, 0) + 1;
    return new.n;
end $$;
create function same_name(name text) returns text language plpgsql as $$
declare old versions; new versions;
begin
    select * into old from versions where stream = name;
    new := old;
    new.stream := name;
    return new.stream;
end $$;
create function count_versions(e evsource.event) returns void language plpgsql as $$
begin
    insert into versions values (same_name(e.stream collate "default"), one_more(e.stream, 1)) on conflict (stream) do update set n = excluded.n;
    update versions set n = one_more(e.stream, 1.0) - 1 where stream = same_name(e.stream collate "C");
end $$;
select evsource.create_projection('versions', 'count_versions', tables => '{versions}', types => '{Versioned}');
select count(*) from generate_series(1, 6) i, evsource.append('a-' || i % 3, 'Versioned');
\c
select * from evsource.verify_projection('versions');
select count(*) from generate_series(1, 6) i, evsource.append('a-' || i % 3, 'Versioned');
select * from evsource.verify_projection('versions');
select sum(n) from versions;

\c :home
set client_min_messages = warning;
drop database evsource_row_variables;
