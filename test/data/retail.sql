-- retail.sql: customers of a shop; a customer's balance is the sum of the amounts.
--
-- Three projections follow the appends, and the same three are made afterwards
-- on the whole history: both must give the answers.

-- A fold: what is known of a customer.
create function customer(state jsonb, e evsource.event) returns jsonb
    language plpgsql immutable
    as $$
declare
    amount  numeric := (e.data ->> 'amount')::numeric;
    balance numeric := coalesce((state ->> 'balance')::numeric, 0) + amount;
begin
    return jsonb_build_object(
        'version', e.version,
        'balance', balance,
        'lowest_balance', least((state ->> 'lowest_balance')::numeric, balance),
        'amount_per_type', coalesce(state -> 'amount_per_type', '{}')
            || jsonb_build_object(e.type, coalesce((state -> 'amount_per_type' ->> e.type)::numeric, 0) + amount));
end
$$;

-- An event handler: the invoices.
create table invoices (invoice text primary key);
create function note_invoice(e evsource.event) returns void
    language sql
    as $$ insert into public.invoices values (e.data ->> 'invoice') on conflict do nothing $$;

-- A batch handler: what each country paid.
create table countries (country text primary key, amount numeric not null);
create function add_to_countries(events evsource.event[]) returns void
    language sql
    as $$
insert into public.countries as c
    select e.metadata ->> 'country', sum((e.data ->> 'amount')::numeric)
    from unnest(events) as e group by 1
    on conflict (country) do update set amount = c.amount + excluded.amount
$$;

-- A query: balances, for every customer one row.
create table balances (customer text primary key, balance numeric not null, events bigint not null);
\set fill_balances 'insert into public.balances as b select stream, sum((data ->> ''amount'')::numeric), count(*) from new_events group by stream on conflict (customer) do update set balance = b.balance + excluded.balance, events = b.events + excluded.events'

select evsource.create_projection('customer', 'customer(jsonb, evsource.event)');
select evsource.create_projection('invoices', 'note_invoice(evsource.event)', tables => '{invoices}');
select evsource.create_projection('countries', 'add_to_countries(evsource.event[])', tables => '{countries}');
select evsource.create_projection('balances', query => :'fill_balances', tables => '{balances}');

-- Append, in the order of the file: plain INSERT, 20,000 lines a transaction.
do $$
declare
    lines constant bigint := (select max(n) from public.lines);
begin
    for start in 1 .. lines by 20000 loop
        insert into evsource.events (stream, type, data, metadata, occurred_at)
            select line ->> 'stream', line ->> 'type', line -> 'data', line -> 'metadata', (line ->> 'time')::timestamptz
            from public.lines where n between start and start + 19999 order by n;
        commit;
    end loop;
end
$$;
analyze evsource.events;

\set category customer
\ir log.sql

-- The first 50,000 events, where the file has as many.
select answers ? 'after_the_first_50000_events' as long_enough from answers \gset
\if :long_enough
create temp table first_events as select * from evsource.read_all(0, 50000);
select compare('after_the_first_50000_events/streams', (select count(distinct stream) from first_events));
select compare('after_the_first_50000_events/events_per_type', (select jsonb_object_agg(type, c)
    from (select type, count(*) as c from first_events group by type) as t));
select compare('after_the_first_50000_events/sum_of_amount', (select sum((data ->> 'amount')::numeric) from first_events));
\endif

-- Sums over the log, by plain SQL.
create temp view amounts as
    select stream, type, occurred_at, data ->> 'invoice' as invoice, data ->> 'code' as code,
        (data ->> 'amount')::numeric as amount, (data ->> 'quantity')::numeric as quantity,
        metadata ->> 'country' as country
    from evsource.events;

select compare('sum_of_amount', (select sum(amount) from amounts));
select compare('sum_of_quantity', (select sum(quantity) from amounts));
select compare('sum_of_amount_per_type', (select jsonb_object_agg(type, s)
    from (select type, sum(amount) as s from amounts group by type) as t));
select compare('sum_of_quantity_per_type', (select jsonb_object_agg(type, s)
    from (select type, sum(quantity) as s from amounts group by type) as t));
select compare('top5_code_by_amount', (select jsonb_agg(jsonb_build_array(code, s) order by s desc, code)
    from (select code, sum(amount) as s from amounts group by code order by s desc, code limit 5) as t));
