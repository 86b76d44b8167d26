-- Write a letter for each event. Start several: they divide the accounts, and each
-- account's events come in order.
--
--     psql -v writer=1 -v rounds=1000 -f letters.sql
--
-- Letters and their receipt are kept together, or neither is: when the lease is lost
-- (VE005), or a letter cannot be written, the events come again.
create temporary table batch as select * from evsource.fetch_events('letters') with no data;
select
    'truncate batch',
    format($$insert into batch select * from evsource.fetch_events('letters', consumer => %L, wait => '5s')$$, :'writer'),
    'begin',
    format($$insert into letters (account, version, type, writer) select stream, version, type, %L from batch order by position$$, :'writer'),
    'select evsource.ack(receipt, required => true) from batch order by position desc limit 1',
    'commit'
from generate_series(1, :rounds) \gexec
