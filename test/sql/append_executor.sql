-- Somebody else's triggers, rules, constraints and columns on evsource.events:
-- then append runs an INSERT, and gives the same results. In a database of its own.

select current_database() as home \gset
create database evsource_append_executor;
\c evsource_append_executor
create extension evsource;
\set SHOW_CONTEXT never

-- What follows is done with each of them: the six ways in, an id that is sent
-- again, a wrong version; it ends at version 9.
create function pg_temp.append_all_ways(stream text) returns table (way text, result text) language plpgsql as $$
declare
    id constant uuid := md5(stream)::uuid;
begin
    return query select 'append', a.version || ' ' || (a.position = r.position and a.id = r.id) || ' ' || a.stored
        from evsource.append(append_all_ways.stream, 'One', '{"n": 1}', expected_version => 0) a, lateral evsource.read_stream(append_all_ways.stream) r;
    return query select 'append_batch', a.first_version || '..' || a.version || ' ' || a.stored
        from evsource.append_batch(append_all_ways.stream, array['Two', 'Three', 'Four'], array['2', '3', '4']::jsonb[], ids => array[null, id, null], expected_version => 1) a;
    return query select 'append_batch again', a.first_version || '..' || a.version || ' ' || a.stored
        from evsource.append_batch(append_all_ways.stream, array['Three'], array['3']::jsonb[], ids => array[id], expected_version => 0) a;
    return query select 'append_json', a.first_version || '..' || a.version || ' ' || a.stored
        from evsource.append_json(append_all_ways.stream, '[{"type": "Five", "metadata": {"by": "ann"}}, {"type": "Six", "time": "2001-01-01T00:00:00Z"}]', 4) a;
    insert into evsource.events (stream, type) values (append_all_ways.stream, 'Seven'), (append_all_ways.stream, 'Eight');
    way := 'append again in one statement';
    return query select way, (evsource.append(append_all_ways.stream, 'Nine', expected_version => 8)).version::text;
    begin
        perform evsource.append(append_all_ways.stream, 'Ten', expected_version => 3);
    exception when sqlstate 'VE001' then
        return query select 'wrong version', sqlstate;
    end;
end $$;
create function pg_temp.story(stream text) returns text language sql as $$
    select string_agg(type, ' ' order by version) || ' ' || max(version) from evsource.events where events.stream = story.stream $$;

-- none of it: straight to the table
select * from pg_temp.append_all_ways('exec-0');
select pg_temp.story('exec-0');

-- AFTER ROW, with what was stored
create table exec_audit (n int generated always as identity, stream text, version bigint, what text);
create function exec_audit() returns trigger language plpgsql as $$
begin
    insert into exec_audit (stream, version, what) values (new.stream, new.version, new.type);
    return null;
end $$;
create trigger a_audit after insert on evsource.events for each row execute function exec_audit();
select * from pg_temp.append_all_ways('exec-1');
select pg_temp.story('exec-1'), string_agg(what, ' ' order by n) = string_agg(what, ' ' order by version) as in_order, count(*) from exec_audit where stream = 'exec-1';
-- A disabled one does nothing.
alter table evsource.events disable trigger a_audit;
select version from evsource.append('exec-1', 'Quiet', expected_version => 9);
select count(*) from exec_audit;
drop trigger a_audit on evsource.events;

-- AFTER STATEMENT with a transition table
create function exec_count() returns trigger language plpgsql as $$
begin
    insert into exec_audit (stream, version, what) select max(stream), max(version), count(*)::text from added;
    return null;
end $$;
create trigger a_count after insert on evsource.events referencing new table as added for each statement execute function exec_count();
select * from pg_temp.append_all_ways('exec-2');
select pg_temp.story('exec-2'), string_agg(what || '@' || version, ' ' order by n) from exec_audit where stream = 'exec-2';
drop trigger a_count on evsource.events;

-- BEFORE ROW that changes the event, whatever its name sorts after: what it makes is validated.
create function exec_change() returns trigger language plpgsql as $$
begin
    new.metadata := coalesce(new.metadata, '{}') || '{"changed": true}';
    if new.type = 'Listed' then
        new.metadata := '[]';
    elsif new.type = 'Nameless' then
        new.type := '';
    end if;
    return new;
end $$;
create trigger a_change before insert on evsource.events for each row execute function exec_change();
select * from pg_temp.append_all_ways('exec-3');
select pg_temp.story('exec-3'), count(*) filter (where metadata ? 'changed') from evsource.events where stream = 'exec-3';
drop trigger a_change on evsource.events;
create trigger z_change before insert on evsource.events for each row execute function exec_change();
select * from pg_temp.append_all_ways('exec-4');
select pg_temp.story('exec-4'), count(*) filter (where metadata ? 'changed') from evsource.events where stream = 'exec-4';
select * from evsource.append('exec-4', 'Listed');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append('exec-4', 'Nameless');
insert into evsource.events (stream, type) values ('exec-4', 'Nameless');
drop trigger z_change on evsource.events;

