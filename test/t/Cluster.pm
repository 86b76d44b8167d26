# A server as PostgreSQL's own tests have it, in less time.

package Cluster;

use strict;
use warnings;

use Fcntl qw(:flock);
use List::Util qw(min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils ();    # what it exports would be methods here
use Test::More ();
use Time::HiRes qw(time sleep);

our @ISA = qw(PostgreSQL::Test::Cluster);

my $run = \&PostgreSQL::Test::Utils::system_or_bail;

# A folder of what initdb makes with these arguments, in which $directory is where it goes.
# The first test of a run that asks for it makes it; others wait for that.
sub template
{
	my ($version, $directory, @arguments) = @_;
	my ($name) = map { tr/A-Za-z0-9.=-/_/cr } join ' ', 'initdb', $version, grep { !/\Q$directory\E/ } @arguments;
	my $template = "$PostgreSQL::Test::Utils::tmp_check/$name";

	open my $lock, '>', "$template.lock" or die "$template.lock: $!\n";
	flock $lock, LOCK_EX or die "$template.lock: $!\n";
	if (!-d $template)
	{
		$run->('initdb', map { s/\Q$directory\E/$template.new/r } @arguments);
		rename "$template.new", $template or die "$template: $!\n";
	}
	return $template;
}

# In a tenth of the time: what initdb makes is copied. (From 17 on PostgreSQL's modules
# can do so themselves.)
sub init
{
	my ($self, @options) = @_;
	my $directory = $self->data_dir;

	no warnings 'redefine';
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		my ($program, @arguments) = @_;
		return $run->($program, @arguments) if $program ne 'initdb';
		return $run->('cp', '-a', template($self->pg_version, $directory, @arguments), $directory);
	};
	$self->SUPER::init(@options);
	# to compile queries takes longer than these tests' queries do; make check has it on elsewhere
	$self->append_conf('postgresql.conf', 'jit = off');
	return;
}

# PostgreSQL's own looks ten times a second: most of what tests wait for comes sooner.
sub poll_query_until
{
	my ($self, $database, $query, $expected) = @_;
	my @psql = ($self->installed_command('psql'), '-XAt', '-d', $self->connstr($database), '-c', $query);
	my $start = time;
	my ($said, $error);

	$expected //= 't';
	for (my $pause = 0.01; time - $start < $PostgreSQL::Test::Utils::timeout_default; $pause = min(2 * $pause, 0.1))
	{
		# nothing to write to one that is refused
		IPC::Run::run(\@psql, '<', '/dev/null', '>', \$said, '2>', \$error);
		chomp($said, $error);
		return 1 if $said eq $expected && $error eq '';
		sleep $pause;
	}
	Test::More::diag("this has not become $expected in time:\n$query\nIt was: $said\n$error");
	return 0;
}

1;
