-- Print when there are new events, and each change of the read model. psql looks for notifications whenever it
-- has run something, so it runs something once a second.
--
--     psql -v seconds=60 -f listen.sql
\set QUIET on
listen evsource_events;
listen evsource_projection;
\echo listening
select 'do $$ begin perform pg_sleep(1); end $$' from generate_series(1, :seconds) \gexec
