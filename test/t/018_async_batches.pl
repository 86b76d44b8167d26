# What a batch of the daemon's costs, and what becomes of one that fails.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('batches', q{
shared_preload_libraries = 'evsource'
evsource.async_retry_delay = 0
autovacuum = off
});
my ($sql) = asking($node);
my $wait = sub { return $sql->("select from evsource.wait_for('$_[0]', timeout => '1min')") };

$sql->(q{
create extension evsource;
create table seen (projection text, position bigint, transaction xid8);
create function see(e evsource.event) returns void language plpgsql as $$ begin
	if e.data ? 'fail' then raise exception 'no way past %', e.position; end if;
	insert into public.seen values ('seen', e.position, pg_current_xact_id());
end $$;
create view numbers as
	select count(*) as events, count(distinct position) as once, count(*) filter (where xmin::text <> transaction::text) as guarded from seen;
select evsource.create_projection('seen', 'see', mode => 'async', on_error => 'dead_letter', tables => '{seen}');
});

# A batch takes one transaction id: what it writes is the transaction's own.
$sql->(q{select evsource.append('a-' || i % 7, 'Happened') from generate_series(1, 300) i});
$wait->('seen');
is($sql->('select * from numbers'), '300|300|0', 'a batch that works runs without a subtransaction');

# Only one that fails is taken apart.
my $from = -s $node->logfile;
$sql->(q{select evsource.append('a-' || i % 7, 'Happened', case when i = 120 then '{"fail": true}' else '{}' end::jsonb) from generate_series(1, 300) i});
$wait->('seen');
is($sql->('select events = once and guarded > 0 from numbers'), 't', 'one that fails is done again, in subtransactions, and applied once');
is($sql->('select events from numbers') + $sql->('select count(*) from evsource.dead_letters'), 600, 'what it cannot take is parked, and what comes behind it');
is($sql->('select message, attempts from evsource.dead_letters where attempts > 0'), 'no way past 420|5', 'after as many attempts as there may be');
is($sql->('select event_count from evsource.projection_status'), $sql->('select events from numbers'), 'each is counted once');
unlike(slurp_file($node->logfile, $from), qr/ERROR:  no way/, 'what is dealt with is no error');
is(scalar(() = slurp_file($node->logfile, $from) =~ /WARNING:  projection "seen" failed at position 420/g), 5, 'each attempt is reported once');

# Also while there are dead letters.
$sql->(q{truncate seen; select evsource.append('b-' || i % 7, 'Happened') from generate_series(1, 100) i});
$wait->('seen');
is($sql->('select * from numbers'), '100|100|0', 'with dead letters, the next one runs without a subtransaction, too');

# What is nobody's fault fails as a whole, is not counted, and is done again.
$sql->(q{
create function give_way() returns trigger language plpgsql as $$ begin
	if (select count(*) from evsource.projection_failures where message = 'not now') = 0 then
		raise exception 'not now' using errcode = '40001';
	end if;
	return new;
end $$;
create trigger give_way before insert on seen for each row execute function give_way();
truncate seen;
select evsource.append('c-1', 'Happened');
});
$wait->('seen');
is($sql->('select * from numbers'), '1|1|0', 'a transaction that gave way is done again');

# With fewer events each, until it is through: the more locks it has, the more often others end it.
$sql->($_) for q{alter system set evsource.async_batch_events = 8}, q{select pg_reload_conf()};
$sql->(q{
create or replace function give_way() returns trigger language plpgsql as $$ begin
	if (select count(*) from seen where transaction = new.transaction) >= 3 then
		raise exception 'too many' using errcode = '40P01';
	end if;
	return new;
end $$;
truncate seen;
select evsource.append('f-1', 'Happened') from generate_series(1, 20) i;
});
$wait->('seen');
is($sql->('select * from numbers'), '20|20|0', 'a transaction that gave way is shorter the next time');
is($sql->('select max(n) <= 3 from (select count(*) as n from seen group by transaction) t'), 't', 'and so are those after it');
$sql->($_) for q{alter system reset evsource.async_batch_events}, q{select pg_reload_conf()};

# An immediate end in a batch that is done again loses nothing.
$sql->(q{
drop trigger give_way on seen;
truncate seen;
select evsource.append('d-' || i % 3, 'Happened', case when i % 9 = 0 then '{"fail": true}' else '{}' end::jsonb) from generate_series(1, 90) i;
});
$node->stop('immediate');
$node->start;
$wait->('seen');
is($sql->(q{select count(*) from evsource.events e where stream like 'd-%'
	and (select count(*) from seen s where s.position = e.position) + (select count(*) from evsource.dead_letters l where l.position = e.position) <> 1}),
	0, 'after a crash each event is applied or parked, once');

# Whom another session keeps out tries again ever more seldom.
my $transactions = q{select xact_commit from pg_stat_database where datname = current_database()};
my $other = $node->background_psql('postgres');
$other->query_safe(q{begin; select evsource.run_projection('seen')});
$sql->(q{select evsource.append('e-1', 'Happened')});
my $tries = -$sql->($transactions);
$other->query_safe('select pg_sleep(4)');    # what is tried in this time is counted
$tries += $sql->($transactions);
cmp_ok($tries, '<', 60, 'a worker does not try all the time while another session has the projection');
$other->query_safe('commit');
$other->quit;
$wait->('seen');

# A transaction ends after async_batch_time, half a second, in which this handler applies ten
# events at most.
$sql->(q{
create table slow (position bigint, transaction xid8);
create function be_slow(e evsource.event) returns void language plpgsql as $$ begin
	perform pg_sleep(0.05);
	insert into public.slow values (e.position, pg_current_xact_id());
end $$;
select evsource.create_projection('slow', 'be_slow', mode => 'async', categories => '{slow}', tables => '{slow}');
select evsource.append('slow-1', 'Happened') from generate_series(1, 60);
});
$wait->('slow');
is($sql->(q{select max(n) <= 10, sum(n) from (select count(*) as n from slow group by transaction) b}),
	't|60', 'none takes more than is applied in that time');


# A statement that takes longer than that, whatever it gets, is not given ever fewer.
$sql->(q{
create table reported (position bigint);
create function report() returns trigger language plpgsql as $$ begin perform pg_sleep(0.6); return null; end $$;
create trigger report after insert on reported execute function report();
select evsource.create_projection('reported', mode => 'async', categories => '{report}', tables => '{reported}',
	query => 'insert into reported select position from new_events');
select evsource.append_batch('report-1', array_fill('Happened'::text, '{1200}'), array_fill('{}'::jsonb, '{1200}'));
});
$wait->('reported');
is($sql->('select count(distinct xmin::text) <= 8, count(*) from reported'), 't|1200', 'a statement with a price of its own gets more events, not fewer');

$node->stop;
done_testing();
