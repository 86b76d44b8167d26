# BenchSession.pm - a psql that stays, to run statements in one session and to
# know what each cost: the CPU of its backend and the time on the clock.
package BenchSession;
use strict;
use warnings;
use IPC::Open2;
use Time::HiRes qw(time);

my $mark = '@@bench@@';
my @open;
my %control;

sub new
{
	my ($class) = @_;
	my $self = bless {}, $class;
	$self->{pid} = open2($self->{out}, $self->{in}, 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1');
	push @open, $self;
	$self->{backend} = $self->value('select pg_backend_pid()');
	return $self;
}

# Runs statements; returns what psql printed.
sub value
{
	my ($self, $statements) = @_;
	my $output = '';
	# more than a pipe holds would leave us and psql waiting for each other
	$statements = "\\i " . Bench::scratch_file('session.sql', "$statements;\n") if length $statements > 4096;
	print { $self->{in} } "$statements" . ($statements =~ /^\\/ ? '' : ';') . "\n\\echo $mark\n";
	while (defined(my $line = readline $self->{out}))
	{
		if ($line eq "$mark\n") { chomp $output; return $output }
		$output .= $line;
	}
	die "bench: psql ended at: $statements\n";
}

# Runs statements; returns { cpu, clock } in microseconds, divided by "per".
sub cost
{
	my ($self, $statements, $per) = @_;
	$per //= 1;
	my ($cpu, $clock) = ($self->cpu, time);
	$self->value($statements);
	$clock = time - $clock;
	$cpu = $self->cpu - $cpu;
	return { cpu => $cpu / 1000 / $per, clock => $clock * 1e6 / $per };
}

sub cpu { return Bench::cpu_of($_[0]{backend}) }

sub end
{
	my ($self) = @_;
	return unless $self->{in};
	close $self->{in};
	close $self->{out};
	waitpid $self->{pid}, 0;
	delete $self->{in};
	@open = grep { $_ != $self } @open;
}

# The session that looks at what others do, on the current server.
sub control
{
	return $control{ $ENV{PGHOST} } //= BenchSession->new;
}

sub end_all
{
	$_->end for @open;
	%control = ();
}

1;