select compare('top5_code_by_quantity', (select jsonb_agg(jsonb_build_array(code, s) order by s desc, code)
    from (select code, sum(quantity) as s from amounts group by code order by s desc, code limit 5) as t));
select compare('amount_per_month_utc', (select jsonb_object_agg(month, s)
    from (select to_char(occurred_at, 'YYYY-MM') as month, sum(amount) as s from amounts group by 1) as t));

-- The read models that followed the appends.
select compare('invoices', (select count(*) from invoices));
select compare('countries', (select count(*) from countries));
select compare('top5_country_by_amount', (select jsonb_agg(jsonb_build_array(country, amount) order by amount desc, country)
    from (select * from countries order by amount desc, country limit 5) as t));
select compare('top5_balance', (select jsonb_agg(jsonb_build_array(customer, balance) order by balance desc, customer)
    from (select * from balances order by balance desc, customer limit 5) as t));
select compare('lowest5_balance', (select jsonb_agg(jsonb_build_array(customer, balance) order by balance, customer)
    from (select * from balances order by balance, customer limit 5) as t));
select compare('streams_with_ending_balance_below_zero', (select count(*) from balances where balance < 0));
select compare('streams_with_ending_balance_zero', (select count(*) from balances where balance = 0));
select compare('sum_of_amount', (select sum(balance) from balances));
select compare('events', (select sum(events) from balances));

-- The states that the fold keeps.
create temp table states as
    select key as stream, state, version from evsource.load_states('customer');
select compare('streams', (select count(*) from states));
select compare('sum_of_amount', (select sum((state ->> 'balance')::numeric) from states));
select compare('streams_whose_running_balance_was_ever_below_zero', (
    select count(*) from states where (state ->> 'lowest_balance')::numeric < 0));
select expect('every way to a state gives the same', (
    select count(*) from states where state is distinct from evsource.state('customer', stream)
        or version is distinct from evsource.stream_version(stream)), 0::bigint);
select expect('fold and query projection agree about every customer', (
    select count(*) from states full join balances on customer = stream
    where (state ->> 'balance')::numeric is distinct from balance
        or (state ->> 'version')::bigint is distinct from events), 0::bigint);

-- As of a day: what had occurred before it.
\set as_of 2011-06-30T00:00:00Z
create temp view as_of_amounts as select * from amounts where occurred_at < :'as_of';
select compare('as_of_' || :'as_of' || '/events', (select count(*) from as_of_amounts));
select compare('as_of_' || :'as_of' || '/streams', (select count(distinct stream) from as_of_amounts));
select compare('as_of_' || :'as_of' || '/sum_of_amount', (select sum(amount) from as_of_amounts));
select compare('as_of_' || :'as_of' || '/top5_balance', (select jsonb_agg(jsonb_build_array(stream, s) order by s desc, stream)
    from (select stream, sum(amount) as s from as_of_amounts group by stream order by s desc, stream limit 5) as t));

select compare('as_of_' || :'as_of' || '/top5_balance', (select jsonb_agg(jsonb_build_array(stream, b) order by b desc, stream)
    from (select stream, (evsource.state_at_time('customer', stream, :'as_of') ->> 'balance')::numeric as b
        from states where stream in (select stream from as_of_amounts) order by b desc, stream limit 5) as t));
create temp table states_before as select * from evsource.load_states('customer', :'as_of');
select compare('as_of_' || :'as_of' || '/streams', (select count(*) from states_before));
select compare('as_of_' || :'as_of' || '/events', (select sum(event_count) from states_before));
select compare('as_of_' || :'as_of' || '/sum_of_amount', (select sum((state ->> 'balance')::numeric) from states_before));
select expect('the states of all at a time are those of each', (
    select count(*) from states_before where state is distinct from evsource.state_at_time('customer', key, :'as_of')), 0::bigint);

-- A balance that had not begun then was 0.
create function balance_before(stream text, as_of timestamptz) returns jsonb
    language plpgsql
    as $$
begin
    return evsource.state_at_time('customer', stream, as_of) -> 'balance';
exception when no_data_found then
    return '0';
end
$$;

-- The customers that the file shows.
create temp table shown as
    select key as stream, 'ending_states/' || key || '/' as path from answers, jsonb_object_keys(answers -> 'ending_states') as key;
do $$
declare
    stream text;
    path text;
    name text;
