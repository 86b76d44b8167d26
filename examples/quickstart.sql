-- quickstart.sql: evsource in a few minutes, on the customers of an online shop.
--
-- Run by make quickstart, which names the data and its answers in $DATA. What it
-- shows it also checks, with quickstart-check.sql and at the end.

\pset footer off
\set ON_ERROR_STOP on

create extension evsource;

create temp table lines (n bigint generated always as identity primary key, line jsonb not null);
\set unpack 'gzip -dc "' `echo "$DATA"` '.jsonl.gz"'
copy lines (line) from program :'unpack' with (format csv, quote e'\x01', delimiter e'\x02');
create temp table answers (answers jsonb not null);
\set text `cat "$DATA.answers.json"`
insert into answers values (:'text');

\echo
\echo
\echo '1. Read models come first: three ways to turn events into what you want to query'
\echo '--------------------------------------------------------------------------------'
\echo
\echo '-- A query over the new events keeps a table of balances, in the transaction that appends them.'
\echo
\o /dev/null
\set ECHO queries

create table balances (customer text primary key, balance numeric, events bigint);

select evsource.create_projection('balances', query => $$
    insert into balances as b
        select stream, sum((data->>'amount')::numeric), count(*) from new_events group by stream
    on conflict (customer) do update
        set balance = b.balance + excluded.balance, events = b.events + excluded.events
$$, tables => '{balances}');

\set ECHO none
\echo
\echo '-- A fold keeps a state for each stream: evsource stores it, with snapshots.'
\echo
\set ECHO queries

create function customer(state jsonb, e evsource.event) returns jsonb
    language plpgsql immutable as $$
begin
    return jsonb_build_object(
        'country',    e.metadata->>'country',
        'balance',    coalesce((state->>'balance')::numeric, 0) + (e.data->>'amount')::numeric,
        'given back', coalesce((state->>'given back')::int, 0) + (e.type = 'ItemCancelled')::int);
end $$;

select evsource.create_projection('customer', 'customer(jsonb, evsource.event)');

\set ECHO none
\echo
\echo '-- An event handler is a function in any language, called once for each event.'
\echo
\set ECHO queries

create table orders (invoice text primary key, customer text, placed_at timestamptz);

create function note_order(e evsource.event) returns void
    language sql as $$
    insert into orders values (e.data->>'invoice', e.stream, e.occurred_at) on conflict do nothing
$$;

select evsource.create_projection('orders', 'note_order(evsource.event)', tables => '{orders}');

\set ECHO none
\o
\echo
\echo
\echo '2. Append: here with plain INSERT; every row is checked, numbered and handed to the three'
\echo '------------------------------------------------------------------------------------------'
\echo
select clock_timestamp() as began \gset
\set ECHO queries

do $$
begin
    for start in 1 .. (select max(n) from lines) by 20000 loop
        insert into evsource.events (stream, type, data, metadata, occurred_at)
            select line->>'stream', line->>'type', line->'data', line->'metadata', (line->>'time')::timestamptz
            from lines where n between start and start + 19999 order by n;
        commit;
    end loop;
end $$;

\set ECHO none
select format('-- %s events of %s customers in %s s', to_char(count(*), 'FM999,999,999'),
    to_char(count(*) filter (where version = 1), 'FM999,999'),
    round(extract(epoch from clock_timestamp() - :'began')::numeric, 1)) as said from evsource.events \gset
\echo :said
analyze evsource.events, balances, orders;

\echo
\echo
\echo '3. The read models are there, for plain SQL'
\echo '-------------------------------------------'
\echo
\set ECHO queries

select * from balances order by balance desc limit 5;

select to_char(placed_at, 'YYYY-MM') as month, count(*) as orders from orders group by 1 order by 2 desc limit 3;

select jsonb_pretty(evsource.state('customer', 'customer-14646')) as state;

\set ECHO none
\echo '-- A state is its newest snapshot and the events after that; any earlier time is one call away.'
\echo
\set ECHO queries

select key, s.version as "version of the snapshot", l.version as "of the state",
    s.state->>'balance' as "balance in the snapshot", l.state->>'balance' as "in the state"
    from evsource.snapshots s, evsource.load_state('customer', s.key) l
    where s.projection = 'customer' and s.key = 'customer-17850';

select evsource.state_at_time('customer', 'customer-14646', '2011-06-30') as before_june_30;

\set ECHO none
\echo
\echo '4. Read: a stream forwards or backwards, a category, the log, or the table itself in order of time'
\echo '---------------------------------------------------------------------------------------------------'
\echo
\set ECHO queries

select version, type, data->>'description' as what, data->>'amount' as amount
    from evsource.read_stream('customer-14646', max_count => 3, backward => true);

select occurred_at, stream, type, (data->>'amount')::numeric as amount
    from evsource.events
    where evsource.category(stream) = 'customer' and occurred_at >= '2011-12-01' and type <> 'ItemPurchased'
    order by occurred_at, position limit 5;

\set ECHO none

\i examples/quickstart-check.sql

\echo
\echo '6. Append as an application does: one call, and the balance has changed when it returns'
\echo '----------------------------------------------------------------------------------------'
\echo
\set ECHO queries

begin;
select version from evsource.append('customer-14646', 'ManualCharged', '{"invoice": "M-1", "amount": 10.00}',
    '{"country": "Netherlands"}');
select balance, balance - 10 as before from balances where customer = 'customer-14646';
commit;

\set ECHO none
\echo
\echo '-- Whoever decided on an older version is told so, and nothing is stored.'
\echo
\set ECHO queries
\set ON_ERROR_STOP off

select * from evsource.append('customer-14646', 'ManualCharged', '{"invoice": "M-2", "amount": 5.00}',
    expected_version => 12);

\set ON_ERROR_STOP on
\set ECHO none
\set refused :LAST_ERROR_SQLSTATE
\echo
\echo '-- An id that is stored already stores nothing, and gives the first call''s answer.'
\echo
\set ECHO queries

select version, stored from evsource.append('customer-14646', 'ManualRefunded', '{"invoice": "M-3", "amount": -10.00}',
    id => '6f0b2a52-9d0e-4b5c-8f64-0c2b8a1d7e11');

select version, stored from evsource.append('customer-14646', 'ManualRefunded', '{"invoice": "M-3", "amount": -10.00}',
    id => '6f0b2a52-9d0e-4b5c-8f64-0c2b8a1d7e11');

\set ECHO none
create temp table after_appends as select :'refused' as sqlstate;
do $$
begin
    if (select sqlstate from after_appends) <> 'VE001' then
        raise exception 'a wrong expected version was not refused with VE001';
    end if;
    if (select balance from balances where customer = 'customer-14646')
        <> (select (answers #>> '{ending_states,customer-14646,balance}')::numeric from answers) then
        raise exception 'a charge and its refund do not leave the balance as it was';
    end if;
    if (evsource.state('customer', 'customer-14646') ->> 'balance')::numeric
        <> (select balance from balances where customer = 'customer-14646') then
        raise exception 'the state differs from the balance';
    end if;
end
$$;
drop table after_appends;
