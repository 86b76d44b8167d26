# Handlers that kill their own process, so that the server crashes: several at once,
# which crash it in turns. Each is found out, and nobody who is only there.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

use FindBin;
use lib $FindBin::RealBin;
use Killing;
use Node;

let_daemon_work();

my $node = start_node('daemon_crashes', q{
shared_preload_libraries = 'evsource'
restart_after_crash = on
evsource.async_attempts = 3
});
my ($sql, $soon) = asking($node);

# What makes the server crash, which it may do before it has answered; all or nothing.
my $deadly = sub { return $node->psql('postgres', "begin; $_[0]; commit;") };

# The query says true after no more than so many crashes of the server.
sub crashes_until
{
	my ($query, $most, $name) = @_;
	my $log = -s $node->logfile;
	my $crashes = 0;
	my $done = '';

	for (my $start = time; time - $start < $PostgreSQL::Test::Utils::timeout_default; sleep 0.05)
	{
		$crashes = () = slurp_file($node->logfile, $log) =~ /was terminated by signal 9/g;
		last if $crashes > $most;
		$done = ask($node, $query) // '';
		last if $done eq 't';
	}
	ok($done eq 't' && $crashes <= $most, "$name, after $crashes crashes of at most $most");
	die "it does not come to an end\n" if $done ne 't';
	return;
}

$sql->(q{
create extension evsource;
create table applied (projection text, position bigint, primary key (projection, position));
create function crash() returns void language plpgsql as $$
begin
	execute 'copy (select) to program ''kill -9 $PPID''';
	perform pg_sleep(60);
end $$;
create function take(projection text, e evsource.event) returns void language plpgsql as $$
begin
	if e.data ? projection then perform public.crash(); end if;
	insert into public.applied values (projection, e.position);
end $$;
create function one(e evsource.event) returns void language sql as $$ select public.take('one', e) $$;
create function two(e evsource.event) returns void language sql as $$ select public.take('two', e) $$;
create function bystander(e evsource.event) returns void language sql as $$ select public.take('bystander', e) $$;
});

# Two projections: one parks its event, the other stops before it.
$sql->(q{
select evsource.create_projection('one', 'one', mode => 'async', on_error => 'dead_letter');
select evsource.create_projection('two', 'two', mode => 'async');
select evsource.create_projection('bystander', 'bystander', mode => 'async');
});
$deadly->(q{
select count(evsource.append('account-' || i % 3, 'Paid',
	case i when 17 then '{"one": 1}' when 23 then '{"two": 1}' else '{}' end::jsonb)) from generate_series(1, 40) i;
});
crashes_until(q{select count(*) filter (where projection = 'one' and lag = 0) = 1
	and count(*) filter (where projection = 'two' and state = 'failed') = 1
	and count(*) filter (where projection = 'bystander' and lag = 0) = 1 from evsource.projection_status}, 10, 'two projections');
is($sql->(q{select data, attempts, sqlstate from evsource.dead_letters l join evsource.events e using (position) where attempts > 0}),
	'{"one": 1}|3|57P02', 'the event of one is parked');
is($sql->(q{select data, attempts, sqlstate from evsource.projection_failures l join evsource.events e using (position)}),
	'{"two": 1}|3|57P02', 'the other is stopped at its own');
is($sql->(q{select applied from evsource.retry_dead_letters('one')}), 0, 'to retry the others crashes nothing');
is($sql->(q{select projection, count(*) from applied group by 1 order by 1}), "bystander|40\none|32\ntwo|22", 'what is before them is applied');

# Two partitions of one.
$sql->(q{
select evsource.drop_projection(p) from unnest('{one,two,bystander}'::text[]) p;
truncate applied;
select evsource.create_projection('one', 'one', mode => 'async', on_error => 'dead_letter', partitions => 2, start => 'now');
});
$deadly->(q{
select count(evsource.append(stream, 'Paid', case i when 7 then '{"one": 1}' else '{}' end::jsonb)) from generate_series(1, 20) i,
	(select distinct on (evsource._partition('p-' || n, 2)) 'p-' || n as stream from generate_series(1, 20) n) s;
});
crashes_until(q{select lag = 0 from evsource.projection_status}, 10, 'two partitions');
is($sql->(q{select count(distinct stream), count(*), min(version), max(version), min(attempts), min(sqlstate) from evsource.dead_letters where attempts > 0}),
	'2|2|7|7|3|57P02', 'the event of each is parked');
is($sql->('select count(*) from applied'), 12, 'what is before them is applied');
is($sql->('select count(*) from evsource.crash_marks'), 0, 'no mark is left');

