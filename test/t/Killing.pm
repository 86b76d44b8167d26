# A process of a server that is killed, and a server that comes back from it.
#
# A psql that is refused has ended before it reads its standard input, and writing
# to that then ends the test (psql() and poll_query_until() do). Here it has none.

package Killing;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time sleep);

our @EXPORT = qw(ask kill_and_wait);

# What the server says, or nothing where it does not answer.
sub ask
{
	my ($node, $query) = @_;
	my ($said, $error);

	IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $query ],
		'<', '/dev/null', '>', \$said, '2>', \$error) or return;
	chomp $said;
	return $said;
}

# Processes of a server, which is there again without them then; or the test dies.
sub kill_and_wait
{
	my ($node, @pids) = @_;
	my $gone = 'select not exists (select from pg_stat_activity where pid in (' . join(', ', @pids) . '))';

	kill 'KILL', @pids;
	for (my $start = time; time - $start < $PostgreSQL::Test::Utils::timeout_default; sleep 0.05)
	{
		return 1 if (ask($node, $gone) // '') eq 't';
	}
	die "the server is not back without @pids\n";
}

1;
