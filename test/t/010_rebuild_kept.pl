# While an online rebuild holds an inline projection still before the exchange, one
# transaction waits to append, and others wait for a lock of it, or for a lock of one of
# those.  None of them can go on before the rebuild lets appends go: so it does not wait
# for their snapshots, or where it cannot tell them what they must not read any more, lets
# go of appends at once.  Here it would have an hour.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

foreach my $preload ('', 'evsource')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('rebuild_kept' . $preload, qq{
shared_preload_libraries = '$preload'
autovacuum = off
evsource.max_wait = 0
evsource.daemon = off
});
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	my ($sql, $soon) = asking($node, $mode);

	$sql->(q{
create extension evsource;
create table accounts (id int primary key, n int);
insert into accounts select i, 0 from generate_series(1, 3) i;
create table counts (stream text primary key, n int);
create function total() returns bigint stable parallel safe language plpgsql as 'begin return (select sum(n) from counts); end';
create table numbers as select n from generate_series(1, 80000) n;
analyze numbers;
}, count_events(), q{
select evsource.create_subscription('quiet', categories => '{quiet}');
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i % 4, 'Paid');
});
	my $total = 20;

	my ($rebuild, $open, $first, $second, $third) =
		map { Session->new(database => 'postgres', name => $_) } qw(rebuild open first second third);
	$rebuild->must(qq{set statement_timeout = '$PostgreSQL::Test::Utils::timeout_default s'});
	my %pid = map { $_->{name} => $_->must('select pg_backend_pid()') } ($rebuild, $first, $second, $third);
	my $waits = sub {
		$soon->("select exists (select from pg_locks where pid = $pid{$_[0]} and not granted)", "$_[0] waits");
	};
	my $append = q{select version from evsource.append('account-1', 'Paid');};
	my $ended = q{select not exists (select from evsource.progress)};

	my $comes_to_barrier = sub {
		$open->must('begin');
		$open->must($append);
		$_[0] ? $sql->(q{select evsource.request_rebuild('counts', online => true); select evsource.start_daemon()}) :
			$rebuild->send(q{call evsource.rebuild_projection('counts', online => true, lock_timeout => '1h');});
		$soon->(q{select exists (select from evsource.progress where waits_for is not null)}, 'an open append is in the way');
	};
	my $has_barrier = sub {
		$open->must('commit');
		$total++;
		$soon->(qq{select exists (select from pg_locks l, evsource.progress p where relation = 'evsource.events'::regclass
			and mode = 'ShareRowExclusiveLock' and granted and p.waits_for @> array[$pid{second}])},
			'the projection is held still, for old snapshots are there');
	};

	# The others wait since the moments between the last look without locks and the exchange.
	# By a call, or by the daemon.  Then the first one appends, and commits when it has; so
	# the others go on, and do what is left.
	my $scene = sub {
		my ($what, $by_daemon, $others_wait, $others_go_on) = @_;

		$comes_to_barrier->($by_daemon);
		$first->must('begin');
		$others_wait->();
		$has_barrier->();
		$first->send($append);

		my $rebuild_ends = sub {
			return $soon->($ended, "the daemon's rebuild ends: $what") if $by_daemon;
			is(ends($rebuild), '', "$mode: the rebuild ends: $what");
		};
		$rebuild_ends->() if $preload;
		is($sql->('select total()'), $total, "$mode: with all events but the one that waits") if $preload;
		like(ends($first), qr/^\d+$/, "$mode: who waited to append has appended");
		$first->must('commit');
		$others_go_on->();
		$rebuild_ends->() if !$preload;
		is($sql->('select total()'), ++$total, "$mode: with all events");
	};

	# a row; and a chain, for who waits for it has another row locked
	foreach my $by_daemon (0, 1)
	{
		if ($by_daemon)
		{
			$sql->(q{alter system set evsource.daemon = on; select pg_reload_conf()});
		}
		$scene->('others wait for its row', $by_daemon, sub {
			$first->must('update accounts set n = n + 1 where id = 1');
			$second->must('begin');
			$second->must('update accounts set n = n + 1 where id = 2');
			$second->send('update accounts set n = n + 1 where id = 1;');
			$waits->('second');
			$third->send('update accounts set n = n + 1 where id = 2;');
			$waits->('third');
		}, sub {
			is(ends($second), '', "$mode: then one that waited for its row goes on");
			$second->must('commit');
			is(ends($third), '', "$mode: then who waited for the other row does");
		});
	}
	is($sql->('select array_agg(n order by id) from accounts'), '{4,4,0}', "$mode: each has done it once");
	$sql->(q{alter system set evsource.daemon = off; select pg_reload_conf()});
	$soon->(q{select not exists (select from pg_stat_activity where backend_type like 'evsource w%')}, 'the daemon is gone');

	# a statement that comes to the table after it has waited, with the snapshot that it had
	$scene->('a statement waits that has not come to the table', 0, sub {
		$first->must('select from accounts where id = 1 for update');
		$second->send('select total() from (select from accounts where id = 1 for update) as mine;');
		$waits->('second');
	}, sub {
		is(ends($second), $preload ? '40001' : $total - 1, "$mode: it is to be run again, or has not been overtaken");
	});

	# the same in later statements, if they have that snapshot still
	foreach my $read ('select sum(n) from counts', "copy counts to '/dev/null'")
	{
		$scene->('a transaction waits that has not come to the table', 0, sub {
			$first->must('select pg_advisory_xact_lock(1)');
			$second->must('begin isolation level repeatable read');
			$second->send('select pg_advisory_xact_lock(1);');
			$waits->('second');
		}, sub {
			is(ends($second), '', "$mode: it goes on");
			$second->send("$read;");
			is(ends($second), $preload ? '40001' : $read =~ /copy/ ? '' : $total - 1, "$mode: $read then");
			$second->must('rollback');
		});
	}

	# others that import its snapshot, as the workers of pg_dump do, and parallel workers
	my $snapshot;
	$scene->('a transaction waits whose snapshot others import', 0, sub {
		$first->must('select pg_advisory_xact_lock(1)');
		$second->must('begin isolation level repeatable read');
		$snapshot = $second->must('select pg_export_snapshot()');
		$second->send('select pg_advisory_xact_lock(1);');
		$waits->('second');
	}, sub {
		is(ends($second), '', "$mode: it goes on");
		$third->must('begin isolation level repeatable read');
		$third->must("set transaction snapshot '$snapshot'");
		$third->send('select sum(n) from counts;');
		is(ends($third), $preload ? '40001' : $total - 1, "$mode: who imports it does not read, either");
		$third->must('rollback');
		$second->must('set local parallel_setup_cost = 0; set local parallel_tuple_cost = 0; set local min_parallel_table_scan_size = 0; set local parallel_leader_participation = off');
		$second->send('select max(total()) from numbers where n % 40000 = 7;');
		is(ends($second), $preload ? '40001' : $total - 1, "$mode: nor does a parallel worker");
		$second->must('rollback');
	});
	# and a transaction that has begun after it may
	$first->must('begin isolation level repeatable read');
	$first->send('select sum(n) from counts;');
	is(ends($first), $total, "$mode: who begins afterwards reads all");
	$first->must('commit');

	# one that waits to append itself, and is told that it must not read any more
	$comes_to_barrier->();
	$second->must('begin isolation level repeatable read');
	$second->must('select 1');
	$second->must('savepoint before');
	$has_barrier->();
	$second->send($append);
	is(ends($rebuild), '', "$mode: a rebuild ends while an append waits");
	is(ends($second), '40001', "$mode: which is to be tried again");
	$second->must('rollback to before');
	$second->send('select sum(n) from counts;');
	is(ends($second), '40001', "$mode: as is what it reads") if $preload;
	ends($second) if !$preload;
	$second->must('rollback');

	# who sleeps in fetch_events() keeps others waiting, too
	$first->must('begin');
	$first->must('select from accounts where id = 1 for update');
	$first->send(q{select evsource.ack(receipt) from evsource.fetch_events('quiet', wait => '1h');});
	$soon->(qq{select exists (select from pg_stat_activity where pid = $pid{first}
		and wait_event in ('Extension', 'EvsourceFetch', 'EvsourceWait'))}, 'a consumer sleeps');
	$second->send('update accounts set n = n + 1 where id = 1;');
	$waits->('second');
	$rebuild->send(q{call evsource.rebuild_projection('counts', online => true, lock_timeout => '1h');});
	is(ends($rebuild), '', "$mode: a rebuild ends while somebody waits for the row of who sleeps") if $preload;
	$sql->(q{select evsource.append('quiet-1', 'Paid')});
	is(ends($first), 't', "$mode: the consumer has what came");
	$first->must('commit');
	is(ends($second), '', "$mode: then who waited for its row goes on");
	is(ends($rebuild), '', "$mode: and the rebuild ends") if !$preload;
	is($sql->('select total()'), $total, "$mode: with all events");

	$_->close for $rebuild, $open, $first, $second, $third;
	$node->stop;
}

done_testing();
