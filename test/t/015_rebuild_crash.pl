# A rebuild by the daemon whose handler ends the server: it is not begun again
# for ever. The event is found, and parked, or the rebuild has failed.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Deadly;
use Node;

let_daemon_work();

my $node = start_node('rebuild_crash', q{
shared_preload_libraries = 'evsource'
restart_after_crash = on
evsource.async_attempts = 3
});
my ($sql, $soon) = asking($node);

# 5000 events; one in the middle is deadly, in rebuilds only.
$sql->('create extension evsource;' . deadly_schema() . q{
create table sums (account text primary key, events bigint not null);
create table others (like sums including all);
create function count_one(e evsource.event) returns void language plpgsql as $$
begin
	if evsource.replaying() then perform deadly.meet('sums', e.position); end if;
	insert into sums as s values (e.stream, 1) on conflict (account) do update set events = s.events + 1;
end $$;
create function count_other(e evsource.event) returns void language plpgsql as $$
begin
	if evsource.replaying() then perform deadly.meet('others', e.position); end if;
	insert into others as s values (e.stream, 1) on conflict (account) do update set events = s.events + 1;
end $$;
create function bystand(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
	if evsource.replaying() and e.version = 9000 then perform deadly.meet('tickets', e.position); end if;
	return jsonb_build_object('events', coalesce((state ->> 'events')::bigint, 0) + 1);
end $$;
select evsource.create_projection('sums', 'count_one', mode => 'async', tables => '{sums}', categories => '{account}', on_error => 'dead_letter');
select evsource.create_projection('others', 'count_other', tables => '{others}', categories => '{account}');
select evsource.create_projection('tickets', 'bystand', mode => 'async', categories => '{ticket}');
select count(evsource.append_batch('ticket-' || i, array_fill('Sold'::text, array[10000]), array_fill('{}'::jsonb, array[10000]))) from generate_series(1, 3) i;
select count(evsource.append('account-' || i % 50, 'Paid')) from generate_series(1, 5000) i;
insert into deadly.events select name, position from evsource.events, unnest('{sums,others}'::text[]) name
	where stream = 'account-7' and version = 33;
});
my $all_applied = 'select bool_and(lag = 0) and count(*) = 3 from evsource.projection_status';
my $rebuilt = 'select count(*) = 0 from evsource.rebuilds';
my $marks = 'select count(*) from evsource.crash_marks where partition < 0';
$soon->($all_applied, 'all is applied');

# What stands in the read model against the log, where that event and what comes
# after it in its stream are left out or not.
sub is_right
{
	my ($table, $left_out, $name) = @_;
	is($sql->(qq{
		select count(*) from (select stream as account, count(*) as events from evsource.events
			where stream like 'account-%' and not ($left_out and stream = 'account-7' and version >= 33) group by 1) e
		full join $table t using (account, events) where e.account is null or t.account is null}), 0, $name);
}

foreach my $online (qw(false true))
{
	my $how = $online eq 'true' ? 'beside the old version' : 'in place';

	$sql->(qq{select evsource.request_rebuild('sums', online => $online)});
	my $kills = kill_until($node, $rebuilt);
	cmp_ok($kills, '<=', 6, "$how: the server crashes no more");
	is($sql->(q{select string_agg(concat_ws(' ', version, attempts, sqlstate, message), '; ' order by position)
		from (select * from evsource.dead_letters where projection = 'sums' order by position limit 2) d}),
		'33 3 57P02 the process died while this event was applied; 34 0 waits behind an event of the same key',
		"$how: the event is parked, and what comes after it in its stream");
	is_right('sums', 'true', "$how: everything else is applied once");
	is($sql->($marks), 0, "$how: no mark is left");
}

# Whoever stops at errors has failed, and says at which event.
my $failed = q{select count(*) = 1 from evsource.progress where projection = 'others' and state = 'failed'};
foreach my $online (qw(true false))
{
	my $how = $online eq 'true' ? 'beside the old version' : 'in place';

	$sql->(qq{select evsource.request_rebuild('others', online => $online)});
	my $kills = kill_until($node, $failed);
	cmp_ok($kills, '<=', 6, "$how: the server crashes no more");
	is($sql->($failed), 't', "$how: the rebuild has failed");
	is($sql->(q{select replace(last_error, d.position::text, 'N') from evsource.rebuilds r join deadly.events d on d.name = r.projection}),
		'the process died while the event at position N was applied', "$how: it says where");
	is($sql->('select state from evsource.projection_status where projection = ' . q{'others'}),
		$online eq 'true' ? 'active' : 'rebuilding', "$how: what becomes of the projection");
	is($sql->($marks), 0, "$how: no mark is left");
	is_right('others', 'false', 'the old version is there') if $online eq 'true';
}
$sql->(q{
select evsource.append('account-8', 'Paid');
delete from deadly.events;
select evsource.request_rebuild('others')});
$soon->($rebuilt, 'mended and asked for again, it goes on');
is_right('others', 'false', 'and comes to its end');

# In a batch of many events it is found in three steps.
my $log = -s $node->logfile;
$sql->(q{
insert into deadly.events select 'tickets', position from evsource.events where stream = 'ticket-2' and version = 9000;
select evsource.request_rebuild('tickets')});
my $lost = q{select count(*) = 1 from evsource.progress where projection = 'tickets' and state = 'failed'};
my $deaths = kill_until($node, $lost);
# each crash but the last makes the next batches smaller; how many events the first had depends
# on how fast the machine is, and so whether there is a step between that and one
my @batches = slurp_file($node->logfile, $log) =~ /events are applied in batches of (\d+) now/g;
is(scalar @batches, $deaths, 'each crash is noticed once');
like(join(' ', @batches), qr/^(?:\d{2,} ){0,2}1 1 1 1$/, 'one crash in many events, one in some, three of the event alone');
is($sql->(q{select replace(last_error, d.position::text, 'N') from evsource.rebuilds r join deadly.events d on d.name = r.projection}),
	'the process died while the event at position N was applied', 'it says where');
$sql->(q{delete from deadly.events; select evsource.request_rebuild('tickets')});
$soon->($rebuilt, 'mended, it goes on');
is($sql->(q{select string_agg(state ->> 'events', ' ') from evsource.states where projection = 'tickets'}), '10000 10000 10000', 'and is right');

# What a rebuild calls besides the handler can do so, too.
$sql->(q{
create function empty_others() returns void language plpgsql as $$
begin
	perform deadly.meet('others', 0);
	truncate others;
end $$;
select evsource.alter_projection('others', on_reset => 'empty_others');
insert into deadly.events values ('others', 0);
select evsource.request_rebuild('others', online => false)});
is(kill_until($node, $failed), 3, 'a crash at the begin is not repeated for ever');
is($sql->('select last_error from evsource.rebuilds'), 'the process died when the rebuild began', 'and it says so');
is_right('others', 'false', 'nothing has happened yet');
$sql->(q{delete from deadly.events; select evsource.request_rebuild('others', online => false)});
$soon->($rebuilt, 'mended, it is built');
is_right('others', 'false', 'anew');

# Who is told to leave has not crashed, however often.
$sql->(q{
insert into deadly.events select 'others', position from evsource.events where stream = 'account-7' and version = 33;
select evsource.request_rebuild('others')});
foreach my $round (1 .. 5)
{
	$soon->('select ' . victim() . ' > 0', "round $round");
	$sql->('select pg_terminate_backend(' . victim() . ')') if $round <= 4;
	$node->restart if $round == 5;
}
is($sql->('select coalesce(max(attempts), 0) from evsource.crash_marks'), 0, 'a worker that was ended is not a crash');
$sql->('delete from deadly.events; select pg_terminate_backend(' . victim() . ')');
$soon->($rebuilt, 'it goes on');
is_right('others', 'false', 'to its end');

# Nor has who is cancelled, ...
my $sleeper = q{from pg_stat_activity where backend_type = 'evsource worker' and wait_event = 'PgSleep'};
$log = -s $node->logfile;
my $since = '-infinity';
my $nobody_died = sub { unlike(slurp_file($node->logfile, $log), qr/the process died/, $_[0]) };
$sql->(q{
select evsource.retry_dead_letters('sums');
insert into deadly.events select 'sums', position from evsource.events where stream = 'account-7' and version = 33;
select evsource.request_rebuild('sums')});
foreach my $round (1 .. 5)
{
	$soon->("select count(*) = 1 $sleeper and xact_start > '$since'", "cancelled, round $round");
	$since = $sql->("select xact_start $sleeper");
	$sql->("select pg_cancel_backend(pid) $sleeper");
}
$soon->("select count(*) = 1 $sleeper and xact_start > '$since'", 'it is tried again each time');
$nobody_died->('a worker that was cancelled is not a crash');
$sql->("delete from deadly.events; select pg_cancel_backend(pid) $sleeper");
$soon->($rebuilt, 'it goes on');
is($sql->('select count(*) from evsource.dead_letters'), 0, 'nothing is parked');
is_right('sums', 'false', 'all is in the new version');

# ... nor one whose handler fails as if it had been, ...
$log = -s $node->logfile;
$sql->(q{
create table errors (message text, sqlstate text);
create or replace function count_other(e evsource.event) returns void language plpgsql as $$
declare
	error errors;
begin
	select * into error from errors where e.version = 33;
	if found then raise exception '%', error.message using errcode = error.sqlstate; end if;
	insert into others as s values (e.stream, 1) on conflict (account) do update set events = s.events + 1;
end $$;
insert into errors values ('remote timeout', '57014');
select evsource.request_rebuild('others')});
$node->wait_for_log(qr/remote timeout.*remote timeout.*remote timeout/s, $log);
$nobody_died->('an error that does not count is none');
$sql->('truncate errors');
$soon->($rebuilt, 'it goes on when it is over');
is_right('others', 'false', 'to its end');

# ... nor one that ends by an error which nobody could put on record.
$log = -s $node->logfile;
$sql->(q{
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'there is no room for it'; end $$;
create trigger refuse before update on evsource.rebuilds for each row when (new.state = 'failed') execute function refuse();
insert into errors values ('wrong', 'ZZ001');
select evsource.request_rebuild('others')});
$node->wait_for_log(qr/there is no room for it.*there is no room for it.*there is no room for it/s, $log);
$sql->('drop trigger refuse on evsource.rebuilds');
$soon->($failed, 'when it can be, it is');
is($sql->('select last_error from evsource.rebuilds'), 'wrong', 'with the error that it was');
$nobody_died->('no error is a crash');
$sql->(q{truncate errors; select evsource.request_rebuild('others')});
$soon->($rebuilt, 'mended, it goes on');
$soon->($all_applied, 'and all is applied');
is($sql->('select count(*) from evsource.projection_failures'), 0, 'nobody is blamed');
is($sql->($marks), 0, 'no mark is left');
$node->stop;

done_testing();
