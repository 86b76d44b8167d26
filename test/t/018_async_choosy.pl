# Projections that want none of what is appended: they cost next to nothing, and
# nobody is told anything wrong about them, or waits for longer.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('choosy' . $preload, qq{
shared_preload_libraries = '$preload'
max_worker_processes = 16
autovacuum = off
});
	my ($sql) = asking($node);

	$sql->(q{
create extension evsource;
create table seen (position bigint);
create function see(e evsource.event) returns void language sql as $$ insert into public.seen values (e.position) $$;
select evsource.create_projection('rare', 'see', mode => 'async', types => '{Rare}', tables => '{seen}');
select evsource.create_projection('never' || i, 'see', mode => 'async', types => '{Never}') from generate_series(1, 2) i;
select evsource.create_projection('elsewhere', 'see', mode => 'async', categories => '{nowhere,somewhere}', partitions => 2);
});
	$sql->('select evsource.start_daemon()') unless $preload;
	$sql->("select from evsource.append('a-1', 'Often')");
	my $wait_for_all = sub { $sql->("select evsource.wait_for(projection, timeout => '1min') from evsource.projection_status") };
	$wait_for_all->();

	# Five units want none of these events: a transaction id each would be six an
	# event.  Once a second each writes down how far it is.  Between two appends there
	# is time for a worker to look.
	my $before = $sql->('select pg_current_xact_id()');
	my $started = time;
	$sql->(q{do $$ begin for i in 1 .. 300 loop perform evsource.append('a-' || i, 'Often'); commit; perform pg_sleep(0.001); end loop; end $$});
	my $ids = $sql->('select pg_current_xact_id()') - $before;
	cmp_ok($ids, '<', 800 + 10 * (time - $started), "$mode: what has nothing to apply writes no checkpoint at each append");

	# Nobody is told anything wrong.
	is($sql->(q{select string_agg(distinct (state, lag, lag_seconds, event_count)::text, ' ') from evsource.projection_status}), '(active,0,0,0)',
		"$mode: there is nothing that they lag behind");
	ok($node->poll_query_until('postgres', q{select bool_and(position = evsource.safe_position()) from evsource.projection_status}),
		"$mode: soon it is written down how far they are");

	# Who waits for one is woken at once, not when it is written down anyway: it takes
	# as long as with one that wants each event, more or less.
	$sql->("select evsource.create_projection('every', 'see', mode => 'async')");
	my %took;
	foreach my $i (1 .. 8)
	{
		foreach my $projection ('never1', 'every', 'elsewhere', 'every', 'rare', 'every')
		{
			my $from = time;
			$sql->("select from evsource.append('b-1', 'Often')");
			$sql->("select evsource.wait_for('$projection', timeout => '1min')");
			$took{ $projection eq 'every' ? 'every' : 'choosy' } += time - $from;
		}
	}
	cmp_ok($took{choosy}, '<', 2 * $took{every} + 5, "$mode: who waits need not wait for that");
	$sql->("select evsource.drop_projection('every'); truncate seen");

	# What it wants is applied, once, wherever the worker has looked before.
	$sql->(q{do $$ begin for i in 1 .. 600 loop
		perform evsource.append('c-' || i, case when i % 50 = 0 then 'Rare' else 'Often' end);
		if i % 7 > 0 then commit; end if;
	end loop; end $$});
	$wait_for_all->();
	is($sql->(q{select array_agg(position order by position) = (select array_agg(position order by position) from evsource.events where type = 'Rare') from seen}), 't',
		"$mode: what they want is applied");
	is($sql->(q{select event_count from evsource.projection_status where projection = 'rare'}), 12, "$mode: and counted");

	# What it wants now it gets from where it was.
	$sql->(q{
begin;
select evsource.alter_projection('rare', types => '{Often,Rare}');
select from evsource.append('d-1', 'Often');
commit;
select from evsource.append('d-2', 'Often');
});
	$wait_for_all->();
	is($sql->(q{select count(*) from seen s join evsource.events e using (position) where e.stream like 'd-%'}), 2, "$mode: also when it wants something else from now on");

	# Many of them write down together how far they are.  One that somebody holds is left
	# out, and so is one whose row an administrator has locked: they do not hold up the others.
	$sql->(q{
select evsource.create_projection('many' || i, 'see', mode => 'async', types => '{Never}') from generate_series(1, 120) i;
select evsource.create_projection('divided' || i, 'see', mode => 'async', types => '{Never}', partitions => 4) from generate_series(1, 10) i;
});
	$sql->("select from evsource.append('e-1', 'Common')");
	$wait_for_all->();
	my $holder = $node->background_psql('postgres');
	$holder->query_safe(q{begin;
select evsource.alter_projection('many60', types => '{Never,Seldom}');
select from evsource.checkpoints where projection = 'many61' for update;
select from evsource.partitions where projection = 'divided5' and partition = 2 for update});
	$before = $sql->('select pg_current_xact_id()');
	$started = time;
	$sql->(q{do $$ begin for i in 1 .. 300 loop perform evsource.append('e-' || i, 'Common'); commit; perform pg_sleep(0.01); end loop; end $$});
	$ids = $sql->('select pg_current_xact_id()') - $before;
	# (without preloading an append takes two)
	cmp_ok($ids, '<', ($preload ? 400 : 700) + 30 * (time - $started), "$mode: they share a transaction for that");
	ok($node->poll_query_until('postgres', q{select string_agg(projection, ' ' order by projection) filter (where position < evsource.safe_position()) = 'divided5 many60 many61' from evsource.projection_status}),
		"$mode: those that are held do not hold up the others");
	my (undef, undef, $stderr) = $node->psql('postgres', q{select evsource.wait_for('many61', timeout => '1 s')});
	like($stderr, qr/projection "many61" has not reached position/, "$mode: nor can it be waited for");
	is($sql->(q{select count(*) from pg_stat_activity where backend_type ~ 'evsource' and wait_event = 'transactionid'}), 0, "$mode: no worker waits for them, whoever does");
	$holder->query_safe('rollback');
	$holder->quit;
	ok($node->poll_query_until('postgres', q{select bool_and(position = evsource.safe_position()) from evsource.projection_status}),
		"$mode: and they follow");
	$sql->("select from evsource.append('e-1', 'Never')");
	$wait_for_all->();
	is($sql->(q{select count(*) from seen s join evsource.events e using (position) where e.type = 'Never'}), 132, "$mode: what they want comes to each");
	is($sql->(q{select sum(event_count) from evsource.projection_status where projection ~ '^(many|never|divided)'}), 132, "$mode: once");

	# So it is with the counts of inline projections, which the daemon notes now and then.
	$sql->(q{select evsource.create_projection('inline' || i, 'see', types => '{Never}') from generate_series(1, 2) i});
	$holder = $node->background_psql('postgres');
	$holder->query_safe(q{begin; select from evsource.checkpoints where projection = 'inline1' for update});
	$sql->(q{select count(evsource.append('f-1', 'Common')) from generate_series(1, 10001)});
	ok($node->poll_query_until('postgres', q{select c2.position > c1.position from evsource.checkpoints c1, evsource.checkpoints c2 where (c1.projection, c2.projection) = ('inline1', 'inline2')}),
		"$mode: one whose row is locked does not keep the count of another from being noted");
	is($sql->(q{select count(*) from pg_stat_activity where backend_type ~ 'evsource' and wait_event = 'transactionid'}), 0, "$mode: nobody waits for that either");
	$holder->query_safe('rollback');
	$holder->quit;
	$node->stop;
}
done_testing();
