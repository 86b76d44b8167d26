# One worker rebuilds several projections in turns: each remembers whose end it
# waits for, and says it, so that transactions that overlap do not hold it up.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

my $node = start_node('daemon_rebuilds', q{
shared_preload_libraries = 'evsource'
autovacuum = off
evsource.max_workers = 1
});
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
select evsource.append('account-' || i % 10, 'Paid') from generate_series(1, 100) i;
});
foreach my $table ('one', 'two')
{
	$sql->(qq{
create table $table (stream text primary key, n int);
select evsource.create_projection('$table', tables => '{$table}', mode => 'async', query =>
	'insert into $table as t select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = t.n + excluded.n');
});
}
$soon->(q{select bool_and(lag = 0) from evsource.projection_status}, 'all is applied');
$sql->('update one set n = 0; update two set n = 0');

sub old_reader
{
	my $session = Session->new(database => 'postgres', name => $_[0]);
	$session->must("set application_name = '$_[0]'");
	$session->must('begin isolation level repeatable read');
	$session->must('select count(*) from one, two');
	return $session;
}
my $waits_for = sub { qq{select count(*) = 2 from evsource.progress p join pg_stat_activity a on a.pid = any (p.waits_for)
	join pg_stat_activity w on w.pid = p.pid and w.backend_type = 'evsource worker' where a.application_name = '$_[0]'} };

my $first = old_reader('first');
$sql->(q{select evsource.request_rebuild(p, online => true) from unnest('{one,two}'::text[]) p});
$soon->($waits_for->('first'), 'both wait for one who reads the old versions, and say so');
my $second = old_reader('second');
$first->must('commit');
$soon->($waits_for->('second'), 'then for the other one, who uses the tables');
$sql->(q{select evsource.cancel_rebuild('two')});
is($sql->(q{select string_agg(projection, ' ') from evsource.progress}), 'one', 'one of them is cancelled');
$sql->(q{select evsource.request_rebuild('two', online => true)});
$second->must('commit');
$soon->(q{select not exists (select from evsource.progress)}, 'both are rebuilt');
is($sql->(q{select (select sum(n) from one), (select sum(n) from two)}), '100|100', 'and right');

# Who begins to read when a version is whole is waited for by nobody.
$first = old_reader('first');
$sql->(q{select evsource.request_rebuild(p, online => true) from unnest('{one,two}'::text[]) p});
$soon->($waits_for->('first'), 'both wait again');
my $later = Session->new(database => 'postgres', name => 'later');
$later->must('begin isolation level repeatable read');
$later->must('select 1');
$first->must('commit');
$soon->(q{select not exists (select from evsource.progress)}, 'and not for who has come since');
$later->must('commit');

# A worker that is ended while it holds the projection still, between two of its
# transactions, leaves no lock. Who ends it is whose snapshot it waits for.
$sql->(q{
create table three (stream text primary key, n int);
select evsource.create_projection('three', tables => '{three}', query =>
	'insert into three as t select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = t.n + excluded.n');
create procedure end_worker() language plpgsql as $$
declare
	worker int;
begin
	while worker is null loop
		perform pg_sleep(0.001);
		select pid into worker from pg_locks
		where relation = 'evsource.events'::regclass and mode = 'ShareRowExclusiveLock' and granted
			and virtualtransaction like '%/0';
	end loop;
	perform pg_terminate_backend(worker, 60000);
end $$});
$first = old_reader('first');
$sql->(q{select evsource.request_rebuild('three', online => true)});
$soon->($waits_for->('first') =~ s/= 2/= 1/r, 'it waits for who is older than what is built');
$later->send('call end_worker();');
$soon->(q{select count(*) = 1 from pg_stat_activity where query ~ '^call end_worker'}, 'another one watches it');
$sql->(q{select evsource.append('account-1', 'Paid')});
$first->must('commit');
1 until $later->receive;
is(join(' ', $later->lines), '', 'and ends it');
is($sql->(q{set lock_timeout = '30s'; select version from evsource.append('account-1', 'Paid')}), 12, 'appends go on');
$soon->(q{select not exists (select from evsource.progress)}, 'its successor completes the rebuild');
is($sql->(q{select sum(n) from three}), 102, 'and right');

