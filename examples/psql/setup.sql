-- Once in a database.
--
--     psql -f setup.sql
create extension if not exists evsource;
create table balances (account text primary key, balance numeric not null);
select evsource.create_projection('balances', mode => 'async', query => $$
    insert into balances as b
        select stream, sum((data->>'amount')::numeric) from new_events group by stream
    on conflict (account) do update set balance = b.balance + excluded.balance $$);
create table letters (n bigserial, account text, version bigint, type text, writer text);
select evsource.create_subscription('letters', categories => '{account}', partitions => 4);
