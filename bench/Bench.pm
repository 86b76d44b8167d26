# Bench.pm - what the sections of the benchmark share: a server, a way to run
# two things in turns and to know what each cost, and rows of the table.
#
# What a thing costs is the CPU time of its backends (from /proc, to the
# nanosecond), the time on the clock, and the bytes of WAL. The machine may be
# busy with other work: so sides take turns, a ratio is taken within each round,
# and the median over the rounds is what counts.
package Bench;
use strict;
use warnings;
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use POSIX ();
use Time::HiRes qw(sleep time);
use BenchLoad;
use BenchSession;

our ($rounds, $seconds, $details) = (5, 1.2, 0);

my $top = dirname(dirname(__FILE__));
my $scratch = tempdir('evsource-bench.XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $owner = $$;
my @servers;
my $databases = 0;
my @loads;

$SIG{INT} = $SIG{TERM} = sub { exit 1 };
END { local $?; if ($$ == ($owner // 0)) { BenchLoad::end_all(); stop_all() } }

# ----- servers and databases ------------------------------------------------

my @settings = (
	'shared_buffers=1GB', 'maintenance_work_mem=256MB', 'fsync=on', 'wal_level=replica', 'autovacuum=off', 'jit=off',
	'max_wal_size=32GB', 'checkpoint_timeout=1h', 'max_connections=150',
	'max_parallel_workers_per_gather=0', 'track_activities=on', 'log_min_messages=error');

# Starts a server of the PostgreSQL of pg_config, and makes it the current one. Options:
# pg_config, library (to preload), settings (more of them).
sub start_server
{
	my (%option) = @_;
	my $dir = "$scratch/server" . @servers;
	local $ENV{PG_CONFIG} = $option{pg_config} // $ENV{PG_CONFIG} // 'pg_config';
	my $library = $option{library} // 'evsource';
	run_or_die("$top/dev/server", 'start', $dir, @settings, "shared_preload_libraries=$library", @{ $option{settings} // [] });
	push @servers, { dir => $dir, pg_config => $ENV{PG_CONFIG} };
	use_server($#servers);
	delete @ENV{qw(PGOPTIONS PGAPPNAME PSQLRC)};
	chomp(my $bin = `"$ENV{PG_CONFIG}" --bindir`);
	$ENV{PATH} = "$bin:$ENV{PATH}";
}

# Makes one of those that were started the current one: the first is 0.
sub use_server
{
	my ($number) = @_;
	my $server = $servers[$number];
	@ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($server->{dir}, 5432, 'postgres', $server->{database} // 'postgres');
}

# The pg_config of another private build of this checkout, with other flags.
sub build
{
	my ($flags) = @_;
	local $ENV{COPT} = $flags;
	chomp(my $pg_config = `"$top/dev/sandbox" "$scratch/build"`);
	die "bench: the build with $flags failed\n" if $? != 0;
	return $pg_config;
}

sub stop_server
{
	my $server = pop @servers or return;
	BenchSession::end_all();
	local $ENV{PG_CONFIG} = $server->{pg_config};
	system("$top/dev/server", 'stop', $server->{dir});
	system('rm', '-rf', $server->{dir});
	use_server($#servers) if @servers;
}

sub stop_all { stop_server() while @servers }

# A database with the extension and the floor; the one before goes away. What
# was written so far is checkpointed, so that page images do not blur the WAL.
sub fresh_database
{
	start_server() unless @servers;
	my $old = $ENV{PGDATABASE};
	BenchSession::end_all();
	$ENV{PGDATABASE} = 'bench' . ++$databases;
	run_or_die('createdb', $ENV{PGDATABASE});
	run_or_die('psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', dirname(__FILE__) . '/floor.sql');
	run_or_die('dropdb', $old) if $old ne 'postgres';
	$servers[-1]{database} = $ENV{PGDATABASE};
	sql('checkpoint');
}

# Fills the log with so many events, in so many streams of the same length, of
# which a hundred grow side by side.
sub fill_log
{
	my (%log) = @_;
	my $data = $log{data} // 'bench.data(i)';
	sql("insert into evsource.events (stream, type, data)
		select 'account-' || (i - 1) / (100 * $log{events} / $log{streams}) * 100 + i % 100, 'MoneyDeposited', $data
		from generate_series(1, $log{events}) i");
	sql('checkpoint');
}

# ----- running things -------------------------------------------------------

sub run_or_die
{
	system(@_) == 0 or die "@_ failed\n";
}

# What psql prints for a statement, unaligned.
sub sql
{
	my ($statement) = @_;
	open my $in, '-|', 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-c', $statement or die "psql: $!\n";
	my $output = do { local $/; <$in> } // '';
	close $in or die "psql failed: $statement\n";
	chomp $output;
	return $output;
}

# The path of a file in the scratch folder, with the text in it if given.
sub scratch_file
{
	my ($name, $text) = @_;
	my $file = "$scratch/$name";
	return $file unless defined $text;
	open my $out, '>', $file or die "$file: $!\n";
	print $out $text;
	close $out;
	return $file;
}

# Nanoseconds of CPU that a process has used; undef when it is gone.
sub cpu_of
{
	my ($pid) = @_;
	open my $in, '<', "/proc/$pid/schedstat" or return;
	my ($ns) = split ' ', <$in> // '';
	return $ns;
}

# Waits until something is so; gives up, without a word, after ten seconds.
sub wait_for
{
	my ($condition) = @_;
	my $end = time + 10;
	sleep(0.005) until $condition->() || time > $end;
}

# Runs the sides in turns, in every round, the first to go changing each time.
# A side is a sub that returns a hash of figures. Returns, by side and figure,
# the list of the rounds.
sub in_turns
{
	my ($name, @sides) = @_;    # name => sub, ...
	my %result;
	for my $round (1 .. $rounds)
	{
		for my $side (order($round, @sides))
		{
			note(\%result, $name, $side->[0], $side->[1]->());
		}
		note_machine_load();
	}
	return \%result;
}

# The same for loads, each as BenchLoad->new takes it: their rounds are short and
# many, so that other work meets all sides alike.
sub loads_in_turns
{
	my ($name, @sides) = @_;    # name => { load }, ...
	my (@loads, %result);
	my $turn = $sides[1]{turn} // 0.1;
	while (my ($side, $load) = splice @sides, 0, 2) { push @loads, $side, BenchLoad->new(%$load) }
	for my $round (1 .. POSIX::ceil($rounds * $seconds / $turn))
	{
		note(\%result, $name, $_->[0], $_->[1]->run($turn)) for order($round, @loads);
	}
	note_machine_load();
	$_->[1]->end for order(1, @loads);
	return \%result;
}

# The sides as pairs, every other time backwards.
sub order
{
	my ($time, @sides) = @_;
	my @order = map { [ @sides[ 2 * $_, 2 * $_ + 1 ] ] } 0 .. @sides / 2 - 1;
	return $time % 2 ? @order : reverse @order;
}

sub note
{
	my ($result, $name, $side, $figures) = @_;
	push @{ $result->{$side}{$_} }, $figures->{$_} for keys %$figures;
	print STDERR "$name, $side: ", join(', ', map { sprintf '%s %.4g', $_, $figures->{$_} } sort keys %$figures), "\n" if $details;
}

# ----- figures --------------------------------------------------------------

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	my $middle = int(@sorted / 2);
	return @sorted % 2 ? $sorted[$middle] : ($sorted[ $middle - 1 ] + $sorted[$middle]) / 2;
}

sub least { my ($least) = sort { $a <=> $b } @_; return $least }

# The median over the rounds of one side's figure divided by another's.
sub ratio
{
	my ($over, $under) = @_;
	return median(map { $over->[$_] / $under->[$_] } 0 .. $#$over);
}

# "31.2 us (min 29.8)"
sub figure
{
	my ($values, $unit) = @_;
	return sprintf '%s %s (min %s)', short(median(@$values)), $unit, short(least(@$values));
}

# Three digits that count.
sub short
{
	my ($value) = @_;
	return sprintf '%.1f M', $value / 1e6 if $value >= 1e7;
	return sprintf '%.2f M', $value / 1e6 if $value >= 1e6;
	return sprintf '%.0f k', $value / 1e3 if $value >= 1e5;
	return sprintf '%.1f k', $value / 1e3 if $value >= 1e4;
	return sprintf '%.2f k', $value / 1e3 if $value >= 1e3;
	return sprintf '%.0f', $value if $value >= 100;
	return sprintf '%.1f', $value if $value >= 10;
	return sprintf '%.2f', $value;
}

# ----- the table ------------------------------------------------------------

# A row. Each check is [what, measured, '<=' or '>=', limit], to the two decimals
# that the row shows; the verdict names those that are missed.
sub row
{
	my (%row) = @_;
	my @missed;
	for my $check (@{ $row{checks} })
	{
		my ($what, $value, $sense, $limit) = @$check;
		$value = sprintf '%.2f', $value;
		push @missed, $what unless $sense eq '<=' ? $value <= $limit : $value >= $limit;
	}
	my $verdict = @missed ? '**missed: ' . join(', ', @missed) . '**' : 'met';
	print "| $row{path} | $row{budget} | $row{measured} | $row{floor} | $verdict |\n";
}

# ----- circumstances --------------------------------------------------------

sub note_machine_load
{
	open my $in, '<', '/proc/loadavg' or return;
	push @loads, (split ' ', <$in>)[0];
}

sub circumstances
{
	my ($cpu) = map { /model name\s*:\s*(.*)/ ? $1 : () } slurp('/proc/cpuinfo');
	my ($memory) = map { /MemTotal:\s*(\d+)/ ? $1 : () } slurp('/proc/meminfo');
	chomp(my $version = `"@{[$ENV{PG_CONFIG} // 'pg_config']}" --version`);
	my $processors = grep { /^processor/ } slurp('/proc/cpuinfo');
	return sprintf "%s, %s; %d × %s, %.0f GB, Linux %s; %d rounds of %s s.\n",
		POSIX::strftime('%Y-%m-%d', localtime), $version, $processors, $cpu // 'CPU', ($memory // 0) / 1048576,
		(POSIX::uname())[2], $rounds, $seconds;
}

sub load_seen
{
	return '' unless @loads;
	return sprintf "Load average during the runs: median %.1f, highest %.1f.\n", median(@loads), (sort { $b <=> $a } @loads)[0];
}

sub slurp
{
	open my $in, '<', $_[0] or return;
	return <$in>;
}

1;
