# Projections come and go, under new names each time, and a worker that sees them all for
# months keeps no more of them than there are.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;
use Time::HiRes qw(sleep);

let_daemon_work();

my $node = start_node('async_names', q{
shared_preload_libraries = 'evsource'
evsource.max_workers = 1
});
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
create table rows (stream text);
select from evsource.append('a-1', 'Happened');
select evsource.create_projection('stays', query => 'insert into rows select stream from new_events', mode => 'async', tables => '{rows}');
select evsource.wait_for('stays', timeout => '1min');
});
my $worker = $sql->(q{select pid from pg_stat_activity where backend_type = 'evsource worker'});
foreach my $i (1 .. 40)
{
	$sql->(qq{
set client_min_messages = error;
select evsource.create_projection('passes_$i', query => 'insert into rows select stream from new_events', mode => 'async', tables => '{rows}');
select evsource.wait_for('passes_$i', timeout => '1min');
select evsource.drop_projection('passes_$i');
});
}

# Rebuilds, too, that were cancelled before they were complete.
$sql->(q{
create table cancels (stream text);
create function cancel_all(e evsource.event) returns void language plpgsql as
	$$ begin raise 'canceled' using errcode = 'query_canceled'; end $$;
});
foreach my $i (1 .. 5)
{
	$sql->(qq{select evsource.create_projection('cancels_$i', 'cancel_all', tables => '{cancels}', categories => '{a}', mode => 'manual');
select evsource.request_rebuild('cancels_$i')});
	$soon->("select last_error is not null from evsource.progress where projection = 'cancels_$i'", 'a rebuild is tried again and again');
	$sql->("select evsource.cancel_rebuild('cancels_$i'); select evsource.drop_projection('cancels_$i')");
}
$sql->(q{select from evsource.append('a-1', 'Happened'); select evsource.wait_for('stays', timeout => '1min')});
is($sql->(q{select count(*) from rows}), 42, 'a worker has applied each of them');
is($sql->(q{select pid from pg_stat_activity where backend_type = 'evsource worker'}), $worker, 'always the same');

SKIP:
{
	skip 'nobody can look into another process', 3
		if $sql->(q{select count(*) from pg_proc where proname = 'pg_log_backend_memory_contexts'}) == 0;
	my $from = -s $node->logfile;
	my $log = '';
	$sql->("select pg_log_backend_memory_contexts($worker)");
	for (my $i = 0; $i < 600 && $log !~ /Grand total/; $i++)
	{
		sleep 0.1;
		$log = slurp_file($node->logfile, $from);
	}
	like($log, qr/Grand total/, 'it tells of its memory');
	my $known = () = $log =~ /evsource known projection: /g;
	my $rebuilds = () = $log =~ /evsource rebuild: /g;
	cmp_ok($known, '<=', 2, 'and remembers few of them') or note($log);
	cmp_ok($rebuilds, '<=', 1, 'and few of the rebuilds') or note($log);
}

$node->stop;
done_testing();
