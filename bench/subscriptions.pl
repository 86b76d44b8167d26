# subscriptions.pl - what consumers cost: appends while a thousand others wait or
# one listens, the time from a commit to each of them, and fetching beside 32 writers
# against the plain ordered SELECT of the same rows.
use strict;
use warnings;
use POSIX ();
use Time::HiRes qw(sleep time);
use BenchListener;

my $waiters = $ENV{EVSOURCE_BENCH_WAITERS} // 1000;
my $columns = 'position, stream, version, type, data, metadata, id, occurred_at, recorded_at';
my $append = "\\set stream random(1, 1000000)\nSELECT (evsource.append('account-' || :stream, 'MoneyDeposited', :data)).version;\n";


sub run_appenders
{
	my ($clients, $length, @more) = @_;
	my $file = Bench::scratch_file('appenders.sql', $append);
	open my $in, '-|', 'pgbench', '-n', '-M', 'prepared', '-c', $clients, '-j', 2, '-T', $length, '-f', $file,
		'-D', 'data={"amount": 12345, "currency": "EUR"}', @more or die "pgbench: $!\n";
	local $/;
	my $output = <$in>;
	close $in or die "bench: pgbench failed\n$output";
	my ($rate) = $output =~ /tps = ([\d.]+)/ or die "bench: pgbench said nothing\n$output";
	return $rate;
}

# ---- a thousand that wait ----

# Three servers side by side, so that the load takes short turns beside nobody, beside as
# many sessions that only sleep in a statement, and beside those that wait: a thousand
# connections cost something by themselves, and to start them takes long.
my ($among_waiters, $among_sleepers, $alone) = (0, 1, 2);
my @waiting;
my %asleep = (
	waiting => "query like '%fetch_events%' and wait_event in ('Extension', 'EvsourceFetch')",
	sleeping => "query like '%pg_sleep%' and wait_event = 'PgSleep'");

# Starts as many on the current server; $statement is told a number of its own, :number,
# and done again and again. A wait lasts as long as it says, unless $longest.
sub start_sessions
{
	my ($how, $count, $statement, $longest) = @_;
	local $ENV{PGOPTIONS} = '-c evsource.max_wait=' . ($longest // 0);
	for my $part (0 .. $count / 50 - 1)
	{
		my $script = Bench::scratch_file("$how$part.sql", "\\set number 1 + :client_id + $part * 50\n$statement;\n");
		my $pid = fork // die "fork: $!\n";
		if ($pid == 0)
		{
			open STDOUT, '>', '/dev/null';
			open STDERR, '>', '/dev/null';
			exec 'pgbench', '-n', '-c', 50, '-j', 1, '-T', 36000, '-f', $script or POSIX::_exit(1);
		}
		push @waiting, $pid if $how eq 'waiting';
	}
	my $is_there = "select count(*) = $count from pg_stat_activity where $asleep{$how}";
	my $there;
	for (1 .. 12)
	{
		Bench::wait_for(sub { $there = Bench::sql($is_there) eq 't' });
		return if $there;
	}
	die "bench: not all wait\n";
}

# What they have used so far, in microseconds of CPU, and the appends so far beside them.
sub look_at_waiting
{
	my @pids = split ' ', Bench::sql("select string_agg(pid::text, ' ') from pg_stat_activity where query like '%fetch_events%' and pid <> pg_backend_pid()");
	my $cpu = 0;
	$cpu += Bench::cpu_of($_) / 1000 for @pids;
	return ($cpu, Bench::sql('select last_value from evsource.position_seq'));
}

sub stop_waiting
{
	kill 'KILL', @waiting;
	waitpid $_, 0 for @waiting;
	@waiting = ();
	Bench::sql("select count(pg_terminate_backend(pid)) from pg_stat_activity where query like '%fetch_events%' and pid <> pg_backend_pid()");
	Bench::wait_for(sub { Bench::sql("select count(*) from pg_stat_activity where $asleep{waiting}") == 0 });
}

for my $server ($among_waiters, $among_sleepers, $alone)
{
	Bench::start_server(settings => [ 'max_connections=' . ($waiters + 150), 'track_commit_timestamp=on' ]);
	Bench::fresh_database();
}
Bench::use_server($among_sleepers);
start_sessions('sleeping', $waiters, 'select pg_sleep(36000)');

# Each waits for a subscription of its own: "idle", to one category; or "choosy", to
# two categories, or to a type, that nobody appends. Or "again", to two categories, and
# each wait ends after a minute, as by default, and is followed by the next: the run is
# long enough for everybody to come to that. Or they are a group that waits together, for
# so many kinds of events that each append wakes one of them for nothing.
Bench::use_server($among_waiters);
Bench::sql("select count(evsource.create_subscription('idle' || i, categories => array['idle' || i], start => 'now')) from generate_series(1, $waiters) i");
Bench::sql("select count(evsource.create_subscription('choosy' || i, start => 'now',
	categories => case when i % 2 = 0 then array['one' || i, 'two' || i] end, types => case when i % 2 = 1 then array['Never' || i] end))
	from generate_series(1, $waiters) i");
