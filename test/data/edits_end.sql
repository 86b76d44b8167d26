-- edits_end.sql: the verdict, with what was measured.

\o /dev/null
select format('fresh %s ms, again %s ms, at the worst of %s versions; snapshots took %s times their states',
    round(max(fresh)::numeric, 2), round(max(again)::numeric, 2), count(*), round(max(stored / live::numeric), 1)) as measured
from (select version, min(fresh) as fresh, min(again) as again, max(stored) as stored, max(live) as live
    from looks group by version) v \gset
select expect('a fresh session loads each in less than 10 ms', count(*), 0::bigint)
from (select from looks where :whole group by version having min(fresh) >= 10) slow;
select expect('what was loaded a moment ago loads in less than 1 ms', count(*), 0::bigint)
from (select from looks where :whole group by version having min(again) >= 1) slow;
select expect('looks were taken', count(*) > 0, true) from looks;
-- (While a transaction is open that may see the snapshot before, an ANALYZE by autovacuum for
-- instance, one is saved every 400 events.)
select expect('a fresh session folds what came after the snapshot, and some 100 events, at most 400', count(*), 0::bigint)
from looks where folded <> version - snapshot or folded > 500;
select expect('what was loaded a moment ago is not folded again', count(*), 0::bigint)
from looks where folded_again > 0;
-- (What is live is counted as it is loaded; it is saved in a third of that. The
-- first 20,000 events make less than the pages and maps of the tables themselves,
-- and depend on when a vacuum comes: there the bound is what 200 snapshots would
-- take if their space were not used again.)
select expect('the snapshots take no more than 20 times their states', count(*), 0::bigint)
from looks where stored > greatest(20 * live, case when :whole then 0 else 512 * 1024 end);
\set part true
\o
select version, round(min(fresh)::numeric, 2) as fresh, round(min(again)::numeric, 2) as again, version - min(snapshot) as tail,
    max(live) as live, max(compressed) as compressed, max(stored) as stored, round(max(stored / live::numeric), 1) as times
from looks group by version order by version;
\o /dev/null
\ir end.sql
\echo :measured
