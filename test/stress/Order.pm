# Order: the order promise, under everything that writers can do.
#
# Writers (Writers.pm) append for some seconds. Meanwhile one transaction that
# wrote elsewhere, and one that looked at a stream without appending, stay open all
# the time. Consumers (Consumers.pm) follow the log, each knowing nothing but the
# last position that it received, and the daemon applies async projections of every
# kind (ReadModels.pm).
#
# Then every consumer must have received what is in the table, and every read model
# must be a replay of it: nothing missing, nothing doubled, everything in order, and
# each stream's versions without a gap; and that before the idle transactions end.
package Order;

use strict;
use warnings;
use Time::HiRes qw(time);
use Consumers;
use ReadModels;
use Server;
use Writers;

# What ends with the server, and has to be there again.
sub open_idle {
	my ($server) = @_;
	my @idle = map { $server->session("idle $_") } 1, 2;
	$idle[0]->must('begin; insert into elsewhere values (1); select pg_current_xact_id();');
	$idle[1]->must("begin; select pg_current_xact_id(); select from evsource.append_batch('idle-1', '{}', '{}');");
	return @idle;
}

# The last position drawn; none yet, or none that a crash has left: 0.
my $last_position = '(select case when is_called then last_value else 0 end from evsource.position_seq)';

# A prepared transaction holds the safe position below its events until it ends.
sub check_prepared {
	my ($session) = @_;
	my $failure = '';
	for my $how ('commit', 'rollback') {
		my $before = $session->must("select $last_position");
		$session->must("begin; select from evsource.append('pending-1', 'Prepared'); prepare transaction 'evsource_stress_$how'");
		$session->must("select from evsource.append('pending-2', 'Behind')");
		my $safe = $session->must('select evsource.safe_position()');
		$failure .= "safe position is $safe, not $before, below a prepared transaction\n" if $safe != $before;
		$session->must("$how prepared 'evsource_stress_$how'");
	}
	return $failure;
}

# Order::run(TEST [, crash_every => seconds])
sub run {
	my ($test, %option) = @_;
	my $every = $option{crash_every};
	my $seconds = $ENV{EVSOURCE_STRESS_SECONDS} || 8;
	my $seed = $ENV{EVSOURCE_STRESS_SEED} || int(time * 1000) % 1_000_000;
	srand $seed;

	my $server = Server->new(database => "evsource_stress_$test");
	if ($every && !$server->can_crash) {
		print "$test: skipped, the server is not ours to be stopped\n";
		return $server->drop;
	}
	my $session = $server->session;
	$session->must('create table received (position bigint primary key, stream text, version bigint); create table elsewhere (n int);');
	ReadModels::create($session);
	$session->close;
	$server->start_daemon;

	$server->wait_for_disk(0) if $every;
	my @idle = open_idle($server);
	my $consumers = Consumers->new(database => $server->{database}, test => $test, crashes => $every);
	$consumers->start;
	my $writers = Writers->new(database => $server->{database}, prepared => $server->{prepared}, asynchronous => $every);
	my ($crashes, $next_crash) = (0, time + ($every // 0) * rand);
	my $crash = sub {
		return 0 if time < $next_crash;
		$server->restart;
		$server->wait_for_disk(rand() < 0.5);
		$_->abandon for @idle;
		@idle = open_idle($server);
		$next_crash = time + $every * (0.3 + rand);
		return ++$crashes;
	};
	eval { $writers->write_for($seconds, $every ? $crash : undef); 1 } or my $failure = $@;
	$failure //= '';

	# now nothing is in flight but what is idle: all is safe, and goes out
	$session = $server->session;
	$failure .= check_prepared($session) if $server->{prepared} && !$failure;
	my ($safe, $last) = split ' ', $session->must("select evsource.safe_position(), $last_position");
	$failure .= "safe position $safe does not reach the last position $last, though no append is open\n" if !$failure && $safe != $last;
	$failure .= $consumers->finish;
	$failure .= ReadModels::faults($session) unless $failure;
	$_->must('commit'), $_->close for @idle;
	$failure .= $consumers->faults($session);
	my $events = $session->must('select count(*) from evsource.events');
	$session->close;

	if ($failure) {
		print "$test: seed $seed, @{[$server->mode]}: $failure";
		exit 1;
	}
	$server->drop;
	print "$test: @{[$server->mode]}, seed $seed: $events events of ", $writers->summary, $every ? ", $crashes crashes" : '', ', ',
		scalar($consumers->names), ' consumers, ', scalar(ReadModels::names()), " async projections: none missing, none doubled, all in order\n";
	return;
}

1;
