# After a crash, what may have caused it is applied in small batches, one unit at a
# time. Those that merely were at work have their turn, too, however slow another is.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Killing;
use Node;

let_daemon_work();

my $node = start_node('daemon_turns', q{
shared_preload_libraries = 'evsource'
restart_after_crash = on
});
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
create table applied (projection text, position bigint, in_turn boolean, primary key (projection, position));
create function in_turn() returns boolean language sql as $$
	select exists (select from pg_locks where locktype = 'advisory' and objsubid = 236 and pid = pg_backend_pid() and granted) $$;
-- handlers of which one batch has no more than two events; one gives away what locks the session has
create function one(e evsource.event) returns void language sql as $$
	select pg_advisory_unlock_all(); select pg_sleep(0.3); insert into public.applied values ('one', e.position, public.in_turn()) $$;
create function two(e evsource.event) returns void language sql as $$
	select pg_sleep(0.3); insert into public.applied values ('two', e.position, public.in_turn()) $$;
select count(evsource.append('account-' || i % 3, 'Paid')) from generate_series(1, 120) i;
select evsource.create_projection('one', 'public.one', mode => 'async');
select evsource.create_projection('two', 'public.two', mode => 'async');
});
$soon->('select count(*) = 2 from evsource.crash_marks where events > 1', 'two are at work');
my $before = $sql->('select count(*) from applied');
my $logged = -s $node->logfile;
kill_and_wait($node, $sql->(q{select min(pid) from pg_stat_activity where backend_type = 'evsource worker'}));
is($sql->('select count(*) from applied'), $before, 'their batches are lost');

# How much each has done since, the one that is further first.
my $done = q{(select array_agg(n order by n desc) from
	(select count(a) - } . $before / 2 . q{ from unnest('{one,two}'::text[]) p left join applied a on a.projection = p group by p) x(n))};
$soon->("select ($done)[2] >= 4", 'both go on');
cmp_ok($sql->("select ($done)[1]"), '<=', 16, 'in turns');
is($sql->(q{select string_agg(projection || ' ' || in_turn, ', ' order by projection, position) from
	(select *, row_number() over (partition by projection order by position) as n from applied) a where n - } . $before / 2 . q{ in (1, 2)}),
	'one true, one true, two true, two true', 'and none gives its turn away');

$sql->(q{select evsource.pause_projection(p) from unnest('{one,two}'::text[]) p});
my @told = slurp_file($node->logfile, $logged) =~ /the process died while projection "(\w+)"/g;
is(join(' ', sort @told), 'one two', 'what has happened is told once for each');
unlike(slurp_file($node->logfile), qr/you don't own a lock/, 'nor is that complained about');
$node->stop;

done_testing();
