# On a standby the daemon waits for the promotion, and comes then without a restart.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $make = q{
create extension evsource;
create table counts (stream text primary key, n bigint);
select from evsource.append('a-1', 'Counted');
select evsource.create_projection('counts', mode => 'async', tables => '{counts}', query =>
	'insert into public.counts select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = counts.n + excluded.n');
};
my $is_applied = 'select coalesce(sum(n), 0) = (select count(*) from evsource.events) from counts';

my $primary = start_node('primary', "shared_preload_libraries = 'evsource'", allows_streaming => 1);
$primary->safe_psql('postgres', $make);
ok($primary->poll_query_until('postgres', $is_applied), 'applied on the primary');
$primary->backup('base');

my $standby = Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', q{select from evsource.append('a-2', 'Counted')});
ok($primary->poll_query_until('postgres', $is_applied), 'and goes on');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
is($standby->safe_psql('postgres', q{select count(*) from pg_stat_activity where backend_type ~ '^evsource'}), 0, 'nothing runs on the standby');
my ($status, $out, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nselect evsource.start_daemon()");
like($error, qr/55000: cannot start evsource's daemon on a standby/, 'nor can it be started');
($status, $out, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nselect evsource.adopt()");
like($error, qr/25006: cannot execute evsource.adopt\(\) during recovery/, 'it is not adopted there');
ok($standby->poll_query_until('postgres', $is_applied), 'the read model has come');
$primary->stop;
$standby->promote;
$standby->safe_psql('postgres', q{select from evsource.append('a-3', 'Counted')});
ok($standby->poll_query_until('postgres', $is_applied), 'promoted, it applies by itself');
$standby->stop;

done_testing();
