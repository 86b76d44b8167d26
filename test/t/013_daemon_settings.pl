# What a database is given by ALTER DATABASE ... SET is not for the daemon, unless it is a
# setting of evsource, and of what a role is given nothing is; its
# handlers may look at the daemon itself; it comes for a projection that was
# created in a prepared transaction; and it is turned off and on by a reload.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('daemon_settings', q{
shared_preload_libraries = 'evsource'
max_prepared_transactions = 5
});
my $database = 'postgres';
my $sql = sub { return $node->safe_psql($database, $_[0]) };
my $soon = sub { my ($query, $name) = @_; ok($node->poll_query_until($database, $query), $name) };

# Settings that would keep it from its work, also of the role that its processes are connected as.
my $user = $sql->('select current_user');
$sql->(qq{
alter role $user set evsource.daemon = off;
alter role $user in database postgres set evsource.daemon = off;
alter role $user set evsource.async_attempts = 17;
alter role $user in database postgres set evsource.async_retry_delay = 18;
alter role $user set evsource.metadata = '{"by": "role"}';
alter database postgres set evsource.async_attempts = 7;
create role anybody;
alter database postgres set role = anybody;
alter database postgres set session_authorization = anybody;
alter database postgres set statement_timeout = '10ms';
alter database postgres set lock_timeout = '10ms';
});
my $timeout = $sql->(q{set role none; select count(*) from pg_settings where name = 'transaction_timeout'});
$sql->(q{set role none; alter database postgres set transaction_timeout = '10ms'}) if $timeout;
my $options = '-c role=none -c statement_timeout=0 -c lock_timeout=0' . ($timeout ? ' -c transaction_timeout=0' : '');
$ENV{PGOPTIONS} = "$options -c evsource.daemon=on";