-- BEFORE ROW that leaves events out: an append says so, an INSERT does as told.
create function exec_skip() returns trigger language plpgsql as $$
begin
    if new.type = 'Skipped' then
        return null;
    end if;
    return new;
end $$;
create trigger a_skip before insert on evsource.events for each row execute function exec_skip();
select * from pg_temp.append_all_ways('exec-5');
select * from evsource.append('exec-5', 'Skipped');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.append_batch('exec-5', array['Ten', 'Skipped', 'Eleven'], array['1', '2', '3']::jsonb[]);
insert into evsource.events (stream, type) values ('exec-5', 'Ten'), ('exec-5', 'Skipped'), ('exec-5', 'Eleven');
select pg_temp.story('exec-5');
drop trigger a_skip on evsource.events;

-- BEFORE ROW that gives an id: it is the event's, and the result's.
create function exec_name() returns trigger language plpgsql as $$
begin
    new.id := coalesce(new.id, md5(new.type)::uuid);
    return new;
end $$;
create trigger a_name before insert on evsource.events for each row execute function exec_name();
select version, id, stored from evsource.append('exec-id', 'Named');
drop trigger a_name on evsource.events;
select version, id, stored from evsource.append('exec-id', 'Named', id => md5('Named')::uuid);

-- One that moves them to another stream: an INSERT is numbered there, an append
-- was checked and locked elsewhere.
create function exec_move() returns trigger language plpgsql as $$
begin
    new.stream := 'exec-moved';
    return new;
end $$;
create trigger a_move before insert on evsource.events for each row execute function exec_move();
insert into evsource.events (stream, type) values ('exec-6', 'One'), ('exec-6', 'Two');
select * from evsource.append('exec-6', 'One');
\echo :LAST_ERROR_SQLSTATE
drop trigger a_move on evsource.events;
create trigger z_move before insert on evsource.events for each row execute function exec_move();
insert into evsource.events (stream, type) values ('exec-6', 'Three') returning stream, version;
drop trigger z_move on evsource.events;
select pg_temp.story('exec-6'), pg_temp.story('exec-moved');

-- One whose name puts it behind evsource's own would change what has its number: none is stored,
create trigger zzz_move before insert on evsource.events for each row execute function exec_move();
select * from evsource.append('exec-6', 'One');
\echo :LAST_ERROR_SQLSTATE
insert into evsource.events (stream, type) values ('exec-6', 'One');
insert into evsource.events (stream, type) select 'exec-6', 'One' where false;
-- whether it comes to it or not, unless it is disabled
drop trigger zzz_move on evsource.events;
create trigger "~odd" before insert or update on evsource.events for each row when (new.type = 'Never') execute function exec_move();
insert into evsource.events (stream, type) values ('exec-6', 'Four');
alter table evsource.events disable trigger "~odd";
insert into evsource.events (stream, type) values ('exec-6', 'Four') returning stream, version;
drop trigger "~odd" on evsource.events;
-- or of another kind.
create trigger zzz_move after insert on evsource.events for each row execute function exec_move();
insert into evsource.events (stream, type) values ('exec-6', 'Five') returning stream, version;
drop trigger zzz_move on evsource.events;
create trigger zzz_move before update on evsource.events for each row execute function exec_move();
insert into evsource.events (stream, type) values ('exec-6', 'Six') returning stream, version;
drop trigger zzz_move on evsource.events;

-- A trigger that appends.
create function exec_echo() returns trigger language plpgsql as $$
begin
    if evsource.category(new.stream) = 'exec' then
        perform evsource.append('exececho-' || new.stream, new.type, to_jsonb(new.version), expected_version => new.version - 1);
    end if;
    return null;
end $$;
create trigger a_echo after insert on evsource.events for each row execute function exec_echo();
select * from pg_temp.append_all_ways('exec-7');
select pg_temp.story('exec-7'), pg_temp.story('exececho-exec-7');
drop trigger a_echo on evsource.events;

-- A rule that also does something else; one that does something instead.
create rule also as on insert to evsource.events do also notify exec_rule;
select * from pg_temp.append_all_ways('exec-8');
select pg_temp.story('exec-8');
drop rule also on evsource.events;
create rule nothing as on insert to evsource.events do instead nothing;
select * from evsource.append('exec-8', 'Swallowed');
\echo :LAST_ERROR_SQLSTATE
drop rule nothing on evsource.events;
select version from evsource.append('exec-8', 'Ten', expected_version => 9);