# What is called besides the handler can do so, also when the event is to be left aside: an
# upcaster, ...
$sql->(q{
select evsource.drop_projection('one');
truncate applied;
create function upcast(data jsonb) returns jsonb language plpgsql as $$
begin
	if data ? 'up' then perform public.crash(); end if;
	return data;
end $$;
select evsource.append('u-' || i % 2, 'Old', case i when 3 then '{"up": 1}' else '{}' end::jsonb) from generate_series(1, 10) i;
select evsource.define_event_type('Old', 1), evsource.define_event_type('Old', 2, upcaster => 'upcast');
create table stored (position bigint primary key);
});
$deadly->(q{
select evsource.create_projection('one', 'one', mode => 'async', on_error => 'dead_letter', categories => '{u}');
select evsource.create_projection('two', query => 'insert into stored select position from new_events', mode => 'async', categories => '{u}', tables => '{stored}');
});
crashes_until(q{select count(*) filter (where projection = 'one' and lag = 0) = 1
	and count(*) filter (where projection = 'two' and state = 'failed') = 1 from evsource.projection_status}, 12, 'an upcaster');
is($sql->(q{select version, attempts > 0, sqlstate from evsource.dead_letters order by position}), "2|t|57P02\n3|f|\n4|f|\n5|f|", 'its event is parked');
is($sql->('select (select count(*) from applied), (select count(*) from stored)'), '6|2', 'what is before it is applied');

# ... in a rebuild, too, ...
$deadly->(q{select evsource.request_rebuild('two', online => false)});
crashes_until(q{select count(*) = 1 from evsource.progress where projection = 'two' and state = 'failed'}, 7, 'an upcaster in a rebuild');
is($sql->(q{select last_error_position = e.position from evsource.rebuilds, evsource.events e where e.data ? 'up'}), 't', 'it says where');

# ... or a function of keys.
$sql->(q{
select evsource.drop_projection(p, force => true) from unnest('{one,two}'::text[]) p;
create function keys_of(e evsource.event) returns text language plpgsql immutable as $$
begin
	if e.data ? 'key' then perform public.crash(); end if;
	return e.type;
end $$;
create function fold(state jsonb, e evsource.event) returns jsonb language sql as $$ select jsonb_build_object('upto', e.version) $$;
select evsource.create_projection('fold', 'fold', mode => 'async', on_error => 'dead_letter', key => 'keys_of', categories => '{k}');
});
$deadly->(q{
select evsource.append('k-1', 'T', case i when 3 then '{"key": 1}' else '{}' end::jsonb) from generate_series(1, 5) i;
});
crashes_until(q{select state = 'failed' from evsource.projection_status}, 7, 'a function of keys');
is($sql->(q{select version, attempts > 0, sqlstate from evsource.projection_failures join evsource.events using (position)}), '3|t|57P02', 'it is stopped there');
is($sql->(q{select state from evsource.states where projection = 'fold'}), '{"upto": 2}', 'what is before it is applied');

# A handler that crashes the server at many events does not do so at each of them.
$sql->(q{
select evsource.drop_projection('fold', force => true);
select evsource.create_projection('one', 'one', mode => 'async', on_error => 'dead_letter', categories => '{m}');
});
$deadly->(q{
select evsource.append('m-' || i, 'T', '{"one": 1}') from generate_series(1, 20) i;
});
crashes_until(q{select state = 'failed' from evsource.projection_status}, 20, 'many events');
is($sql->('select count(*) from evsource.dead_letters'), 5, 'some are parked');
is($sql->('select version, attempts, sqlstate from evsource.projection_failures join evsource.events using (position)'), '1|3|57P02', 'then it is stopped');
$sql->(q{select evsource.drop_projection('one', force => true)});

