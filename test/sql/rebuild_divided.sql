-- rebuild_divided: a projection whose partitions are at different positions is
-- rebuilt, and goes back, as if they were not.

\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_rebuild_divided;
create database evsource_rebuild_divided;
\c evsource_rebuild_divided
set client_min_messages = warning;
create extension evsource;
set evsource.async_attempts = 9;
set evsource.async_retry_delay = 1;

create table obstacles (position bigint primary key);
create table mails (position bigint);
create table sums (stream text primary key, total bigint not null);
create function add_up(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from obstacles o where o.position = e.position) then
        raise exception 'no way past position %', e.position;
    end if;
    if not evsource.replaying() then
        insert into mails values (e.position);
    end if;
    insert into sums values (e.stream, 1) on conflict (stream) do update set total = sums.total + 1;
end
$$;
create view twice as select position, count(*) from mails group by 1 having count(*) > 1;
select evsource.create_projection('sums', 'add_up', mode => 'async', partitions => 3, tables => '{sums}');
select count(*) from generate_series(1, 60) i, lateral evsource.append('account-' || i % 20, 'Paid');

-- One of them is stuck, the others have gone on.
insert into obstacles values (31);
select evsource.run_projection('sums');
select count(distinct position) as positions, max(position) as furthest from evsource.partitions;
truncate obstacles;
table twice;

-- What one of them has applied is no news to the new version, and the old one
-- comes back with its partitions where they were.
create table parts as select partition, position from evsource.partitions;
call evsource.rebuild_projection('sums', online => true, keep_old => true);
table twice;
select evsource.revert_rebuild('sums');
select count(*) from (table parts except select partition, position from evsource.partitions) d;
select evsource.run_projection('sums') > 0 as applied;
table twice;
select * from evsource.verify_projection('sums', max_differences => null);
select lag, event_count from evsource.projection_status;
select evsource.revert_rebuild('sums');
select evsource.run_projection('sums');
table twice;
select * from evsource.verify_projection('sums', max_differences => null);
select lag, event_count from evsource.projection_status;

-- In place, and after a reset.
select count(*) from generate_series(1, 60) i, lateral evsource.append('account-' || i % 20, 'Paid');
insert into obstacles values (91);
select evsource.run_projection('sums') > 0 as applied;
truncate obstacles;
call evsource.rebuild_projection('sums', online => false);
table twice;
select count(*) from generate_series(1, 60) i, lateral evsource.append('account-' || i % 20, 'Paid');
insert into obstacles values (151);
select evsource.run_projection('sums') > 0 as applied;
truncate obstacles;
select evsource.reset_projection('sums');
select evsource.run_projection('sums');
table twice;

-- Divided in another way, there is a way back only for those that were not apart.
call evsource.rebuild_projection('sums', online => true, keep_old => true);
select evsource.alter_projection('sums', partitions => 2);
select evsource.revert_rebuild('sums');
select count(*) from generate_series(1, 60) i, lateral evsource.append('account-' || i % 20, 'Paid');
insert into obstacles values (211);
select evsource.run_projection('sums') > 0 as applied;
truncate obstacles;
call evsource.rebuild_projection('sums', online => true, keep_old => true);
select evsource.alter_projection('sums', partitions => 3);
select evsource.revert_rebuild('sums');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('sums', partitions => 2);
select evsource.revert_rebuild('sums');
select evsource.run_projection('sums') > 0 as applied;
table twice;
select * from evsource.verify_projection('sums', max_differences => null);

-- Online while the old version cannot be brought to one position: the new one
-- gets the events of all partitions.
create or replace function add_up(e evsource.event) returns void language plpgsql as $$
begin
    if not evsource.replaying() and exists (select from obstacles o where o.position = e.position) then
        raise exception 'no way past position %', e.position;
    end if;
    insert into sums values (e.stream, 1) on conflict (stream) do update set total = sums.total + 1;
end
$$;
select count(*) from generate_series(1, 60) i, lateral evsource.append('account-' || i % 20, 'Paid');
insert into obstacles values (271);
select evsource.run_projection('sums') > 0 as applied;
select evsource.pause_projection('sums');
select evsource.resume_projection('sums');
select count(distinct position) as positions from evsource.partitions;
call evsource.rebuild_projection('sums', online => true);
truncate obstacles;
select evsource.run_projection('sums') > 0 as applied;
select * from evsource.verify_projection('sums', max_differences => null);
select lag, event_count from evsource.projection_status;

\c :home
set client_min_messages = warning;
drop database evsource_rebuild_divided;