begin
    for stream, path in select * from shown loop
        perform public.compare(path || 'version', evsource.stream_version(stream));
        foreach name in array '{balance,lowest_balance,amount_per_type}'::text[] loop
            perform public.compare(path || name, evsource.state('customer', stream) -> name);
        end loop;
        perform public.compare(path || 'balance_as_of_2011-06-30T00:00:00Z', public.balance_before(stream, '2011-06-30T00:00:00Z'));
        perform public.compare(path || 'balance_as_of_2011-06-30T00:00:00Z', (
            select coalesce(sum((data ->> 'amount')::numeric), 0)
            from evsource.read_stream(stream) where occurred_at < '2011-06-30T00:00:00Z'));
    end loop;
end
$$;

-- The same by projections that were rebuilt up to that point of the log: a
-- table, and a fold whose states are rows of their own.
select max(position) as upto from evsource.events where occurred_at < :'as_of' \gset
select expect('what had occurred by then stands before what had not', (
    select count(*) from evsource.events where position <= :upto and occurred_at >= :'as_of'), 0::bigint);
create table balances_then (like balances including all);
select replace(:'fill_balances', 'public.balances', 'public.balances_then') as fill_balances_then \gset
create function whose(e evsource.event) returns text language sql immutable as $$ select (e).stream $$;
select evsource.create_projection('balances_then', query => :'fill_balances_then', tables => '{balances_then}', mode => 'manual');
select evsource.create_projection('customer_then', 'customer(jsonb, evsource.event)', key => 'whose', mode => 'manual');
select compare('as_of_' || :'as_of' || '/events', evsource.run_projection('balances_then', up_to => :upto));
select compare('as_of_' || :'as_of' || '/events', evsource.run_projection('customer_then', up_to => :upto));
select compare('as_of_' || :'as_of' || '/streams', (select count(*) from balances_then));
select compare('as_of_' || :'as_of' || '/sum_of_amount', (select sum(balance) from balances_then));
select compare('as_of_' || :'as_of' || '/top5_balance', (select jsonb_agg(jsonb_build_array(customer, balance) order by balance desc, customer)
    from (select * from balances_then order by balance desc, customer limit 5) as t));
create temp table states_then as select key as stream, state from evsource.load_states('customer_then');
select compare('as_of_' || :'as_of' || '/streams', (select count(*) from states_then));
select compare('as_of_' || :'as_of' || '/sum_of_amount', (select sum((state ->> 'balance')::numeric) from states_then));
select expect('rebuilt up to a point, every state is what state_at_time says of it', (
    select count(*) from states_then where state is distinct from evsource.state_at_time('customer', stream, :'as_of')), 0::bigint);
-- and on to the end
select expect('the table goes on', evsource.run_projection('balances_then'), (select count(*) from evsource.events where position > :upto));
select expect('and ends as the one that followed the appends', (
    select count(*) from (table balances except table balances_then) as d), 0::bigint);
select expect('so do the states', evsource.run_projection('customer_then'), (select count(*) from evsource.events where position > :upto));
select expect('and end as those of the streams', (
    select count(*) from states full join evsource.load_states('customer_then') as l on l.key = stream
    where states.state is distinct from l.state), 0::bigint);

-- Made afterwards, on the history: the same as what followed the appends.
create table invoices_again (like invoices including all);
create function note_invoice_again(e evsource.event) returns void
    language sql
    as $$ insert into public.invoices_again values (e.data ->> 'invoice') on conflict do nothing $$;
create table balances_again (like balances including all);
select replace(:'fill_balances', 'public.balances', 'public.balances_again') as fill_balances_again \gset
select evsource.create_projection('invoices_again', 'note_invoice_again(evsource.event)', tables => '{invoices_again}');
select evsource.create_projection('balances_again', query => :'fill_balances_again', tables => '{balances_again}');
select evsource.create_projection('customer_again', 'customer(jsonb, evsource.event)');
select expect('invoices from history', (select count(*) from (table invoices except table invoices_again) as d), 0::bigint);
select compare('invoices', (select count(*) from invoices_again));
select expect('balances from history', (select count(*) from (table balances except table balances_again) as d), 0::bigint);
select compare('streams', (select count(*) from balances_again));
select expect('states from history', (
    select count(*) from states where state is distinct from evsource.state('customer_again', stream)), 0::bigint);
select expect('every projection has applied every event, and says so', (
    select array_agg(distinct evsource.event_count(projection)) from evsource.projections),
    (select array[count(*)] from evsource.events));