$sql->(q{
create extension evsource;
create table counts (stream text primary key, n int, workers int, settings text);
create function count_events(e evsource.event) returns void language plpgsql as $$
begin
	perform pg_sleep(0.02);    -- longer than the time that the settings allow
	perform from evsource.projection_status;
	insert into counts values (e.stream, 1, (select count(*) from evsource.daemon_status where role = 'worker'), concat_ws(' ',
		current_setting('evsource.async_attempts'), current_setting('evsource.async_retry_delay'), current_setting('evsource.metadata')))
	on conflict (stream) do update set n = counts.n + 1, workers = excluded.workers;
end $$;
select evsource.create_projection('counts', 'count_events', mode => 'async', tables => '{counts}');
select count(*) from generate_series(1, 5) i, lateral evsource.append('account-' || i % 2, 'Paid');
});
$soon->(q{select lag = 0 from evsource.projection_status}, 'it applies');
is($sql->(q{select sum(n), min(workers) > 0 from counts}), '5|t', 'with handlers that look at the daemon');
is($sql->(q{select distinct settings from counts}), '7 200ms ', "and the database's settings, not those of a role");
unlike(slurp_file($node->logfile), qr/evsource\.(async|daemon|metadata)\w*"/, 'the log is not full of that');
$sql->(q{delete from counts; select evsource.request_rebuild('counts', online => true)});
$soon->(q{select not exists (select from evsource.progress)}, 'it rebuilds');
is($sql->(q{select sum(n) from counts}), '5', 'what is right then');
is($sql->(q{select state, last_error is null from evsource.projection_status}), 'active|t', 'and nothing went wrong');
$sql->("alter role $user reset all; alter role $user in database postgres reset all");
$ENV{PGOPTIONS} = $options;

# The first async projection of a database, and of two phases.
$sql->('create database later');
$database = 'later';
$sql->(q{
create extension evsource;
select evsource.append('a-1', 'Happened');
begin; select evsource.create_projection('counts', 'evsource.fold_count', mode => 'async'); prepare transaction 'create';
});
is($sql->(q{select count(*) from evsource.daemon_status}), '0', 'nobody is needed before it is committed');
$sql->(q{commit prepared 'create'});
$soon->(q{select lag = 0 from evsource.projection_status}, 'then somebody comes');

# Off and on again for the whole server, without a restart.
$sql->(q{alter system set evsource.daemon = off});
$node->reload;
$soon->(q{select not exists (select from evsource.daemon_status)}, 'it leaves when it is turned off');
$sql->(q{alter system reset evsource.daemon});
$node->reload;
$sql->(q{select evsource.append('a-1', 'Happened')});
foreach (qw(later postgres))
{
	$database = $_;
	$soon->(q{select count(*) = 1 from evsource.daemon_status where role = 'coordinator'}, "turned on again it comes back to database $_");
	$soon->(q{select lag = 0 from evsource.projection_status}, "turned on again it applies in database $_");
}

# Off and on again for one database.
$sql->(q{alter database postgres set evsource.daemon = off});
is($sql->('set evsource.daemon = on; select evsource.stop_daemon()'), 't', 'off for a database, it is stopped');
$sql->(q{select evsource.append('a-1', 'Happened')});
foreach my $on ('alter database postgres reset evsource.daemon', 'alter database postgres set evsource.daemon = on', 'alter database postgres reset all',
	'alter role all in database postgres reset evsource.daemon', 'alter role all in database postgres set evsource.daemon = on')
{
	$node->safe_psql('later', $on);
	$soon->(q{select lag = 0 and worker_pid is not null from evsource.projection_status}, "$on: it comes back by itself");
	$sql->(q{alter database postgres set evsource.daemon = off});
	is($sql->('select evsource.stop_daemon()'), 't', 'until it is stopped again');
	$sql->(q{select evsource.append('a-1', 'Happened')});
}

# Or for all databases. (Nobody notices that the setting of this one goes.)
$node->safe_psql('later', q{
alter role all set evsource.daemon = off;
delete from pg_db_role_setting where setdatabase = (select oid from pg_database where datname = 'postgres');
alter role all reset evsource.daemon});
$soon->(q{select lag = 0 and worker_pid is not null from evsource.projection_status}, 'on for all roles: it comes back by itself');
$sql->(q{alter database postgres set evsource.daemon = off});
is($sql->('select evsource.stop_daemon()'), 't', 'until it is stopped again');
$sql->(q{select evsource.append('a-1', 'Happened')});

# The same, said in the database itself by a session that has got "off" from that very setting.
foreach my $on ('reset evsource.daemon', 'set evsource.daemon = on', 'reset all')
{
	$sql->("alter database postgres $on");
	$soon->(q{select lag = 0 and worker_pid is not null from evsource.projection_status}, "$on in the database itself: it comes back");
	$sql->(q{alter database postgres set evsource.daemon = off});
	is($sql->('select evsource.stop_daemon()'), 't', 'until it is stopped once more');
	$sql->(q{select evsource.append('a-1', 'Happened')});
}

# Off for the database, it does not come for a session that turns it on for itself; that is not for want of room.
$node->safe_psql('postgres', 'create database without');
$node->safe_psql('postgres', 'alter database without set evsource.daemon = off');
my (undef, undef, $error) = $node->psql('without', q{
create extension evsource;
set evsource.daemon = on;
select evsource.create_projection('fold', 'evsource.fold_count', mode => 'async');
\set VERBOSITY verbose
select evsource.start_daemon()});
like($error, qr/55000: evsource's daemon is turned off\nDETAIL:  Setting evsource.daemon is off for this database\. /, 'start_daemon() says so');
(undef, undef, $error) = $node->psql('without', q{
set evsource.daemon = on;
select evsource.append('a-1', 'Happened');
select evsource.wait_for('fold', timeout => '100 ms')});
like($error, qr/HINT:  The daemon is off/, 'and so does wait_for()');

# Where there is nothing to do yet, who calls it does not wait for what would leave; it comes later.
$node->safe_psql('postgres', 'create database idle');
$node->safe_psql('idle', 'create extension evsource');
my ($status, $started, $notice) = $node->psql('idle', q{set statement_timeout = '5s'; select evsource.start_daemon()});
is("$status $started", '0 f', 'with nothing to do it is not started');
like($notice, qr/NOTICE:  evsource's daemon has nothing to do in this database yet\n/, 'and says so');
$node->safe_psql('idle', q{
select evsource.create_projection('fold', 'evsource.fold_count', mode => 'async');
select from evsource.append('a-1', 'Happened');
select evsource.wait_for('fold', timeout => '1min')});
is($node->safe_psql('idle', 'select evsource.start_daemon()'), 'f', 'it has come for the first projection');

# What it would come for is not committed yet: it comes when that is, and nobody waits for it before.
# (There is room for no more than three.)
$node->safe_psql('idle', 'select evsource.stop_daemon()');
$node->safe_psql('postgres', 'create database soon');
foreach my $first ('create extension evsource', q{select evsource.create_projection('fold', 'evsource.fold_count', mode => 'async')})
{
	($status, $started, $notice) = $node->psql('soon', qq{set statement_timeout = '5s'; begin; do \$\$ begin execute \$q\$$first\$q\$; end \$\$; select evsource.start_daemon(); commit});
	is("$status $started", '0 f', 'in the transaction of what it is to come for it is not started');
	like($notice, qr/NOTICE:  evsource's daemon comes by itself when this transaction commits\n/, 'and says so');
}
$node->safe_psql('soon', q{
select from evsource.append('a-1', 'Happened');
select evsource.wait_for('fold', timeout => '1min')});

done_testing();