# Partitions that are apart are gathered first. What is applied after that, while
# the projection is held still, is marked as every batch is: the handler may crash.
$sql->(q{
create table four (stream text primary key, n int);
create table unmarked (position bigint);
create function count_marked(e evsource.event) returns void language plpgsql as $$
begin
	if evsource.replaying() and not exists (select from evsource.crash_marks where projection = 'four' and partition < 0) then
		insert into unmarked values (e.position);
	end if;
	insert into four as t values (e.stream, 1) on conflict (stream) do update set n = t.n + 1;
end $$;
select evsource.create_projection('four', 'count_marked', mode => 'async', partitions => 2, tables => '{four}')});
my $applied = q{select bool_and(lag = 0) from evsource.projection_status where projection = 'four'};
$soon->($applied, 'one with partitions is applied');
$first = old_reader('first');
$sql->(q{truncate unmarked; select evsource.request_rebuild('four', online => true)});
$soon->($waits_for->('first') =~ s/= 2/= 1/r, 'its new version is built');
$sql->(q{select evsource.append('account-' || i, 'Paid') from generate_series(0, 9) i});
$soon->($applied, 'more is applied to the old one');
$sql->(q{update evsource.partitions set position = position - 5 where projection = 'four' and partition = 0});
$first->must('commit');
$soon->(q{select not exists (select from evsource.progress)}, 'it is rebuilt');
is($sql->('select count(*) from unmarked'), 0, 'nothing without a mark');
is($sql->(q{select sum(n) from four}), 112, 'and right');

# What was replaced refers to a table that somebody has read: it is dropped when that transaction
# ends, and nobody waits meanwhile.
$sql->(q{
create table lookup (id int primary key);
create table five (stream text primary key, n int, id int references lookup);
select evsource.create_projection('five', tables => '{five}', types => '{Paid}', query =>
	'insert into five as t select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = t.n + excluded.n')});
$first->must('begin');
$first->must('select count(*) from lookup');
$sql->(q{select evsource.request_rebuild('five')});
$soon->($waits_for->('first') =~ s/= 2/= 1/r =~ s/p join/p join lateral (select where p.state = 'dropping') s on true join/r, 'its worker drops what was replaced');
is($sql->(q{set lock_timeout = '30s'; select version > 0 from evsource.append('account-1', 'Paid'); insert into lookup values (1); select sum(n) from five}), "t\n113", 'all others go on');
$first->must('commit');
$soon->(q{select not exists (select from evsource.rebuilds)}, 'then it is gone');

# The same by a call: one that is cancelled meanwhile leaves it to the daemon.
my $pid = $later->must('select pg_backend_pid()');
$first->must('begin');
$first->must('select count(*) from lookup');
$later->send(q{call evsource.rebuild_projection('five', lock_timeout => '1h');});
$soon->(q{select count(*) = 1 from evsource.progress where state = 'dropping' and pid is not null and waits_for is not null}, 'the call drops what was replaced');
# or the daemon, if it came between two of its transactions
$sql->(qq{select pg_cancel_backend($pid)});
1 until $later->receive;
is(join(' ', $later->errors), '57014', 'and is cancelled');
$first->must('commit');
$soon->(q{select not exists (select from evsource.rebuilds)}, 'then the daemon drops it');

# One that is altered while its new version waits for its moment is built anew, of
# what it is then: nothing is left of the old query and filter.
$sql->(q{select evsource.append('account-1', 'Refunded')});
$first = old_reader('first');
$sql->(q{select evsource.request_rebuild('one', online => true)});
$soon->($waits_for->('first') =~ s/= 2/= 1/r, 'a new version is whole');
$sql->(q{select evsource.alter_projection('one', types => '{Refunded}', query =>
	'insert into one as t select stream, 7 * count(*) from new_events group by 1 on conflict (stream) do update set n = t.n + excluded.n')});
is($sql->(q{select stale from evsource.projection_status where projection = 'one'}), 't', 'it is altered');
$first->must('commit');
$soon->(q{select not exists (select from evsource.progress)}, 'and rebuilt');
is($sql->(q{select string_agg(concat_ws(' ', stream, n), ',') from one}), 'account-1 7', 'as it is now');
is($sql->(q{select concat_ws(' ', state, stale, event_count) from evsource.projection_status where projection = 'one'}), 'active f 1', 'and says so');

done_testing();
