# Who waits for events sleeps until there are some: appended, let go by another
# consumer, or come free with the end of a lease. What cannot be read yet because
# of another open append wakes the waiter when that ends.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Node;

foreach my $preload ('', 'evsource')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('subscriptions' . $preload, "shared_preload_libraries = '$preload'\nmax_prepared_transactions = 5\nevsource.daemon = off");
	my ($sql) = asking($node);
	$sql->(q{create extension evsource},
		q{select evsource.create_subscription('some', categories => '{some}')},
		q{select evsource.create_subscription('all')});

	my $waiter = $node->background_psql('postgres', on_error_stop => 0);
	my $asleep = q{select count(*) from pg_stat_activity where state = 'active' and query ~ 'with got'
		and wait_event in ('Extension', 'EvsourceFetch') and pid <> pg_backend_pid()};
	my $wait = sub {
		my ($subscription, $for) = @_;
		$waiter->query_until(qr/begun/, "\\set VERBOSITY sqlstate\n\\echo begun\n"
			. "with got as materialized (select * from evsource.fetch_events('$subscription', wait => '" . ($for // '60 s') . "'))\n"
			. "select 'got', string_agg(stream, ',' order by position), bool_and(evsource.ack(receipt)) from got;\n\\echo :LAST_ERROR_SQLSTATE ended\n");
		$node->poll_query_until('postgres', $asleep, '1') or die 'nobody waits';
	};
	my $ended = sub {
		my $out = $waiter->query_until(qr/ended/, '');
		my $error = $waiter->{stderr} =~ /ERROR: +(\w+)/ ? $1 : '';
		$waiter->{stderr} = '';
		return $error || ($out =~ /^got\|([^|]*)\|/m)[0];
	};

	my $start = time;
	$wait->('some');
	$sql->(q{select evsource.append('other-1', 'Written')});
	is($sql->($asleep), 1, "$mode: an append to another category does not end the wait");
	$sql->(q{select evsource.append('some-1', 'Written')});
	is($ended->(), 'some-1', "$mode: one to its own does");

	$sql->(q{with got as materialized (select * from evsource.fetch_events('all')) select bool_and(evsource.ack(receipt)) from got});
	$wait->('all');
	$sql->(q{insert into evsource.events (stream, type) values ('row-1', 'Inserted')});
	is($ended->(), 'row-1', "$mode: a row that is inserted wakes a subscription to everything");

	# a cursor that is far behind is moved on, and not kept from others by who waits
	$sql->(q{insert into evsource.events (stream, type) select 'other-1', 'Many' from generate_series(1, 2000)});
	is($sql->(q{select count(*) from evsource.fetch_events('some', wait => '60 s')}), 0, "$mode: who has locked a cursor does not wait");
	cmp_ok($sql->(q{select lag from evsource.subscription_status where subscription = 'some'}), '==', 0, "$mode: it has moved on");
	$sql->(q{select evsource.seek_subscription('all', as_of => 'infinity')});

	# an open append to another category holds it back, and wakes by its end
	my $open = $node->background_psql('postgres');
	$open->query_safe(q{begin});
	$open->query_safe(q{select evsource.append('other-1', 'Written')});
	$wait->('some');
	$sql->(q{select evsource.append('some-2', 'Written')});
	is($sql->($asleep), 1, "$mode: what is not safe to read is waited for");
	$open->query_safe(q{rollback});
	is($ended->(), 'some-2', "$mode: until the append that holds it back ends");
	$open->quit;

	$wait->('some');
	$sql->(q{begin}, q{select evsource.append('some-3', 'Written')}, q{prepare transaction 'p'});
	is($sql->($asleep), 1, "$mode: a prepared append is not committed");
	$sql->(q{commit prepared 'p'});
	is($ended->(), 'some-3', "$mode: then it is");

	# another consumer
	$sql->(q{select evsource.append('some-4', 'Written')});
	my $receipt = $sql->(q{select receipt from evsource.fetch_events('some')});
	$wait->('some');
	$sql->("select evsource.nack('$receipt', retry_after => '0')");
	is($ended->(), 'some-4', "$mode: what another consumer gives back ends the wait");

	$sql->(q{select evsource.append('some-5', 'Written')});
	$sql->(q{select receipt from evsource.fetch_events('some', lease => '500 ms')});
	$wait->('some');
	is($ended->(), 'some-5', "$mode: and so does the end of its lease");

	# another consumer that had it in a transaction, and takes it back
	$sql->(q{select evsource.append('some-6', 'Written')});
	my $other = $node->background_psql('postgres');
	$other->query_safe($_) for q{begin}, q{select from evsource.fetch_events('some')};
	$wait->('some');
	$other->query_safe(q{rollback});
	is($ended->(), 'some-6', "$mode: and a transaction that gives it back without a word");
	$other->quit;

	# a consumer that has its cursor locked, in a transaction that is not committed
	$sql->(q{select evsource.append('some-26', 'Written')});
	$other = $node->background_psql('postgres');
	my $fetch = q{select count(*) from evsource.fetch_events('some', lease => '%s')};
	my $hold = sub { $other->query_safe($_) for 'begin', @_ };
	$hold->(sprintf $fetch, '1 hour');
	$wait->('some');
	is($sql->($asleep), 1, "$mode: what another has fetched and not committed is waited for");
	$other->query_safe('rollback');
	is($ended->(), 'some-26', "$mode: until that is rolled back");

	$sql->(q{select evsource.append('some-27', 'Written')});
	$hold->('savepoint s', sprintf $fetch, '1 hour');
	$wait->('some');
	$other->query_safe('rollback to s');
	is($ended->(), 'some-27', "$mode: or the part of the transaction that has done so");
	$other->query_safe('commit');

	$sql->(q{select evsource.append('some-28', 'Written')});
	$hold->(sprintf $fetch, '1 hour');
	$wait->('some');
	$sql->(q{select pg_terminate_backend(pid) from pg_stat_activity where query ~ '^select count.*1 hour'});
	is($ended->(), 'some-28', "$mode: or its session ends");

	# and does not wake a waiter when it is: that one still learns when the lease is over
	$other = $node->background_psql('postgres');
	$sql->(q{select evsource.append('some-29', 'Written')});
	$hold->(sprintf $fetch, '1 s');
	$wait->('some');
	$other->query_safe('commit');
	is($ended->(), 'some-29', "$mode: it commits, and then its lease runs out");

	# a lease that has run out while its owner is at work: no reason to look all the time
	$sql->(q{select evsource.append('some-30', 'Written')});
	$other->query_safe(q{create temporary table got as select * from evsource.fetch_events('some', lease => '1 ms')});
	$hold->(q{select evsource.ack(receipt) from got});
	$wait->('some');
	my $sleeping = grep { $sql->($asleep) } 1 .. 20;
	cmp_ok($sleeping, '>', 15, "$mode: who waits for a cursor that is locked sleeps");
	$other->query_safe('rollback');
	is($ended->(), 'some-30', "$mode: until it is not any more");
	$other->quit;

	# what is wanted changes under who waits
	$wait->('some', '20 s');
	$sql->(q{select evsource.alter_subscription('some', categories => '{given}')});
	$sql->(q{select evsource.append('given-1', 'Written')});
	is($ended->(), 'given-1', "$mode: an append to a category that it was given meanwhile");
	$wait->('some', '20 s');
	$sql->(q{select evsource.alter_subscription('some', categories => '{some,given}')});
	$sql->(q{select evsource.append('some-7', 'Written')});
	is($ended->(), 'some-7', "$mode: or to one of two");
	$wait->('some', '20 s');
	$sql->(q{select evsource.alter_subscription('some', categories => '{some}')});
	$sql->(q{select evsource.append('given-2', 'Written')});
	is($sql->($asleep), 1, "$mode: not to one that was taken from it");
	$sql->(q{select evsource.seek_subscription('some', (select position - 1 from evsource.events where stream = 'some-7'))});
	is($ended->(), 'some-7', "$mode: what is to be handed out again");
	$sql->(q{select evsource.alter_subscription('some', max_attempts => 1)}, q{select evsource.append('some-8', 'Written')},
		q{select evsource.nack(receipt) from evsource.fetch_events('some')}, q{select from evsource.fetch_events('some')});
	$wait->('some', '20 s');
	$sql->(q{select evsource.retry_subscription_dead_letters('some')});
	is($ended->(), 'some-8', "$mode: and a dead letter that is tried again");

	# a wait of more milliseconds than an integer holds
	$sql->(q{select evsource.seek_subscription('all', as_of => 'infinity')});
	$wait->('all', '60 days');
	$sql->(q{select evsource.append('other-2', 'Written')});
	is($ended->(), 'other-2', "$mode: a wait of months ends, too, when there is something");

	# a consumer that has acknowledged in its transaction does not sleep in it
	$sql->(q{select evsource.append('some-9', 'Written')});
	is($sql->(q{create temporary table got as select receipt from evsource.fetch_events('some')}, q{begin}, q{select evsource.ack(receipt) from got},
			q{select count(*) from evsource.fetch_events('some', wait => '50 s')}, q{commit}), "t\n0", "$mode: an ack is not kept open by a wait");

	# ends without events
	is($sql->(q{select count(*) from evsource.fetch_events('some', wait => '100 ms')}), 0, "$mode: the time is over");
	is($sql->(q{set evsource.max_wait = '100 ms'}, q{select count(*) from evsource.fetch_events('some', wait => '60 s')}), 0, "$mode: or evsource.max_wait is");
	$wait->('some');
	$sql->(q{select pg_cancel_backend(pid) from pg_stat_activity where query ~ 'with got' and pid <> pg_backend_pid()});
	is($ended->(), '57014', "$mode: a wait can be cancelled");
	my $dead = $node->background_psql('postgres');
	$dead->query_until(qr/begun/, "\\echo begun\nwith got as (select * from evsource.fetch_events('some', wait => '60 s')) table got;\n");
	$node->poll_query_until('postgres', $asleep, '1') or die 'nobody waits';
	$dead->{run}->kill_kill;
	$sql->(q{select evsource.append('some-31', 'Written')});
	$node->poll_query_until('postgres', q{select count(*) from pg_stat_activity where state = 'active' and query ~ 'with got' and pid <> pg_backend_pid()}, '0') or die 'it waits';
	is($sql->(q{select stream, attempt from evsource.fetch_events('some')}), 'some-31|1', "$mode: who waits for a client that is gone takes nothing");
	$wait->('some');
	$sql->(q{select evsource.drop_subscription('some')});
	is($ended->(), '42704', "$mode: and ends when the subscription is dropped");
	cmp_ok(time - $start, '<', 50, "$mode: nobody has waited to the end of the time given");

	$waiter->quit;
	$node->stop;
}

done_testing();
