# What is committed behind an open append is not safe to read. A consumer that waits for it
# sleeps until that append ends, however it does: other appends, which hold nothing back, do
# not wake it, and the end of the one that does is never missed.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Node;

my ($appends, $consumers, $seconds, $patience) = (40, 16, 6, 30);
my ($node, $sql, $mode, $preload, $appender);

sub session
{
	my (@statements) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_safe($_) for @statements;
	return $session;
}

sub asleep
{
	my ($count, $when) = @_;
	$node->poll_query_until('postgres', q{select count(*) from pg_stat_activity where state = 'active'
		and query ~ 'fetch_events' and wait_event in ('Extension', 'EvsourceFetch') and pid <> pg_backend_pid()}, $count)
		or die "$when: not $count sleep";
}

# Open appends, what they begin with and how they end in this order: [number, statement ...].
# Meanwhile so many wait for this subscription, and others append.
sub held
{
	my ($what, $subscription, $waiting, $open, @ends) = @_;
	my $begun = time;
	$sql->("select evsource.seek_subscription('$subscription', as_of => 'infinity')");
	my $safe = $sql->('select evsource.safe_position()');
	my @open = map { session('begin', $_) } @$open;
	my @waiters = map {
		my $waiter = $node->background_psql('postgres');
		$waiter->query_until(qr/begun/, "\\echo begun\nbegin;\n"
			. "select 'got', stream from evsource.fetch_events('$subscription', wait => '90 s');\n"
			. "select 'looks', seq_scan + coalesce(idx_scan, 0) from pg_stat_xact_all_tables where relid = 'evsource.subscriptions'::regclass;\n"
			. "commit;\n\\echo ended\n");
		$waiter;
	} 1 .. $waiting;
	asleep($waiting, $what);
	for my $i (1 .. $appends)
	{
		$appender->query_safe("select evsource.append('some-$i', 'Written')");
		# what the first has caused is over before the next comes
		asleep($waiting, $what) if $i < 3;
	}
	for my $end (@ends)
	{
		my ($number, @statements) = @$end;
		asleep($waiting, $what);
		$number < 0 ? $sql->($_) : $open[$number]->query($_) for @statements;
	}
	my $expected = $sql->("select stream from evsource.events where position > $safe and ('$subscription' <> 'some' or stream ~ '^some-') order by position");
	my ($looks, @got) = (0);
	# one of them has it; the others are for the next events
	for my $left (reverse 1 .. $waiting - 1)
	{
		asleep($left, $what);
		$sql->("select evsource.seek_subscription('$subscription', as_of => 'infinity')", q{select evsource.append('some-0', 'Next')});
	}
	for my $waiter (@waiters)
	{
		my $out = $waiter->query_until(qr/ended/, '');
		$looks += $1 if $out =~ /^looks\|(\d+)$/m;
		push @got, grep { $_ ne 'some-0' } $out =~ /^got\|(.*)$/mg;
	}
	is(join("\n", @got), $expected, "$mode, $what: gets all of it, in order");
	cmp_ok(time - $begun, '<', 60, "$mode, $what: at once");
	# three when each begins, two when it first sees that something is held back, and when an append ends that may have been it
	cmp_ok($looks, '<', $waiting * (12 + 2 * @ends), "$mode, $what: sleeps meanwhile ($looks looks)") if $preload;
	eval { $_->quit } for @open;
	$_->quit for @waiters;
}

# Of two of a group, who is woken by the end of the open append finds nothing, and goes. The
# other one is woken by the next event, whichever of them was there first.
sub goes
{
	my ($what, @patience) = @_;
	my $open = session('begin', q{select evsource.append('other-1', 'Open')});
	$sql->(q{select evsource.append('some-1', 'Written')});
	my @waiters = map {
		my $waiter = $node->background_psql('postgres');
		$waiter->query_until(qr/begun/, "\\echo begun\nselect 'got', stream from evsource.fetch_events('parts', wait => '$_ s');\n\\echo ended\n");
		asleep(1, $what) if $_ == $patience[0];
		$waiter;
	} @patience;
	asleep(2, $what);
	$sql->(q{select evsource.seek_subscription('parts', after_position => (select max(position) from evsource.events))});
	asleep(2, $what);
	$open->query('commit');
	my ($first, $last) = $patience[0] < $patience[1] ? (0, 1) : (1, 0);
	$waiters[$first]->query_until(qr/ended/, '');
	my $begun = time;
	$sql->(q{select evsource.append('some-2', 'Written')});
	like($waiters[$last]->query_until(qr/ended/, ''), qr/^got\|some-2$/m, "$mode, $what: is woken");
	cmp_ok(time - $begun, '<', 45, "$mode, $what: at once");
	$_->quit for $open, @waiters;
}

