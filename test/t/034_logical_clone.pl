# A copy that is made of a standby: it holds the log already, and what it said about it
# while no subscription filled it. Its readers go by what the original says, and miss nothing.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $origin = start_node('origin', "max_logical_replication_workers = 8\nmax_worker_processes = 20", allows_streaming => 'logical');

my $log = q{select string_agg(r::text, E'\n') from evsource.read_all(0, null) r};
my $publish = 'select evsource.publish_safe_position()';
my $seen = q{
	create table seen (position bigint primary key);
	select evsource.create_projection('seen', mode => 'async', query => 'insert into seen select position from new_events', tables => '{seen}')};

# Log "plain" has the tables of a log published, "whole" every table; "passed" is followed too early.
my %published = (plain => 'table evsource.events, evsource.published, evsource.store, evsource.truncations', whole => 'all tables');
$published{passed} = $published{plain};
foreach my $name (sort keys %published)
{
	$origin->safe_psql('postgres', "create database $name");
	$origin->safe_psql($name, "create extension evsource;
		create publication log for $published{$name};
		$seen;
		create table counts (stream text primary key, n bigint);" . count_events());
}

# --- the copy is made ------------------------------------------------------------

$origin->backup('base');
my $copy = Cluster->new('copy');
$copy->init_from_backup($origin, 'base', has_streaming => 1);
$copy->append_conf('postgresql.conf', 'evsource.daemon = off');
$copy->start;
# What it hears of the positions is what is drawn ahead in the WAL.
$origin->safe_psql($_, q{
	select from generate_series(1, 3) i, evsource.append('account-' || i, 'One');
	select evsource.run_projection('seen')}) foreach sort keys %published;
$origin->safe_psql('whole', q{select evsource.create_subscription('post')});

sub subscribe
{
	my ($name) = @_;
	my $connection = $origin->connstr . " dbname=$name";
	$copy->safe_psql($name, "create subscription log_$name connection '$connection' publication log
		with (copy_data = false, create_slot = false, slot_name = 'log_$name')");
	return;
}

sub arrives
{
	my ($name) = @_;
	$origin->safe_psql($name, $publish);
	$origin->wait_for_catchup("log_$name");
	return;
}

sub same_log
{
	my ($name, $test) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($copy->safe_psql($name, $log), $origin->safe_psql($name, $log), "$name: $test");
}

# The worker asks anew who is where.
sub restart_worker
{
	my ($name) = @_;
	$copy->safe_psql($name, "alter subscription log_$name disable");
	$origin->poll_query_until($name, qq{select not active from pg_replication_slots where slot_name = 'log_$name'}) or die 'the slot is in use';
	$copy->safe_psql($name, "alter subscription log_$name enable");
	return;
}

# An event that is committed after one with a later position.
sub late_and_early
{
	my ($name, $n, $meanwhile) = @_;
	my $late = $origin->background_psql($name);
	my $before = $origin->safe_psql($name, $log);

	$late->query_safe(qq{begin; select evsource.append('account-late', 'Late $n')});
	$origin->safe_psql($name, qq{select evsource.append('account-early', 'Early $n')});
	arrives($name);
	is($copy->safe_psql($name, "select count(*) from evsource.events where type = 'Early $n'"), 1, "$name: a later event has come");
	is($copy->safe_psql($name, $log), $before, "$name: but is not read before the earlier one");
	$meanwhile->() if $meanwhile;
	$late->query_safe('commit');
	$late->quit;
	arrives($name);
	same_log($name, 'then both are read, in their order');
	return;
}

$origin->safe_psql($_, "select pg_create_logical_replication_slot('log_$_', 'pgoutput')") foreach sort keys %published;
$origin->wait_for_catchup($copy, 'replay', $origin->lsn('insert'));
$copy->promote;

# It is a log of its own for a moment, and says so, as its daemon would.
cmp_ok($copy->safe_psql('plain', $publish), '>', 3, 'the promoted standby publishes how far it is itself');

# --- its readers -----------------------------------------------------------------

subscribe('plain');
is($copy->safe_psql('plain', 'select evsource.safe_position()'), 0, 'that says nothing of the log that it is the copy of');
late_and_early('plain', 1);
$origin->safe_psql('plain', q{select evsource.append('account-1', 'More') from generate_series(1, 60)});
arrives('plain');
same_log('plain', 'it goes on');
$copy->safe_psql('plain', q{select evsource.run_projection('seen')});
is($copy->safe_psql('plain', 'select count(*) from seen'), 65, 'an async projection meets every event');

# Who is set to a position there, or begins at one, has not followed the log: nothing is refused.
late_and_early('plain', 3, sub {
	$copy->safe_psql('plain', q{
		select evsource.create_subscription('ahead');
		select evsource.seek_subscription('ahead', after_position => (select max(position) from evsource.events));
		create table ahead (position bigint primary key);
		select evsource.create_projection('ahead', mode => 'async', start_after => (select max(position) from evsource.events),
			query => 'insert into ahead select position from new_events', tables => '{ahead}')});
	restart_worker('plain')});
$copy->safe_psql('plain', q{select evsource.drop_subscription('ahead'); select evsource.drop_projection('ahead')});

# The same where the subscription is made anew.
$copy->safe_psql('plain', 'alter subscription log_plain disable; alter subscription log_plain set (slot_name = none); drop subscription log_plain');
$origin->poll_query_until('plain', q{select not active from pg_replication_slots where slot_name = 'log_plain'}) or die 'the slot is in use';
$origin->safe_psql('plain', q{select pg_drop_replication_slot('log_plain')});
$origin->safe_psql('plain', q{select pg_create_logical_replication_slot('log_plain', 'pgoutput')});
$copy->safe_psql('plain', $publish);
subscribe('plain');
is($copy->safe_psql('plain', 'select evsource.safe_position()'), 0, 'subscribed again, it waits to be told again');
late_and_early('plain', 2);
$copy->safe_psql('plain', q{delete from evsource.published});
arrives('plain');
same_log('plain', 'a row that has gone comes again');

# A database that is made of the copy is none: the subscription is not its own.
$copy->safe_psql('plain', 'alter subscription log_plain disable');
$copy->poll_query_until('postgres', q{select count(*) = 0 from pg_stat_activity where datname = 'plain'}) or die 'the copy is in use';
$copy->safe_psql('postgres', 'create database twin template plain');
$copy->safe_psql('plain', 'alter subscription log_plain enable');
is($copy->safe_psql('twin', q{select evsource.adopt(); select (evsource.append('account-1', 'Own')).version > 0}), "t\nt", 'a database made of the copy is a log of its own');
is($copy->safe_psql('twin', q{select type from evsource.read_all(0, null) order by position desc limit 1}), 'Own', 'that is read');

# --- who is too far --------------------------------------------------------------

# Whoever follows the log before the subscription may be past what the original has yet to commit.
$copy->safe_psql('passed', q{
	select evsource.create_subscription('mail', start => 'now');
	select evsource.run_projection('seen')});
subscribe('passed');
my $said = -s $copy->logfile;
$origin->safe_psql('passed', q{select evsource.append('account-1', 'Four')});
ok($copy->wait_for_log(qr/ERROR:  cannot store the event at position 4: (projection|subscription) "\w+" has passed it/, $said), 'passed: the copy says so');
is($copy->safe_psql('passed', q{select count(*) from evsource.events}), 3, 'passed: and does not take the event');
$copy->safe_psql('passed', q{
	select evsource.reset_projection('seen');
	select evsource.seek_subscription('mail', 0)});
arrives('passed');
$copy->safe_psql('passed', q{select evsource.run_projection('seen')});
is($copy->safe_psql('passed', 'select count(*) from seen'), 4, 'passed: the projection begins anew, and meets it');

# Nor does one that is copied at first, before the events.
$origin->safe_psql('postgres', 'create database fresh');
$origin->safe_psql('fresh', qq{
	create extension evsource;
	create publication log for $published{plain}, evsource.subscriptions, evsource.cursors;
	select evsource.append('account-1', 'One') from generate_series(1, 3);
	select evsource.create_subscription('post');
	select evsource.seek_subscription('post', after_position => 3)});
$copy->safe_psql('postgres', 'create database fresh');
$copy->safe_psql('fresh', 'create extension evsource');
my $events = $copy->background_psql('fresh');
$events->query_safe('begin; lock table evsource.events in share mode');
my $from = $origin->connstr . ' dbname=fresh';
$copy->safe_psql('fresh', "create subscription log_fresh connection '$from' publication log");
$copy->poll_query_until('fresh', q{select count(*) = 1 from evsource.cursors}) or die 'no cursor comes';
$events->query_safe('commit');
$events->quit;
ok($copy->poll_query_until('fresh', q{select count(*) = 3 from evsource.events}), 'fresh: events come after a cursor');
$copy->poll_query_until('fresh', q{select bool_and(srsubstate = 'r') from pg_subscription_rel}) or die 'the copy is not ready';
late_and_early('fresh', 1);
$copy->safe_psql('fresh', 'drop subscription log_fresh');

# --- an upgrade: everything comes, and goes on there ------------------------------

subscribe('whole');
late_and_early('whole', 1);
# A cursor that comes from the original tells nothing of who follows the copy.
late_and_early('whole', 2, sub {
	$origin->safe_psql('whole', q{
		select evsource.create_subscription('ahead');
		select evsource.seek_subscription('ahead', after_position => (select max(position) from evsource.events))});
	arrives('whole');
	restart_worker('whole')});
$origin->safe_psql('whole', q{
	select evsource.run_projection('seen');
	create temporary table receipts as select position, receipt from evsource.fetch_events('post', 4);
	select evsource.ack(receipt) from receipts order by position desc limit 1;
	select evsource.append('account-1', 'Two')});
arrives('whole');
my $models = q{select (select string_agg(c::text, ' ' order by stream) from counts c), (select string_agg(position::text, ' ' order by position) from seen)};
is($copy->safe_psql('whole', $models), $origin->safe_psql('whole', $models), 'whole: read models come as they are');
my $followed = q{select string_agg((projection, position, event_count)::text, ' ' order by projection) from evsource.checkpoints};
is($copy->safe_psql('whole', $followed), $origin->safe_psql('whole', $followed), 'whole: so does how far they are');
$copy->safe_psql('whole', 'drop subscription log_whole');
$copy->safe_psql('whole', q{select evsource.append('account-1', 'Three')});
$copy->append_conf('postgresql.conf', 'evsource.daemon = on');
$copy->reload;
$copy->safe_psql('whole', q{select evsource.adopt(); select evsource.run_projection('seen')});
is($copy->safe_psql('whole', q{select count(*) = (select count(*) from evsource.events) from seen}), 't', 'whole: an async projection goes on where it was');
is($copy->safe_psql('whole', q{select n = (select count(*) from evsource.events where stream = 'account-1') from counts where stream = 'account-1'}),
	't', 'whole: an inline one, too');
is($copy->safe_psql('whole', q{select string_agg(type, ' ' order by position) from evsource.fetch_events('post')}), 'Early 1 Late 2 Early 2 Two Three',
	'whole: and so does a subscription');
is($copy->safe_psql('whole', q{select problem from evsource.check_log()}), '', 'whole: and the log is whole');

$copy->safe_psql($_, "drop subscription log_$_") foreach qw(plain passed);
$copy->stop;

# --- by PostgreSQL's own tool ------------------------------------------------------

SKIP:
{
	skip 'there is no pg_createsubscriber', 6 unless -x $origin->config_data('--bindir') . '/pg_createsubscriber';

	$origin->safe_psql('postgres', 'create database made');
	$origin->safe_psql('made', q{create extension evsource; select evsource.append('account-1', 'One') from generate_series(1, 3);} . $seen);
	$origin->backup('second');
	my $standby = Cluster->new('made');
	$standby->init_from_backup($origin, 'second', has_streaming => 1);
	$standby->append_conf('postgresql.conf', 'evsource.daemon = off');
	$standby->start;
	$origin->wait_for_catchup($standby, 'replay', $origin->lsn('insert'));
	$standby->stop;
	command_ok(['pg_createsubscriber', '-D', $standby->data_dir, '-P', $origin->connstr('made'), '-p', $standby->port, '-s', $standby->host,
			'-d', 'made', '--subscription', 'log_made'], 'a standby is made a copy');
	$standby->start;
	$copy = $standby;
	late_and_early('made', 1);
	$copy->safe_psql('made', 'drop subscription log_made');
	is($copy->safe_psql('made', 'select evsource.adopt()'), 't', 'made: it can go on as a log of its own');
	$copy->safe_psql('made', q{select evsource.append('account-1', 'Two'); select evsource.run_projection('seen')});
	is($copy->safe_psql('made', q{select count(*) = (select count(*) from evsource.events) from seen}), 't', 'made: with its projections');
	$copy->stop;
}

done_testing();
