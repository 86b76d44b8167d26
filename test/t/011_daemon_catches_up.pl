# The daemon lets inline projections catch up that were created concurrently:
# it isolates what fails, gives way to appenders, and applies each event once.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('catches_up' . $preload, qq{
shared_preload_libraries = '$preload'
max_worker_processes = 16
evsource.async_attempts = 2
evsource.async_retry_delay = 10ms
});

	my ($sql) = asking($node);
	my $state = sub { my ($name, $state) = @_; ok($node->poll_query_until('postgres', "select state = '$state' from evsource.projection_status where projection = '$name'"), "$mode: $name becomes $state") };
	my $applied = sub { is($sql->("select count(*), count(distinct position) from $_[0]"), $sql->('select count(*), count(*) from evsource.events'), "$mode: $_[0] has each event once") };
	my $create = sub { $sql->("create table $_[0] (position bigint); select evsource.create_projection('$_[0]', tables => '{$_[0]}', concurrently => true, query => 'insert into public.$_[0] select position from new_events')") };

	$sql->(q{create extension evsource; select count(evsource.append('a-' || i % 7, 'Counted')) from generate_series(1, 3000) i});
	$create->('late');
	$sql->('select evsource.start_daemon()') unless $preload;
	$state->('late', 'active');
	$applied->('late');
	$sql->(q{select evsource.append('a-1', 'Counted')});
	$applied->('late');

	# An appender that idles does not make others wait for long.
	my $idle = $node->background_psql('postgres');
	$idle->query_safe(q{begin; select evsource.append('i-1', 'Idle')});
	$create->('later');
	ok($node->poll_query_until('postgres', q{select count(*) > 0 from pg_locks l join pg_stat_activity a using (pid) where backend_type = 'evsource worker' and mode = 'ShareRowExclusiveLock' and not granted}), "$mode: it waits for who has appended");
	$sql->(q{select evsource.append('a-1', 'Counted')});
	is($sql->(q{select state from evsource.projection_status where projection = 'later'}), 'catching_up', "$mode: and lets others append");
	$idle->query_safe('commit');
	$idle->quit;
	$state->('later', 'active');
	$applied->('later');
	$applied->('late');

	# Nor does a handler that waits for somebody's lock, while they wait for it.
	$sql->(q{create function holds(e evsource.event) returns void language plpgsql as $$
begin
	if (e).type = 'Hold' then
		perform pg_advisory_xact_lock_shared(11);
	end if;
	insert into public.held values ((e).position);
end $$; create table held (position bigint)});
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('select pg_advisory_lock(11)');
	$idle = $node->background_psql('postgres');
	$idle->query_safe(q{begin; select evsource.append('i-1', 'Hold')});
	$sql->(q{select evsource.create_projection('held', 'holds', tables => '{held}', concurrently => true)});
	ok($node->poll_query_until('postgres', q{select count(*) > 0 from pg_locks l join pg_stat_activity a using (pid) where backend_type = 'evsource worker' and mode = 'ShareRowExclusiveLock' and not granted}), "$mode: it waits for who has appended");
	$idle->query_safe('commit');
	$idle->quit;
	ok($node->poll_query_until('postgres', q{select count(*) > 0 from pg_locks l join pg_stat_activity a using (pid) where backend_type = 'evsource worker' and locktype = 'advisory' and objid = 11 and not granted}), "$mode: its handler waits for a lock");
	$sql->(q{set statement_timeout = '30s'; select evsource.append('a-1', 'Counted')});
	is($sql->(q{select state from evsource.projection_status where projection = 'held'}), 'catching_up', "$mode: and lets others append");
	$holder->quit;
	$state->('held', 'active');
	$applied->('held');

	# One that was reset, too.
	$sql->(q{select evsource.reset_projection('later')});
	$state->('later', 'active');
	$applied->('later');

	# What fails is on record with its event, and stops that projection alone.
	$sql->(q{
create table checked (position bigint check (position <> 5));
select evsource.create_projection('checked', concurrently => true, query => 'insert into public.checked select position from new_events');
});
	$state->('checked', 'failed');
	is($sql->(q{select last_error_position, event_count from evsource.projection_status where projection = 'checked'}), '5|4', "$mode: it is applied up to the event that failed");
	$sql->(q{alter table checked drop constraint checked_position_check; select evsource.resume_projection('checked', concurrently => true)});
	$state->('checked', 'active');
	$applied->('checked');
	is($sql->(q{select count(*) from evsource.projection_status where last_error is not null or event_count <> (select count(*) from evsource.events)}), 0, "$mode: nothing of it is left, and the counts are exact");
	$node->stop;
}

done_testing();
