-- verify: is a read model what the log makes of it?

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_verify;
create database evsource_verify;
\c evsource_verify
create extension evsource;
\set SHOW_CONTEXT never

create function balance(state jsonb, e evsource.event) returns jsonb language plpgsql immutable as
$$begin
    return jsonb_build_object('balance', coalesce((state ->> 'balance')::numeric, 0) + (e.data ->> 'amount')::numeric);
end$$;
create function payer(e evsource.event) returns text language sql immutable as $$select e.data ->> 'payer'$$;
create table totals (stream text primary key, total numeric not null, changed timestamptz default now(), number bigserial);
create function add_total(e evsource.event) returns void language plpgsql as
$$begin
    insert into totals (stream, total) values (e.stream, (e.data ->> 'amount')::numeric)
        on conflict (stream) do update set total = totals.total + excluded.total;
end$$;
create table journal (stream text, amount numeric);
create table days (day int, kind text, total numeric, primary key (day, kind));

select evsource.create_projection('balance', 'balance', categories => '{account}', snapshot_every => 2, keep_snapshots => 4);
select evsource.create_projection('payer', 'balance', mode => 'async', categories => '{account}', key => 'payer');
select evsource.create_projection('totals', 'add_total', categories => '{account}', tables => '{totals}');
select evsource.create_projection('journal', query => $$
    insert into journal select stream, (data ->> 'amount')::numeric from new_events$$,
    mode => 'async', categories => '{account}', tables => '{journal}');
select evsource.create_projection('days', query => $$
    insert into days select (data ->> 'day')::int, 'sum', sum((data ->> 'amount')::numeric) from new_events group by 1
    on conflict (day, kind) do update set total = days.total + excluded.total$$, categories => '{account}', tables => '{days}');

select count(*) from generate_series(1, 30) n,
    evsource.append('account-' || n % 3, 'Paid',
        jsonb_build_object('amount', n, 'payer', 'payer-' || n % 2, 'day', n % 4));
select evsource.run_projection('payer'), evsource.run_projection('journal');
-- what is not applied yet is no difference
select count(*) from evsource.append('account-4', 'Paid', '{"amount": 1, "payer": "late", "day": 9}');

-- Read models that are what the log makes of them differ in nothing, and
-- looking at them leaves nothing behind.
select p.projection, v.* from evsource.projections p, evsource.verify_projection(p.projection) v;
select nspname from pg_namespace where nspname like 'evsource\_%';
select projection, count(*) from evsource.snapshots group by 1 order by 1;
select last_value from evsource.position_seq;

-- In a transaction it sees what that has appended, and so has the read model.
begin;
select count(*) from evsource.append('account-1', 'Paid', '{"amount": 5, "payer": "payer-1", "day": 1}');
select * from evsource.verify_projection('totals');
rollback;
begin isolation level repeatable read;
select * from evsource.verify_projection('totals');
select * from evsource.verify_projection('payer');
commit;

-- A table: the first row that differs, by its key. Columns that a sequence or
-- now() fills are left out.
update totals set total = total + 1 where stream = 'account-1';
delete from totals where stream = 'account-2';
insert into totals (stream, total) values ('account-9', 0);
select * from evsource.verify_projection('totals');
select * from evsource.verify_projection('totals', max_differences => null);
select key from evsource.verify_projection('totals', max_differences => null, ignore => '{total}');
update days set total = null where day = 2;
select * from evsource.verify_projection('days');
-- without a primary key: rows that one has and the other has not
update journal set amount = -1 where amount = 7;
select * from evsource.verify_projection('journal', max_differences => null);

-- A fold by stream: its snapshots, with the event that each of them ends with.
update evsource.snapshots set state = '{"balance": 0}' where projection = 'balance' and key = 'account-1';
select * from evsource.verify_projection('balance');
select * from evsource.verify_projection('balance', sample => 1);
select * from evsource.verify_projection('balance', sample => 1000);
select count(*) from evsource.verify_projection('balance', sample => 3, max_differences => null);
update evsource.snapshots set event_count = event_count + 1 where projection = 'balance';
select count(*) from evsource.verify_projection('balance', sample => 2, max_differences => null);
select key, version, stored, computed from evsource.verify_projection('balance', max_differences => null);
-- a snapshot that is not used is no state
update evsource.snapshots set state_version = 7, event_count = event_count - 1 where projection = 'balance' and key = 'account-1';
select count(*) from evsource.verify_projection('balance', max_differences => null, ignore => '{balance}') where key = 'account-1';

