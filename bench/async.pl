# async.pl - async projections: how long after a commit a read model has it, what
# a live daemon costs the appenders, how fast a read model is made anew, and what
# an idle daemon does.
use strict;
use warnings;
use BenchListener;
use Time::HiRes qw(sleep time);

my $query = "insert into balances as b
	select stream, sum((data->>'amount')::numeric), count(*) from new_events group by stream
	on conflict (account) do update set balance = b.balance + excluded.balance, events = b.events + excluded.events";
my $create_balances = 'create table public.balances (account text primary key, balance numeric, events bigint)';
my $create_projection = "select evsource.create_projection('balances', mode => 'async', tables => '{balances}', query => \$q\$$query\$q\$)";
my $append = "evsource.append('account-' || :stream, 'MoneyDeposited', :data)";

# Runs pgbench; returns the transactions a second.
sub run_pgbench
{
	my ($script, @arguments) = @_;
	my $file = Bench::scratch_file('async.sql', $script);
	open my $in, '-|', 'pgbench', '-n', '-M', 'prepared', '-f', $file, @arguments or die "pgbench: $!\n";
	local $/;
	my $output = <$in>;
	close $in or die "bench: pgbench failed\n$output";
	my ($rate) = $output =~ /tps = ([\d.]+)/ or die "bench: pgbench said nothing\n$output";
	return $rate;
}

# Waits until a projection is at the end of the log; returns the seconds.
sub catch_up
{
	my ($session, $projection) = @_;
	my $start = time;
	$session->value("select evsource.wait_for('$projection', evsource.safe_position(), '5min')");
	return time - $start;
}

# ---- from the commit to the read model ----

# The server notes when it commits: what each event's transaction wrote there is
# compared with what the worker's did.
Bench::start_server(settings => ['track_commit_timestamp=on']);
Bench::fresh_database();
my $data = Bench::sql('select bench.data(1234567)');
Bench::sql('create table public.seen (position bigint primary key, account text, amount numeric)');
Bench::sql("select evsource.create_projection('seen', mode => 'async', query =>
	\$q\$insert into public.seen select position, stream, (data->>'amount')::numeric from new_events\$q\$)");
