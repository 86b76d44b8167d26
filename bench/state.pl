# state.pl - the state of a stream with a snapshot at most 50 events behind,
# against the plain SELECT of the snapshot's row and of the events after it: as a
# client does it by two prepared statements; by one; and by one of which the client
# gets only a count, so that nothing is paid but to read it all. Whoever folds in
# the client has yet to fold.
use strict;
use warnings;

Bench::start_server();
Bench::fresh_database();
Bench::sql("insert into evsource.events (stream, type, data)
	select 'ledger' || l || '-' || s, 'MoneyDeposited', jsonb_build_object('balance', i, 'last', 'deposit')
	from unnest(array[10, 100, 1000]) l, generate_series(1, 20) s, lateral generate_series(1, l) i");
Bench::sql("select evsource.create_projection('p', handler => 'evsource.fold_merge', snapshot_every => 50)");
# as an append leaves them: at most 50 events behind
Bench::sql("delete from evsource.snapshots; select evsource.save_snapshot('p')");
Bench::sql("insert into evsource.events (stream, type, data)
	select 'ledger' || l || '-' || s, 'MoneyDeposited', jsonb_build_object('balance', i, 'last', 'deposit')
	from unnest(array[10, 100, 1000]) l, generate_series(1, 20) s, lateral generate_series(1, least(l - 1, 49)) i");
Bench::sql("vacuum analyze $_") for 'evsource.events', 'evsource.snapshots';

my $session = BenchSession->new;
# every load as that of a session that has not seen the stream
$session->value('set evsource.state_cache_size = 0');
$session->value("prepare state(text) as select evsource.state('p', \$1)");
$session->value("prepare row(text) as select s.version, s.state from evsource.snapshots s where s.projection = 'p' and s.key = \$1");
$session->value("prepare tail(text, bigint) as select e.position, e.version, e.type, e.data from evsource.events e
	where e.stream = \$1 and e.version > \$2 order by e.version");
$session->value("prepare one(text) as select s.version, s.state from evsource.snapshots s where s.projection = 'p' and s.key = \$1
	union all (select e.version, e.data from evsource.snapshots s, evsource.events e
		where s.projection = 'p' and s.key = \$1 and e.stream = \$1 and e.version > s.version order by e.version)");
$session->value("prepare counted(text) as select count(s.state), count(e.data) from evsource.snapshots s
	left join evsource.events e on e.stream = s.key and e.version > s.version where s.projection = 'p' and s.key = \$1");
$session->value('set plan_cache_mode = force_generic_plan');
for my $length (10, 100, 1000)
{
	my $saved = $session->value("select version from evsource.snapshots where key = 'ledger$length-1'");
	my @streams = map { "ledger$length-$_" } 1 .. 20;
	my $ours = join ";\n", map { "execute state('$_')" } @streams;
	my $plain = join ";\n", map { ("execute row('$_')", "execute tail('$_', $saved)") } @streams;
	my ($one_statement, $counted) = map { my $name = $_; join ";\n", map { "execute $name('$_')" } @streams } qw(one counted);
	my $result = Bench::in_turns("state, $length events",
		evsource => sub { $session->cost(join(";\n", ($ours) x 10), 200) },
		floor => sub { $session->cost(join(";\n", ($plain) x 10), 200) },
		one => sub { $session->cost(join(";\n", ($one_statement) x 10), 200) },
		counted => sub { $session->cost(join(";\n", ($counted) x 10), 200) });
	my $ratio = Bench::ratio($result->{evsource}{cpu}, $result->{floor}{cpu});
	my $one = Bench::ratio($result->{evsource}{cpu}, $result->{one}{cpu});
	my $counted_ratio = Bench::ratio($result->{evsource}{cpu}, $result->{counted}{cpu});
	my $behind = $session->value("select evsource.stream_version('ledger$length-1')") - $saved;
	Bench::row(
		path => "state of $length events, snapshot $behind behind",
		budget => '≤ 1.5 × the plain SELECTs',
		measured => sprintf('%.2f × two, %.2f × one, %.2f × one whose rows are only counted (%s)',
			$ratio, $one, $counted_ratio, Bench::figure($result->{evsource}{cpu}, 'µs')),
		floor => join(', ', map { Bench::figure($result->{$_}{cpu}, 'µs') } qw(floor one counted)),
		checks => [ map { [ 'CPU', $_, '<=', 1.5 ] } $ratio, $one, $counted_ratio ]);
}
Bench::stop_server();
1;
