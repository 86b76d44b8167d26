# Of a group that waits for one subscription, an event wakes one, and what that one cannot
# take wakes another: not all of them for each event, and nothing is left lying.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('group', "shared_preload_libraries = 'evsource'\nevsource.daemon = off\nevsource.max_wait = 0");
my ($sql) = asking($node);
my $asleep = q{select count(*) from pg_stat_activity where query ~ 'fetch_events' and wait_event in ('Extension', 'EvsourceFetch')};
my $all_sleep = sub {
	my ($count, $when) = @_;
	$node->poll_query_until('postgres', $asleep, $count) or die "not all wait $when";
};
$sql->(q{create extension evsource});

# A subscription of which more kinds of events are wanted than committers can tell
# apart: each append wakes somebody for nothing.
my $waiters = 12;
my $many = join ',', map { "w$_" } 1 .. 40;
$sql->("select evsource.create_subscription('vain', categories => '{$many}', types => '{$many}', partitions => 64)");
my @waiters;
for my $i (1 .. $waiters)
{
	my $waiter = $node->background_psql('postgres');
	$waiter->query_until(qr/begun/, "\\echo begun\nbegin;\n"
		. "select 'got', count(*) from evsource.fetch_events('vain', wait => '60 s');\n"
		. "select 'looks', seq_scan + coalesce(idx_scan, 0) from pg_stat_xact_all_tables where relid = 'evsource.subscriptions'::regclass;\n"
		. "commit;\n\\echo ended\n");
	push @waiters, $waiter;
}
$all_sleep->($waiters, 'in the beginning');
my $appends = 30;
for (1 .. $appends)
{
	$sql->(q{select evsource.append('other-1', 'Other')});
	# each is over before the next
	$all_sleep->($waiters, 'after an append');
}
# one commit has something for each of them: one that has got its part wakes the next
my $start = time;
$sql->(q{insert into evsource.events (stream, type) select 'w1-' || i, 'w1' from generate_series(1, 1000) i});
my ($looks, $got) = (0, 0);
for my $waiter (@waiters)
{
	my $out = $waiter->query_until(qr/ended/, '');
	$got++ if $out =~ /^got\|[1-9]/m;
	$looks += $1 if $out =~ /^looks\|(\d+)$/m;
	$waiter->quit;
}
is($got, $waiters, 'a transaction with events for all of a group reaches all of it');
cmp_ok(time - $start, '<', 30, 'not by the end of their time');
# three when it begins, two when it ends, for each
cmp_ok($looks, '<', 2 * $appends + 6 * $waiters, "an event of no use wakes one of a group of $waiters, not all ($looks looks)");

# Consumers that are cancelled while they wait, or are at work, and events one by one:
# who is woken and leaves has another one look.
$sql->(q{select evsource.create_subscription('cancelled', categories => '{c}', partitions => 4)},
	q{create table seen (position bigint)}, q{create table over ()},
	q{create procedure consume() language plpgsql as $$
declare
	got evsource.fetched_event[];
begin
	while not exists (select from over) loop
		begin
			got := array(select f from evsource.fetch_events('cancelled', 2, wait => '60 s') f);
			insert into seen select position from unnest(got);
			perform evsource.ack(got[cardinality(got)].receipt, required => true) where cardinality(got) > 0;
		exception when query_canceled then null;
		end;
		commit;
	end loop;
end $$});
my @consumers;
for (1 .. 6)
{
	my $consumer = $node->background_psql('postgres', on_error_stop => 0);
	$consumer->query_until(qr/begun/, "\\echo begun\ncall consume();\n");
	push @consumers, $consumer;
}
$node->poll_query_until('postgres', q{select count(*) from pg_stat_activity where query ~ 'consume' and wait_event in ('Extension', 'EvsourceFetch')}, '6') or die 'not all wait';
$start = time;
for my $i (1 .. 60)
{
	$sql->("select evsource.append('c-$i', 'Written')",
		"select pg_cancel_backend(pid) from pg_stat_activity where query = 'call consume();' order by hashint4(pid + $i) limit 2",
		"select evsource.append('c-$i', 'Written')");
}
ok($node->poll_query_until('postgres', q{select count(distinct position) = 120 and count(*) = 120 from seen}), 'all is seen, and once');
cmp_ok(time - $start, '<', 50, 'and nobody has slept over it');
$sql->(q{insert into over default values});
$node->poll_query_until('postgres', q{select count(pg_cancel_backend(pid)) = 0 from pg_stat_activity where query = 'call consume();' and state = 'active'})
	or die 'the consumers do not end';
$_->quit for @consumers;

$node->stop;
done_testing();
