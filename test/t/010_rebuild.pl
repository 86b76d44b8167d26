# Rebuilds that are interrupted by a crash, a cancel or a killed session go on
# where they were, and end with what a full replay makes; a dump has neither
# their tables nor their rows.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

my $node = start_node('rebuild', qq{
autovacuum = off
restart_after_crash = on
});
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;

# The owner is an ordinary role, and has an account's numbers in two tables.
$node->safe_psql('postgres', q{
	create extension evsource;
	create role shop login;
	select evsource.grant_access('shop', 'admin');
	create schema shop authorization shop;
	alter role shop set search_path = shop;
	select count(*) from generate_series(1, 200) i, lateral evsource.append_batch('account-' || i,
		array_fill('Paid'::text, array[100]), array_fill('{"amount": 2}'::jsonb, array[100]));
});
$node->safe_psql('postgres', q{
	create table accounts (account text primary key, id serial unique, note text);
	create table sums (account text primary key references accounts on delete cascade, amount bigint not null, events bigint not null);
	create function apply(e evsource.event) returns void language sql as $f$
		select pg_sleep(nullif(current_setting('shop.pause', true), '')::float);
		insert into accounts (account, note) values ((e).stream, repeat((e).stream, 500)) on conflict do nothing;
		insert into sums as s values ((e).stream, ((e).data ->> 'amount')::bigint, 1)
		on conflict (account) do update set amount = s.amount + excluded.amount, events = s.events + 1;
	$f$;
	select evsource.create_projection('sums', 'apply', tables => '{accounts,sums}');
}, extra_params => [ '-U', 'shop' ]);

# What is wrong with the read model?
my $wrong = q{
	select count(*) from (select stream as account, sum((data ->> 'amount')::bigint) as amount, count(*) as events from evsource.events group by 1) e
		full join shop.sums s using (account, amount, events) full join shop.accounts a using (account)
	where e.account is null or s.account is null or a.account is null or a.note <> repeat(account, 500)};
my $built = q{select coalesce(max(event_count), 0) from evsource.rebuilds};
my $shadows = q{select count(*) from pg_namespace where nspname like 'evsource_shadow%'};

sub as_owner
{
	my ($name) = @_;
	my $session = Session->new(database => 'postgres', name => $name);
	$session->must('set role shop');
	$session->must('set search_path = shop');
	return $session;
}

# Wait until so many events are built, and those on the disk: the commits of a
# rebuild are asynchronous, and a crash may take some back. A commit that is not
# flushes them all. poll_query_until would look too late: the rebuild goes on.
sub wait_for_events
{
	my ($query, $count) = @_;
	for (1 .. 2000)
	{
		if ($node->safe_psql('postgres', $query) > $count)
		{
			$node->safe_psql('postgres', q{select pg_logical_emit_message(true, 'flush', '')});
			return;
		}
		sleep 0.01;
	}
	die "the rebuild did not get to $count events";
}

# One whose rebuilds take long enough to be met on their way.
sub slow_owner
{
	my $session = as_owner('rebuild');
	$session->must('set shop.pause = 0.0003');
	return $session;
}

# Begin a rebuild, and wait until some batches are committed.
sub begin_rebuild
{
	my ($arguments) = @_;
	my $session = slow_owner();
	my $before = $node->safe_psql('postgres', $built);
	$session->send("call evsource.rebuild_projection('sums'$arguments);");
	wait_for_events($built, $before + 2000);
	return $session;
}

is($node->safe_psql('postgres', $wrong), 0, 'the read model is right at first');
$node->safe_psql('postgres', q{update shop.sums set amount = 0 where account < 'account-2'});

# A crash: what was built is still there, and so is the old version.
my $session = begin_rebuild(', online => true');
$node->stop('immediate');
$session->abandon;
$node->start;
my $done = $node->safe_psql('postgres', $built);
cmp_ok($done, '>', 0, 'after a crash the rebuild is on its way');
is($node->safe_psql('postgres', q{select sum(events) from evsource_shadow_sums.sums}), $done, 'and has in its tables what it says');
is($node->safe_psql('postgres', q{select state from evsource.projection_status}), 'active', 'the projection is live');
$node->safe_psql('postgres', q{select evsource.append('account-1', 'Paid', '{"amount": 2}')});

