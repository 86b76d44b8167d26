-- Read your own write: what the read model says once it has the event at :position.
--
--     psql -v account=account-1 -v position=7 -f balance.sql
select evsource.wait_for('balances', :position, '10s') \g /dev/null
select balance from balances where account = :'account';
