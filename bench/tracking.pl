# tracking.pl - what it costs an append to publish its lowest position: in a slot
# of shared memory, or, where there is none, as a lock. Against a build that can
# leave it out; nothing else differs.
use strict;
use warnings;

my $script = <<'END';
\set version :n % 20
\set stream (:client_id + 1) * 100000000 + :n / 20
\set n :n + 1
SELECT (evsource.append('account-' || :stream, 'MoneyDeposited', :data, expected_version => :version)).version;
END
my %budget = (slots => [ 'slots of shared memory', 1.02 ], tags => [ 'lock tags', 1.10 ]);

Bench::start_server(pg_config => Bench::build('-DEVS_BENCH_TRACKING'));
for my $clients (1, 32)
{
	Bench::fresh_database();
	my $data = Bench::sql('select bench.data(1234567)');
	my $side = 0;
	my $name = "order tracking, $clients client" . ($clients > 1 ? 's' : '');
	my $result = Bench::loads_in_turns($name, map {
		($_ => { clients => $clients, script => $script, options => "-c evsource.order_tracking=$_",
			vars => { n => 300_000_000 * $side++, data => $data } })
	} qw(off slots tags));
	for my $tracking ('slots', 'tags')
	{
		my ($what, $limit) = @{ $budget{$tracking} };
		my $cpu = Bench::ratio($result->{$tracking}{cpu}, $result->{off}{cpu});
		Bench::row(
			path => "$name, $what",
			budget => sprintf('CPU ≤ %.2f × append without', $limit),
			measured => sprintf('CPU %.2f × (%s), tx/s %.2f ×', $cpu, Bench::figure($result->{$tracking}{cpu}, 'µs'),
				Bench::ratio($result->{$tracking}{rate}, $result->{off}{rate})),
			floor => Bench::figure($result->{off}{cpu}, 'µs'),
			checks => [ [ 'CPU', $cpu, '<=', $limit ] ]);
	}
}
Bench::stop_server();
1;
