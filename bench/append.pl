# append.pl - one event a call, with the exact expected version, by 1, 8 and 32
# clients: each fills streams of its own with 20 events, one after the other.
use strict;
use warnings;

my $next_event = <<'END';
\set version :n % 20
\set stream (:client_id + 1) * 100000000 + :n / 20
\set n :n + 1
END
my %script = (
	evsource => $next_event . <<'END',
SELECT (evsource.append('account-' || :stream, 'MoneyDeposited', :data, expected_version => :version)).version;
END
	floor => $next_event . <<'END',
INSERT INTO floor.events (version, stream, type, data)
	VALUES (:version + 1, 'account-' || :stream, 'MoneyDeposited', :data);
END
);

Bench::start_server();
for my $clients (1, 8, 32)
{
	for my $sync ('off', 'on')
	{
		Bench::fresh_database();
		my $data = Bench::sql('select bench.data(1234567)');
		my $name = "append, 1 event, $clients client" . ($clients > 1 ? 's' : '') . ", synchronous_commit $sync";
		my $result = Bench::loads_in_turns($name, map {
			($_ => { clients => $clients, sync => $sync, script => $script{$_}, vars => { n => 0, data => $data } })
		} qw(floor evsource));
		my ($ours, $floor) = @$result{qw(evsource floor)};
		my ($cpu, $rate, $wal) = map { Bench::ratio($ours->{$_}, $floor->{$_}) } qw(cpu rate wal);
		Bench::row(
			path => $name,
			budget => 'CPU ≤ 0.95 ×, tx/s ≥ 0.95 ×, WAL ≤ 1.0 ×',
			measured => sprintf('CPU %.2f × (%s), tx/s %.2f ×, WAL %.2f ×',
				$cpu, Bench::figure($ours->{cpu}, 'µs'), $rate, $wal),
			floor => sprintf('%s, %s tx/s, %s bytes', Bench::figure($floor->{cpu}, 'µs'),
				Bench::short(Bench::median(@{ $floor->{rate} })), Bench::short(Bench::median(@{ $floor->{wal} }))),
			checks => [ [ 'CPU', $cpu, '<=', 0.95 ], [ 'tx/s', $rate, '>=', 0.95 ], [ 'WAL', $wal, '<=', 1.0 ] ]);
	}
}
Bench::stop_server();
1;
