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
log_min_messages = log
});
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
create table applied (projection text, position bigint, primary key (projection, position));
-- handlers of which one batch has no more than two events
create function one(e evsource.event) returns void language sql as $$
	select pg_sleep(0.3); insert into public.applied values ('one', e.position) $$;
create function two(e evsource.event) returns void language sql as $$
	select pg_sleep(0.3); insert into public.applied values ('two', e.position) $$;
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

$sql->(q{select evsource.pause_projection(p) from unnest('{one,two}'::text[]) p});
my @told = slurp_file($node->logfile, $logged) =~ /the process died while projection "(\w+)"/g;
is(join(' ', sort @told), 'one two', 'what has happened is told once for each');
$node->stop;

done_testing();
