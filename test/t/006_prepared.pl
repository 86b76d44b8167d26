# A prepared append is in flight until it ends, and a crash changes nothing of it:
# the log is read up to it and no further, and its stream is taken. A prepared run of
# a projection holds that.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

foreach my $preload ('', 'evsource')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('prepared' . $preload, "shared_preload_libraries = '$preload'\nmax_prepared_transactions = 10");

	my $log = sub { return $node->safe_psql('postgres', 'select stream, version from evsource.read_all()') };
	my $safe = sub { return $node->safe_psql('postgres', 'select evsource.safe_position()') };
	my $sqlstate = sub {
		my ($status, $out, $error) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nset lock_timeout = '50ms';\n$_[0]");
		return $error =~ /ERROR: +(\w+)/ ? $1 : $out;
	};
	my %crash = (
		'a crash' => sub { $node->stop('immediate'); $node->start },
		'a restart' => sub { $node->restart },
		'another crash' => sub { $node->stop('immediate'); $node->start });

	$node->safe_psql('postgres', q{
create extension evsource;
select evsource.append('a-1', 'Before');
begin; select evsource.append('p-1', 'Prepared'); insert into evsource.events (stream, type) values ('q-1', 'Prepared'); prepare transaction 'one';
select evsource.append('b-1', 'Behind');
begin; insert into evsource.events (stream, type) select 'm-' || i, 'Prepared' from generate_series(1, 100) i; prepare transaction 'many';
begin; savepoint s; select evsource.append('r-1', 'Tried'); rollback to s; select evsource.append('r-1', 'Prepared'); prepare transaction 'three';
begin; select evsource.append('b-1', 'Rolled back'); rollback;
begin; select pg_current_xact_id(); create table elsewhere (); prepare transaction 'elsewhere';
});

	foreach my $when ('at once', 'a crash', 'a restart', 'another crash')
	{
		$crash{$when}->() if $when ne 'at once';
		is($safe->(), 1, "$mode, $when: the safe position stays below the first prepared append");
		is($log->(), 'a-1|1', "$mode, $when: the log is read up to it");
		is($sqlstate->(q{select version from evsource.append('p-1', 'Other')}), '55P03', "$mode, $when: its stream is taken");
		is($sqlstate->(q{insert into evsource.events (stream, type) values ('q-1', 'Other')}), '55P03', "$mode, $when: for INSERT as well");
		is($sqlstate->(q{select version from evsource.append('m-99', 'Other')}), '55P03', "$mode, $when: also when it was one of very many");
		is($sqlstate->(qq{select version from evsource.append('c-1', '$when', id => md5('$when')::uuid)}),
			{ 'at once' => 1, 'a crash' => 2, 'a restart' => 3, 'another crash' => 4 }->{$when}, "$mode, $when: others are not");
	}

	# they end in another order than they began
	$node->safe_psql('postgres', q{commit prepared 'many'});
	is($safe->(), 1, "$mode: a later one that ends changes nothing");
	$node->safe_psql('postgres', q{commit prepared 'one'});
	is($log->(), join("\n", 'a-1|1', 'p-1|1', 'q-1|1', 'b-1|1', map { "m-$_|1" } 1 .. 100), "$mode: the first one that ends raises it to the next");
	is($sqlstate->(q{select version from evsource.append('p-1', 'Other', expected_version => 1)}), 2, "$mode: and frees its stream");
	is($sqlstate->(q{select version from evsource.append('m-99', 'Other', expected_version => 1)}), 2, "$mode: and those of the many");
	$crash{'a crash'}->();
	$node->safe_psql('postgres', q{rollback prepared 'three'});
	is($node->safe_psql('postgres', 'select last_value = evsource.safe_position() from evsource.position_seq'), 't',
		"$mode: one that is rolled back leaves nothing; one that wrote elsewhere does not matter");
	like($log->(), qr/\bm-100\|1\nc-1\|1\nc-1\|2\nc-1\|3\nc-1\|4\np-1\|2\nm-99\|2$/, "$mode: all of it is read, in order");
	is($sqlstate->(q{select version from evsource.append('r-1', 'Other', expected_version => 0)}), 1, "$mode: its stream is free");
	is($sqlstate->(q{begin; select evsource.append('s-1', 'Tried'); prepare transaction 'four'; rollback prepared 'four'; select version from evsource.append('s-1', 'Behind', expected_version => 1)}),
		'VE001', "$mode: the session that stored an event of it does not believe it there");
	# After the crash a process of the daemon may still look whether there is something to do; and
	# go, between two looks at who has locks and who is there.
	ok($node->poll_query_until('postgres', q{select count(*) = 0 from pg_locks l where locktype = 'advisory'
		and not exists (select from pg_stat_activity a where a.pid = l.pid and backend_type ~ '^evsource')}), "$mode: no lock is left");
	$node->safe_psql('postgres', q{rollback prepared 'elsewhere'});

	# one that has run a projection holds it
	my $held = sub { return $node->safe_psql('postgres', q{select held_by from evsource.projection_status}) };
	$node->safe_psql('postgres', q{
create table t (position bigint);
select evsource.create_projection('held', query => 'insert into t select position from new_events', mode => 'manual', tables => '{t}', notify => false);
begin; select evsource.run_projection('held'); prepare transaction 'run';
});
	is($held->(), 'prepared transaction run', "$mode: who has run a projection and is prepared is shown to hold it");
	$crash{'a crash'}->();
	is($held->(), 'prepared transaction run', "$mode: after a crash as well");
	$node->safe_psql('postgres', q{commit prepared 'run'});
	is($held->(), '', "$mode: until it ends");
	$node->stop;
}

done_testing();
