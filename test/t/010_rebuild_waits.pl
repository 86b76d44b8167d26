# Who sleeps in fetch_events() or wait_for() has the snapshot of that statement, and
# may sleep for long.  An online rebuild does not wait for that, and so keeps nobody
# from appending meanwhile; nor does such a statement read an empty table after it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

foreach my $preload ('', 'evsource')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('rebuild_waits' . $preload, qq{
shared_preload_libraries = '$preload'
autovacuum = off
evsource.max_wait = 0
evsource.daemon = off
});
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	my ($sql, $soon) = asking($node, $mode);
	my $append = sub { return $sql->(qq{select position from evsource.append('$_[0]-1', 'Paid')}) };

	$sql->(q{
create extension evsource;
create table counts (stream text primary key, n int);
create function total() returns bigint stable language plpgsql as 'begin return (select sum(n) from counts); end';
}, count_events(), q{
select evsource.create_subscription('quiet', categories => '{quiet}');
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i % 4, 'Paid');
});
	my $total = 20;

	my ($rebuild, $open, $consumer) =
		map { Session->new(database => 'postgres', name => $_) } ('rebuild', 'open', 'consumer');
	# it is not to wait for them at all, even less for so long
	$rebuild->must(qq{set statement_timeout = '$PostgreSQL::Test::Utils::timeout_default s'});
	my $pid = $consumer->must('select pg_backend_pid()');
	my $asleep = qq{select exists (select from pg_stat_activity where pid = $pid
		and wait_event in ('Extension', 'EvsourceFetch', 'EvsourceWait'))};
	my $sleeps = sub {
		my ($what, $call) = @_;
		$consumer->send("$call;");
		$soon->($asleep, "$what sleeps");
	};
	my $call = sub { $rebuild->send(q{call evsource.rebuild_projection('counts', online => true, lock_timeout => '1h');}) };
	my $fetch = q{(select evsource.ack(receipt) from evsource.fetch_events('quiet', wait => '1h'))};

	# before anything is held still
	$sleeps->('a consumer', "select $fetch");
	$call->();
	is(ends($rebuild), '', "$mode: a rebuild ends while a consumer sleeps");
	$append->('quiet');
	is(ends($consumer), 't', "$mode: who was not waited for gets what comes");

	# while it is held still: the last events are newer than the consumer's snapshot
	$open->must('begin');
	$open->must(q{select version from evsource.append('account-1', 'Paid')});
	$call->();
	$soon->(q{select exists (select from evsource.progress where waits_for is not null)}, 'an open append is in the way');
	$sleeps->('a consumer', "select $fetch");
	$open->must('commit');
	$total++;
	is(ends($rebuild), '', "$mode: a rebuild ends while a consumer sleeps whose snapshot lacks the last events");
	is($sql->('select total()'), $total, "$mode: with all events");
	$append->('quiet');
	is(ends($consumer), 't', "$mode: this one gets what comes, too");

	# who reads the read model in the same statement is waited for, with nothing held still
	$sleeps->('a reader', "select sum(n) from counts where $fetch");
	$call->();
	$soon->(qq{select exists (select from evsource.progress where waits_for = array[$pid])}, 'the reader is waited for');
	$append->('account');
	$total++;
	$append->('quiet');
	is(ends($consumer), $total - 1, "$mode: it reads what was there when it began");
	is(ends($rebuild), '', "$mode: then the rebuild ends");
	is($sql->('select total()'), $total, "$mode: with all events");

	# unless it comes to it only after the exchange: then it is told, and reads no empty table
	$sleeps->('one that calls a function', "select $fetch, total()");
	$call->();
	is(ends($rebuild), '', "$mode: a rebuild ends while a statement sleeps that has not come to the table");
	$append->('quiet');
	is(ends($consumer), '40001', "$mode: the statement is to be run again");
	is($consumer->must("select $fetch, total()"), "t $total", "$mode: then it reads what is there");

	# a session that waits for the projection itself
	$sql->(q{select evsource.alter_projection('counts', mode => 'async'); select evsource.run_projection('counts')});
	my $position = $append->('account');
	$total++;
	$sleeps->('one who waits for the projection', "select evsource.wait_for('counts', $position, null)");
	$call->();
	is(ends($rebuild), '', "$mode: a rebuild ends while somebody waits for its projection");
	$sql->(q{select evsource.run_projection('counts')});
	is(ends($consumer), $position, "$mode: that one is through when it is applied");
	is($sql->('select total()'), $total, "$mode: with all events");

	# the same by the daemon
	$sql->(q{alter system set evsource.daemon = on; select pg_reload_conf()});
	foreach my $kind ('async', 'inline')
	{
		$sql->(qq{select evsource.alter_projection('counts', mode => '$kind')});
		$sleeps->('a consumer', "select $fetch");
		$sql->(q{select evsource.request_rebuild('counts', online => true); select evsource.start_daemon()});
		$soon->(q{select not exists (select from evsource.progress)}, "the daemon rebuilds an $kind projection while a consumer sleeps");
		$append->('quiet');
		is(ends($consumer), 't', "$mode: who was not waited for gets what comes");
	}

	$_->close for $rebuild, $open, $consumer;
	$node->stop;
}

done_testing();
