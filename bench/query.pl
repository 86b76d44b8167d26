# query.pl - a query projection: rebuilt from the log, against one INSERT ...
# SELECT ... GROUP BY over it, without and with the query's ON CONFLICT; and inline,
# against a hand-written statement trigger with a transition table that maintains
# the same table.
use strict;
use warnings;

my $events = 200_000;
my $upsert = "insert into public.balances as b
	select stream, sum((data->>'amount')::numeric), count(*) from new_events group by stream
	on conflict (account) do update set balance = b.balance + excluded.balance, events = b.events + excluded.events";

# ---- rebuild ----

Bench::start_server();
Bench::fresh_database();
Bench::fill_log(events => $events, streams => 10_000);
Bench::sql('vacuum analyze evsource.events');
Bench::sql('create table public.balances (account text primary key, balance numeric, events bigint)');
Bench::sql("select evsource.create_projection('balances', mode => 'manual', query => \$q\$$upsert\$q\$, tables => array['public.balances'])");
my $session = BenchSession->new;

(my $same = $upsert) =~ s/new_events/evsource.events/;
my $rebuild = Bench::in_turns('query projection, rebuild',
	floor => sub {
		$session->value('truncate public.balances');
		return $session->cost("insert into public.balances
			select stream, sum((data->>'amount')::numeric), count(*) from evsource.events group by stream", $events);
	},
	same => sub {
		$session->value('truncate public.balances');
		return $session->cost($same, $events);
	},
	evsource => sub {
		$session->value("select evsource.reset_projection('balances')");
		return $session->cost("select evsource.run_projection('balances')", $events);
	});
my $speed = Bench::ratio($rebuild->{floor}{cpu}, $rebuild->{evsource}{cpu});
Bench::row(
	path => 'query projection, rebuild',
	budget => 'speed ≥ 0.6 ×',
	measured => sprintf('%.2f × (%s events/s), %.2f × of the same with ON CONFLICT',
		$speed, Bench::short(1e6 / Bench::median(@{ $rebuild->{evsource}{clock} })),
		Bench::ratio($rebuild->{same}{cpu}, $rebuild->{evsource}{cpu})),
	floor => sprintf('%s events/s', Bench::short(1e6 / Bench::median(@{ $rebuild->{floor}{clock} }))),
	checks => [ [ 'speed', $speed, '>=', 0.6 ] ]);

# ---- inline ----

Bench::fresh_database();
Bench::sql('create table public.balances (account text primary key, balance numeric, events bigint) with (fillfactor = 50)');
Bench::sql('create table floor.balances (like public.balances including all) with (fillfactor = 50)');
(my $floor_upsert = $upsert) =~ s/public\.balances/floor.balances/;
Bench::sql("create function floor.maintain() returns trigger language plpgsql as \$f\$ begin $floor_upsert; return null; end \$f\$");
Bench::sql('create trigger maintain after insert on floor.events referencing new table as new_events
	for each statement execute function floor.maintain()');
Bench::sql("select evsource.create_projection('balances', query => \$q\$$upsert\$q\$)");
my $data = Bench::sql('select bench.data(1234567)');

my $next_event = <<'END';
\set version :n % 20
\set stream (:client_id + 1) * 100000000 + :n / 20
\set n :n + 1
END
my $side = sub {
	my ($statement) = @_;
	return { clients => 1, script => "$next_event$statement\n", vars => { n => 0, data => $data } };
};
my $inline = Bench::loads_in_turns('query projection, inline',
	floor => $side->("INSERT INTO floor.events (version, stream, type, data) VALUES (:version + 1, 'account-' || :stream, 'MoneyDeposited', :data);"),
	evsource => $side->("SELECT (evsource.append('account-' || :stream, 'MoneyDeposited', :data, expected_version => :version)).version;"));
my $cost = Bench::ratio($inline->{evsource}{cpu}, $inline->{floor}{cpu});
Bench::row(
	path => 'query projection, inline, 1 event',
	budget => 'CPU ≤ 1.15 × INSERT + statement trigger',
	measured => sprintf('CPU %.2f × (%s), tx/s %.2f ×', $cost, Bench::figure($inline->{evsource}{cpu}, 'µs'),
		Bench::ratio($inline->{evsource}{rate}, $inline->{floor}{rate})),
	floor => Bench::figure($inline->{floor}{cpu}, 'µs'),
	checks => [ [ 'CPU', $cost, '<=', 1.15 ] ]);
Bench::stop_server();
1;
