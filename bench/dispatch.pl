# dispatch.pl - what it costs to hand an event to a handler that does nothing,
# beyond the walk through the log. The walk is measured by a projection whose
# filter no event passes.
use strict;
use warnings;

my $events = 200_000;

Bench::start_server();
Bench::fresh_database();
Bench::fill_log(events => $events, streams => 10_000);
Bench::sql('vacuum analyze evsource.events');
Bench::sql("create function public.noop(e evsource.event) returns void language plpgsql as 'begin end'");
my $session = BenchSession->new;

sub side
{
	my ($definition) = @_;
	return sub {
		$session->value("select evsource.create_projection('p', mode => 'manual', $definition)");
		my $cost = $session->cost("select evsource.run_projection('p')", $events);
		$session->value("select evsource.drop_projection('p')");
		return $cost;
	};
}

my $result = Bench::in_turns('dispatch',
	walk => side("handler => 'evsource._noop', types => array['None']"),
	c => side("handler => 'evsource._noop'"),
	plpgsql => side("handler => 'public.noop'"));

my @budget = (plpgsql => 'PL/pgSQL', 0.9, c => 'C', 0.1);
while (my ($which, $name, $limit) = splice @budget, 0, 3)
{
	my $overhead = Bench::median(map { $result->{$which}{cpu}[$_] - $result->{walk}{cpu}[$_] } 0 .. $Bench::rounds - 1);
	Bench::row(
		path => "event handler in $name",
		budget => "dispatch ≤ $limit µs an event",
		measured => sprintf('%.2f µs (%s events/s in all)', $overhead, Bench::short(1e6 / Bench::median(@{ $result->{$which}{clock} }))),
		floor => 'the walk: ' . Bench::figure($result->{walk}{cpu}, 'µs'),
		checks => [ [ 'dispatch', $overhead, '<=', $limit ] ]);
}
Bench::stop_server();
1;
