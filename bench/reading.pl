# reading.pl - streams and the log by the reading functions, against the plain
# ordered SELECT of the same rows, from a table that stores what they return: an
# id, metadata and a time for each event.
use strict;
use warnings;

my $columns = 'position, stream, version, type, data, metadata, id, occurred_at, recorded_at';

Bench::start_server();
Bench::fresh_database();
Bench::fill_log(events => 200_000, streams => 10_000);
Bench::sql("insert into evsource.events (stream, type, data)
	select 'ledger-' || (i % 20), 'MoneyDeposited', bench.data(i) from generate_series(1, 20000) i order by i % 20");
Bench::sql("insert into floor.events ($columns) select $columns from evsource.read_all(0, null)");
Bench::sql('vacuum analyze evsource.events');
Bench::sql('vacuum analyze floor.events');
my $session = BenchSession->new;

sub compare
{
	my ($path, $events, $ours, $floor) = @_;
	my $side = sub { my ($statements) = @_; return sub { $session->cost($statements, $events) } };
	$session->value($_) for $ours, $floor;
	my $result = Bench::in_turns($path, floor => $side->($floor), evsource => $side->($ours));
	my ($speed, $clock) = map { Bench::ratio($result->{floor}{$_}, $result->{evsource}{$_}) } qw(cpu clock);
	Bench::row(
		path => $path,
		budget => 'speed ≥ 0.9 ×',
		measured => sprintf('%.2f × by CPU (%s an event), %.2f × by the clock',
			$speed, Bench::figure($result->{evsource}{cpu}, 'µs'), $clock),
		floor => Bench::figure($result->{floor}{cpu}, 'µs'),
		checks => [ [ 'speed', $speed, '>=', 0.9 ] ]);
}

compare('log read, 1000 events a call', 100_000,
	join(";\n", map { "select * from evsource.read_all(" . $_ * 1000 . ", 1000)" } 0 .. 99),
	join(";\n", map { "select $columns from floor.events where position > " . $_ * 1000 . " order by position limit 1000" } 0 .. 99));

compare('stream read, 20 events', 20_000,
	join(";\n", map { "select * from evsource.read_stream('account-$_')" } 1 .. 1000),
	join(";\n", map { "select $columns from floor.events where stream = 'account-$_' order by version" } 1 .. 1000));

compare('stream read, 1000 events', 20_000,
	join(";\n", map { "select * from evsource.read_stream('ledger-$_')" } 0 .. 19),
	join(";\n", map { "select $columns from floor.events where stream = 'ledger-$_' order by version" } 0 .. 19));

Bench::stop_server();
1;