-- of the snapshots that are kept, the first one that differs
update evsource.snapshot_history set state = '{"balance": -1}'
    where projection = 'balance' and key = 'account-2' and version >= 6;
select version from evsource.snapshot_history where projection = 'balance' and key = 'account-2' order by 1;
select * from evsource.verify_projection('balance', max_differences => null) where key = 'account-2';

-- A fold with other keys: a row that is missing, one too many, and a wrong one.
update evsource.snapshots set key = 'nobody' where projection = 'payer' and key = 'payer-0';
update evsource.snapshots set state = state || '{"x": 1}' where projection = 'payer' and key = 'payer-1';
select * from evsource.verify_projection('payer');
select * from evsource.verify_projection('payer', max_differences => null);
select key from evsource.verify_projection('payer', max_differences => null, ignore => '{x}');

-- The difference is gone after a rebuild.
call evsource.rebuild_projection('totals');
call evsource.rebuild_projection('payer');
select p.projection, v.* from evsource.projections p, evsource.verify_projection(p.projection) v
    where p.projection in ('totals', 'payer');

-- A paused projection is compared with the log up to where it stopped.
select evsource.pause_projection('totals');
select count(*) from evsource.append('account-5', 'Paid', '{"amount": 1, "payer": "x", "day": 9}');
select * from evsource.verify_projection('totals');
select evsource.resume_projection('totals');
select * from evsource.verify_projection('totals');

-- What a handler appends, notifies or writes elsewhere goes with the replay.
create table mails (n int);
create table orders (stream text primary key);
create function order_handler(e evsource.event) returns void language plpgsql as
$$begin
    insert into orders values (e.stream);
    insert into mails values (1);
    perform evsource.append('mail-' || e.stream, 'Sent');
    notify order_seen;
end$$;
select evsource.create_projection('orders', 'order_handler', categories => '{order}', tables => '{orders}');
select count(*) from evsource.append('order-1', 'Placed');
select count(*) from mails;
select count(*) from evsource.events where stream like 'mail-%';
select * from evsource.verify_projection('orders');
select count(*) from evsource.events where stream like 'mail-%';
select count(*) from mails;
-- and appends are dispatched again afterwards
select count(*) from evsource.append('order-2', 'Placed');
select * from orders order by 1;

-- A handler that does not find its tables by the search_path cannot be sent to
-- copies of them, whether it writes or reads them.
create table counted (stream text primary key, n int);
create function count_qualified(e evsource.event) returns void language sql as
$$insert into public.counted values (e.stream, 1) on conflict (stream) do update set n = counted.n + 1$$;
create function count_with_path(e evsource.event) returns void language plpgsql set search_path = public as
$$begin insert into counted values (e.stream, 1) on conflict (stream) do update set n = counted.n + 1; end$$;
create function count_reading(e evsource.event) returns void language plpgsql as
$$begin insert into counted select e.stream, 1 + (select count(*) from public.counted) on conflict do nothing; end$$;
create view counted_view as select * from counted;
create function count_by_view(e evsource.event) returns void language plpgsql as
$$begin insert into counted_view values (e.stream, 1); end$$;
select evsource.create_projection('counted', 'count_qualified', categories => '{order}', tables => '{counted}');
select * from evsource.verify_projection('counted');
\echo :LAST_ERROR_SQLSTATE
select evsource.alter_projection('counted', handler => 'count_with_path');
select * from evsource.verify_projection('counted');
select evsource.alter_projection('counted', handler => 'count_reading');
select * from evsource.verify_projection('counted');
select evsource.alter_projection('counted', handler => 'count_by_view');
select * from evsource.verify_projection('counted');
-- outside of a verification nothing is in the way
select * from counted order by 1;

-- An error of the handler's comes out, and ends the replay.
create function failing(e evsource.event) returns void language plpgsql as
$$begin raise exception 'no'; end$$;
select evsource.alter_projection('counted', handler => 'failing');
select * from evsource.verify_projection('counted');
do $$begin
    perform evsource.verify_projection('counted');
exception when raise_exception then
    perform evsource.append('account-6', 'Paid', '{"amount": 1, "payer": "x", "day": 9}');
end$$;
select stream, total from totals where stream = 'account-6' and total = 1 and changed is not null and number > 0;

