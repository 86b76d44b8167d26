# A server of a test's own, and what most tests ask of it.

package Node;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

use Cluster;

our @EXPORT = qw(start_node asking let_daemon_work count_events ends);

# A server that runs with these settings; what follows them is for init().
sub start_node
{
	my ($name, $settings, @init) = @_;
	my $node = Cluster->new($name);

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

# An inline projection that counts the events of each account in the table counts,
# which is there.
sub count_events
{
	return q{
select evsource.create_projection('counts', categories => '{account}', tables => '{counts}', query =>
	'insert into counts as c select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = c.n + excluded.n');
};
}

# The end of what a session of test/stress was sent: its errors, else its lines.
sub ends
{
	my ($session) = @_;
	1 until $session->receive;
	return join ' ', $session->errors ? $session->errors : $session->lines;
}

# The Makefile turns the daemon off by the options of each session, so that it
# leaves other tests alone.
sub let_daemon_work
{
	delete $ENV{PGOPTIONS};
	return;
}

1;
