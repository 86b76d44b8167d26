# A daemon that runs while a dump is restored applies nothing of it, whatever comes in
# which order and however long that takes; it begins when the copy is adopted.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('main', "shared_preload_libraries = 'evsource'\nmax_worker_processes = 32\nlog_min_messages = debug1");

# What is dumped has work left to do: an async projection that lags, and an inline one
# that is still to catch up.
$node->safe_psql('postgres', 'create database old');
$node->safe_psql('old', q{
create extension evsource;
create table mails (position bigint primary key, stream text);
create table counts (stream text primary key, n bigint);
create function send_mail(e evsource.event) returns void language sql as $$ insert into public.mails values (e.position, e.stream) $$;
create function count_events(e evsource.event) returns void language sql as $$ insert into public.counts as c values (e.stream, 1)
    on conflict (stream) do update set n = c.n + 1 $$;
select from evsource.append('a-1', 'Ordered');
select evsource.create_projection('mailer', 'public.send_mail', mode => 'async', tables => '{mails}');
});
ok($node->poll_query_until('old', 'select count(*) = 1 from mails'), 'the daemon works in the original');
$node->safe_psql('postgres', 'alter database old set evsource.daemon = off');
$node->safe_psql('old', q{
select evsource.stop_daemon();
select from generate_series(1, 20) i, evsource.append('a-' || i, 'Ordered');
select evsource.create_projection('counts', 'public.count_events', concurrently => true, tables => '{counts}');
});
my $done = q{select (select count(*) from mails), (select count(*) from counts)};
is($node->safe_psql('old', $done), '1|0', 'which is left with work to do');
my $nothing = '1|0';
my $all = '21|20';

my $dump = $node->backup_dir;
mkdir $dump;
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump/custom", 'old' ], 'dump in the custom format');
my $list = `pg_restore -l $dump/custom`;

# The entries of the dump in two parts: the second begins with one that is named.
# "First" are those that are to come before all others' rows.
my $parts = 0;