my $other = q{select evsource.append('other-1', 'Open')};
my $another = q{select evsource.append('another-1', 'Open')};
foreach my $library ('', 'evsource')
{
	$preload = $library;
	$mode = $preload ? 'preloaded' : 'not preloaded';
	$node = start_node('held' . $preload, "shared_preload_libraries = '$preload'\nmax_prepared_transactions = 5\nevsource.daemon = off\nevsource.max_wait = 0\nsynchronous_commit = off");
	($sql) = asking($node);
	$sql->(q{create extension evsource}, q{select evsource.append('some-1', 'First')},
		map { "select evsource.create_subscription('$_->[0]', start => 'now'$_->[1])" }
			[ 'some', q{, categories => '{some}'} ], [ 'types', q{, types => '{Written,Next,Open}'} ], [ 'all', '' ], [ 'parts', ', partitions => 1' ]);

	$appender = session();
	held('a commit', 'some', 1, [$other], [ 0, 'commit' ]);
	held('a rollback', 'some', 1, [$other], [ 0, 'rollback' ]);
	held('a subscription to types', 'types', 1, [$other], [ 0, 'commit' ]);
	held('a subscription to everything', 'all', 1, [$other], [ 0, 'commit' ]);
	held('a group', 'parts', 3, [$other], [ 0, 'commit' ]);
	held('a savepoint that is rolled back', 'some', 1, ["savepoint s; $other"], [ 0, 'rollback to s' ], [ 0, 'commit' ]);
	held('the first that ends first', 'some', 1, [ $other, $another ], [ 0, 'rollback' ], [ 1, 'commit' ]);
	held('the first that ends last', 'all', 1, [ $other, $another ], [ 1, 'commit' ], [ 0, 'rollback' ]);
	held('a prepared transaction', 'some', 1, [$other], [ 0, q{prepare transaction 'p'} ], [ -1, q{commit prepared 'p'} ]);
	held('one that is rolled back', 'some', 1, [ $other, $another ], [ 0, q{prepare transaction 'p'} ], [ 1, 'commit' ], [ -1, q{rollback prepared 'p'} ]);
	held('a session that is ended', 'some', 1, [$other], [ -1, q{select pg_terminate_backend(pid) from evsource.blockers} ]);
	held('an import above', 'some', 1, [ q{insert into evsource.events (position, stream, version, type, id, recorded_at)
		select safe_position + 100000, 'imported-' || safe_position, 1, 'Open', gen_random_uuid(), now() from evsource.stats} ], [ 0, 'commit' ]);

	goes('the first of a group goes', 3, 90);
	goes('the second of a group goes', 90, 3);

	$appender->quit;

	# consumers that wait, each for its own, and writers that hold up the log for a while,
	# or not: one that misses the end of what it waits for is not woken by any later one
	$sql->(q{create table over (at timestamptz)}, q{create table seen (consumer int, position bigint)}, q{create table lost (consumer int)},
		"select count(evsource.create_subscription('consumer' || i, start => 'now', categories => case when i % 2 = 0 then array['c' || i % 4] end)) from generate_series(1, $consumers) i",
		qq{create procedure consume(me int) language plpgsql as \$\$
		declare
			got evsource.fetched_event[];
			since timestamptz;
		begin
			loop
				since := clock_timestamp();
				got := array(select f from evsource.fetch_events('consumer' || me, wait => '$patience s') f);
				-- found only because the time was over
				if clock_timestamp() > since + interval '$patience s' / 2 then
					insert into lost values (me);
				end if;
				exit when 'Last' = any (array(select type from unnest(got)));
				insert into seen select me, position from unnest(got);
				perform evsource.ack(got[cardinality(got)].receipt) where cardinality(got) > 0;
				commit;
			end loop;
			insert into seen select me, position from unnest(got);
		end \$\$},
		q{create procedure write(me int) language plpgsql as $$
		begin
			loop
				perform evsource.append('c' || (random() * 3)::int || '-' || me, 'Written');
				perform pg_sleep(random() * 0.02) where random() < 0.2;
				perform evsource.append('d-' || me, 'Written') where random() < 0.2;
				if random() < 0.2 then rollback; else commit; end if;
				perform pg_sleep(random() * 0.01) where random() < 0.5;
				exit when exists (select from over);
			end loop;
		end $$});
	my $call = sub {
		my ($call) = @_;
		my $session = $node->background_psql('postgres');
		$session->query_until(qr/begun/, "\\echo begun\ncall $call;\n\\echo ended\n");
		return $session;
	};
	my @consumers = map { $call->("consume($_)") } 1 .. $consumers;
	my @writers = map { $call->("write($_)") } 1 .. 6;
	# it takes time to come by chance to what must not happen
	sleep $seconds;
	$sql->(q{insert into over values (now())});
	$_->query_until(qr/ended/, '') for @writers;
	$sql->(q{select evsource.append('c' || i || '-1', 'Last') from generate_series(0, 3) i});
	$_->query_until(qr/ended/, '') for @consumers;
	$_->quit for @consumers, @writers;
	is($sql->('select count(*) from lost'), 0, "$mode: no wake-up is lost");
	is($sql->(qq{select count(*) from generate_series(1, $consumers) i cross join evsource.events e
		where e.position > (select min(position) from seen) and e.type = 'Written' and (i % 2 = 1 or e.stream like 'c' || i % 4 || '-%')
		and not exists (select from seen s where s.consumer = i and s.position = e.position)}), 0, "$mode: nor an event");
	$node->stop;
}

done_testing();
