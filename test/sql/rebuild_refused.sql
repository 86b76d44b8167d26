-- rebuild_refused: what cannot be built beside itself is not, and is not harmed.

-- A log of its own: positions and counts are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_refused;
create database evsource_rebuild_refused;
\c evsource_rebuild_refused
create extension evsource;
select count(*) from generate_series(1, 3) i, lateral evsource.append_batch('account-' || i,
    array_fill('Paid'::text, array[10]), array_fill('{}'::jsonb, array[10]));
create table counts (stream text primary key, events bigint);
create function count_events(e evsource.event[]) returns void language sql as $$
    insert into counts as c select n.stream, count(*) from unnest($1) n group by 1
    on conflict (stream) do update set events = c.events + excluded.events;
$$;
create view model as select sum(events), count(*) from counts;

-- A handler that names the schema would work on the old table: that is seen
-- when it does, whatever it does, and all of it is taken back.
create function by_schema(e evsource.event[]) returns void language sql as $$
    insert into public.counts as c select n.stream, count(*) from unnest($1) n group by 1
    on conflict (stream) do update set events = c.events + excluded.events;
$$;
create function by_own_path(e evsource.event[]) returns void language sql set search_path = public as $$
    insert into counts as c select n.stream, count(*) from unnest($1) n group by 1
    on conflict (stream) do update set events = c.events + excluded.events;
$$;
create function by_reading(e evsource.event[]) returns void language plpgsql as $$
begin
    insert into counts select n.stream, 1 + (select count(*) from public.counts) * 0 from unnest(e) n on conflict do nothing;
end
$$;
create function by_dynamic(e evsource.event[]) returns void language plpgsql as $$
begin
    execute format('update %I.%I set events = events', 'public', 'counts');
end
$$;
create function by_truncate(e evsource.event[]) returns void language sql as 'truncate public.counts';
create view all_counts as select * from counts;
create function by_view(e evsource.event[]) returns void language sql as
    'update all_counts set events = events + cardinality($1) where stream = ''none''';
select evsource.create_projection('counts', 'count_events', tables => '{counts}');
table model;
\set VERBOSITY terse
select evsource.alter_projection('counts', handler => 'by_schema');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', handler => 'by_own_path');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', handler => 'by_reading');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', handler => 'by_dynamic');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', handler => 'by_truncate');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', handler => 'by_view');
call evsource.rebuild_projection('counts', online => true);
\set VERBOSITY default
table model;

-- With the way out, and nothing is left behind.
select evsource.alter_projection('counts', handler => 'by_schema');
call evsource.rebuild_projection('counts', online => true);
select count(*) from evsource.rebuilds;
select count(*) from pg_namespace where nspname like 'evsource_shadow%';

-- Unless it was asked for explicitly it is rebuilt in place.
set client_min_messages = notice;
call evsource.rebuild_projection('counts');
set client_min_messages = warning;
table model;
select state, stale, event_count from evsource.projection_status;

-- A query is seen through in the same way.
select evsource.create_projection('query', tables => '{counts}', categories => '{none}', query =>
    'insert into public.counts select stream, 1 from new_events on conflict do nothing');
select evsource.alter_projection('query', categories => '{account}');
call evsource.rebuild_projection('query', online => true);
select evsource.drop_projection('query');

-- A handler that goes wrong only later stops the rebuild, and the old version lives.
create function sometimes(e evsource.event) returns void language plpgsql as $$
begin
    if (e).type = 'Bad' then
        update public.counts set events = 0;
    end if;
    insert into counts as c values ((e).stream, 1) on conflict (stream) do update set events = c.events + 1;
end
$$;
select evsource.alter_projection('counts', handler => 'count_events');
select count(*) from generate_series(1, 200) i, lateral evsource.append('account-' || i % 3 + 1, 'Paid');
select version from evsource.append('account-1', 'Bad');
select evsource.alter_projection('counts', handler => 'sometimes');
call evsource.rebuild_projection('counts', online => true);
table model;
select projection, state, online, events_done > 0 as some, events_total from evsource.progress;
select evsource.alter_projection('counts', handler => 'count_events');
call evsource.rebuild_projection('counts');
table model;
select state, stale, event_count from evsource.projection_status;
select count(*) from pg_namespace where nspname like 'evsource_shadow%';

-- Tables of which a copy would not be the same, or be noticed.
create function empty_rest() returns void language sql as '';
create schema other;
select evsource.alter_projection('counts', on_reset => 'empty_rest');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', defaults => '{on_reset}');
alter table counts set unlogged;
call evsource.rebuild_projection('counts', online => true);
alter table counts set logged;
create table child () inherits (counts);
call evsource.rebuild_projection('counts', online => true);
drop table child;
create rule silent as on delete to counts do instead nothing;
call evsource.rebuild_projection('counts', online => true);
drop rule silent on counts;
create table notes (stream text references counts);
call evsource.rebuild_projection('counts', online => true);
drop table notes;
set client_min_messages = error;
create publication news for table counts;
set client_min_messages = warning;
call evsource.rebuild_projection('counts', online => true);
drop publication news;
create table other.counts (); select evsource.alter_projection('counts', tables => '{counts,other.counts}');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', tables => '{counts}'); drop table other.counts;
create role rebuild_owner; create table others (); alter table others owner to rebuild_owner; select evsource.alter_projection('counts', tables => '{counts,others}');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', tables => '{counts}'); drop table others; drop role rebuild_owner;
create table other.hidden (); select evsource.alter_projection('counts', tables => '{counts,other.hidden}');
call evsource.rebuild_projection('counts', online => true);
select evsource.alter_projection('counts', tables => '{counts}');
call evsource.rebuild_projection('counts', online => true);
table model;

