# BenchLoad.pm - pgbench as a load that can be stopped and let go on, so that
# loads take turns of a fraction of a second: what else the machine does, and how
# fast it is at the moment, meets all of them alike.
package BenchLoad;
use strict;
use warnings;
use POSIX ();
use Time::HiRes qw(sleep time);

my $number = 0;
my @running;

# Starts clients on a script, warms them up, and stops them. Each event that the
# script stores draws a position; so events are counted.
sub new
{
	my ($class, %load) = @_;
	my $self = bless { clients => $load{clients}, name => 'load' . ++$number }, $class;
	Bench::use_server($load{server}) if defined $load{server};
	$self->{log} = Bench::scratch_file("$self->{name}.log");
	my $script = Bench::scratch_file("$self->{name}.sql", $load{script});
	my @command = ('pgbench', '-n', '-M', 'prepared', '-c', $load{clients}, '-j', $load{clients} > 1 ? 2 : 1,
		'-T', 36000, '-f', $script);
	push @command, '-D', "$_=$load{vars}{$_}" for sort keys %{ $load{vars} // {} };
	$self->{control} = BenchSession::control();    # before the environment is a load's
	local $ENV{PGOPTIONS} = "-c synchronous_commit=" . ($load{sync} // 'off') . ' ' . ($load{options} // '');
	local $ENV{PGAPPNAME} = $self->{name};

	$self->{pid} = fork // die "fork: $!\n";
	if ($self->{pid} == 0)
	{
		open STDOUT, '>', $self->{log};
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(1);
	}
	push @running, $self;
	Bench::wait_for(sub { $self->look->{backends} == $load{clients} });
	$self->share_processor if $load{clients} == 1;
	sleep(0.2);
	kill 'STOP', $self->{pid};
	$self->settle;
	return $self;
}

# One client and its backend take turns, so let them have one processor. On two of
# them each message wakes one that sleeps: that costs up to as much as an append,
# in a virtual machine, and is charged to whoever sends.
sub share_processor
{
	my ($self) = @_;
	my ($backend) = $self->{control}->value("select pid from pg_stat_activity where application_name = '$self->{name}'");
	chomp(my $last = `nproc`);
	for my $pid ($self->{pid}, $backend)
	{
		system("taskset -apc @{[$last - 1]} $pid >/dev/null") == 0 or die "bench: taskset failed\n";
	}
}

# The positions and the WAL so far, and what our backends have used; how many of
# them there are, and how many are in the middle of something.
sub look
{
	my ($self) = @_;
	my $time = time;
	my ($positions, $wal, $active, $pids) = split /\|/, $self->{control}->value(
		"select (select last_value from evsource.position_seq) + (select last_value from floor.position_seq),
			pg_current_wal_insert_lsn() - '0/0'::pg_lsn, count(*) filter (where state <> 'idle'), string_agg(pid::text, ' ')
			from pg_stat_activity where application_name = '$self->{name}'");
	my @pids = split ' ', $pids // '';
	my $cpu = 0;
	$cpu += Bench::cpu_of($_) // 0 for @pids;
	return { time => $time, events => $positions, wal => $wal, cpu => $cpu, active => $active, backends => scalar @pids };
}

# Waits until what was sent is done, and returns a look at it.
sub settle
{
	my ($self) = @_;
	my $look;
	Bench::wait_for(sub { $look = $self->look; $look->{active} == 0 });
	if ($look->{backends} != $self->{clients} || waitpid($self->{pid}, POSIX::WNOHANG()) != 0)
	{
		system('tail', '-n', '20', $self->{log});
		die "bench: pgbench failed\n";
	}
	return $look;
}

# One turn, until what was sent is done. Returns what it did: events a second, and
# an event's microseconds of CPU and bytes of WAL.
sub run
{
	my ($self, $seconds) = @_;
	my $before = $self->look;
	my $start = time;
	kill 'CONT', $self->{pid};
	sleep($seconds);
	kill 'STOP', $self->{pid};
	my $after = $self->settle;
	my $time = $after->{time} - $start;    # the look takes longer where there are more sessions
	my $events = $after->{events} - $before->{events};
	die "bench: nothing happened\n" if $events == 0;
	return {
		rate => $events / $time,
		cpu => ($after->{cpu} - $before->{cpu}) / 1000 / $events,
		wal => ($after->{wal} - $before->{wal}) / $events };
}

sub end
{
	my ($self) = @_;
	kill 'TERM', $self->{pid};
	kill 'CONT', $self->{pid};
	waitpid $self->{pid}, 0;
	@running = grep { $_ != $self } @running;
}

sub end_all { $_->end for @running }

1;