sub parts
{
	my ($second, @first) = @_;
	my @entries = grep { /^\d/ } split /^/, $list;

	foreach my $table (reverse @first)
	{
		my ($moved) = grep { / TABLE DATA evsource $table / } @entries;
		@entries = grep { $_ ne $moved } @entries;
		my ($place) = grep { $entries[$_] =~ / TABLE DATA / } 0 .. $#entries;
		splice @entries, $place, 0, $moved;
	}
	my ($border) = grep { $entries[$_] =~ / TABLE DATA \w+ $second / } 0 .. $#entries;
	my @files = map { "$dump/part" . $parts++ } 0, 1;
	append_to_file($files[0], join '', @entries[ 0 .. $border - 1 ]);
	append_to_file($files[1], join '', @entries[ $border .. $#entries ]);
	return @files;
}

sub by_pg_restore
{
	my ($name, $part) = @_;
	return [ 'pg_restore', '--exit-on-error', '-L', $part, '-d', $name, "$dump/custom" ];
}

sub by_psql
{
	my ($name, $part) = @_;
	system_or_bail('pg_restore', '-L', $part, '-f', "$part.sql", "$dump/custom");
	return [ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$part.sql", '-d', $name ];
}

# The daemon has come to look at a database, and left again (it says so once, and then for
# debugging); a worker would be at work.
my $log_end = 0;

sub found_ok
{
	my ($name, $what) = @_;

	$log_end = $node->wait_for_log(qr/evsource waits for evsource.adopt\(\) in database "$name"/, $log_end);
	ok($log_end, "$name: $what");
	return;
}

my $states = q{select string_agg(distinct state, ' ') from evsource.daemon_status};

sub restored_ok
{
	my ($name, $by, $first, $second) = @_;

	$node->command_ok($by->($name, $first), "$name: the first part is restored");
	found_ok($name, 'the daemon has found it');
	is($node->safe_psql($name, $states), 'waiting for adopt', "$name: and waits");
	$node->command_ok($by->($name, $second), "$name: the rest is restored");
	waits_ok($name);
	return;
}

# Also when there is something new to be woken for.
sub waits_ok
{
	my ($name) = @_;

	is($node->safe_psql($name, $done), $nothing, "$name: nothing was dispatched");
	$log_end = -s $node->logfile;
	$node->safe_psql($name, q{select evsource.pause_projection('mailer'); select evsource.resume_projection('mailer')});
	found_ok($name, 'the daemon looks again');
	is($node->safe_psql($name, $states), 'waiting for adopt', "$name: and waits");
	is($node->safe_psql($name, $done), $nothing, "$name: and does nothing");
	is($node->safe_psql($name, 'select evsource.adopt()'), 't', "$name: it is adopted");
	ok($node->poll_query_until($name, "$done", $all), "$name: then everything is applied, once");
	is($node->safe_psql($name, 'select evsource.adopt()'), 'f', "$name: it is the original of itself");
	return;
}

my @orders = (
	[ in_order => \&by_pg_restore, parts('store') ],
	[ by_psql => \&by_psql, parts('store') ],
	# as parallel jobs may bring them
	[ store_first => \&by_pg_restore, parts('mails', 'store') ],
	[ projections_first => \&by_pg_restore, parts('events', 'checkpoints', 'projections') ]);
foreach (@orders)
{
	my ($name, @how) = @$_;
	$node->safe_psql('postgres', "create database $name template template0");
	restored_ok($name, @how);
}

# Where the dump was made it is a copy, too: its events may have been mailed since.
$node->safe_psql('postgres', 'alter database old reset evsource.daemon');
$node->safe_psql('old', 'set evsource.allow_drop = on; drop extension evsource cascade; drop schema if exists evsource; drop table mails, counts');
restored_ok('old', @{ $orders[0] }[ 1 .. 3 ]);

# A worker that is there already leaves what comes alone.
$node->safe_psql('postgres', 'create database already template template0');
$node->safe_psql('already', q{
create extension evsource;
create function ignore(e evsource.event) returns void language sql as 'select';
select evsource.create_projection('own', 'public.ignore', mode => 'async', types => '{Never}');
});
ok($node->poll_query_until('already', q{select count(*) = 1 from evsource.daemon_status where role = 'worker'}), 'already: a worker is there');
$node->command_checks_all([ 'pg_restore', '-d', 'already', "$dump/custom" ],
	1, [qr/^$/], [qr/errors ignored on restore: 1$/m], 'already: restored');
ok($node->poll_query_until('already', q{select string_agg(state, ' ') = 'waiting for adopt' from evsource.daemon_status}), 'already: the worker leaves');
waits_ok('already');

# A database of its own does not wait, whatever comes first in it.
my %beginnings = (
	projection => q{select evsource.create_projection('mailer', 'public.send_mail', mode => 'async'); select from evsource.append('a-1', 'Ordered')},
	import => q{insert into evsource.events (stream, type, position, version, recorded_at) values ('a-1', 'Ordered', 1, 1, now());
		select evsource.create_projection('mailer', 'public.send_mail', mode => 'async')},
	import_later => q{select evsource.create_projection('mailer', 'public.send_mail', mode => 'async');
		insert into evsource.events (stream, type, position, version, recorded_at) values ('a-1', 'Ordered', 1, 1, now())},
	truncated => q{select from evsource.append('b-1', 'Other'); select from evsource.append('b-1', 'Other'); select evsource.truncate_stream('b-1', 2);
		select evsource.create_projection('mailer', 'public.send_mail', mode => 'async', categories => '{a}'); select from evsource.append('a-1', 'Ordered')},
	again => q{select evsource.create_projection('mailer', 'public.send_mail', mode => 'async');
		select from evsource.append('a-1', 'Ordered');
		set evsource.allow_drop = on; drop extension evsource cascade; drop schema if exists evsource; delete from mails; create extension evsource;
		create or replace function send_mail(e evsource.event) returns void language sql as $$ insert into public.mails values (e.position, e.stream) $$;
		select evsource.create_projection('mailer', 'public.send_mail', mode => 'async'); select from evsource.append('a-1', 'Ordered')});
foreach my $name (sort keys %beginnings)
{
	$node->safe_psql('postgres', "create database fresh_$name template template0");
	$node->safe_psql("fresh_$name", q{
create extension evsource;
create table mails (position bigint primary key, stream text);
create function send_mail(e evsource.event) returns void language sql as $$ insert into public.mails values (e.position, e.stream) $$;
} . $beginnings{$name});
	ok($node->poll_query_until("fresh_$name", q{select count(*) = 1 from mails where stream = 'a-1'}), "fresh, $name: the daemon is at work");
	is($node->safe_psql("fresh_$name", 'select evsource.adopt()'), 'f', "fresh, $name: it is no copy");
}

$node->stop;

done_testing();