Bench::sql("select count(evsource.create_subscription('again' || i, categories => array['one' || i, 'two' || i], start => 'now'))
	from generate_series(1, $waiters) i");
my $many = join ',', map { "k$_" } 1 .. 40;
Bench::sql("select evsource.create_subscription('group', start => 'now', categories => '{$many}', types => '{$many}', partitions => 16)");
Bench::sql('vacuum analyze');
my %load = (clients => 32, script => $append, vars => { data => '{"amount": 12345, "currency": "EUR"}' }, turn => 0.1);
for ([ idle => "'idle' || :number", 'idle subscriptions to one category waited for' ],
	[ choosy => "'choosy' || :number", 'idle subscriptions to two categories, or a type, waited for' ],
	[ again => "'again' || :number", 'idle subscriptions to two categories waited for again and again', '1min' ],
	[ group => "'group'", 'consumers of one group, of which each append wakes one' ])
{
	my ($name, $subscription, $what, $longest) = @$_;
	# a third of the time is theirs
	local $Bench::rounds = POSIX::ceil(22 / $Bench::seconds) if $longest && $Bench::rounds * $Bench::seconds < 22;
	start_sessions('waiting', $waiters, "select count(*) from evsource.fetch_events($subscription, wait => '1 hour')", $longest);
	my ($used, $appended) = look_at_waiting();
	my $appends = Bench::loads_in_turns("appends, $waiters $name",
		alone => { %load, server => $alone },
		sleepers => { %load, server => $among_sleepers },
		waiters => { %load, server => $among_waiters });
	Bench::use_server($among_waiters);
	my ($used_now, $appended_now) = look_at_waiting();
	my $theirs = ($used_now - $used) / ($appended_now - $appended);
	stop_waiting();
	$_ += $theirs for @{ $appends->{waiters}{cpu} };
	my ($cpu, $cpu_alone) = map { Bench::ratio($appends->{waiters}{cpu}, $appends->{$_}{cpu}) } qw(sleepers alone);
	my ($rate, $rate_alone) = map { Bench::ratio($appends->{waiters}{rate}, $appends->{$_}{rate}) } qw(sleepers alone);
	my ($waiting, $sleeping, $none) = map { sprintf '%s, %s tx/s', Bench::figure($appends->{$_}{cpu}, 'µs'), Bench::short(Bench::median(@{ $appends->{$_}{rate} })) } qw(waiters sleepers alone);
	my $woken = $name eq 'group';
	Bench::row(
		path => "appends of 32 clients beside $waiters $what",
		budget => $woken ? 'tx/s ≥ 0.5 × alone' : 'CPU ≤ 1.05 × beside as many that sleep',
		measured => sprintf('CPU %.2f ×, tx/s %.2f ×; CPU %.2f ×, tx/s %.2f × alone (%s; %s µs of it theirs)',
			$cpu, $rate, $cpu_alone, $rate_alone, $waiting, Bench::short($theirs)),
		floor => "beside sleepers: $sleeping; alone: $none",
		checks => [ $woken ? [ 'tx/s', $rate_alone, '>=', 0.5 ] : [ 'CPU', $cpu, '<=', 1.05 ] ]);
}
Bench::stop_server() for $among_sleepers, $alone;
my $length = POSIX::ceil(2.5 * $Bench::seconds);

# ---- from the commit to the consumer ----

Bench::sql("create table public.seen (position bigint primary key, at timestamptz)");
Bench::sql("create procedure public.consume(until timestamptz) language plpgsql as '
	declare
		got evsource.fetched_event[];
	begin
		while clock_timestamp() < until loop
			got := array(select f from evsource.fetch_events(''live'', wait => ''1 s'') f);
			insert into public.seen select position, clock_timestamp() from unnest(got);
			perform evsource.ack(got[cardinality(got)].receipt) where cardinality(got) > 0;
			commit;
		end loop;
	end'");
Bench::sql("select evsource.create_subscription('live', categories => '{account}', start => 'now')");
my $seconds = Bench::least(15, 5 * $Bench::rounds * $Bench::seconds);
my $consumer = fork // die "fork: $!\n";
if ($consumer == 0)
{
	exec 'psql', '-XqAt', '-c', "call public.consume(clock_timestamp() + interval '@{[$seconds + 2]} s')" or POSIX::_exit(1);
}
sleep(1);
run_appenders(1, $seconds, '-R', 200);
waitpid $consumer, 0;
my ($median, $late, $highest, $count) = split /\|/, Bench::sql("
	select p[1], p[2], highest, n from (
		select percentile_disc(array[0.5, 0.99]) within group (order by ms) as p, max(ms) as highest, count(*) as n from (
			select extract(epoch from s.at - pg_xact_commit_timestamp(e.xmin)) * 1000 as ms
			from public.seen s join evsource.events e using (position)) latencies) l");
Bench::row(
	path => 'commit → waiting consumer, 200 tx/s',
	budget => 'p50 ≤ 2 ms',
	measured => sprintf('p50 %.2f ms, p99 %.2f ms, highest %.1f ms of %d', $median, $late, $highest, $count),
	floor => 'none',
	checks => [ [ 'p50', $median, '<=', 2 ] ]);

# ---- from the commit to one who listens ----

my $heard = Bench::scratch_file('heard');
sub listening
{
	my ($work) = @_;
	my $listener = BenchListener->recorder('evsource_events', $heard);
	# the first message comes when the daemon does
	Bench::wait_for(sub { -s $heard });
	my $result = $work->();
	sleep(0.1);
	$listener->end;
	return $result;
}

unlink $heard;
listening(sub { run_appenders(1, $seconds, '-R', 200) });
Bench::sql("create table public.heard (at double precision, position bigint)");
Bench::sql("\\copy public.heard from '$heard' with (delimiter ' ')");
# what is told of together is late by as much as the first of it
($median, $late, $highest, $count) = split /\|/, Bench::sql("
	with told as (select at, position, lag(position) over (order by at) as before from public.heard)
	select p[1], p[2], highest, n from (
		select percentile_disc(array[0.5, 0.99]) within group (order by ms) as p, max(ms) as highest, count(*) as n from (
			select (t.at - extract(epoch from pg_xact_commit_timestamp(e.xmin))) * 1000 as ms
			from told t join evsource.events e on e.position > t.before and e.position <= t.position) latencies) l");
my $heard_appends = Bench::in_turns('appends, one listening',
	none => sub { return { rate => run_appenders(32, $length) } },
	listening => sub { return { rate => listening(sub { run_appenders(32, $length) }) } });
my $kept_listening = Bench::ratio($heard_appends->{listening}{rate}, $heard_appends->{none}{rate});
Bench::row(
	path => 'commit → LISTEN, 200 tx/s; appends of 32 clients meanwhile',
	budget => 'p50 ≤ 10 ms, tx/s ≥ 0.8 × without',
	measured => sprintf('p50 %.2f ms, p99 %.2f ms, highest %.1f ms of %d; %.2f × (%s tx/s)', $median, $late, $highest, $count,
		$kept_listening, Bench::short(Bench::median(@{ $heard_appends->{listening}{rate} }))),
	floor => sprintf('%s tx/s', Bench::short(Bench::median(@{ $heard_appends->{none}{rate} }))),
	checks => [ [ 'p50', $median, '<=', 10 ], [ 'tx/s', $kept_listening, '>=', 0.8 ] ]);

# ---- fetching beside writers ----

Bench::fresh_database();
my $batches = 20;
my $turns = 4 * $Bench::rounds;    # short ones
Bench::fill_log(events => 1000 * $batches * ($turns + 2), streams => 20_000);
# as in reading.pl: a table that stores what is returned, an id, metadata and a time for each event
Bench::sql("insert into floor.events ($columns) select $columns from evsource.read_all(0, null)");
Bench::sql("vacuum analyze $_") for qw(evsource.events floor.events);
Bench::sql("select evsource.create_subscription('reader')");
my $ack = "select evsource.ack(format('%s.%s.%s.e%s.%s', lpad(to_hex(token), 16, '0'), generation, partition, handed_out, subscription)) from evsource.cursors";
my $session = BenchSession->new;
# a crash that loses an ack brings its events again: nothing to wait for the disk for
$session->value('set synchronous_commit = off');
# what was fetched is acknowledged with what is fetched next: one message, one transaction;
# the receipt is looked up, for psql has no variable for the last of many rows
$session->value("prepare ack as $ack");
my $from = 0;
sub read_batches
{
	my ($statement) = @_;
	return $session->cost(join(";\n", map { $statement->($from + $_ * 1000) } 0 .. $batches - 1), 1000 * $batches);
}
my $writers = fork // die "fork: $!\n";
if ($writers == 0)
{
	open STDOUT, '>', '/dev/null';
	open STDERR, '>', '/dev/null';
	exec 'pgbench', '-n', '-M', 'prepared', '-c', 32, '-j', 1, '-T', 3600, '-f', Bench::scratch_file('appenders.sql'),
		'-D', 'data={"amount": 12345, "currency": "EUR"}' or POSIX::_exit(1);
}
sleep(1);
$session->value("select count(*) from evsource.fetch_events('reader', 1000)");
$from = 1000;
local $Bench::rounds = $turns;
my $fetch = Bench::in_turns('fetch, 1000 events a call',
	floor => sub { return read_batches(sub { "select $columns from floor.events where position > $_[0] order by position limit 1000" }) },
	fetch => sub {
		my $cost = read_batches(sub { "execute ack\\; select * from evsource.fetch_events('reader', 1000)" });
		$from += 1000 * $batches;
		return $cost;
	});
kill 'TERM', $writers;
waitpid $writers, 0;
my ($speed, $clock) = map { Bench::ratio($fetch->{floor}{$_}, $fetch->{fetch}{$_}) } qw(cpu clock);
Bench::row(
	path => 'fetch and ack, 1000 events a call, beside 32 writers',
	budget => 'speed ≥ 0.7 ×',
	measured => sprintf('%.2f × by CPU (%s an event), %.2f × by the clock', $speed, Bench::figure($fetch->{fetch}{cpu}, 'µs'), $clock),
	floor => Bench::figure($fetch->{floor}{cpu}, 'µs'),
	checks => [ [ 'speed', $speed, '>=', 0.7 ] ]);

Bench::stop_server();
1;