-- What cannot be verified is refused.
select * from evsource.verify_projection('unknown');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.verify_projection(null);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.verify_projection('totals', sample => 0);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.verify_projection('totals', sample => 'nan');
select * from evsource.verify_projection('totals', max_differences => 0);
\echo :LAST_ERROR_SQLSTATE
select evsource.create_projection('nothing', 'evsource._noop');
select * from evsource.verify_projection('nothing');
\echo :LAST_ERROR_SQLSTATE
begin read only;
select * from evsource.verify_projection('totals');
\echo :LAST_ERROR_SQLSTATE
rollback;
-- a fold by stream is only read
begin read only;
select count(*) from evsource.verify_projection('balance');
commit;

-- Names of columns, foreign keys among the tables, triggers that shape a row and
-- sequences mean in a copy what they mean in the table.
create table named_a (a text primary key, b jsonb);
create table named_b (a jsonb, b text[]);
create table parents (id text primary key, gone int);
alter table parents drop column gone;
create table children (id serial primary key, parent text references parents on delete cascade, note text);
create table numbers (stream text primary key, number int not null default nextval('children_id_seq'));
create function lower_note() returns trigger language plpgsql as $$begin new.note := lower(new.note); return new; end$$;
create trigger shape before insert on children for each row execute function lower_note();
create function apply_family(e evsource.event) returns void language plpgsql as
$$begin
    if e.type = 'Born' then
        insert into parents values (e.stream) on conflict do nothing;
        insert into children (parent, note) values (e.stream, 'ABC');
    else
        delete from parents where id = e.stream;
    end if;
end$$;
create function apply_names(e evsource.event) returns void language plpgsql as
$$begin
    insert into named_a values (e.stream, '{"a": 1}') on conflict do nothing;
    insert into named_b values (jsonb_build_object('stream', e.stream), array[e.type]);
end$$;
select evsource.create_projection('family', 'apply_family', tables => '{parents,children}', categories => '{family}');
select evsource.create_projection('names', 'apply_names', tables => '{named_a,named_b}', categories => '{family}');
select count(*) from generate_series(1, 6) i, lateral evsource.append('family-' || i % 3, case i when 5 then 'Left' else 'Born' end);
select last_value from children_id_seq;
select * from evsource.verify_projection('family', max_differences => null);
select * from evsource.verify_projection('names', max_differences => null);
select * from evsource.try_projection('family', 'apply_family');
select last_value from children_id_seq;
update named_a set b = '{"b": 1}' where a = 'family-1';
update named_b set b = '{x}' where a = '{"stream": "family-2"}' and b = '{Left}';
select * from evsource.verify_projection('names', max_differences => null);

-- So do they where it is partitioned.
create table parts (a text, n bigint, primary key (a)) partition by hash (a);
create table parts_0 partition of parts for values with (modulus 2, remainder 0);
create table parts_1 partition of parts for values with (modulus 2, remainder 1);
create index parts_n on parts (n);
select evsource.create_projection('parts', query => 'insert into parts as p select stream, count(*) from new_events group by 1 on conflict (a) do update set n = p.n + excluded.n',
    tables => '{parts}', categories => '{family}');
select * from evsource.verify_projection('parts');
update parts set n = 7 where a = 'family-1';
select * from evsource.verify_projection('parts');

-- A schema of somebody's has the name that it had.
create schema evsource_verify;
select count(*) from evsource.verify_projection('family');
drop schema evsource_verify;

-- It takes the rights of the owner. A table whose policies bind its owner is not
-- compared in part.
create role regress_verify_owner;
create role regress_verify_other;
select evsource.grant_access('regress_verify_owner', 'admin'), evsource.grant_access('regress_verify_other', 'admin');
grant create on schema public to regress_verify_owner;
set role regress_verify_owner;
create table mine (stream text primary key);
select evsource.create_projection('mine', query => 'insert into mine select distinct stream from new_events on conflict do nothing', tables => '{mine}');
select * from evsource.verify_projection('mine');
set role regress_verify_other;
select * from evsource.verify_projection('mine');
\echo :LAST_ERROR_SQLSTATE
set role regress_verify_owner;
alter table mine enable row level security, force row level security;
select * from evsource.verify_projection('mine');
\echo :LAST_ERROR_SQLSTATE
reset role;

\c :home
set client_min_messages = warning;
drop database evsource_verify;
drop role regress_verify_owner, regress_verify_other;
