# A rebuild waits for an open append again and again, each time until a lock timeout.  When a
# request of another process comes together with that, PostgreSQL raises the timeout, and has
# forgotten to look at the rest: the request must not be kept waiting until the next one comes.

use strict;
use warnings;

use Config;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'usleep';

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

plan skip_all => 'needs /proc to see which signals a process has got' unless -r "/proc/$$/status";

my %number;
@number{ split ' ', $Config::Config{sig_name} } = split ' ', $Config::Config{sig_num};

# Has the process, which is stopped, got the signal?
sub has_got
{
	my ($pid, $signal) = @_;
	my ($pending) = slurp_file("/proc/$pid/status") =~ /^ShdPnd:\s*(\w+)$/m;
	return hex($pending) >> ($number{$signal} - 1) & 1;
}

my $node = start_node('interrupted_waits', "evsource.daemon = off\n");
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my ($sql, $soon) = asking($node);

$sql->('create extension evsource', 'create table counts (stream text primary key, n int)', count_events(),
	q{select evsource.append('account-1', 'Paid')});
$sql->("create database the_$_") for 'first', 'second', 'third';

my ($open, $rebuild, $drop) = map { Session->new(database => 'postgres', name => $_) } ('open', 'rebuild', 'drop');
$open->must('begin');
$open->must(q{select version from evsource.append('account-1', 'Paid')});
my $pid = $rebuild->must('select pg_backend_pid()');
$rebuild->send(q{call evsource.rebuild_projection('counts', lock_timeout => '1h');});
my $waits = qq{select exists (select from pg_stat_activity where pid = $pid and wait_event = 'virtualxid')};
$soon->($waits, 'a rebuild waits for an open append');

# Between two waits it has no timeout ahead, though it may still seem to wait.
sub stop_waiting
{
	while (1)
	{
		kill 'STOP', $pid;
		for (1 .. 200)
		{
			last if $sql->($waits) ne 't';
			return if has_got($pid, 'ALRM');
			usleep(100_000);
		}
		kill 'CONT', $pid;
		usleep(10_000);
	}
}

# every process of the server is to close the files of a database that is dropped
my $dropping = q{select from pg_stat_activity where query like 'drop database%' and state = 'active'};
foreach my $turn ('first', 'second', 'third')
{
	stop_waiting();
	$drop->send("drop database the_$turn;");
	$soon->(qq{select exists ($dropping and wait_event = 'ProcSignalBarrier')}, "$turn: who drops a database waits for it");
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if has_got($pid, 'ALRM') && has_got($pid, 'USR1');
		usleep(100_000);
	}
	ok(has_got($pid, $_), "$turn: it has got SIG$_") for 'ALRM', 'USR1';
	kill 'CONT', $pid;
	$soon->("select not exists ($dropping)", "$turn: the database is dropped while the rebuild waits") or do { $node->stop('immediate'); done_testing(); exit 1 };
	is(ends($drop), '', "$turn: without an error");
}

$open->must('commit');
is(ends($rebuild), '', 'the rebuild ends after the append');
is($sql->('select n from counts'), 2, 'with all events');

$_->close for $open, $rebuild, $drop;
$node->stop;
done_testing();
