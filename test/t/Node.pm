# A server of a test's own, and what most tests ask of it.

package Node;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use Test::More;

our @EXPORT = qw(start_node asking let_daemon_work);

# A server that runs with these settings; what follows them is for init().
sub start_node
{
	my ($name, $settings, @init) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(@init);
	$node->append_conf('postgresql.conf', $settings) if $settings;
	$node->start;
	return $node;
}

# Two functions that ask it: what statements return, and, as a test, for what is
# soon true. The names of these tests begin with a mode, where there is one.
sub asking
{
	my ($node, $mode) = @_;
	my $before = defined $mode ? "$mode: " : '';

	return (
		sub { return $node->safe_psql('postgres', join ';', @_) },
		sub {
			my ($query, $name) = @_;
			local $Test::Builder::Level = $Test::Builder::Level + 1;
			return ok($node->poll_query_until('postgres', $query), $before . $name);
		});
}

# The Makefile turns the daemon off by the options of each session, so that it
# leaves other tests alone.
sub let_daemon_work
{
	delete $ENV{PGOPTIONS};
	return;
}

1;
