# capture.pl: the tables of pgbench are what their events say, and capturing them costs
# no more than twice what the audit trigger does that one writes by hand.
#
# The TPC-B of pgbench, 8 clients, in turns on four tables that are captured and on four
# with an audit trigger in PL/pgSQL. Then the captured ones are built anew from the events
# alone, by projections, and must be equal to the row.
#
# It runs for 4 seconds each; where EVSOURCE_STRESS_EVENTS is all for 30, and then the
# transactions a second must be half as many at least.
use strict;
use warnings;
use Server;

my $whole = ($ENV{EVSOURCE_STRESS_EVENTS} // '') eq 'all';
my ($turns, $seconds) = $whole ? (3, 10) : (1, 4);
my %key = (accounts => 'aid', branches => 'bid', tellers => 'tid', history => undef);

my $server = Server->new(database => 'evsource_stress_capture');
my $session = $server->session;

sub pgbench
{
	my ($schema, @options) = @_;
	local $ENV{PGOPTIONS} = "-c search_path=$schema -c synchronous_commit=off";
	my $output = `pgbench @options $server->{database} 2>&1`;
	die "pgbench @options failed:\n$output" if $?;
	return $output;
}

for my $schema (qw(audited captured))
{
	$session->must("create schema $schema");
	pgbench($schema, '-i', '-q', '-s', 4);
}
$session->must('create table audited.log (id bigint generated always as identity primary key,'
	. ' at timestamptz not null default clock_timestamp(), table_name text not null, operation text not null, old jsonb, new jsonb)');
$session->must(q{create function audited.log() returns trigger language plpgsql as $$ begin
	insert into audited.log (table_name, operation, old, new) values (tg_table_name, tg_op, to_jsonb(old), to_jsonb(new));
	return null; end $$});
for my $name (sort keys %key)
{
	$session->must("create trigger log after insert or update or delete on audited.pgbench_$name for each row execute function audited.log()");
	$session->must("select evsource.capture_table('captured.pgbench_$name', backfill => true"
		. ($key{$name} ? ')' : ", key_columns => '{aid}')"));
}
$session->must('vacuum analyze');

my %count = (audited => 0, captured => 0);
for my $turn (1 .. $turns)
{
	for my $schema ($turn % 2 ? qw(audited captured) : qw(captured audited))
	{
		pgbench($schema, '-n', '-b', 'tpcb-like', '-M', 'prepared', '-c', 8, '-j', 2, '-T', $seconds)
			=~ /actually processed: (\d+)/ or die "pgbench does not say how many\n";
		$count{$schema} += $1;
	}
}

# The history is every row ever inserted, the others are what the last event of each
# stream says.
$session->must('create schema rebuilt');
my $failure = '';
for my $name (sort keys %key)
{
	my $table = "pgbench_$name";
	my $rows = "new_events e, jsonb_populate_record(null::rebuilt.$table, e.data -> 'new') r";
	my $query = "insert into rebuilt.$table select r.* from $rows";
	$session->must("create table rebuilt.$table (like captured.$table including all)");
	if (my $key = $key{$name})
	{
		my $columns = $session->must("select string_agg(format('%1\$I = excluded.%1\$I', attname), ', ') from pg_attribute"
			. " where attrelid = 'rebuilt.$table'::regclass and attnum > 0 and attname <> '$key'");
		$query = "insert into rebuilt.$table select distinct on (e.stream) r.* from $rows"
			. " order by e.stream, e.version desc on conflict ($key) do update set $columns";
	}
	$session->must("select evsource.create_projection('$name', mode => 'manual', categories => '{$table}', query => \$\$$query\$\$)");
	$session->must("select evsource.run_projection('$name')");
	my $differences = $session->must("select count(*) from ((table captured.$table except all table rebuilt.$table)"
		. " union all (table rebuilt.$table except all table captured.$table)) d");
	$failure .= "$table differs in $differences rows\n" if $differences > 0;
}
my ($history, $balance) = map { $session->must($_) } 'select count(*) from rebuilt.pgbench_history',
	'select (select sum(delta) from rebuilt.pgbench_history) = (select sum(bbalance) from rebuilt.pgbench_branches)';
my $ratio = $count{captured} / $count{audited};
$failure .= "$history rows of history after $count{captured} transactions\n" if $history != $count{captured};
$failure .= "the books do not balance\n" if $balance ne 't';
$failure .= sprintf "captured, it does %.2f times the transactions of an audit trigger\n", $ratio if $whole && $ratio < 0.5;
my $events = $session->must('select count(*) from evsource.events');
$session->close;
if ($failure)
{
	print "capture: @{[$server->mode]}: $failure";
	exit 1;
}
$server->drop;
printf "capture: %s: %d transactions in %d s, %d events: the four tables built from them are equal; %.2f x the audit trigger's %d\n",
	$server->mode, $count{captured}, $turns * $seconds, $events, $ratio, $count{audited};
