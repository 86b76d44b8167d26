# Crashes under appends that do not wait for the disk: the log is whole after
# each, and who follows it from outside has received exactly what is in it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Killing;
use Node;
use Session;

# What goes on until the server is gone, each commit a moment after the other.
my @appenders = map { "do \$\$ begin loop $_; commit; perform pg_sleep(0.0005); end loop; end \$\$;" } (
	q{perform evsource.append('one-1', 'One')},
	q{perform evsource.append('shared-1', 'One')},
	q{perform evsource.append_batch('batch-1', array_fill('Many'::text, array[20]), array_fill('{}'::jsonb, array[20]))},
	q{insert into evsource.events (stream, type) values ('shared-1', 'Inserted'), ('shared-2', 'Inserted')},
	q{perform evsource.append('undone-1', 'One'); if random() < 0.5 then rollback; end if},
	q{perform evsource.append('slow-1', 'One'); perform pg_sleep(0.02)});

# A consumer that is not in the database: it keeps what it received.
my @received;

sub poll
{
	my ($session) = @_;
	my ($after) = @received ? $received[-1] =~ /^(\d+)/ : 0;
	return $session->must("select position, stream, version, id from evsource.read_all($after)");
}

foreach my $preload ('', 'evsource')
{
	# nobody but the consumer sees to it that commits get to the disk
	my $node = start_node('crash' . $preload, qq{
shared_preload_libraries = '$preload'
synchronous_commit = off
wal_writer_delay = 10s
wal_writer_flush_after = 64MB
wal_buffers = 32MB
shared_buffers = 128MB
max_wal_size = 4GB
autovacuum = off
restart_after_crash = on
max_prepared_transactions = 10
});
	$node->safe_psql('postgres', 'create extension evsource');
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	@received = ();

	foreach my $how ('an immediate stop', 'a backend that is killed', 'an immediate stop in a quiet moment', 'a backend that is killed in a quiet moment')
	{
		my @sessions;
		for my $i (0 .. $#appenders)
		{
			push @sessions, Session->new(database => 'postgres', name => "appender $i");
			$sessions[-1]->send($appenders[$i]);
		}

		my $consumer = Session->new(database => 'postgres', name => 'consumer');
		# for a while, and on a slow machine for longer; the pause lets the others write
		my ($before, $start) = (scalar @received, time);
		while (time - $start < 0.7 || @received <= $before + 100)
		{
			push @received, poll($consumer);
			sleep 0.002;
			last if time - $start > $PostgreSQL::Test::Utils::timeout_default;
		}
		cmp_ok(scalar @received, '>', $before + 100, "$mode: the consumer is on its way");

		# Each full page of WAL is written soon: what can get lost is what came
		# last, when nothing comes after it.
		if ($how =~ /quiet/)
		{
			$consumer->must(q{select pg_terminate_backend(pid) from pg_stat_activity where query like 'do %'});
			1 while $consumer->must(q{select 1 from pg_stat_activity where query like 'do %'});
			$consumer->must(q{select evsource.append('quiet-1', 'One')});
			push @received, poll($consumer) for 1 .. 2;
		}

		if ($how =~ /immediate/)
		{
			$node->stop('immediate');
			$_->abandon for @sessions, $consumer;
			$node->start;
		}
		else
		{
			my $pid = $node->safe_psql('postgres', q{select pid from pg_stat_activity
				where backend_type = 'client backend' and pid <> pg_backend_pid() limit 1});
			kill_and_wait($node, $pid);
			$_->abandon for @sessions, $consumer;
		}

		is($node->safe_psql('postgres', 'select stream from evsource.events group by stream having count(*) <> max(version)'),
			'', "$mode, $how: no stream has a gap");
		is($node->safe_psql('postgres', q{select count(*) from (select version, lag(version, 1, 0::bigint) over (partition by stream order by position) as before
			from evsource.events) e where version <> before + 1}), 0, "$mode, $how: positions follow the versions");
		is($node->safe_psql('postgres', 'select last_value = evsource.safe_position() from evsource.position_seq'), 't', "$mode, $how: nothing is in flight");
		cmp_ok($node->safe_psql('postgres', 'select last_value from evsource.position_seq'), '>=', $received[-1] =~ /^(\d+)/,
			"$mode, $how: no position that was handed out is drawn again");
	}

	# Then it goes on to the end of the log, and has what is there.
	my $consumer = Session->new(database => 'postgres', name => 'consumer');
	$consumer->must("select evsource.append('last-1', 'Last')");
	while (my @rows = poll($consumer)) { push @received, @rows }
	my @stored = split /\n/, $node->safe_psql('postgres', q{select concat_ws(' ', position, stream, version, evsource.event_id(e)) from evsource.events e order by position});
	my %received = map { $_ => 1 } @received;
	is(scalar(grep { !$received{$_} } @stored), 0, "$mode: of " . @stored . ' events the consumer has missed none');
	my %stored = map { $_ => 1 } @stored;
	is(scalar(grep { !$stored{$_} } @received), 0, "$mode: and has none that was lost");
	is(scalar(@received), scalar(@stored), "$mode: nor one twice");
	$consumer->close;
	$node->stop;
}

# With as little WAL as there may be, the transaction that makes the log writes no record of
# the positions that it draws, and what is drawn next must not count on one.
{
	my $node = start_node('minimal', "wal_level = minimal\nmax_wal_senders = 0\n");
	my ($sql) = asking($node);

	$sql->('begin', 'create extension evsource', q{select evsource.append('made-1', 'One')}, 'commit');
	$sql->(q{select evsource.append('kept-1', 'One')});
	$sql->('begin', q{select evsource.append('undone-1', 'One')}, 'rollback');
	$sql->(q{select evsource.append('kept-2', 'One')});
	my $received = $sql->('select max(position) from evsource.read_all()');

	$node->stop('immediate');
	$node->start;
	cmp_ok($sql->(q{select position from evsource.append('kept-3', 'One')}), '>', $received,
		'minimal WAL: no position that was handed out is drawn again');
	is($sql->("select string_agg(stream, ' ' order by position) from evsource.read_all()"), 'made-1 kept-1 kept-2 kept-3',
		'minimal WAL: and no event is hidden');
	$node->stop;
}

done_testing();