-- CHECK, also on what append leaves null; NOT NULL there.
alter table evsource.events add constraint exec_check check (type <> 'Unchecked') not valid;
select * from pg_temp.append_all_ways('exec-9');
\set VERBOSITY terse
select * from evsource.append('exec-9', 'Unchecked');
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
alter table evsource.events drop constraint exec_check;
begin;
alter table evsource.events disable trigger immutable;
delete from evsource.events;
alter table evsource.events alter metadata set not null;
savepoint one;
select version from evsource.append('exec-nn', 'One', metadata => '{"a": 1}');
\set VERBOSITY terse
select version from evsource.append('exec-nn', 'Two');
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
rollback to one;
alter table evsource.events alter metadata drop not null, alter id set not null;
\set VERBOSITY terse
select version from evsource.append('exec-nn', 'Two');
\set VERBOSITY default
rollback;
select pg_temp.story('exec-9');

-- A column of the user's own, with a default, one that is generated, one with a foreign key.
alter table evsource.events add column exec_tenant text default current_user, add column exec_size int generated always as (length(data::text)) stored;
create table exec_type (type text primary key);
insert into exec_type values ('One'), ('Two'), ('Three'), ('Four'), ('Five'), ('Six'), ('Seven'), ('Eight'), ('Nine');
alter table evsource.events add constraint exec_fk foreign key (type) references exec_type not valid;
select * from pg_temp.append_all_ways('exec-10');
select pg_temp.story('exec-10'), bool_and(exec_tenant = current_user), sum(exec_size) from evsource.events where stream = 'exec-10';
select * from evsource.append('exec-10', 'Unknown');
\echo :LAST_ERROR_SQLSTATE
alter table evsource.events drop constraint exec_fk;
-- Dropped again it leaves a hole in the row, which is no reason for an INSERT.
alter table evsource.events drop column exec_tenant, drop column exec_size;
select * from pg_temp.append_all_ways('exec-11');
select first_version, version from evsource.append_batch('exec-11', array_fill('Many'::text, array[300]), array_fill('{}'::jsonb, array[300]));
select count(*), max(version), count(distinct type) from evsource.events where stream = 'exec-11';

-- Indexes of the user's own are maintained: on an expression, partial, unique.
create index exec_type_idx on evsource.events (type);
create index exec_data_idx on evsource.events ((data ->> 'n')) where data ? 'n';
create unique index exec_invoice_idx on evsource.events ((data ->> 'invoice')) where evsource.category(stream) = 'execinvoice';
create index exec_gin_idx on evsource.events using gin (data jsonb_path_ops);
select * from pg_temp.append_all_ways('exec-12');
select first_version, version from evsource.append_batch('exec-12', array_fill('Many'::text, array[500]), array(select jsonb_build_object('n', i) from generate_series(1, 500) i));
set enable_seqscan = off;
set enable_bitmapscan = off;
select (select count(*) from evsource.events where type = 'Many' and stream = 'exec-12') as by_type,
       (select version from evsource.events where data ->> 'n' = '77' and data ? 'n' and stream = 'exec-12') as by_data;
reset enable_seqscan;
reset enable_bitmapscan;
select version from evsource.append('execinvoice-1', 'Sent', '{"invoice": "7"}');
select * from evsource.append('execinvoice-2', 'Sent', '{"invoice": "7"}');
\echo :LAST_ERROR_SQLSTATE
drop index evsource.exec_type_idx, evsource.exec_data_idx, evsource.exec_invoice_idx, evsource.exec_gin_idx;

-- A deferrable constraint is checked when it is due.
alter table evsource.events add constraint exec_deferred unique (stream, occurred_at) deferrable initially deferred;
select * from pg_temp.append_all_ways('exec-13');
begin;
select version from evsource.append('exec-13', 'Ten', occurred_at => '2001-01-01 00:00+00');
\set VERBOSITY terse
commit;
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
alter table evsource.events drop constraint exec_deferred;

-- Where triggers do not fire, as in the role of a replica, append does without
-- those of others; what it cannot do without its own it refuses.
create trigger a_audit after insert on evsource.events for each row execute function exec_audit();
set session_replication_role = replica;
select version from evsource.append('exec-14', 'One');
alter table evsource.events add constraint exec_check check (type <> 'Unchecked') not valid;
select version from evsource.append('exec-14', 'Two');
\echo :LAST_ERROR_SQLSTATE
reset session_replication_role;
select version from evsource.append('exec-14', 'Two');
drop trigger a_audit on evsource.events;
alter table evsource.events drop constraint exec_check;
select count(*) from exec_audit where stream = 'exec-14';

