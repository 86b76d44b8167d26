# The daemon follows databases: it comes with them, leaves for who needs them
# without sessions, and waits in a copy.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('databases', "shared_preload_libraries = 'evsource'\nmax_worker_processes = 16");

my $applied = sub {
	my ($database, $name) = @_;
	ok($node->poll_query_until($database, 'select coalesce(sum(n), 0) = (select count(*) from evsource.events) from counts'), $name);
};
my $working = sub { ok($node->poll_query_until($_[0], q{select count(*) = 2 from evsource.daemon_status}), "the daemon is in $_[0]") };
my $make = q{
create extension evsource;
create table counts (stream text primary key, n bigint);
select from evsource.append('a-1', 'Counted');
select evsource.create_projection('counts', mode => 'async', tables => '{counts}', query =>
	'insert into public.counts select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = counts.n + excluded.n');
};

$node->safe_psql('postgres', 'create database one');
$node->safe_psql('one', $make);
$applied->('one', 'a database that is created is picked up');
$working->('one');

# A copy waits, and says so; the original goes on.
$node->safe_psql('postgres', 'create database two template one');
ok($node->poll_query_until('two', q{select state = 'waiting for adopt' from evsource.daemon_status}), 'a copy is found, and waits');
$node->safe_psql($_, q{select from evsource.append('a-2', 'Counted')}) foreach 'one', 'two';
$applied->('one', 'the original goes on');
is($node->safe_psql('two', 'select sum(n) from counts'), 1, 'nothing is applied in the copy');
ok($node->wait_for_log(qr/evsource waits for evsource.adopt\(\) in database "two"/), 'the log says so');
ok($node->poll_query_until('postgres', q{select count(*) = 0 from pg_stat_activity where datname = 'two' and backend_type ~ '^evsource'}), 'without a process');
is($node->safe_psql('two', 'select role, pid, state, heartbeat from evsource.daemon_status'), 'coordinator||waiting for adopt|', 'the status goes on to say so');
my ($status, undef, $error) = $node->psql('two', '\set VERBOSITY verbose' . "\nselect evsource.start_daemon()");
like($error, qr/55000: evsource's daemon waits for evsource.adopt\(\)/, 'it cannot be started there');
(undef, undef, $error) = $node->psql('two', q{select evsource.wait_for('counts', timeout => '100 ms')});
like($error, qr/HINT:  The daemon waits for evsource.adopt\(\)/, 'who waits is told to adopt it');
is($node->safe_psql('two', 'select evsource.adopt()'), 't', 'it is adopted');
$applied->('two', 'and applied then');
$working->('two');

# What needs a database without sessions gets it.
$node->safe_psql('postgres', 'alter database two rename to three');
$node->safe_psql('three', q{select from evsource.append('a-3', 'Counted')});
$applied->('three', 'it comes back to a database that was renamed');
$working->('three');
$node->safe_psql('postgres', 'drop database three');
is($node->safe_psql('postgres', q{select count(*) from pg_database where datname = 'three'}), 0, 'a database is dropped at once');
$node->safe_psql('one', q{select from evsource.append('a-4', 'Counted')});
$applied->('one', 'the others go on');

# Who may copy a template need not own it.
$node->safe_psql('postgres', 'alter database one is_template true; create role copier login createdb');
$working->('one');
$node->safe_psql('postgres', 'create database four template one', extra_params => [ '-U', 'copier' ]);
$node->safe_psql('postgres', 'alter database one is_template false');
$node->safe_psql('postgres', 'drop database four');

# Nor name it, if it is template1.
$node->safe_psql('template1', $make);
$working->('template1');
$node->safe_psql('postgres', 'create database four');
$node->safe_psql('postgres', 'drop database four');
$node->safe_psql('template1', 'set evsource.allow_drop = on; drop extension evsource cascade');
$working->('one');

# Also while a handler is at work, whose sleep nobody waits for: that is rolled back.
$node->safe_psql('one', q{
create table slow (position bigint);
create function sleepy(e evsource.event) returns void language plpgsql as $$ begin perform pg_sleep(60); insert into public.slow values (e.position); end $$;
select evsource.create_projection('slow', 'public.sleepy', mode => 'async');
});
ok($node->poll_query_until('one', q{select count(*) = 1 from evsource.daemon_status where projection = 'slow'}), 'a handler is at work');
$node->safe_psql('postgres', 'drop database one');
is($node->safe_psql('postgres', q{select count(*) from pg_database where datname = 'one'}), 0, 'a database is dropped under it');
is($node->safe_psql('postgres', q{select count(*) from pg_stat_activity where backend_type ~ '^evsource'}), 1, 'only the launcher is left');
$node->stop;

done_testing();
