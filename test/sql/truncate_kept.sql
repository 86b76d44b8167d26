-- truncate_kept: what a read model stands for of truncated events goes with its version:
-- to the one that a rebuild keeps, back by the way back, and away with it, not unsaid.
create schema kept;
set search_path = kept;
set client_min_messages = warning;
create table kept.totals (stream text primary key, n int);
select evsource.create_projection('totals', tables => '{kept.totals}', categories => '{away}', query =>
    'insert into totals as t select stream, count(*) from new_events group by stream on conflict (stream) do update set n = t.n + excluded.n');
create function kept.add(n int) returns bigint language sql as
    $$select count(evsource.append('away-1', 'E')) from generate_series(1, n)$$;
create view kept.now as
    select t.stream, t.n, c.truncated from kept.totals t, evsource.checkpoints c where c.projection = 'totals' order by 1;

-- What is kept has it, and nothing is gone; what is there instead is as any other.
select kept.add(3), evsource.truncate_stream('away-1', 3);
table kept.now;
call evsource.rebuild_projection('totals', online => true, keep_old => true);
table kept.now;
begin;
select evsource.restore_projection('totals');
rollback;

-- Back, and forth.
select evsource.revert_rebuild('totals');
table kept.now;
begin;
select evsource.restore_projection('totals');
rollback;
select evsource.revert_rebuild('totals');
table kept.now;

-- Whoever drops it is told.
begin;
select evsource.accept_rebuild('totals');
rollback;
begin;
call evsource.rebuild_projection('totals');
rollback;
begin;
select evsource.drop_projection('totals');
rollback;
call evsource.rebuild_projection('totals', online => true, keep_old => true);
table kept.now;
call evsource.rebuild_projection('totals', online => true);
table kept.now;

-- What is truncated while there are two versions is in both if both have applied it:
-- whichever is dropped, nothing is gone.
call evsource.rebuild_projection('totals', online => true, keep_old => true);
select kept.add(1), evsource.truncate_stream('away-1', 4);
table kept.now;
begin;
select evsource.revert_rebuild('totals');
table kept.now;
rollback;
select evsource.accept_rebuild('totals');
-- and only in one if that alone has
call evsource.rebuild_projection('totals', online => false);
call evsource.rebuild_projection('totals', online => true, keep_old => true);
select count(evsource.append('away-2', 'E')) from generate_series(1, 2);
select evsource.truncate_stream('away-2', 2);
table kept.now;
-- The version that has never had them says so when it comes back, and no other.
begin;
select evsource.revert_rebuild('totals');
table kept.now;
select evsource.revert_rebuild('totals');
table kept.now;
select evsource.revert_rebuild('totals');
rollback;
begin;
select evsource.revert_rebuild('totals');
table kept.now;
select evsource.accept_rebuild('totals');
rollback;
select evsource.accept_rebuild('totals');
call evsource.rebuild_projection('totals', online => false);

-- What the next version has applied before it went is in that, too.
create table kept.obstacle (version bigint);
create function kept.apply(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from kept.obstacle o where o.version = e.version) then
        raise exception 'stopped at version %', e.version;
    end if;
    insert into totals as t values (e.stream, 1) on conflict (stream) do update set n = t.n + 1;
end
$$;
select evsource.alter_projection('totals', handler => 'kept.apply');
call evsource.rebuild_projection('totals', online => true);
select kept.add(200);
insert into kept.obstacle values (150);
\set VERBOSITY terse
call evsource.rebuild_projection('totals', online => true);
\set VERBOSITY default
truncate kept.obstacle;
select evsource.truncate_stream('away-1', 5);
call evsource.rebuild_projection('totals', online => true);
table kept.now;

-- One that refers to other tables is dropped after the exchange: then it is said.
create table kept.streams (stream text primary key);
insert into kept.streams values ('away-1'), ('away-2');
alter table kept.totals add foreign key (stream) references kept.streams;
call evsource.rebuild_projection('totals', online => true);
table kept.now;

-- Partitions that were apart have missed what was behind each of them.
create table kept.parts (stream text primary key, n int);
create function kept.apply_part(e evsource.event) returns void language plpgsql as $$
begin
    if exists (select from kept.streams s where s.stream = e.stream) then
        raise exception 'stopped';
    end if;
    insert into parts as t values (e.stream, 1) on conflict (stream) do update set n = t.n + 1;
end
$$;
select evsource.create_projection('parts', 'kept.apply_part', mode => 'async', partitions => 2, tables => '{kept.parts}', categories => '{part}');
select min('part-' || i) filter (where evsource._partition('part-' || i, 2) = 0) as ahead,
    min('part-' || i) filter (where evsource._partition('part-' || i, 2) = 1) as behind from generate_series(1, 9) i \gset
insert into kept.streams values (:'behind');
insert into evsource.events (stream, type) select s, 'E' from unnest(array[:'behind', :'ahead', :'behind', :'ahead']) s;
set client_min_messages = error;
select evsource.run_projection('parts');
set client_min_messages = warning;
delete from kept.streams where stream = :'behind';
call evsource.rebuild_projection('parts', online => true, keep_old => true);
begin;
select evsource.truncate_stream(:'ahead', 2);
select evsource.revert_rebuild('parts');
rollback;
begin;
select evsource.truncate_stream(:'behind', 2);
select evsource.revert_rebuild('parts');
table kept.parts;
rollback;
select evsource.drop_projection('parts');

select evsource.drop_projection('totals');
reset search_path;
drop schema kept cascade;
reset client_min_messages;
