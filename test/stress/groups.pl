# groups.pl: whatever happens to the consumers of a group, each event is processed.
#
# Two groups of three consumer processes follow the events of a file while those are
# appended: one stores its results with the acknowledgement, one writes to a file
# outside. Consumers are killed (kill -9) and started again at random, stopped for
# longer than their lease, and the number of partitions is changed.
#
# In the end each event has been processed (exactly once in the first group), each
# stream in its order, and as many of each type as the file's answers say.
#
# The file is the sample in examples/. Where EVSOURCE_STRESS_EVENTS is set it is
# purchases.jsonl.gz of $EVSOURCE_DATA or ../shared/data, if it is there: so many of its
# lines, or all. Where all lines of a file are taken the counts are those of its answers.
use strict;
use warnings;
use Cwd qw(abs_path);
use List::Util qw(shuffle);
use Time::HiRes qw(time sleep);
use Group;
use Server;

my $events = $ENV{EVSOURCE_STRESS_EVENTS};
my $deaths = ($events // '') eq 'all' ? 60 : 20;
my $seed = $ENV{EVSOURCE_STRESS_SEED} || int(time * 1000) % 1_000_000;
srand $seed;

my ($data) = grep { -r "$_.jsonl.gz" && -r "$_.answers.json" }
	(defined $events ? ($ENV{EVSOURCE_DATA} // '../../../shared/data') . '/purchases' : ()), '../../examples/retail-sample';
$data = abs_path("$data.jsonl.gz") =~ s/\.jsonl\.gz$//r;

my $server = Server->new(database => 'evsource_stress_groups');
my $session = $server->session;
$session->must('create table lines (n bigserial primary key, line jsonb not null)');
my $head = ($events // 'all') eq 'all' ? '' : " | head -n $events";
$session->must("\\copy lines (line) from program 'gzip -dc $data.jsonl.gz 2>/dev/null$head' with (format csv, quote e'\\x01', delimiter e'\\x02')\nselect 1");
my $count = $session->must('select count(*) from lines');
$session->must('create table expected as select line ->> \'type\' as type, count(*) from lines group by 1');
my $answers = do { local (@ARGV, $/) = "$data.answers.json"; <> };
$session->must("create temporary table answers as select \$answers\$$answers\$answers\$::jsonb as answers");
if ($count == $session->must("select answers ->> 'events' from answers")) {
	$session->must("truncate expected");
	$session->must("insert into expected select key, value::bigint from answers, jsonb_each_text(answers -> 'events_per_type')");
}

my %common = (database => $server->{database}, consumers => 3);
my @groups = (Group->new(%common, subscription => 'inside', exactly_once => 1), Group->new(%common, subscription => 'outside'));
$_->create($session) for @groups;

# A part of the lines a statement, in their order: rows of COPY and INSERT are appends.
my ($appended, $kills, $stops, $changes) = (0, 0, 0, 0);
# for changes of the partitions: consumers that work, or stand still, keep them locked
$session->must("set lock_timeout = '2min'");
my $appender = $server->session('appender');
my $append = sub {
	my $last = $appended + 1 + int rand $count / 12;
	$appender->must('insert into evsource.events (stream, type, data, metadata, occurred_at)'
		. " select line ->> 'stream', line ->> 'type', line -> 'data', line -> 'metadata', (line ->> 'time')::timestamptz"
		. " from lines where n > $appended and n <= $last order by n");
	$appended = $last;
};

$append->();
$groups[1]->let_one_die_at_work;
$_->start_all for @groups;
my $started = time;
my @suspended;
my $failure = '';
eval {
	while (1) {
		$append->() if $appended < $count;
		# a random moment of what the groups do
		sleep 0.05 + rand 0.25;
		my $group = $groups[ rand @groups ];
		my $which = int rand 3;
		my $what = rand;
		if (($what < 0.1 || !$stops) && !@suspended) {
			$group->suspend($which);
			@suspended = ($group, $which, time + 1.2);
			$stops++;
		}
		# one that stands still in its transaction keeps its partition, and only we can resume it
		elsif ($what < 0.35 && !(@suspended && $suspended[0] == $group)) {
			$session->must("select evsource.alter_subscription('$group->{subscription}', partitions => " . (1 + int rand 7) . ')');
			$changes++;
		}
		elsif ($kills < $deaths) {
			# who is killed while it stands still is not to be resumed
			@suspended = () if @suspended && $suspended[0] == $group && $suspended[1] == $which;
			$group->kill_one($which);
			$group->start($which);
			$kills++;
		}
		if (@suspended && time > $suspended[2]) {
			$suspended[0]->resume($suspended[1]);
			@suspended = ();
		}
		last if $appended >= $count && $kills >= $deaths && !@suspended && $session->must('select sum(lag) from evsource.subscription_status') == 0;
		die "it takes too long\n" if time > $started + 60 + $count / 500;
	}
	1;
} or $failure = $@;
$suspended[0]->resume($suspended[1]) if @suspended;
my $seconds = time - $started;
$_->kill_all for @groups;
$failure ||= join '', map { $_->faults($session) } @groups;
$_->close for $session, $appender;
if ($failure) {
	print "groups: seed $seed, @{[$server->mode]}, after $kills kills, $stops stops and $changes changes of the partitions: $failure";
	exit 1;
}
$server->drop;
printf "groups: %s, seed %d: %d events, 2 groups of 3 consumers, %d of them killed, %d stopped, partitions changed %d times, in %.1f s:"
	. " exactly once inside, %d again outside, each stream in order\n",
	$server->mode, $seed, $count, $kills, $stops, $changes, $seconds, $groups[1]{repeated} // 0;
