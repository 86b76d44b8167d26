# A handler that ends the server: the event is found, blamed after some attempts
# and parked, or its projection is stopped. Whoever is only there is not blamed.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Deadly;
use Node;

let_daemon_work();

my $node = start_node('daemon_crash', q{
shared_preload_libraries = 'evsource'
restart_after_crash = on
evsource.async_attempts = 3
log_min_messages = log
});
my ($sql, $soon) = asking($node);

$sql->('create extension evsource;' . deadly_schema() . q{
create table applied (projection text, position bigint, primary key (projection, position));
create function live(p text, e evsource.event) returns void language plpgsql as $$
begin
	perform deadly.meet(p, e.position);
	insert into public.applied values (p, e.position);
end $$;
create function one(e evsource.event) returns void language sql as $$ select public.live('one', e) $$;
create function two(e evsource.event) returns void language sql as $$ select public.live('two', e) $$;
create function three(e evsource.event) returns void language sql as $$ select public.live('three', e) $$;
create function bystander(e evsource.event) returns void language sql as $$ select public.live('bystander', e) $$;
select evsource.create_projection('one', 'public.one', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('bystander', 'public.bystander', mode => 'async');
select count(evsource.append('account-' || i % 3, 'Paid')) from generate_series(1, 30) i;
});
$soon->('select bool_and(lag = 0) and count(*) = 2 from evsource.projection_status', 'all is applied');

$sql->(q{
begin;
select count(evsource.append('account-' || i % 3, 'Paid')) from generate_series(1, 12) i;
insert into deadly.events select 'one', max(position) - 6 from evsource.events;
commit});
my $kills = kill_until($node, q{select lag = 0 from evsource.projection_status where projection = 'one'});
is($kills, 5, 'one crash out of the blue, one that is expected, three of the event alone');
is($sql->(q{select string_agg(concat_ws(' ', position - (select position from deadly.events), attempts, sqlstate, message), '; ' order by position)
	from evsource.dead_letters where projection = 'one'}),
	'0 3 57P02 the process died while this event was applied; 3 0 waits behind an event of the same key; 6 0 waits behind an event of the same key',
	'it is parked, and what comes after it in its stream');
is($sql->(q{select count(*) from applied where projection = 'one'}), 39, 'everything else is applied once');
$soon->(q{select state = 'active' and lag = 0 and event_count = 42 from evsource.projection_status where projection = 'bystander'}, 'who was only there goes on');
is($sql->('select count(*) from evsource.projection_failures'), 0, 'and is not blamed');
$soon->('select count(*) = 0 from evsource.crash_marks', 'no mark is left');

# Whoever stops at errors is stopped.
$sql->(q{
delete from deadly.events;
select evsource.create_projection('two', 'public.two', mode => 'async', start => 'now')});
$sql->(q{select from evsource.append('account-1', 'Paid')});
$soon->(q{select event_count = 1 from evsource.projection_status where projection = 'two'}, 'another projection');
$sql->(q{
begin;
select from evsource.append('account-1', 'Paid');
insert into deadly.events select 'two', max(position) from evsource.events;
commit});
$kills = kill_until($node, q{select state = 'failed' from evsource.projection_status where projection = 'two'});
cmp_ok($kills, '<=', 5, 'an event that was alone is known sooner');
is($sql->(q{select concat_ws(' ', f.position = d.position, attempts, sqlstate, message) from evsource.projection_failures f, deadly.events d}),
	't 3 57P02 the process died while this event was applied', 'it is on record');
$sql->(q{delete from deadly.events; select evsource.resume_projection('two')});
$soon->(q{select lag = 0 and event_count = 2 from evsource.projection_status where projection = 'two'}, 'resumed, it goes on');

# Who is told to leave has not crashed, however often; nor has who is cancelled.
$sql->(q{select evsource.create_projection('three', 'public.three', mode => 'async', start => 'now')});
$sql->(q{
begin;
select from evsource.append('account-1', 'Paid');
insert into deadly.events select 'three', max(position) from evsource.events;
commit});
foreach my $round (1 .. 6)
{
	$soon->('select ' . victim() . ' > 0', "round $round");
	$sql->('select pg_terminate_backend(' . victim() . ')') if $round <= 2;
	$sql->('select evsource.stop_daemon(); select evsource.start_daemon()') if $round == 3;
	$node->restart if $round == 4;
	$sql->('select pg_cancel_backend(' . victim() . ')') if $round > 4;
}
is($sql->(q{select coalesce(max(attempts), 0) from evsource.crash_marks}), 0, 'a worker that was ended is not a crash');
is($sql->(q{select state from evsource.projection_status where projection = 'three'}), 'active', 'nor a failure');
$sql->('delete from deadly.events');
$sql->('select pg_terminate_backend(' . victim() . ')');
$soon->(q{select bool_and(lag = 0) and bool_and(state = 'active') from evsource.projection_status}, 'and all is applied');

# A handler may end the worker alone, by a FATAL error.
$sql->(q{
create function four(e evsource.event) returns void language plpgsql set exit_on_error = on as $$
begin
	if e.data ? 'fatal' then raise exception 'this is the end'; end if;
	insert into public.applied values ('four', e.position);
end $$;
select evsource.create_projection('four', 'public.four', mode => 'async', on_error => 'dead_letter', start => 'now');
select evsource.append('account-' || i % 3, 'Paid', case when i = 5 then '{"fatal": true}' else '{}' end::jsonb) from generate_series(1, 9) i;
});
$soon->(q{select lag = 0 from evsource.projection_status where projection = 'four'}, 'a handler that ends its worker does not do so for ever');
is($sql->(q{select string_agg(concat_ws(' ', attempts, sqlstate, message), '; ' order by position)
	from evsource.dead_letters where projection = 'four'}),
	'3 57P02 the process died while this event was applied; 0 waits behind an event of the same key', 'its event is parked');
$soon->(q{select lag = 0 and state = 'active' from evsource.projection_status where projection = 'bystander'}, 'the others go on');

# Or by the signal that others tell it to leave with.
$sql->(q{
create function five(e evsource.event) returns void language plpgsql as $$
begin
	if e.data ? 'leave' then
		perform pg_terminate_backend(pg_backend_pid());
		perform pg_sleep(60);    -- where it notices
	end if;
	insert into public.applied values ('five', e.position);
end $$;
select evsource.create_projection('five', 'public.five', mode => 'async', on_error => 'dead_letter', start => 'now');
select evsource.append('account-' || i % 3, 'Paid', case when i = 5 then '{"leave": true}' else '{}' end::jsonb) from generate_series(1, 9) i;
});
$soon->(q{select lag = 0 from evsource.projection_status where projection = 'five'}, 'nor does one that tells its worker to leave');
is($sql->(q{select string_agg(concat_ws(' ', attempts, sqlstate, message), '; ' order by position)
	from evsource.dead_letters where projection = 'five'}),
	'3 57P02 the process died while this event was applied; 0 waits behind an event of the same key', 'its event is parked, too');
$soon->(q{select lag = 0 and state = 'active' from evsource.projection_status where projection = 'bystander'}, 'and the others go on');
$node->stop;

done_testing();
