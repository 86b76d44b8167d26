# Who waits for a projection sleeps until a transaction that moves it commits, and
# then sees the read model. Who holds the log back is told, also when it is a
# prepared transaction.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

foreach my $preload ('', 'evsource')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('wait' . $preload, "shared_preload_libraries = '$preload'\nmax_prepared_transactions = 5");
	my ($sql) = asking($node);

	$sql->(q{
create extension evsource;
create table seen (position bigint primary key, type text);
select evsource.create_projection('seen', mode => 'manual', tables => '{seen}', categories => '{waited}',
    query => 'insert into seen select position, type from new_events');
select evsource.create_projection('other', 'evsource._noop', mode => 'manual')});

	# an open session that waits
	my $waiter = $node->background_psql('postgres', on_error_stop => 0);
	my $asleep = q{select count(*) from pg_stat_activity where state = 'active' and query ~ 'wait_for'
		and wait_event in ('Extension', 'EvsourceWait') and pid <> pg_backend_pid()};
	my $wait = sub {
		my ($call) = @_;
		$waiter->query_until(qr/begun/, "\\set VERBOSITY sqlstate\n\\echo begun\nselect $call > 0;\nselect count(*) from seen;\n\\echo :LAST_ERROR_SQLSTATE ended\n");
		$node->poll_query_until('postgres', $asleep, '1') or die 'nobody waits';
	};
	my $ended = sub {
		my $out = $waiter->query_until(qr/ended/, '');
		my $error = $waiter->{stderr} =~ /ERROR: +(\w+)/ ? $1 : '';
		$waiter->{stderr} = '';
		return $error || join ' ', $out =~ /^(t|\d+)$/mg;
	};
	my $append = q{select evsource.append('waited-1', 'Written')};
	my $append_other = q{select evsource.append('waited-2', 'Written')};

	$sql->($append);
	$wait->(q{evsource.wait_for('seen', timeout => null)});
	$sql->(q{select evsource.run_projection('other')});
	$sql->(q{begin; select evsource.run_projection('seen'); rollback});
	is($sql->($asleep), 1, "$mode: neither another projection nor a rollback ends the wait");
	$sql->(q{select evsource.run_projection('seen')});
	is($ended->(), 't 1', "$mode: the projection's commit does, and the next statement sees the read model");

	# an append that is open holds it back
	my $open = $node->background_psql('postgres');
	$open->query_safe(q{begin});
	$open->query_safe($append_other);
	$sql->($append);
	$wait->(q{evsource.wait_for('seen', timeout => null)});
	$sql->(q{select evsource.run_projection('seen')});
	is($sql->($asleep), 1, "$mode: a projection that cannot go on does not end the wait");
	is($sql->(q{select state, events_withheld from evsource.blockers}), 'idle in transaction|1', "$mode: and it is told who is in its way");
	$open->query_safe(q{commit});
	is($sql->(q{select count(*) from evsource.blockers}), 0, "$mode: which is nobody any more");
	$sql->(q{select evsource.run_projection('seen')});
	is($ended->(), 't 3', "$mode: until it can");
	$open->quit;

	# waiting in vain
	$sql->($append);
	$wait->(q{evsource.wait_for('seen', timeout => null)});
	$sql->(q{select evsource.pause_projection('seen')});
	is($ended->(), '55000', "$mode: a pause ends the wait");
	$sql->(q{select evsource.resume_projection('seen')});
	$sql->($append);
	$wait->(q{evsource.wait_for('seen', timeout => null)});
	$sql->(q{select pg_cancel_backend(pid) from pg_stat_activity where query ~ 'wait_for' and pid <> pg_backend_pid()});
	is($ended->(), '57014', "$mode: so does a cancel");
	$wait->(q{evsource.wait_for('other', timeout => null)});
	$sql->(q{select evsource.drop_projection('other')});
	is($ended->(), '42704', "$mode: and a drop");
	$wait->(q{evsource.wait_for('seen', timeout => '0.5s')});
	is($ended->(), 'VE009', "$mode: and the time");
	$sql->(q{select evsource.run_projection('seen')});
	$waiter->quit;

	# a prepared transaction holds the log back, and does so after a crash
	$sql->(q{begin; select evsource.append('p-1', 'Prepared'); prepare transaction 'forgotten'}, $append);
	my $told = q{select pid is null, gid, username = current_user, state is null, transaction_age > '0', first_position, events_withheld from evsource.blockers};
	my $first = $sql->(q{select safe_position + 1 from evsource.stats});
	is($sql->($told), "t|forgotten|t|t|t|$first|1", "$mode: a prepared transaction is told by its name");
	is($sql->(q{select in_flight, held_by from evsource.stats}), '1|prepared transaction forgotten', "$mode: also by stats");
	$node->stop('immediate');
	$node->start;
	is($sql->($told), "t|forgotten|t|t|t|$first|1", "$mode: after a crash as well");
	$sql->(q{rollback prepared 'forgotten'});
	is($sql->(q{select count(*) from evsource.blockers}), 0, "$mode: until it ends");

	# who dies holds nothing back
	$open = $node->background_psql('postgres', on_error_stop => 0);
	$open->query_safe(q{begin});
	$open->query_safe($append_other);
	$sql->($append);
	my $pid = $sql->(q{select pid from evsource.blockers});
	$sql->(qq{select pg_terminate_backend($pid)});
	ok($node->poll_query_until('postgres', q{select count(*) from evsource.blockers}, '0'), "$mode: a killed session is not in the way any more");
	eval { $open->quit };
	$node->stop;
}

done_testing();
