# What a rebuild has met, and goes on after, is on record until it has got past that, whoever
# has met it; and a worker that cannot put it on record goes on all the same.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;
use Time::HiRes qw(sleep);

let_daemon_work();

my $node = start_node('daemon_rebuild_troubles', q{
shared_preload_libraries = 'evsource'
evsource.max_workers = 1
});
my ($sql, $soon) = asking($node);

# The handler waits at two events, which are in two batches.
$sql->(q{
create extension evsource;
create table rows (position bigint primary key);
create table wrong (x int);
create function handle(e evsource.event) returns void language plpgsql as $$
begin
	if exists (select from public.wrong) then
		raise 'canceled' using errcode = 'query_canceled';
	end if;
	if e.version in (500, 1100) then
		perform pg_advisory_xact_lock(e.version);
	end if;
	insert into rows values (e.position);
end $$;
select from evsource.append_batch('long-1', array_fill('Paid'::text, array[1200]), array_fill('{}'::jsonb, array[1200]));
select evsource.create_projection('rows', 'handle', mode => 'manual', tables => '{rows}');
select evsource.create_projection('other', 'evsource.fold_count', mode => 'async');    -- there is a worker
select evsource.wait_for('other', timeout => '1min');
});
my $worker = q{select pid from pg_stat_activity where backend_type = 'evsource worker'};
my $before = $sql->($worker);
my $waits_at = sub {
	$soon->("select exists (select from pg_locks where locktype = 'advisory' and objid = $_[0] and not granted)", "the rebuild is at event $_[0]");
};

# One of two workers has met something, and the other one, that has not, goes on.
my ($first, $second) = map { $node->background_psql('postgres') } 1 .. 2;
$first->query_safe('select pg_advisory_lock(500)');
$second->query_safe('select pg_advisory_lock(1100)');
$sql->(q{select evsource.request_rebuild('rows', online => false)});
$waits_at->(500);
$sql->(q{update evsource.rebuilds set last_error = 'met by another worker', sqlstate = '57014'});
$first->query_safe('select pg_advisory_unlock(500)');
$waits_at->(1100);
is($sql->(q{select concat_ws(' ', state, events_done, last_error, sqlstate) from evsource.progress}), 'rebuilding 1000', 'past it, nothing is on record');
$second->query_safe('select pg_advisory_unlock(1100)');
my $done = q{select not exists (select from evsource.progress)};
$soon->($done, 'it comes to its end');

# Somebody has locked what it would be put on record in.
$sql->(q{insert into wrong values (1); select evsource.request_rebuild('rows', online => false)});
$soon->(q{select last_error is not null from evsource.progress}, 'a cancel is on record');
$first->query_safe('begin; lock table evsource.rebuilds in share mode');
my $log = -s $node->logfile;
my $attempts = 0;
for (my $i = 0; $i < 600 && $attempts < 2; $i++)
{
	sleep 0.1;
	$attempts = () = slurp_file($node->logfile, $log) =~ /ERROR:  canceled$/mg;
}
cmp_ok($attempts, '>=', 2, 'who cannot put it on record tries again');
$first->query_safe('commit');

# An error in doing so, a cancel or a full disk, say.
$sql->(q{
create function refuse() returns trigger language plpgsql as $$ begin raise 'no room' using errcode = 'disk_full'; end $$;
create trigger refuse before update on evsource.rebuilds for each row execute function refuse()});
$log = -s $node->logfile;
my $refused = 0;
for (my $i = 0; $i < 600 && !$refused; $i++)
{
	sleep 0.1;
	$refused = slurp_file($node->logfile, $log) =~ /ERROR:  no room$/m;
}
ok($refused, 'an error in putting it on record is in the log');
$sql->(q{drop trigger refuse on evsource.rebuilds; truncate wrong});
$soon->($done, 'and it comes to its end');
is($sql->('select count(*) from rows'), 1200, 'with all events');
is($sql->($worker), $before, 'in the same worker');

$_->quit foreach $first, $second;
$node->stop;
done_testing();