my $session = BenchSession->new;
my $random_stream = "\\set stream random(1, 1000)\n";
my $length = Bench::least(20, 5 * $Bench::rounds * $Bench::seconds);
run_pgbench("$random_stream SELECT (${append}).version;", '-c', 1, '-T', 1, '-R', 200, '-D', "data=$data");
catch_up($session, 'seen');
my $from = $session->value('select evsource.safe_position()');
run_pgbench("$random_stream SELECT (${append}).version;", '-c', 1, '-T', $length, '-R', 200, '-D', "data=$data");
catch_up($session, 'seen');
my ($median, $late, $highest, $count) = split /\|/, $session->value("
	select p[1], p[2], highest, n from (
		select percentile_disc(array[0.5, 0.99]) within group (order by ms) as p, max(ms) as highest, count(*) as n from (
			select extract(epoch from pg_xact_commit_timestamp(s.xmin) - pg_xact_commit_timestamp(e.xmin)) * 1000 as ms
			from public.seen s join evsource.events e using (position) where position > $from) latencies) l");
Bench::row(
	path => 'commit → async read model, 200 tx/s',
	budget => 'p50 ≤ 1 ms, p99 ≤ 8 ms',
	measured => sprintf('p50 %.2f ms, p99 %.2f ms, highest %.1f ms of %d', $median, $late, $highest, $count),
	floor => 'none',
	checks => [ [ 'p50', $median, '<=', 1 ], [ 'p99', $late, '<=', 8 ] ]);

# ---- an idle daemon ----

# Nanoseconds of CPU, and how often it went to sleep, of all our processes.
sub look_at_daemon
{
	my ($session) = @_;
	my @pids = split ' ', $session->value("select string_agg(pid::text, ' ') from pg_stat_activity where backend_type like 'evsource%'");
	my %look = (processes => scalar @pids, ns => 0, switches => 0);
	for my $pid (@pids)
	{
		$look{ns} += Bench::cpu_of($pid);
		$look{switches} += (map { /^voluntary_ctxt_switches:\s*(\d+)/ ? $1 : () } Bench::slurp("/proc/$pid/status"))[0];
	}
	return %look;
}

sub measure_idle
{
	my ($name, $session, $limit, $most) = @_;
	my $time = 5;
	sleep(2);
	my %before = look_at_daemon($session);
	sleep($time);
	my %after = look_at_daemon($session);
	my %used = map { $_ => $after{$_} - $before{$_} } keys %after;
	Bench::row(
		path => "idle daemon, $name",
		budget => sprintf('CPU ≤ %.1f %%, ≤ %d wake-ups a second', $most, $limit),
		measured => sprintf('CPU %.2f %%: %.0f µs, %d wake-ups of %d processes in %d s', $used{ns} / $time / 1e7, $used{ns} / 1000, $used{switches}, $after{processes}, $time),
		floor => 'none',
		checks => [ [ 'CPU', $used{ns} / $time / 1e7, '<=', $most ], [ 'wake-ups', $used{switches} / $time, '<=', $limit ] ]);
}
measure_idle('preloaded', $session, 1, 0);

# ---- appenders ----

# Three databases: no daemon; a daemon that keeps a read model; each append sends a
# notification, and a session that listens applies the same read model.
my $script = "\\set stream random(1, 1000000)\n";
my @sides = qw(none daemon notify);
my (%database, %appends);
for my $side (@sides)
{
	$database{$side} = "appenders_$side";
	Bench::run_or_die('createdb', $database{$side});
	local $ENV{PGDATABASE} = $database{$side};
	Bench::sql("create extension evsource; $create_balances");
	Bench::sql($create_projection) if $side eq 'daemon';
	Bench::sql($create_projection =~ s/'async'/'manual'/r) if $side eq 'notify';
	$appends{$side} = "SELECT (${append}).version;";
}
$appends{notify} = "SELECT pg_notify('events', position::text) FROM ${append};";

my %watch = map { local $ENV{PGDATABASE} = $database{$_}; ($_ => BenchSession->new) } @sides;
my %behind;
sub run_appenders
{
	my ($side, $clients) = @_;
	local $ENV{PGDATABASE} = $database{$side};
	my $listener = $side eq 'notify' ? BenchListener->new('balances') : undef;
	my $rate = run_pgbench($script . $appends{$side}, '-c', $clients, '-j', 2, '-T', int(2.5 * $Bench::seconds + 0.5), '-D', "data=$data");
	push @{ $behind{$side} }, catch_up($watch{$side}, 'balances') if $side eq 'daemon';
	$listener->end if $listener;
	return { rate => $rate };
}
for my $clients (16, 32, 64)
{
	%behind = ();
	my $appenders = Bench::in_turns("appenders, $clients clients", map { my $side = $_; ($side => sub { run_appenders($side, $clients) }) } @sides);
	my $with = Bench::ratio($appenders->{daemon}{rate}, $appenders->{none}{rate});
	my $over = Bench::ratio($appenders->{daemon}{rate}, $appenders->{notify}{rate});
	Bench::row(
		path => "appenders with a live daemon, $clients clients",
		budget => 'tx/s ≥ 0.8 × without, ≥ 4 × a NOTIFY an append',
		measured => sprintf('%.2f × (%s tx/s), %.1f × NOTIFY; %.0f ms behind at the end', $with,
			Bench::short(Bench::median(@{ $appenders->{daemon}{rate} })), $over, 1000 * Bench::median(@{ $behind{daemon} })),
		floor => sprintf('%s tx/s without, %s with NOTIFY', map { Bench::short(Bench::median(@{ $appenders->{$_}{rate} })) } qw(none notify)),
		checks => [ [ 'daemon', $with, '>=', 0.8 ], [ 'NOTIFY', $over, '>=', 4 ] ]);
}
$_->end for values %watch;

Bench::stop_server();

# ---- without preloading ----

Bench::start_server(library => '');
Bench::fresh_database();
Bench::sql($create_balances);
Bench::sql($create_projection);
$session = BenchSession->new;
$session->value('select evsource.start_daemon()');
$session->value("select from evsource.append('account-1', 'MoneyDeposited', bench.data(1))");
catch_up($session, 'balances');
measure_idle('not preloaded', $session, 5, 0.5);
Bench::stop_server();
1;
