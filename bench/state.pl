# state.pl - the state of a stream with a snapshot at most 50 events behind,
# against the plain SELECT of the snapshot's row and of the events after it: as a
# client does it by two prepared statements; by one; and by one of which the client
# gets only a count, so that nothing is paid but to read it all. Whoever folds in
# the client has yet to fold: that costs nothing here, and so little with evsource's
# own fold that the budget is the same. A fold in PL/pgSQL takes longer than to read
# the events, whoever calls it: it has a fourth floor, the SELECT that folds them by
# an aggregate of the same function, and its row says what the calls alone take.
use strict;
use warnings;

# The fold of doc/states.md; and the snapshot as a first event, for the aggregate.
my $account = q{
create function account(state jsonb, e evsource.event) returns jsonb
language plpgsql immutable as $$
begin
	return case e.type
		when 'Opened' then jsonb_build_object('owner', e.data ->> 'owner', 'balance', 0)
		when 'Deposited' then jsonb_set(state, '{balance}', to_jsonb((state ->> 'balance')::numeric + (e.data ->> 'amount')::numeric))
		when 'Withdrawn' then jsonb_set(state, '{balance}', to_jsonb((state ->> 'balance')::numeric - (e.data ->> 'amount')::numeric))
		when 'Snapshot' then e.data
		else state
	end;
end
$$;
create aggregate folded(evsource.event) (sfunc = account, stype = jsonb, initcond = '{}')};

my @folds = (
	{
		name => '', setup => '', handler => 'evsource.fold_merge',
		type => q{'MoneyDeposited'}, data => q{jsonb_build_object('balance', i, 'last', 'deposit')}
	},
	{
		name => ', PL/pgSQL fold', setup => $account, handler => 'account',
		type => q{case i when 1 then 'Opened' when 2 then 'Deposited' else case i % 3 when 0 then 'Withdrawn' else 'Deposited' end end},
		data => q{jsonb_build_object('amount', i, 'owner', 'Ada')}
	});

Bench::start_server();
for my $fold (@folds)
{
	Bench::fresh_database();
	Bench::sql($fold->{setup}) if $fold->{setup};
	my $append = "insert into evsource.events (stream, type, data)
		select 'ledger' || l || '-' || s, $fold->{type}, $fold->{data}
		from unnest(array[10, 100, 1000]) l, generate_series(1, 20) s, lateral";
	Bench::sql("$append generate_series(1, l) i");
	Bench::sql("select evsource.create_projection('p', handler => '$fold->{handler}', snapshot_every => 50)");
	# as an append leaves them: at most 50 events behind
	Bench::sql("delete from evsource.snapshots; select evsource.save_snapshot('p')");
	Bench::sql("$append generate_series(2, least(l, 50)) i");
	Bench::sql("vacuum analyze $_") for 'evsource.events', 'evsource.snapshots';
	measure($fold);
}
Bench::stop_server();

sub measure
{
	my ($fold) = @_;
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
	if ($fold->{setup})
	{
		$session->value("prepare folded(text) as select folded(r order by n) from (
			select 0::bigint, row(s.position, s.key, s.version, 'Snapshot', s.state, null, null, null, null)::evsource.event
			from evsource.snapshots s where s.projection = 'p' and s.key = \$1
			union all
			select e.version, row(e.position, e.stream, e.version, e.type, e.data, e.metadata, e.id, e.occurred_at, e.recorded_at)::evsource.event
			from evsource.snapshots s, evsource.events e
			where s.projection = 'p' and s.key = \$1 and e.stream = \$1 and e.version > s.version) x (n, r)");
		$session->value("create temporary table calls as select r from evsource.read_all(max_count => 2000) r where r.type = 'Deposited'");
	}
	$session->value('set plan_cache_mode = force_generic_plan');
	for my $length (10, 100, 1000)
	{
		my $saved = $session->value("select version from evsource.snapshots where key = 'ledger$length-1'");
		my $behind = $session->value("select evsource.stream_version('ledger$length-1')") - $saved;
		my @streams = map { "ledger$length-$_" } 1 .. 20;
		my $cost = sub { my ($statements) = @_; return sub { $session->cost(join(";\n", ($statements) x 10), 200) } };
		my $each = sub { my ($name) = @_; return $cost->(join ";\n", map { "execute $name('$_')" } @streams) };
		my @sides = (
			evsource => $each->('state'),
			floor => $cost->(join ";\n", map { ("execute row('$_')", "execute tail('$_', $saved)") } @streams),
			one => $each->('one'),
			counted => $each->('counted'));
		if ($fold->{setup})
		{
			die "bench: the aggregate makes another state\n"
				if $session->value("execute folded('ledger$length-1')") ne $session->value("execute state('ledger$length-1')");
			my $count = $session->value('select count(*) from calls');
			push @sides, folded => $each->('folded'),
				# so many calls as there are events to fold, and what it takes without them
				called => sub { $session->cost(q{select count(account('{"owner": "Ada", "balance": 7}', r)) from calls}, $count / $behind) },
				not_called => sub { $session->cost('select count(r) from calls', $count / $behind) };
		}
		my $result = Bench::in_turns("state, $length events$fold->{name}", @sides);
		my $over = sub { my ($floor) = @_; return Bench::ratio($result->{evsource}{cpu}, $result->{$floor}{cpu}) };
		my ($ratio, $one, $counted) = map { $over->($_) } qw(floor one counted);
		my $ours = Bench::figure($result->{evsource}{cpu}, 'µs');
		my $floors = join(', ', map { Bench::figure($result->{$_}{cpu}, 'µs') } qw(floor one counted));
		my %row = (
			path => "state of $length events, snapshot $behind behind$fold->{name}",
			budget => '≤ 1.5 × the plain SELECTs',
			measured => sprintf('%.2f × two, %.2f × one, %.2f × one whose rows are only counted (%s)', $ratio, $one, $counted, $ours),
			floor => $floors,
			checks => [ map { [ 'CPU', $_, '<=', 1.5 ] } $ratio, $one, $counted ]);
		if ($fold->{setup})
		{
			my $folded = $over->('folded');
			my $calls = Bench::median(@{ $result->{called}{cpu} }) - Bench::median(@{ $result->{not_called}{cpu} });
			%row = (%row,
				budget => '≤ 1.5 × the SELECT that folds',
				measured => sprintf('%.2f × one that folds by an aggregate (%s, of which the calls of the function take %s µs); %.2f × two, %.2f × one, %.2f × counted, which fold nothing',
					$folded, $ours, Bench::short($calls), $ratio, $one, $counted),
				floor => Bench::figure($result->{folded}{cpu}, 'µs') . ", folded; $floors",
				checks => [ [ 'CPU', $folded, '<=', 1.5 ] ]);
		}
		Bench::row(%row);
	}
}
1;
