# An index that is not valid while it is made is waited for; one that was left so
# means in place, and whoever asks for that is told.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('rebuild_indexes', q{
shared_preload_libraries = 'evsource'
autovacuum = off
});
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
create table counts (stream text primary key, n bigint);
select evsource.create_projection('counts', mode => 'async', tables => '{counts}', query =>
	'insert into counts as c select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = c.n + excluded.n');
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i % 4, 'Paid');
select evsource.wait_for('counts');
});

# Called, requested, and called with online => true.
foreach my $how ('called', 'requested', 'online')
{
	my $oid = $sql->("select pg_relation_filenode('counts')");
	my $reader = $node->background_psql('postgres');
	my $maker = $node->background_psql('postgres');
	my $rebuild = $node->background_psql('postgres', on_error_stop => 0);
	my $online = $how eq 'online' ? ', online => true' : '';
	$reader->query_safe('begin isolation level repeatable read; select 1 from counts limit 1');
	$maker->query_until(qr/begun/, "\\echo begun\ncreate index concurrently counts_n on counts (n);\n\\echo made\n");
	$soon->(q{select count(*) = 1 from pg_index where indexrelid = to_regclass('counts_n') and not indisvalid}, "$how: an index is being made");
	if ($how eq 'requested')
	{
		is($node->psql('postgres', q{select evsource.request_rebuild('counts')}, stderr => \my $told), 0, "$how: a rebuild");
		is($told, '', "$how: that it is in place is not said");
	}
	else
	{
		$rebuild->query_until(qr/called/, "\\echo called\ncall evsource.rebuild_projection('counts', lock_timeout => '1h'$online);\n\\echo returned\n");
	}
	$soon->(q{select waits_for is not null and state = 'requested' and last_error is null from evsource.progress}, "$how: it waits for that");
	is($sql->('select sum(n) from counts'), 20, "$how: the read model is there");
	$reader->query_safe('commit');
	$maker->query_until(qr/made/, '');
	$rebuild->query_until(qr/returned/, '') if $how ne 'requested';
	$soon->(q{select count(*) = 0 from evsource.progress}, "$how: it ends");
	is($sql->("select pg_relation_filenode('counts') <> $oid and (select bool_and(indisvalid) from pg_index where indrelid = 'counts'::regclass)"), 't', "$how: with another version, and the index");
	is($sql->('select sum(n) from counts'), 20, "$how: which is complete");
	$sql->('drop index counts_n');
	$_->quit foreach $reader, $maker, $rebuild;
}

# One that was left.
$sql->(q{insert into counts values ('one', -1), ('two', -1)});
$node->psql('postgres', 'create unique index concurrently counts_u on counts ((n < 0)) where n < 0');
$sql->('delete from counts where n < 0');
my $log = -s $node->logfile;
is($node->psql('postgres', q{select evsource.request_rebuild('counts')}, stderr => \my $told), 0, 'a rebuild is requested');
like($told, qr/NOTICE:  projection "counts" will be rebuilt in place.*\n.*DETAIL:.* index public\.counts_u is not valid\./, 'that it is in place is said at once');
$soon->(q{select count(*) = 0 from evsource.progress}, 'it ends');
like(slurp_file($node->logfile, $log), qr/LOG:  rebuilding projection "counts" in place.*\n.*DETAIL:.* index public\.counts_u is not valid\./, 'and the log says so');
is($sql->('select sum(n) from counts'), 20, 'it is complete');
$node->stop;

done_testing();
