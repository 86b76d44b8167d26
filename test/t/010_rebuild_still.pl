# While an online rebuild holds an inline projection still before the exchange, nobody
# appends.  A session that waits for that with an older snapshot, whatever it appends, would
# read less of the read model than it knows to be applied: it tries again.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

my $node = start_node('rebuild_still', 'autovacuum = off');
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my (undef, $soon) = asking($node);

$node->safe_psql('postgres', q{
create extension evsource;
create table counts (stream text primary key, n int);
} . count_events() . q{
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i % 4, 'Paid');
});

my ($rebuild, $open, $reader, $appender) =
	map { Session->new(database => 'postgres', name => $_) } ('rebuild', 'open', 'reader', 'appender');
my $lock = sub { qq{select exists (select from pg_locks where relation = 'evsource.events'::regclass and mode = '$_[0]' and granted = $_[1])} };

my $count = 20;
foreach my $stream ('account-9', 'other-9')
{
	$open->must('begin');
	$open->must(q{select version from evsource.append('account-1', 'Paid')});
	$rebuild->send(q{call evsource.rebuild_projection('counts', online => true, lock_timeout => '1h');});
	$soon->(q{select exists (select from evsource.progress where waits_for is not null)}, 'an open append is in the way');
	foreach my $session ($reader, $appender)
	{
		$session->must('begin isolation level repeatable read');
		$session->must('select 1');
	}
	$open->must('commit');
	$count++;
	$soon->($lock->('ShareRowExclusiveLock', 'true'), 'the projection is held still, for old snapshots are there');
	$appender->send("select version from evsource.append('$stream', 'Paid');");
	$soon->($lock->('RowExclusiveLock', 'false'), "an append to $stream waits");
	$reader->must('commit');
	1 until $rebuild->receive;
	is(join(' ', $rebuild->lines), '', 'the exchange waits for the other snapshot only');
	1 until $appender->receive;
	is(join(' ', $appender->errors), '40001', 'who waited tries again');
	$appender->must('rollback');
	is($node->safe_psql('postgres', 'select sum(n) from counts'), $count, 'all is there');
}

done_testing();