# What a truncation has released is not forgotten when an event of it crashes the server, after
# those before it have been applied one by one.
$sql->(q{
create function keys(e evsource.event) returns text[] language sql immutable as $$ select array(select jsonb_array_elements_text(e.data -> 'keys')) $$;
create function count_up(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
	if e.type = 'Bad' then raise exception 'bad'; end if;
	perform public.take('one', e);
	return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
truncate applied;
select evsource.create_projection('one', 'count_up', mode => 'async', on_error => 'dead_letter', key => 'keys', categories => '{r}');
select evsource.append('r-bad', 'Bad', '{"keys": ["a", "b"]}'), evsource.append('r-bad', 'Good', '{"keys": []}');
select evsource.append('r-1', 'Good', data) from unnest(array['{"keys": ["a"]}', '{"keys": ["b"]}',
	'{"keys": ["a"], "one": 1}', '{"keys": ["b"]}', '{"keys": ["a"]}', '{"keys": ["b"]}']::jsonb[]) data;
});
$soon->(q{select count(*) = 7 from evsource.dead_letters}, 'one is bad, and the others wait');
$deadly->(q{select evsource.truncate_stream('r-bad', 2, force => true)});
crashes_until(q{select count(*) = 2 and bool_or(attempts > 0) from evsource.dead_letters}, 6, 'an event that is released');
is($sql->(q{select version, attempts, sqlstate from evsource.dead_letters order by position}), "3|3|57P02\n5|0|", 'it is parked, and what waits for it');
is($sql->(q{select state from evsource.states where projection = 'one' order by key}), qq({"n": 1}\n{"n": 3}), 'all else is applied');

# Nor do those that are released crash it one after the other: this would be the sixth.
$sql->(q{
select evsource.append('r-worse', 'Bad', '{"keys": ["c"]}'), evsource.append('r-worse', 'Good', '{"keys": []}');
select evsource.append('r-2', 'Good', data) from unnest(array['{"keys": ["c"], "one": 1}', '{"keys": ["c"]}']::jsonb[]) data;
select evsource.append('r-3', 'Bad', jsonb_build_object('keys', array['d' || i])) from generate_series(1, 4) i;
});
$soon->(q{select count(*) = 4 from evsource.dead_letters where stream = 'r-3'}, 'more are bad');
$deadly->(q{
update evsource.dead_letters set sqlstate = '57P02' where stream = 'r-3';
select evsource.truncate_stream('r-worse', 2, force => true)});
crashes_until(q{select state = 'failed' from evsource.projection_status}, 6, 'one more event that is released');
is($sql->(q{select stream, attempts, sqlstate from evsource.projection_failures join evsource.events using (position)}), 'r-2|3|57P02', 'it is stopped there');
is($sql->(q{select version, attempts, retry from evsource.dead_letters where stream = 'r-2' order by position}), "1|0|t\n2|0|f", 'and to be tried again');
$sql->(q{
create or replace function count_up(state jsonb, e evsource.event) returns jsonb language sql as $$ select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1) $$;
select evsource.resume_projection('one');
});
$soon->(q{select count(*) = 0 from evsource.dead_letters where stream = 'r-2'}, 'mended and resumed, it goes on');
is($sql->(q{select state, event_count, (select count(*) from evsource.projection_failures) from evsource.projection_status}), 'active|8|0', 'and all that waits for nothing is applied');
$sql->(q{select evsource.drop_projection('one', force => true)});

# A slow handler in another database is not blamed for it.
$node->safe_psql('postgres', 'create database other');
$node->safe_psql('other', q{
create extension evsource;
create function slow(e evsource.event) returns void language sql as $$ select pg_sleep(2) $$;
select evsource.create_projection('slow', 'slow', mode => 'async');
select version from evsource.append('s-1', 'T');
});
$node->poll_query_until('other', q{select count(*) = 1 from pg_stat_activity where wait_event = 'PgSleep'});
$sql->(q{
create or replace function crash() returns void language plpgsql as $$
begin
	perform pg_sleep(0.5);    -- the other one is at work
	execute 'copy (select) to program ''kill -9 $PPID''';
	perform pg_sleep(60);
end $$;
select evsource.create_projection('one', 'one', mode => 'async', categories => '{d}');
});
$deadly->(q{
select evsource.append('d-1', 'T', '{"one": 1}');
});
crashes_until(q{select state = 'failed' from evsource.projection_status}, 5, 'beside another database');
$node->poll_query_until('other', q{select lag = 0 or state = 'failed' from evsource.projection_status});
is($node->safe_psql('other', q{select state, lag from evsource.projection_status}), 'active|0', 'whose projection goes on');

# Nor does one that never returns keep others from what they do one by one after a crash.
$node->safe_psql('other', q{
create or replace function slow(e evsource.event) returns void language sql as $$ select pg_sleep(100000) $$;
select version from evsource.append('s-1', 'T');
});
$sql->(q{
select evsource.drop_projection('one', force => true);
create function dozes(e evsource.event) returns void language sql as $$ select pg_sleep(1.2) $$;
select evsource.create_projection('dozes', 'dozes', mode => 'async', categories => '{z}', start => 'now');
select evsource.append('z-1', 'T') from generate_series(1, 3);
});
$soon->(q{select count(*) = 2 from pg_stat_activity where backend_type = 'evsource worker' and wait_event = 'PgSleep'}, 'one does not return, one takes its time');
$deadly->('select crash()');
$node->poll_query_until('postgres', 'select true');
$soon->(q{select lag = 0 and state = 'active' from evsource.projection_status}, 'who takes its time comes to its end');
is($node->safe_psql('other', q{select state, lag from evsource.projection_status}), 'active|1', 'who does not return has not been blamed');
$node->stop;

done_testing();
