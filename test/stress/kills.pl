# kills.pl: whenever the daemon dies, each read model is a replay of the log.
#
# While writers append in every way there is, workers of the daemon are killed as
# nobody should kill them and the server is stopped at once, EVSOURCE_STRESS_KILLS
# times (default 4) at random moments; now and then a worker or the coordinator is
# only terminated, or a rebuild is requested, to be hit as well. The server and the
# daemon come back by themselves (by start_daemon(), where the library is not
# preloaded and the server was stopped).
#
# In the end read models, checkpoints and counts of events are those of the log.
use strict;
use warnings;
use Time::HiRes qw(time sleep);
use ReadModels;
use Server;
use Writers;

my $kills = $ENV{EVSOURCE_STRESS_KILLS} || 4;
my $seed = $ENV{EVSOURCE_STRESS_SEED} || int(time * 1000) % 1_000_000;
srand $seed;

my $server = Server->new(database => 'evsource_stress_kills');
if (!$server->can_crash) {
	print "kills: skipped, the server is not ours to be killed\n";
	$server->drop;
	exit;
}
my $session = $server->session;
ReadModels::create($session);
$session->close;
$server->start_daemon;

my %done = map { $_ => 0 } qw(killed stopped terminated rebuilds);
my $left = $kills;
my $next = time + 0.5;
my $writers = Writers->new(database => $server->{database}, prepared => $server->{prepared}, asynchronous => 1);

# What is done once between writes; true when the server crashed.
sub hit {
	my $what = rand;
	if ($what < 0.15) {
		$server->terminate($what < 0.1 ? 'worker' : 'coordinator');
		$done{terminated}++;
		return 0;
	}
	if ($what < 0.4) {
		my $session = $server->session;
		$session->must("select evsource.request_rebuild('" . (ReadModels::names())[ rand ReadModels::names() ] . "')");
		$session->close;
		$done{rebuilds}++;
		# hit it while it is at work
		$next = time + rand 0.3;
		return 0;
	}
	# a random moment
	sleep rand 0.05;
	my $worker = $what < 0.75;
	if ($worker) { $server->kill_worker }
	else { $server->restart }
	$done{ $worker ? 'killed' : 'stopped' }++;
	$left--;
	return 1;
}

my $failure = '';
eval {
	# the load goes on a second after the last one
	$writers->write_while(sub { $left > 0 || time < $next }, sub {
		return 0 if $left == 0 || time < $next;
		$next = 0;
		my $crashed = hit();
		$next ||= time + ($left > 0 ? 0.1 + rand 2 : 1);
		return $crashed;
	});
	1;
} or $failure = $@;

$session = $server->session;
$failure ||= ReadModels::faults($session);
my $events = $session->must('select count(*) from evsource.events');
$session->close;
if ($failure) {
	print "kills: seed $seed, @{[$server->mode]}, after ", join(', ', map { "$done{$_} $_" } sort keys %done), ": $failure";
	exit 1;
}
$server->drop;
print "kills: @{[$server->mode]}, seed $seed: $events events of ", $writers->summary,
	", $done{killed} workers killed and $done{stopped} servers stopped, $done{terminated} processes terminated, $done{rebuilds} rebuilds requested: ",
	scalar(ReadModels::names()), " async projections are a replay of the log\n";
