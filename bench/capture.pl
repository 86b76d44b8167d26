# capture.pl - what it costs to capture the four tables of pgbench while its TPC-B
# runs: 8 clients, 30 seconds in turns, against the audit trigger that one writes by
# hand in PL/pgSQL. Then the tables are built anew from the events alone, and compared.
use strict;
use warnings;
use Time::HiRes qw(time);

my @tables = map { "pgbench_$_" } qw(accounts branches tellers history);
my %key = (accounts => 'aid', branches => 'bid', tellers => 'tid');
my ($scale, $turns, $seconds) = (10, 10, 3);

Bench::start_server();
Bench::fresh_database();
for my $schema (qw(audited captured))
{
	Bench::sql("create schema $schema");
	local $ENV{PGOPTIONS} = "-c search_path=$schema";
	Bench::run_or_die("pgbench -i -q -s $scale > /dev/null 2>&1");
}
Bench::sql("create table audited.log (
		id bigint generated always as identity primary key, at timestamptz not null default clock_timestamp(),
		table_name text not null, operation text not null, old jsonb, new jsonb);
	create function audited.log() returns trigger language plpgsql as '
	begin
		insert into audited.log (table_name, operation, old, new) values (tg_table_name, tg_op, to_jsonb(old), to_jsonb(new));
		return null;
	end'");
for my $table (@tables)
{
	Bench::sql("create trigger log after insert or update or delete on audited.$table
		for each row execute function audited.log()");
	my $key = $table eq 'pgbench_history' ? ", key_columns => array['aid']" : '';
	Bench::sql("select evsource.capture_table('captured.$table', backfill => true$key)");
}
Bench::sql('vacuum analyze');
Bench::sql('checkpoint');

# The CPU time of the backends that have ended, in microseconds.
my ($postmaster) = split /\n/, Bench::sql("select pg_read_file('postmaster.pid')");
my $tick = 1e6 / (`getconf CLK_TCK` || 100);
sub cpu_of_children
{
	open my $in, '<', "/proc/$postmaster/stat" or die "no /proc/$postmaster\n";
	my @fields = split ' ', (<$in> =~ s/.*\) //r);
	return ($fields[13] + $fields[14]) * $tick;
}

# One turn: transactions a second, and CPU and WAL of a transaction.
sub run_turn
{
	my ($schema) = @_;
	my $wal = "select pg_current_wal_insert_lsn() - '0/0'";
	my ($cpu, $bytes) = (cpu_of_children(), Bench::sql($wal));
	local $ENV{PGOPTIONS} = "-c search_path=$schema -c synchronous_commit=off";
	my $output = `pgbench -n -b tpcb-like -M prepared -c 8 -j 2 -T $seconds 2>&1`;
	my ($count) = $output =~ /actually processed: (\d+)/ or die "bench: pgbench failed\n$output";
	my ($rate) = $output =~ /tps = ([\d.]+)/;
	$bytes = Bench::sql($wal) - $bytes;
	return { rate => $rate, cpu => (cpu_of_children() - $cpu) / $count, wal => $bytes / $count };
}

{
	local $Bench::rounds = $turns;
	my $result = Bench::in_turns('capture', map { my $schema = $_; ($schema => sub { run_turn($schema) }) } qw(audited captured));
	my ($ours, $audit) = @$result{qw(captured audited)};
	my ($rate, $cpu, $wal) = map { Bench::ratio($ours->{$_}, $audit->{$_}) } qw(rate cpu wal);
	Bench::row(
		path => 'capture, TPC-B on four tables, 8 clients',
		budget => 'tx/s ≥ 0.5 ×',
		measured => sprintf('tx/s %.2f ×, CPU %.2f × (%s a transaction), WAL %.2f ×',
			$rate, $cpu, Bench::figure($ours->{cpu}, 'µs'), $wal),
		floor => sprintf('audit trigger in PL/pgSQL: %s tx/s, %s, %s bytes', Bench::short(Bench::median(@{ $audit->{rate} })),
			Bench::figure($audit->{cpu}, 'µs'), Bench::short(Bench::median(@{ $audit->{wal} }))),
		checks => [ [ 'tx/s', $rate, '>=', 0.5 ] ]);
}

# From the events alone: the history is every row ever inserted, the others are
# what the last event of each stream says. The handler of all is one statement.
Bench::sql('create schema rebuilt');
my $clock = time;
for my $table (@tables)
{
	(my $name = $table) =~ s/pgbench_//;
	my $row = "new_events e, jsonb_populate_record(null::rebuilt.$table, e.data -> 'new') r";
	Bench::sql("create table rebuilt.$table (like captured.$table including all)");
	my $query = "insert into rebuilt.$table select r.* from $row";
	if (my $key = $key{$name})
	{
		my $columns = Bench::sql("select string_agg(format('%1\$I = excluded.%1\$I', attname), ', ') from pg_attribute
			where attrelid = 'rebuilt.$table'::regclass and attnum > 0 and attname <> '$key'");
		$query = "insert into rebuilt.$table select distinct on (e.stream) r.* from $row
			order by e.stream, e.version desc on conflict ($key) do update set $columns";
	}
	Bench::sql("select evsource.create_projection('$name', mode => 'manual', categories => array['$table'], query => \$\$$query\$\$)");
	Bench::sql("select evsource.run_projection('$name')");
}
$clock = time - $clock;
my $events = Bench::sql('select count(*) from evsource.events');
my $differences = 0;
for my $table (@tables)
{
	my $count = Bench::sql("select count(*) from (
		(table captured.$table except all table rebuilt.$table) union all
		(table rebuilt.$table except all table captured.$table)) d");
	print STDERR "bench: rebuilt $table differs in $count rows\n" if $count > 0;
	$differences += $count;
}
Bench::row(
	path => 'capture, the four tables rebuilt from events',
	budget => 'equal',
	measured => sprintf('%s events, %s rows differ; %s events/s', Bench::short($events), $differences, Bench::short($events / $clock)),
	floor => 'none',
	checks => [ [ 'equality', $differences, '<=', 0 ] ]);
Bench::stop_server();
1;
