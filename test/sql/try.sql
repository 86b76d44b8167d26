-- try: what would another handler make of the log?

-- A log of its own: positions are those of this file.
\set home :DBNAME
set client_min_messages = warning;
drop database if exists evsource_try;
create database evsource_try;
\c evsource_try
create extension evsource;
\set SHOW_CONTEXT never

create table totals (account text primary key, total numeric not null);
create function add_total(e evsource.event) returns void language plpgsql as
$$begin
    insert into totals values (e.stream, (e.data ->> 'amount')::numeric)
        on conflict (account) do update set total = totals.total + excluded.total;
end$$;
create function add_large(e evsource.event) returns void language plpgsql as
$$begin
    if (e.data ->> 'amount')::numeric > 2 then
        insert into totals values (e.stream, (e.data ->> 'amount')::numeric)
            on conflict (account) do update set total = totals.total + excluded.total;
    end if;
end$$;
create function balance(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('n', coalesce((state -> 'n')::int, 0) + 1)$$;
create function balance2(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$select jsonb_build_object('n', coalesce((state -> 'n')::int, 0) + case when e.type = 'Noted' then 0 else 1 end)$$;
select evsource.create_projection('totals', 'add_total', types => '{Paid}', tables => '{totals}');
select evsource.create_projection('balance', 'balance');
select evsource.create_projection('types', 'balance', key => 'global', mode => 'async');

select position from generate_series(1, 6) n,
    evsource.append('account-' || n % 3, 'Paid', jsonb_build_object('amount', n)) order by 1;
select count(*) from evsource.append('account-1', 'Noted');

-- The same handler makes the same read model.
select * from evsource.try_projection('totals', 'add_total');
-- Another one: the rows that would be others, those that would be gone or come.
select * from evsource.try_projection('totals', 'add_large');
select * from evsource.try_projection('totals', query => $$
    insert into totals select 'sum', sum((data ->> 'amount')::numeric) from new_events$$);
select * from evsource.try_projection('totals', 'add_large', max_differences => 1);
-- On a part of the log, both ends included, each begins with nothing.
select * from evsource.try_projection('totals', 'add_large', 2, 4);
select * from evsource.try_projection('totals', 'add_large', 5);
select * from evsource.try_projection('totals', 'add_large', 3, 2);

-- Folds: states.
select * from evsource.try_projection('balance', 'balance2');
select * from evsource.try_projection('balance', 'balance2', to_position => 6);
select * from evsource.try_projection('balance', 'evsource.fold_count') where key = 'account-0';
select * from evsource.try_projection('balance', 'evsource.fold_count', ignore => '{n,count}');
select * from evsource.try_projection('types', 'balance2', 5);

-- Nothing of it stays.
select nspname from pg_namespace where nspname like 'evsource\_%';
select projection, handler, query is null as no_query, state, stale from evsource.projections order by 1;
select * from totals order by 1;
select count(*) from evsource.snapshots;
select evsource.state('balance', 'account-1');
select * from evsource.verify_projection('totals');
-- the other way: append goes on as before
select count(*) from evsource.append('account-9', 'Paid', '{"amount": 9}');
select * from totals where account = 'account-9';

-- A handler that fails on history says where.
\set SHOW_CONTEXT errors
create function failing(e evsource.event) returns void language plpgsql as
$$begin perform 1 / ((e.data ->> 'amount')::int - 4); end$$;
select * from evsource.try_projection('totals', 'failing');
\set SHOW_CONTEXT never

-- What cannot be tried is refused.
select * from evsource.try_projection('totals');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.try_projection('totals', 'add_large', query => 'select 1');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.try_projection('totals', 'balance');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.try_projection('totals', 'unheard_of');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.try_projection('totals', query => 'select 1');
\echo :LAST_ERROR_SQLSTATE
select * from evsource.try_projection('totals', 'add_large', -1);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.try_projection('totals', 'add_large', max_differences => 0);
\echo :LAST_ERROR_SQLSTATE
select * from evsource.try_projection('unknown', 'add_large');
\echo :LAST_ERROR_SQLSTATE
create function add_qualified(e evsource.event) returns void language sql as
$$insert into public.totals values (e.stream, 0) on conflict do nothing$$;
select * from evsource.try_projection('totals', 'add_qualified');
\echo :LAST_ERROR_SQLSTATE

-- It runs as the projection's owner: for whoever has that role's rights, with its
-- functions.
create role regress_try;
select evsource.grant_access('regress_try', 'admin');
set role regress_try;
select * from evsource.try_projection('totals', 'add_large');
\echo :LAST_ERROR_SQLSTATE
reset role;
grant create on schema public to regress_try;
set role regress_try;
create function mine(e evsource.event) returns void language sql as $$select$$;
reset role;
select * from evsource.try_projection('totals', 'mine');
\echo :LAST_ERROR_SQLSTATE

\c :home
set client_min_messages = warning;
drop database evsource_try;
drop role regress_try;
