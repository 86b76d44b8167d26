-- quickstart-check.sql: what quickstart.sql showed, compared with the answers of the data file.
\echo
\echo '5. Is it right? The answers that came with the data, made without a database, and evsource''s'
\echo '--------------------------------------------------------------------------------------------'
\echo

create temp table verdict as
with asked (n, question, answer, evsource) as (
    select 1, 'events in the log', answers ->> 'events',
        (select count(*) from evsource.events)::text from answers
    union all
    select 2, 'customers', answers ->> 'streams',
        (select count(*) from evsource.streams)::text from answers
    union all
    select 3, 'sum of all amounts (balances)', answers ->> 'sum_of_amount',
        (select sum(balance) from balances)::text from answers
    union all
    select 4, 'balance of customer-14646 (balances)', answers #>> '{ending_states,customer-14646,balance}',
        (select balance from balances where customer = 'customer-14646')::text from answers
    union all
    select 5, 'balance of customer-14646 (state)', answers #>> '{ending_states,customer-14646,balance}',
        evsource.state('customer', 'customer-14646') ->> 'balance' from answers
    union all
    select 6, 'customers below zero (balances)', answers ->> 'streams_with_ending_balance_below_zero',
        (select count(*) from balances where balance < 0)::text from answers
    union all
    select 7, 'invoices (orders)', answers ->> 'invoices',
        (select count(*) from orders)::text from answers
    union all
    select 8, 'balance of customer-14646 before 2011-06-30 (state)',
        answers #>> '{ending_states,customer-14646,balance_as_of_2011-06-30T00:00:00Z}',
        evsource.state_at_time('customer', 'customer-14646', '2011-06-30') ->> 'balance' from answers
)
select *, answer::numeric = evsource::numeric as equal from asked;

select question, answer, evsource, case when equal then 'equal' else 'NOT EQUAL' end as verdict from verdict order by n;

do $$
begin
    if exists (select from verdict where equal is not true) then
        raise exception 'evsource does not give the answers that came with the data';
    end if;
end
$$;
drop table verdict;
