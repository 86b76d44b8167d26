# Sessions that listen to evsource_events, and what they hear: positions.

package Listener;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time sleep);

our @EXPORT = qw(listener heard heard_of);

sub listener
{
	my ($node, $database) = @_;
	my $session = $node->background_psql($database);

	$session->query_safe('listen evsource_events');
	return $session;
}

# What it has heard since it was last asked.
sub heard
{
	my ($listener) = @_;

	return $listener->query_safe('select 1') =~ /"evsource_events" with payload "(\d+)"/g;
}

# All that it hears until it has heard of this position.
sub heard_of
{
	my ($listener, $position) = @_;
	my @heard;

	for (my $start = time; time - $start < $PostgreSQL::Test::Utils::timeout_default; sleep 0.05)
	{
		push @heard, heard($listener);
		return @heard if @heard && $heard[-1] >= $position;
	}
	die "nobody told of position $position, but of: @heard\n";
}

1;
