-- Append, and see it in the read model.
--
--     psql -v account=account-1 -v amount=100 -f deposit.sql
select position from evsource.append(:'account', 'Deposited', jsonb_build_object('amount', :amount)) \gset
\ir balance.sql
