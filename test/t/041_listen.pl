# LISTEN evsource_events: the daemon tells listeners that there is something to
# read, many appends at once, and none of that in the appender's transaction.
# Where nobody listens it sleeps, and does not start for it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FindBin;
use lib $FindBin::RealBin;
use Listener;
use Node;

let_daemon_work();

my $node;
my $sql = sub { return $node->safe_psql('postgres', join ';', @_) };
my $soon = sub { my ($query, $name) = @_; ok($node->poll_query_until('postgres', $query), $name) };
my $coordinators = q{select count(*) from pg_stat_activity where backend_type = 'evsource coordinator' and datname = 'postgres'};
my $append = sub { return $sql->("select position from evsource.append('account-1', 'Paid')") };

# Nothing comes within so many rounds of the daemon as these appends would take.
sub is_silent
{
	my ($listener, $name) = @_;
	sleep(0.2);
	is(join(' ', heard($listener)), '', $name);
}

# Whether the coordinator comes to sleep through this, five times in a row. At first
# something may still wake it that has happened before.
sub sleeps
{
	my ($happens) = @_;
	my $heartbeat = q{select heartbeat from evsource.daemon_status where role = 'coordinator'};
	my $slept = 0;
	for (1 .. 100)
	{
		my $then = $sql->($heartbeat);
		$happens->();
		# long enough for it to say that it lives, if it was woken
		sleep(0.1);
		$slept = $sql->($heartbeat) eq $then ? $slept + 1 : 0;
		return 1 if $slept == 5;
	}
	return 0;
}

$node = start_node('listen', q{
shared_preload_libraries = 'evsource'
max_prepared_transactions = 5
evsource.publish_interval = 0
});
$sql->(q{create extension evsource}, q{select evsource.create_subscription('mailer')});
$append->();
is($sql->($coordinators), 0, 'a subscription alone needs no daemon');

my $listener = listener($node, 'postgres');
$soon->("select ($coordinators) = 1", 'one who listens does');
heard_of($listener, $append->());
heard_of($listener, $append->());
is($sql->('select count(*) from evsource.fetch_events(\'mailer\')'), 3, 'and finds the events');
is_silent($listener, 'nothing is told twice');
ok(sleeps(sub { }), 'and while nothing happens the daemon sleeps');

# an append that is open holds back what comes after it
my $open = $node->background_psql('postgres');
$open->query_safe(q{begin});
$open->query_safe(q{select evsource.append('account-2', 'Paid')});
my $position = $append->();
is_silent($listener, 'what is not safe to read is not told');
$open->query_safe(q{rollback});
heard_of($listener, $position);
ok(1, 'it is when the append that holds it back has ended');

$sql->(q{begin}, q{select evsource.append('account-2', 'Paid')}, q{prepare transaction 'p'});
$position = $append->();
is_silent($listener, 'nor what a prepared one holds back');
$sql->(q{commit prepared 'p'});
heard_of($listener, $position);

# many commits are one message
my $before = $append->();
heard_of($listener, $before);
$node->safe_psql('postgres', q{do $$ begin for i in 1 .. 3000 loop perform evsource.append('account-1', 'Paid'); commit; end loop; end $$});
my @heard = heard_of($listener, $before + 3000);
cmp_ok(scalar @heard, '<', 1000, 'appends are told of together');
is(join(' ', @heard), join(' ', sort { $a <=> $b } @heard), 'positions rise');

# another database hears nothing, the same one all who listen
$sql->('create database other');
my $stranger = listener($node, 'other');
my $second = listener($node, 'postgres');
$position = $append->();
heard_of($_, $position) for $listener, $second;
is_silent($stranger, 'other databases hear nothing');
$stranger->quit;

# who takes it back in a subtransaction that fails still listens
$listener->query_safe($_) for 'begin', 'savepoint s', 'unlisten *', 'rollback to s', 'commit';
$second->quit;
$soon->(q{select count(*) = 0 from pg_stat_activity where query = 'listen evsource_events' and pid <> pg_backend_pid() and state = 'idle'}, 'the other one has gone');
heard_of($listener, $append->());

# when nobody listens it sleeps, and leaves
$sql->(q{select evsource.create_projection('sums', 'evsource.fold_count', mode => 'async')});
$soon->(q{select count(*) = 1 and bool_and(lag = 0) from evsource.projection_status where worker_pid is not null}, 'a projection is applied');
$listener->query_safe('unlisten *');
# woken by the end of the listening, and when it is over that it might begin again
ok(sleeps(sub { $append->() for 1 .. 5 }), 'with nobody who listens appends do not wake the coordinator');
$sql->(q{select evsource.drop_projection('sums')});
$soon->("select ($coordinators) = 0", 'it leaves when nothing else is to be done');

# DISCARD ALL, with which a pooler hands a session on, ends it, too
$listener->query_safe('listen evsource_events');
$soon->("select ($coordinators) = 1", 'it comes back');
$listener->query_safe('discard all');
$soon->("select ($coordinators) = 0", 'and leaves after DISCARD ALL');

# a session that ends listens no more
$listener->query_safe('listen evsource_events');
$soon->("select ($coordinators) = 1", 'it comes back');
heard_of($listener, $append->());
# (now, because the launcher sends somebody to look after a reload, who may tell at once)
$node->append_conf('postgresql.conf', q{evsource.notify_interval = '1h'});
$node->reload;
$listener->quit;
$soon->(q{with w as materialized (select evsource.append('account-1', 'Paid')) select (} . $coordinators . q{) = 0 from w}, 'it leaves when who listened has gone');

# after a silence there is a message at once, and then none before the interval is over
$position = $append->();
$listener = listener($node, 'postgres');
heard_of($listener, $position);
$append->() for 1 .. 4;
$position = $append->();
is_silent($listener, 'a long notify_interval is kept');
$node->append_conf('postgresql.conf', 'evsource.notify_interval = 5ms');
$node->reload;
heard_of($listener, $position);
ok(1, 'until it is made shorter');
$listener->quit;
$soon->(q{with w as materialized (select evsource.append('account-1', 'Paid')) select (} . $coordinators . q{) = 0 from w}, 'it leaves again');

# it can be turned off
$node->append_conf('postgresql.conf', 'evsource.notify_interval = 0');
$node->reload;
$listener = listener($node, 'postgres');
$append->();
is_silent($listener, 'nobody is told where notify_interval is 0');
is($sql->($coordinators), 0, 'nor is there a daemon for it');
$listener->quit;
$open->quit;
$node->stop;

# Not preloaded, a daemon that was started by hand tells whether somebody listens or not.
$node = start_node('listen_by_hand');
$sql->(q{create extension evsource});
$listener = listener($node, 'postgres');
$append->();
$sql->('select evsource.start_daemon()');
heard_of($listener, $append->());
heard_of($listener, $append->());
ok(1, 'a daemon that was started by hand tells, too');
$sql->('select evsource.stop_daemon()');
$listener->quit;
$node->stop;

done_testing();