-- What has no tables.
create function total(state jsonb, e evsource.event) returns jsonb language sql as 'select state';
select evsource.create_projection('fold', 'total');
call evsource.rebuild_projection('fold', online => true);
select evsource.create_projection('nothing', query => 'select from new_events');
call evsource.rebuild_projection('nothing', online => true);
call evsource.rebuild_projection('nothing');

-- Whoever wants a way back does not lose the old version for want of one.
call evsource.rebuild_projection('fold', keep_old => true);
call evsource.rebuild_projection('nothing', keep_old => true);
select evsource.request_rebuild('fold', keep_old => true);
select online, keep_old from evsource.rebuilds where projection = 'fold';
select evsource.cancel_rebuild('fold');

-- Options that do not go together.
call evsource.rebuild_projection('counts', online => false, keep_old => true);
call evsource.rebuild_projection('counts', online => true, from_snapshot => true);
call evsource.rebuild_projection('counts', keep_old => true, from_snapshot => true);
begin;
call evsource.rebuild_projection('counts', keep_old => true);
rollback;
select evsource.request_rebuild('missing');
select evsource.cancel_rebuild('missing');
select evsource.cancel_rebuild('counts');
select evsource.revert_rebuild('counts');
select evsource.accept_rebuild('counts');

-- A schema that has the shadow's name is somebody else's.
create schema evsource_shadow_counts;
call evsource.rebuild_projection('counts', online => true);
set client_min_messages = notice;
call evsource.rebuild_projection('counts');
set client_min_messages = warning;
drop schema evsource_shadow_counts;

-- An owner who may not make such tables has them rebuilt in place.
create role rebuild_owner;
select evsource.grant_access('rebuild_owner', 'admin');
grant create on schema public to rebuild_owner;
create table parents (stream text primary key);
insert into parents select stream from counts;
set role rebuild_owner;
create table owned (stream text primary key, events bigint);
select evsource.create_projection('owned', tables => '{owned}', query =>
    'insert into owned as o select stream, count(*) from new_events group by 1 on conflict (stream) do update set events = o.events + excluded.events');
reset role;
alter table owned add foreign key (stream) references parents;
set role rebuild_owner;
call evsource.rebuild_projection('owned', online => true);
set client_min_messages = notice;
call evsource.rebuild_projection('owned');
set client_min_messages = warning;
select sum(events) from owned;
select evsource.drop_projection('owned');
reset role;
drop owned by rebuild_owner;
drop role rebuild_owner;

-- The rows of the new tables are of other types than those of the old: what takes those does not
-- take these. If it belongs to the table, it is in the way; if the handler calls it, that is an error.
create table labels (stream text primary key, events bigint);
create function label(labels) returns text language sql immutable as $$ select $1.stream || '!' $$;
select evsource.create_projection('labels', tables => '{labels}', query =>
    'insert into labels as l select stream, count(*) from new_events group by 1 on conflict (stream) do update set events = l.events + excluded.events');
create index labels_label on labels (label(labels));
call evsource.rebuild_projection('labels', online => true);
set client_min_messages = notice;
call evsource.rebuild_projection('labels');
drop index labels_label;
alter table labels add constraint labelled check (length(label(labels)) > 0);
call evsource.rebuild_projection('labels');
alter table labels drop constraint labelled;
call evsource.rebuild_projection('labels', online => true);
set client_min_messages = warning;
select sum(events) from labels;
create function label_rows(e evsource.event[]) returns void language plpgsql as $$
begin
    insert into labels as l select n.stream, count(*) from unnest(e) n group by 1
    on conflict (stream) do update set events = l.events + excluded.events;
    perform label(l) from labels l;
end $$;
select evsource.alter_projection('labels', handler => 'label_rows');
\set VERBOSITY terse
call evsource.rebuild_projection('labels');
\set VERBOSITY default
call evsource.rebuild_projection('labels', online => false);
select sum(events) from labels;
select evsource.drop_projection('labels');

-- What cannot be emptied is not rebuilt, nor by the daemon.
create function note_nothing(e evsource.event) returns void language sql as '';
select evsource.create_projection('side_effects', 'note_nothing', start => 'now');
call evsource.rebuild_projection('side_effects');
select evsource.request_rebuild('side_effects');
select count(*) from evsource.rebuilds;
select evsource.drop_projection('side_effects');

-- Only who may change a projection may have it rebuilt.
create role rebuild_admin;
select evsource.grant_access('rebuild_admin', 'admin');
set role rebuild_admin;
call evsource.rebuild_projection('counts');
select evsource.request_rebuild('counts');
select evsource.cancel_rebuild('counts');
reset role;
drop owned by rebuild_admin;
drop role rebuild_admin;

\c :home
drop database evsource_rebuild_refused;
