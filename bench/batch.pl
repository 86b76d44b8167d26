# batch.pl - 100 and 1000 events a call to a new stream, against INSERT ... SELECT
# from the same arrays. The arrays lie ready in a table, so that neither side
# parses or sends them.
use strict;
use warnings;

my $next_stream = <<'END';
\set stream (:client_id + 1) * 100000000 + :n
\set n :n + 1
END
my %script = (
	evsource => $next_stream . <<'END',
SELECT evsource.append_batch('account-' || :stream, types, data, expected_version => 0)
	FROM bench.batches WHERE size = :size;
END
	floor => $next_stream . <<'END',
INSERT INTO floor.events (version, stream, type, data)
	SELECT event.version, 'account-' || :stream, event.type, event.data
	FROM bench.batches, unnest(types, data) WITH ORDINALITY event (type, data, version) WHERE size = :size;
END
);
my %budget = (100 => [ 1.2, 0.80 ], 1000 => [ 1.5, 0.70 ]);

Bench::start_server();
for my $size (100, 1000)
{
	for my $clients (1, 8, 32)
	{
		for my $sync ('off', 'on')
		{
			Bench::fresh_database();
			my ($rate_limit, $cpu_limit) = @{ $budget{$size} };
			my $name = "append, $size events a call, $clients client" . ($clients > 1 ? 's' : '') . ", synchronous_commit $sync";
			my $result = Bench::loads_in_turns($name, map {
				($_ => { clients => $clients, sync => $sync, turn => 0.4, script => $script{$_}, vars => { n => 0, size => $size } })
			} qw(floor evsource));
			my ($ours, $floor) = @$result{qw(evsource floor)};
			my ($cpu, $rate, $wal) = map { Bench::ratio($ours->{$_}, $floor->{$_}) } qw(cpu rate wal);
			Bench::row(
				path => $name,
				budget => sprintf('events/s ≥ %.1f ×, CPU ≤ %.2f ×', $rate_limit, $cpu_limit),
				measured => sprintf('events/s %.2f ×, CPU %.2f × (%s), WAL %.2f ×',
					$rate, $cpu, Bench::figure($ours->{cpu}, 'µs'), $wal),
				floor => sprintf('%s events/s, %s, %s bytes', Bench::short(Bench::median(@{ $floor->{rate} })),
					Bench::figure($floor->{cpu}, 'µs'), Bench::short(Bench::median(@{ $floor->{wal} }))),
				checks => [ [ 'events/s', $rate, '>=', $rate_limit ], [ 'CPU', $cpu, '<=', $cpu_limit ] ]);
		}
	}
}
Bench::stop_server();
1;