# Killed while it goes on.
$session = begin_rebuild('');
$node->safe_psql('postgres', q{select pg_terminate_backend(pid) from pg_stat_activity where query like 'call evsource.rebuild%'});
$node->poll_query_until('postgres', q{select not exists (select from pg_stat_activity where query like 'call evsource.rebuild%')})
	or die 'the session that rebuilds does not end';
$session->abandon;
cmp_ok($node->safe_psql('postgres', $built), '>', $done, 'another session went on where it was');

# A dump takes no notice of it.
my $dump = $node->backup_dir . '/rebuild.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, 'postgres' ], 'dump');
$node->safe_psql('postgres', 'create database restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, 'restored' ], 'restore');
is($node->safe_psql('restored', $shadows), 0, 'no table of a rebuild is in a dump');
is($node->safe_psql('restored', 'select count(*) from evsource.rebuilds'), 0, 'nor is its row');
as_owner('finish')->must(q{call evsource.rebuild_projection('sums')});
is($node->safe_psql('postgres', $wrong), 0, 'completed, it is what a full replay makes');
is($node->safe_psql('postgres', $shadows), 0, 'and nothing is left behind');
is($node->safe_psql('postgres', q{select max(id) <= (select last_value from shop.accounts_id_seq) from shop.accounts}), 't', 'the sequence is that of the new version');

# Cancelled: the next call completes it, or cancel_rebuild forgets it.
$session = begin_rebuild(', online => true');
$node->safe_psql('postgres', q{select pg_cancel_backend(pid) from pg_stat_activity where query like 'call evsource.rebuild%'});
$session->abandon;
$node->poll_query_until('postgres', q{select not exists (select from pg_stat_activity where query like 'call evsource.rebuild%')})
	or die 'the session that rebuilds does not end';
is($node->safe_psql('postgres', q{select state, online, percent < 100 from evsource.progress}), 'rebuilding|t|t', 'after a cancel it can go on');
is($node->safe_psql('postgres', q{select evsource.cancel_rebuild('sums')}), 't', 'or be forgotten');
is($node->safe_psql('postgres', $shadows), 0, 'with all it has built');
is($node->safe_psql('postgres', $wrong), 0, 'and the old version is as it was');

# In place, too, a crash takes back read model and checkpoint together.
$session = slow_owner();
$session->send(q{call evsource.rebuild_projection('sums', online => false);});
wait_for_events(q{select coalesce(max(events_done), 0) from evsource.progress}, 2000);
$node->stop('immediate');
$session->abandon;
$node->start;
is($node->safe_psql('postgres', q{select sum(events) = (select events_done from evsource.progress) from shop.sums}), 't', 'in place: the read model is as far as the checkpoint');
is($node->safe_psql('postgres', q{select state from evsource.projection_status}), 'rebuilding', 'the projection is half built');
as_owner('finish')->must(q{call evsource.rebuild_projection('sums')});
is($node->safe_psql('postgres', $wrong), 0, 'and the next call completes it');

# A crash right after the exchange finds the new version.
$node->safe_psql('postgres', q{update shop.sums set amount = 0 where account < 'account-2'});
as_owner('swap')->must(q{call evsource.rebuild_projection('sums', online => true, keep_old => true)});
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', $wrong), 0, 'the exchange survives a crash');
as_owner('revert')->must(q{select evsource.revert_rebuild('sums')});
$node->stop('immediate');
$node->start;
cmp_ok($node->safe_psql('postgres', $wrong), '>', 0, 'and so does the way back');
as_owner('revert')->must(q{select evsource.revert_rebuild('sums')});
is($node->safe_psql('postgres', $wrong), 0, 'and forth');
$node->safe_psql('postgres', 'vacuum full shop.sums; reindex table shop.accounts');
is($node->safe_psql('postgres', $wrong), 0, 'the tables are tables like others');

$node->stop;
done_testing();
