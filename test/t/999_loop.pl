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
	0; # come to an end\n" if $done ne 't';
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

# What is called besides the handler can do so, also when the event is to be left aside: an
# upcaster, ...
$sql->(q{
truncate applied;
create function upcast(data jsonb) returns jsonb language plpgsql as $$
begin
	if data ? 'up' then perform public.crash(); end if;
	return data;
end $$;
select evsource.append('u-' || i % 2, 'Old', case i when 3 then '{"up": 1}' else '{}' end::jsonb) from generate_series(1, 10) i;
select evsource.define_event_type('Old', 1), evsource.define_event_type('Old', 2, upcaster => 'upcast');
select evsource.create_projection('one', 'one', mode => 'async', on_error => 'dead_letter', categories => '{u}');
create table stored (position bigint primary key);
select evsource.create_projection('two', query => 'insert into stored select position from new_events', mode => 'async', categories => '{u}', tables => '{stored}');
});
crashes_until(q{select count(*) filter (where projection = 'one' and lag = 0) = 1
	and count(*) filter (where projection = 'two' and state = 'failed') = 1 from evsource.projection_status}, 12, 'an upcaster');
is($sql->(q{select version, attempts > 0, sqlstate from evsource.dead_letters order by position}), "2|t|57P02\n3|f|\n4|f|\n5|f|", 'its event is parked');
is($sql->('select (select count(*) from applied), (select count(*) from stored)'), '6|2', 'what is before it is applied');

# ... in a rebuild, too, ...
foreach my $online (qw(true false))
{
	$sql->(qq{select evsource.request_rebuild('two', online => $online)});
	crashes_until(q{select count(*) = 1 from evsource.progress where projection = 'two' and state = 'failed'}, 7, "an upcaster in a rebuild, online $online");
	diag($sql->(q{select to_jsonb(p) from evsource.progress p; select to_jsonb(p) from evsource.rebuilds p;select to_jsonb(p) from evsource.crash_marks p;}));is($sql->(q{select last_error_position = e.position from evsource.rebuilds, evsource.events e where e.data ? 'up'}), 't', 'it says where');
}

$node->stop; done_testing();