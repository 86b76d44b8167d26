# capture.pl - what it costs to capture the four tables of pgbench while its TPC-B
# runs: 8 clients, 30 seconds, against the audit trigger that one writes by hand
# in PL/pgSQL. Then the tables are built anew from the events alone.
use strict;
use warnings;

my @tables = qw(accounts branches tellers history);
my $scale = 10;

Bench::start_server();
Bench::fresh_database();
for my $schema (qw(audited captured))
{
	Bench::sql("create schema $schema");
	local $ENV{PGOPTIONS} = "-c search_path=$schema";
	Bench::run_or_die("pgbench -i -q -s $scale > /dev/null 2>&1");
}
# its ids are counted as the floor's positions
Bench::sql("create table audited.log (
		id bigint primary key default nextval('floor.position_seq'), at timestamptz not null default clock_timestamp(),
		table_name text not null, operation text not null, old jsonb, new jsonb);
	create function audited.log() returns trigger language plpgsql as '
	begin
		insert into audited.log (table_name, operation, old, new) values (tg_table_name, tg_op, to_jsonb(old), to_jsonb(new));
		return null;
	end'");
for my $table (@tables)
{
	Bench::sql("create trigger log after insert or update or delete on audited.pgbench_$table
		for each row execute function audited.log()");
	my $key = $table eq 'history' ? ", key_columns => array['aid']" : '';
	Bench::sql("select evsource.capture_table('captured.pgbench_$table', backfill => true$key)");
}
Bench::sql('vacuum analyze');
Bench::sql('checkpoint');

my $script = <<'END';
\set aid random(1, 100000 * :scale)
\set bid random(1, :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
update pgbench_tellers set tbalance = tbalance + :delta where tid = :tid;
update pgbench_branches set bbalance = bbalance + :delta where bid = :bid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (:tid, :bid, :aid, :delta, current_timestamp);
end;
END

{
	local ($Bench::rounds, $Bench::seconds) = (1, 30);
	my %load = (clients => 8, script => $script, vars => { scale => $scale }, turn => 0.5);
	my $result = Bench::loads_in_turns('capture', map { ($_ => { %load, options => "-c search_path=$_" }) } qw(audited captured));
	my ($ours, $audit) = @$result{qw(captured audited)};
	my ($rate, $cpu, $wal) = map { Bench::ratio($ours->{$_}, $audit->{$_}) } qw(rate cpu wal);
	Bench::row(
		path => 'capture, TPC-B on four tables, 8 clients',
		budget => 'tx/s ≥ 0.5 × audit trigger, aim: above 1 ×',
		measured => sprintf('tx/s %.2f ×, CPU %.2f × (%s a transaction), WAL %.2f ×',
			$rate, $cpu, Bench::figure([ map { 4 * $_ } @{ $ours->{cpu} } ], 'µs'), $wal),
		floor => sprintf('%s tx/s, %s', Bench::short(Bench::median(@{ $audit->{rate} }) / 4),
			Bench::figure([ map { 4 * $_ } @{ $audit->{cpu} } ], 'µs')),
		checks => [ [ 'tx/s', $rate, '>=', 0.5 ] ]);
}
1;