-- A statement trigger that appends before append's own INSERT has begun.
create function exec_before() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() = 1 then
        insert into evsource.events (stream, type) values ('exec-before', 'Began');
    end if;
    return null;
end $$;
create trigger "0_before" before insert on evsource.events for each statement execute function exec_before();
select version from evsource.append('exec-15', 'One', expected_version => 0);
select version from evsource.append('exec-15', 'Two', expected_version => 1);
drop trigger "0_before" on evsource.events;
select pg_temp.story('exec-15'), pg_temp.story('exec-before');

-- One whose name makes it the very first, that inserts, appends, and fails on the way.
create function exec_first() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() = 1 then
        insert into evsource.events (stream, type) values ('exec-17', 'Inserted');
        perform evsource.append('exec-18', 'Appended');
        begin
            perform evsource.append('exec-17', 'Lost');
            raise exception 'no';
        exception when raise_exception then
            null;
        end;
        begin
            perform evsource.append('exec-17', '');
        exception when invalid_parameter_value then
            null;
        end;
    end if;
    return null;
end $$;
create trigger "00_first" before insert on evsource.events for each statement execute function exec_first();
select version, stored from evsource.append('exec-16', 'One', expected_version => 0);
select first_version, version from evsource.append_batch('exec-16', '{Two,Three}', '{2,3}', expected_version => 1);
insert into evsource.events (stream, type) values ('exec-16', 'Four');
select version from evsource.append('exec-17', 'Own');
drop trigger "00_first" on evsource.events;
select pg_temp.story('exec-16'), pg_temp.story('exec-17'), pg_temp.story('exec-18');

-- One that refuses the INSERT before it has begun: the next one is not taken for it.
create function exec_refuse() returns trigger language plpgsql as $$
begin
    if current_setting('exec.refuse', true) = 'on' then
        raise 'refused';
    end if;
    return null;
end $$;
create trigger "00_early" before insert on evsource.events for each statement execute function exec_refuse();
do $$
begin
    begin
        perform set_config('exec.refuse', 'on', true);
        perform evsource.append('exec-23', 'Refused', expected_version => 0);
    exception when raise_exception then
        null;
    end;
    insert into evsource.events (stream, type) values ('exec-23', 'One'), ('exec-24', 'One'), ('exec-23', 'Two');
    perform evsource.append('exec-23', 'Three', expected_version => 2);
end $$;
drop trigger "00_early" on evsource.events;
select pg_temp.story('exec-23'), pg_temp.story('exec-24');

-- What the append expects must still be so when its first event is numbered, whoever
-- appended to its stream in between.
create function exec_same() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() = 1 then
        perform evsource.append('exec-20', 'Between');
    end if;
    return null;
end $$;
create trigger "00_same" before insert on evsource.events for each statement execute function exec_same();
select version from evsource.append('exec-20', 'New', expected_version => 0);
\echo :LAST_ERROR_SQLSTATE
select version from evsource.append('exec-20', 'Any');
select first_version, version from evsource.append_batch('exec-20', '{A,B}', '{1,2}', expected_version => 2);
select version from evsource.append('exec-20', 'Exists', expected_version => -4);
drop trigger "00_same" on evsource.events;
select pg_temp.story('exec-20');

-- An exclusion constraint is checked at once.
alter table evsource.events add constraint exec_once exclude using btree (stream with =) where (type = 'Once');
select * from pg_temp.append_all_ways('exec-22');
select version from evsource.append('exec-22', 'Once');
\set VERBOSITY terse
select version from evsource.append('exec-22', 'Once');
\echo :LAST_ERROR_SQLSTATE
select version from evsource.append_batch('exec-22', '{A,B,C,D,Once}', '{1,2,3,4,5}');
\set VERBOSITY default
select version from evsource.append_batch('exec-22', '{A,B,C,D,E}', '{1,2,3,4,5}');
alter table evsource.events drop constraint exec_once;

-- Columns of the owner's come and go; those of the log must be what they were.
begin;
alter table evsource.events alter column data type json;
select version from evsource.append('exec-21', 'One');
\echo :LAST_ERROR_SQLSTATE
rollback;
begin;
alter table evsource.events drop column occurred_at;
select version from evsource.read_stream('exec-20');
rollback;
begin;
alter table evsource.events alter column schema_version type int;
insert into evsource.events (stream, type) values ('exec-21', 'One');
rollback;
select version from evsource.append('exec-21', 'One');

-- No stream has a gap after all this.
select stream, count(*), max(version) from evsource.events group by stream having count(*) <> max(version);

\c :home
drop database evsource_append_executor;
