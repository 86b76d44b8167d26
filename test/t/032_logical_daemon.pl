# In a copy of the log that logical replication fills, the daemon applies what arrives,
# though nothing is committed there that would wake it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('main', "shared_preload_libraries = 'evsource'\nmax_worker_processes = 16\nlog_min_messages = debug1", allows_streaming => 'logical');

# Both databases are of one server: the slot is made before the subscription.
$node->safe_psql('postgres', 'create database original');
$node->safe_psql('original', q{
create extension evsource;
select from evsource.append('a-1', 'Counted');
create publication log for table evsource.events, evsource.published, evsource.store, evsource.truncations;
select evsource.publish_safe_position()});
$node->safe_psql('original', q{select pg_create_logical_replication_slot('log', 'pgoutput')});
$node->safe_psql('postgres', 'create database copy');
$node->safe_psql('copy', q{
create extension evsource;
create table counts (stream text primary key, n bigint);
select evsource.create_projection('counts', mode => 'async', tables => '{counts}', query =>
	'insert into public.counts select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = counts.n + excluded.n')});
my $connection = $node->connstr . ' dbname=original';
$node->safe_psql('copy', "create subscription log connection '$connection' publication log with (create_slot = false, slot_name = 'log')");
ok($node->poll_query_until('copy', q{select bool_and(srsubstate = 'r') from pg_subscription_rel}), 'the first copy is complete');

# What it waits for is said once, whatever arrives until then.
my $waits = qr/LOG:  evsource waits for evsource.adopt\(\) in database "copy"/;
ok($node->wait_for_log($waits), 'the daemon waits');
foreach my $n (1 .. 5)
{
	my $looked = -s $node->logfile;
	$node->safe_psql('original', q{select from evsource.append('b-1', 'Ignored')});
	ok($node->poll_query_until('copy', "select count(*) = $n from evsource.events where stream = 'b-1'"), "ignored event $n has arrived");
	$node->safe_psql('copy', q{select evsource.pause_projection('counts'); select evsource.resume_projection('counts')});
	$node->wait_for_log(qr/evsource waits for evsource.adopt\(\) in database "copy"/, $looked);
}
my @said = slurp_file($node->logfile) =~ /$waits/g;
is(scalar @said, 1, 'the log says so once');
is($node->safe_psql('copy', 'select evsource.adopt()'), 't', 'the copy is adopted');
my $applied = q{select n from counts where stream = 'a-1'};
ok($node->poll_query_until('copy', $applied, 1), 'the daemon has applied it');

# A worker that waits to be woken looks only every 30 seconds.
foreach my $n (2 .. 3)
{
	my $position = $node->safe_psql('original', q{select position from evsource.append('a-1', 'Counted')});
	$node->safe_psql('original', 'select evsource.publish_safe_position()');
	my ($status, $reached, $error) = $node->psql('copy', "select evsource.wait_for('counts', $position, '10s')");
	is($error, '', "event $n: the daemon applies it soon");
	is($node->safe_psql('copy', $applied), $n, "event $n: it is applied");
}

$node->safe_psql('copy', 'drop subscription log');
$node->stop;

done_testing();
