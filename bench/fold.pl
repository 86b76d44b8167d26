# fold.pl - folds: how many events a second go into states, and what a state of
# 1000 events costs to load.
use strict;
use warnings;

my $events = 200_000;
my %handler = (
	'PL/pgSQL' => 'public.fold',
	'C jsonb' => 'evsource.fold_merge',
	'C state' => 'evsource.fold_count');
my %rate_budget = ('PL/pgSQL' => 290_000, 'C jsonb' => 850_000, 'C state' => 1_400_000);

Bench::start_server();
Bench::fresh_database();
Bench::fill_log(events => $events, streams => 10_000, data => "jsonb_build_object('balance', i, 'last', 'deposit')");
Bench::sql("insert into evsource.events (stream, type, data)
	select 'ledger-' || (i % 20), 'MoneyDeposited', jsonb_build_object('balance', i) from generate_series(1, 20000) i order by i % 20");
Bench::sql('vacuum analyze evsource.events');
Bench::sql("create function public.fold(state jsonb, e evsource.event) returns jsonb language plpgsql as
	'begin return state || e.data; end'");
my $session = BenchSession->new;

# The states of all streams, in memory: nothing is written.
for my $kind ('PL/pgSQL', 'C jsonb', 'C state')
{
	my $result = Bench::in_turns("fold, $kind", evsource => sub {
		$session->value("select evsource.create_projection('p', handler => '$handler{$kind}', mode => 'manual', key => 'global',
			categories => array['account'], snapshots => 'disabled')");
		my $cost = $session->cost("select evsource.run_projection('p')", $events);
		$session->value("select evsource.drop_projection('p')");
		return $cost;
	});
	my $rate = 1e6 / Bench::median(@{ $result->{evsource}{cpu} });
	Bench::row(
		path => "fold, $kind",
		budget => sprintf('≥ %s events/s', Bench::short($rate_budget{$kind})),
		measured => sprintf('%s events/s (%s)', Bench::short($rate), Bench::figure($result->{evsource}{cpu}, 'µs')),
		floor => 'none',
		checks => [ [ 'events/s', $rate / $rate_budget{$kind}, '>=', 1 ] ]);
}

# A state of 1000 events, not remembered by the session.
my @state = (
	[ 'C', 'evsource.fold_merge', 'disabled', 1.0 ],
	[ 'PL/pgSQL', 'public.fold', 'disabled', 3.5 ],
	[ 'PL/pgSQL, with a snapshot', 'public.fold', 'default', 0.3 ]);
my $calls = join ";\n", map { "select evsource.state('p', 'ledger-$_')" } 0 .. 19;
$session->value('set evsource.state_cache_size = 0');
for my $state (@state)
{
	my ($name, $handler, $snapshots, $limit) = @$state;
	$session->value("select evsource.create_projection('p', handler => '$handler', categories => array['ledger'], snapshots => '$snapshots')");
	$session->value("select evsource.save_snapshot('p')") if $snapshots ne 'disabled';
	$session->value($calls);
	my $result = Bench::in_turns("state, $name", evsource => sub { $session->cost($calls, 20) });
	my $milliseconds = Bench::median(@{ $result->{evsource}{clock} }) / 1000;
	Bench::row(
		path => "state of 1000 events, $name",
		budget => "≤ $limit ms",
		measured => sprintf('%.2f ms, to psql and back', $milliseconds),
		floor => 'none',
		checks => [ [ 'time', $milliseconds, '<=', $limit ] ]);
	$session->value("select evsource.drop_projection('p')");
}
Bench::stop_server();
1;
