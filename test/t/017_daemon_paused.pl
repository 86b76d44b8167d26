# A coordinator that dies soon, again and again, is started after a pause that grows.
# Who starts the daemon by hand does not wait for its end.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my %nodes = map { $_ => start_node('paused' . $_, "shared_preload_libraries = '$_'\nmax_worker_processes = 16") } 'evsource', '';
$_->safe_psql('postgres', q{
create extension evsource;
create table counts (n bigint);
select evsource.create_projection('counts', mode => 'async', query => 'insert into public.counts select count(*) from new_events');
}) foreach values %nodes;
$nodes{''}->safe_psql('postgres', 'select evsource.start_daemon()');

my $mode = sub { return $_[0] ? 'preloaded' : 'not preloaded' };

# Six times: then the pause is 16 seconds.
my $coordinators = q{from pg_stat_activity where backend_type = 'evsource coordinator'};
foreach my $death (1 .. 6)
{
	foreach my $preload ('evsource', '')
	{
		my ($sql) = asking($nodes{$preload});

		$nodes{$preload}->poll_query_until('postgres', "select count(*) = 1 $coordinators") or die 'no coordinator has come';
		$sql->("select pg_terminate_backend(pid, 60000) $coordinators");
		next if $death < 6;
		is($sql->("select count(*) $coordinators"), 0, $mode->($preload) . ': none is there');
		is($sql->('select evsource.start_daemon()'), 't', $mode->($preload) . ': started by hand it comes at once');
	}
}

foreach my $preload ('evsource', '')
{
	my ($sql, $soon) = asking($nodes{$preload}, $mode->($preload));

	$sql->(q{select evsource.append('a-1', 'Counted')});
	$soon->('select sum(n) = 1 from counts', 'and is at work');
	$soon->(q{select array_agg(backend_type order by backend_type) = '{evsource coordinator,evsource launcher,evsource worker}' from pg_stat_activity where backend_type ~ '^evsource'}, 'there is one of it');
	is($sql->('select evsource.start_daemon()'), 'f', $mode->($preload) . ': it is there');
	$nodes{$preload}->stop;
}

done_testing();
