# What a coordinator leaves behind that is terminated while a worker of it is at work: nobody
# but the next one, which finds it. Nothing is left to a DROP DATABASE, nothing counts twice,
# and stop_daemon() waits for it. A worker that is stopped (SIGSTOP) hears of nothing, as one
# does in a long call of C. And what a cancel does: it ends none of them.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

my @stopped;
END { kill 'CONT', @stopped if @stopped; }

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('heirs' . $preload, qq{
shared_preload_libraries = '$preload'
max_worker_processes = 16
evsource.max_workers = 2
});
	my $sql = sub { return $node->safe_psql('shop', join ';', @_) };
	my $soon = sub {
		my ($query, $name) = @_;
		local $Test::Builder::Level = $Test::Builder::Level + 1;
		return ok($node->poll_query_until('shop', $query), "$mode: $name");
	};
	my $pid_of = sub { return $sql->("select pid from pg_stat_activity where backend_type = 'evsource $_[0]' and (datname = 'shop' or datname is null)") };
	my $end = sub { return $node->safe_psql('postgres', 'select ' . join(', ', map { "pg_terminate_backend($_)" } @_)) };

	# A handler that is at it until the test lets it go on, whatever database the test is in.
	my $start = sub {
		$node->safe_psql('postgres', 'create database shop');
		$sql->(q{create extension evsource;
create table seen (position bigint);
create function see(e evsource.event) returns void language plpgsql as $$
begin
	if e.type = 'Waits' then
		perform count(*) from pg_replication_origin;
	end if;
	insert into public.seen values (e.position);
end $$;
select evsource.create_projection('waits', 'see', mode => 'async', tables => '{seen}');
create table also_seen (position bigint);
select evsource.create_projection('goes_on', mode => 'async', tables => '{also_seen}', query => 'insert into also_seen select position from new_events')});
		$sql->('select evsource.start_daemon()') if !$preload;
		$soon->(q{select count(*) = 2 from evsource.daemon_status where role = 'worker'}, 'the workers are there');
	};
	my $gate = Session->new(database => $node->connstr('postgres'));
	my $shut = sub { $gate->run('begin; lock table pg_replication_origin in access exclusive mode') };
	my $open = sub { $gate->run('commit') };
	my $at_work = q{select pid from evsource.daemon_status where state = 'applying' and projection = 'waits'};
	my $waits = q{select count(*) = 1 from pg_stat_activity where datname = 'shop' and backend_type = 'evsource worker' and wait_event_type = 'Lock'};
	my $worker_at_work = sub {
		$shut->();
		$sql->(q{select evsource.append('a-1', 'Waits')});
		$soon->($waits, 'a worker waits in its handler');
		return $sql->($at_work);
	};
	my $all_applied = 'select bool_and(lag = 0) from evsource.projection_status';
	my $gone = sub { return "select not exists (select from pg_stat_activity where pid in (" . join(', ', @_) . '))' };
	my $another = sub { return "select count(*) = 1 from evsource.daemon_status where role = 'coordinator' and pid <> $_[0]" };
	my $shown = q{select coalesce((select array_agg(pid order by pid) from evsource.daemon_status where role = 'worker')
		= (select array_agg(pid order by pid) from pg_stat_activity where datname = 'shop' and backend_type = 'evsource worker'), false)};

	# One that hears: it goes with its coordinator.
	$start->();
	my $worker = $worker_at_work->();
	my $coordinator = $pid_of->('coordinator');
	$end->($coordinator);
	$soon->($gone->($coordinator, $worker), 'a worker goes with its coordinator, out of its handler');
	$soon->($waits, 'the next one brings another, which begins again');
	$soon->($shown, 'what is there is shown');
	$open->();
	$soon->($all_applied, 'the event is applied');

	# One that does not: the next coordinator leaves its place alone.
	my $deaf = $worker_at_work->();
	push @stopped, $deaf;
	kill 'STOP', $deaf;
	$coordinator = $pid_of->('coordinator');
	$end->($coordinator);
	$soon->($another->($coordinator), 'another coordinator comes');
	$sql->(q{select evsource.append('a-2', 'Happened')});
	$soon->(q{select lag = 0 from evsource.projection_status where projection = 'goes_on'}, 'others go on');
	$soon->($shown, 'one that does not hear is still shown');
	is($sql->(q{select count(*) from evsource.daemon_status where role = 'worker'}), 2, "$mode: and counts as one of two");
	is($sql->(q{select worker_pid from evsource.projection_status where projection = 'waits'}), $deaf, "$mode: it is at its projection");

	# So it is found.
	my $stopper = Session->new(database => $node->connstr('shop'));
	$coordinator = $pid_of->('coordinator');
	$end->($coordinator);
	$soon->($gone->($coordinator), 'that coordinator goes, too');
	$stopper->send('select evsource.stop_daemon();');
	$soon->(qq{select count(*) = 1 from pg_stat_activity where datname = 'shop' and backend_type ~ '^evsource' and pid = $deaf having count(*) = (select count(*) from pg_stat_activity where datname = 'shop' and backend_type ~ '^evsource')}, 'it is all that is there');
	is($sql->(q{select state from pg_stat_activity where query = 'select evsource.stop_daemon();' and pid <> pg_backend_pid()}), 'active', "$mode: stop_daemon() waits for it");
	kill 'CONT', $deaf;
	is(ends($stopper), 't', "$mode: until it has gone");
	$stopper->close;
	is($sql->(q{select count(*) from pg_stat_activity where datname = 'shop' and backend_type ~ '^evsource'}), 0, "$mode: nobody is there then");
	$open->();
	$sql->('select evsource.start_daemon()');
	$soon->($all_applied, 'the event is applied after another start');

	# Launcher and coordinator both: nobody but the worker itself says that it is there.
	$deaf = $worker_at_work->();
	push @stopped, $deaf;
	kill 'STOP', $deaf;
	my $launcher = $pid_of->('launcher');
	$coordinator = $pid_of->('coordinator');
	$end->($launcher, $coordinator);
	$soon->($gone->($launcher, $coordinator), 'launcher and coordinator have gone');
	is($sql->(q{select string_agg(pid::text, ' ') from evsource.daemon_status}), $deaf, "$mode: what they have left is shown");
	$soon->($another->($coordinator), 'others come');
	$soon->(qq{select evsource.append('a-2', 'Happened') is not null and exists (select from evsource.daemon_status where pid = $deaf and projection = 'waits')}, 'it is still shown');
	$soon->(q{select lag = 0 from evsource.projection_status where projection = 'goes_on'}, 'others go on beside it');
	is($sql->(q{select worker_pid from evsource.projection_status where projection = 'waits'}), $deaf, "$mode: it is still at its projection");
	kill 'CONT', $deaf;
	$soon->($gone->($deaf), 'it goes when it hears');
	$open->();
	$soon->($all_applied, 'the event is applied by another');

	# A cancel.
	$worker = $worker_at_work->();
	my @all = map { $pid_of->($_) } qw(launcher coordinator);
	$sql->("select pg_cancel_backend($_)") for @all;
	$sql->(q{select evsource.append('a-2', 'Happened')});
	$soon->(q{select lag = 0 from evsource.projection_status where projection = 'goes_on'}, 'others go on after a cancel');
	my $idle = $sql->(q{select pid from evsource.daemon_status where role = 'worker' and state = 'idle'});
	$sql->("select pg_cancel_backend($idle)");
	$sql->(q{select evsource.append('a-2', 'Happened')});
	$soon->(q{select lag = 0 from evsource.projection_status where projection = 'goes_on'}, 'also of the worker');
	$sql->("select pg_cancel_backend($worker)");
	$soon->(q{select bool_or(state = 'retrying' or last_error ~ 'cancel') from evsource.projection_status where projection = 'waits'}, 'a cancelled event is tried again');
	$open->();
	$soon->($all_applied, 'and is applied');
	# each has come round since
	$sql->('create table third (position bigint)',
		q{select evsource.create_projection('third', mode => 'async', tables => '{third}', query => 'insert into third select position from new_events')});
	$soon->(q{select count(*) = 3 and bool_and(lag = 0) from evsource.projection_status}, 'another projection is applied');
	is($sql->('select string_agg(pid::text, $$ $$ order by pid) from pg_stat_activity where backend_type ~ $$^evsource$$'),
		join(' ', sort { $a <=> $b } @all, $worker, $idle), "$mode: and none of them has ended");

	# Dropped.
	$worker_at_work->();
	$end->($pid_of->('coordinator'));
	$node->safe_psql('postgres', 'drop database shop');
	pass("$mode: the database can be dropped meanwhile");
	$open->();
	$start->();
	$worker_at_work->();
	$end->($pid_of->('launcher'), $pid_of->('coordinator'));
	$node->safe_psql('postgres', 'drop database shop');
	pass("$mode: also when the launcher has gone with it");
	$open->();
	is($node->safe_psql('postgres', q{select count(*) from pg_stat_activity where backend_type ~ '^evsource (coordinator|worker)'}), 0, "$mode: and all have gone");
	$node->stop;
}

done_testing();
