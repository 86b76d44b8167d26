# rebuild.pl - async read models made anew by rebuild_projection and, from the
# request to the end, by the daemon.
use strict;
use warnings;
use Time::HiRes qw(sleep time);

my $events = 500_000;
my $query = "insert into balances as b
	select stream, sum((data->>'amount')::numeric), count(*) from new_events group by stream
	on conflict (account) do update set balance = b.balance + excluded.balance, events = b.events + excluded.events";

Bench::start_server();
Bench::fresh_database();
Bench::fill_log(events => $events, streams => 10_000, data => "bench.data(i) || jsonb_build_object('balance', i)");
Bench::sql('vacuum analyze evsource.events');
Bench::sql('create table public.balances (account text primary key, balance numeric, events bigint)');
Bench::sql("select evsource.create_projection('balances', mode => 'async', tables => '{balances}', query => \$q\$$query\$q\$)");
Bench::sql("create function public.fold(state jsonb, e evsource.event) returns jsonb language plpgsql as
	'begin return state || e.data; end'");
my $session = BenchSession->new;

sub wait_for_end { $session->value("select evsource.wait_for('$_[0]', evsource.safe_position(), '5min')") }
wait_for_end('balances');

# By the daemon: from the request to the end.
sub rebuild_by_daemon
{
	my ($projection) = @_;
	my $start = time;
	$session->value("select evsource.request_rebuild('$projection')");
	sleep(0.002) while $session->value('select count(*) from evsource.progress');
	return { clock => (time - $start) * 1e6 / $events };
}
sub rebuild_by_call
{
	my ($projection, $online) = @_;
	return $session->cost("call evsource.rebuild_projection('$projection', online => $online)", $events);
}
sub events_per_second { return Bench::short(1e6 / Bench::median(@{ $_[0]{clock} })) }

my $rebuild = Bench::in_turns('async query projection, rebuild',
	floor => sub {
		$session->value('create table public.floor (like public.balances including all)');
		my $cost = $session->cost("insert into public.floor
			select stream, sum((data->>'amount')::numeric), count(*) from evsource.events group by stream", $events);
		$session->value('drop table public.floor');
		return $cost;
	},
	online => sub { return rebuild_by_call('balances', 'true') },
	'in place' => sub { return rebuild_by_call('balances', 'false') },
	daemon => sub { return rebuild_by_daemon('balances') });
my $speed = Bench::ratio($rebuild->{floor}{cpu}, $rebuild->{'in place'}{cpu});
my $online = Bench::ratio($rebuild->{floor}{cpu}, $rebuild->{online}{cpu});
# the daemon's is not checked: it is by the clock, as much the machine's as ours
Bench::row(
	path => 'async query projection, rebuild',
	budget => 'speed ≥ 0.6 ×',
	measured => sprintf('in place %.2f × (%s events/s), online %.2f × (%s), by the daemon %s', $speed, events_per_second($rebuild->{'in place'}),
		$online, events_per_second($rebuild->{online}), events_per_second($rebuild->{daemon})),
	floor => events_per_second($rebuild->{floor}) . ' events/s',
	checks => [ [ 'in place', $speed, '>=', 0.6 ], [ 'online', $online, '>=', 0.6 ] ]);

my @folds = ([ 'PL/pgSQL', 'public.fold', 290_000 ], [ 'C jsonb', 'evsource.fold_merge', 850_000 ], [ 'C state', 'evsource.fold_count', 1_400_000 ]);
for my $fold (@folds)
{
	my ($kind, $handler, $limit) = @$fold;
	$session->value("select evsource.create_projection('fold', handler => '$handler', mode => 'async', key => 'global', snapshots => 'disabled')");
	wait_for_end('fold');
	my $result = Bench::in_turns("async fold, $kind, rebuild",
		call => sub { return rebuild_by_call('fold', 'false') },
		daemon => sub { return rebuild_by_daemon('fold') });
	$session->value("select evsource.drop_projection('fold')");
	my $rate = 1e6 / Bench::median(@{ $result->{call}{cpu} });
	Bench::row(
		path => "async fold, $kind, rebuild_projection",
		budget => sprintf('≥ %s events/s', Bench::short($limit)),
		measured => sprintf('%s events/s (%s), by the daemon %s by the clock', Bench::short($rate), Bench::figure($result->{call}{cpu}, 'µs'), events_per_second($result->{daemon})),
		floor => 'none',
		checks => [ [ 'events/s', $rate / $limit, '>=', 1 ] ]);
}
Bench::stop_server();
1;
