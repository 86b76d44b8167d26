# ALTER EXTENSION evsource UPDATE, to a version that this test makes up: what there
# is stays, dispatch goes on in sessions that have begun before, the daemon
# follows, and who waits for it or for events gives way.

use strict;
use warnings;

use File::Path qw(make_path);
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

# A PostgreSQL of our own, as nothing may be installed into the one that is
# tested. The programs are copies, and find their other files by where they are;
# the rest are links.
sub config { my ($what) = @_; chomp(my $dir = `pg_config --$what`); return $dir }
my $own = PostgreSQL::Test::Utils::tempdir();
my $bindir = config('bindir');
my $extensions = $own . config('sharedir') . '/extension';
foreach my $dir (config('sharedir'), config('pkglibdir'))
{
	make_path("$own$dir");
	system('cp', '-rsf', "$dir/.", "$own$dir") == 0 or die "cannot link $dir";
}
make_path("$own$bindir");
system("cp -fL '$bindir'/* '$own$bindir/'") == 0 or die "cannot copy $bindir";
$ENV{PATH} = "$own$bindir:$ENV{PATH}";

my ($version) = slurp_file("$extensions/evsource.control") =~ /default_version = '(.*)'/;
my $next = "$version.1";
append_to_file("$extensions/evsource--$version--$next.sql", q{
create function evsource.made_up() returns text language sql immutable as $$ select 'made up'::text $$;
alter table evsource.projections add column made_up int not null default 7;
alter table evsource.checkpoints add column made_up int;
alter table evsource.subscriptions add column made_up int;
});

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('update' . $preload, "shared_preload_libraries = '$preload'\nmax_worker_processes = 16");

	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	my ($sql, $soon) = asking($node, $mode);
	my $applied = sub { $soon->('select coalesce(sum(n), 0) = (select count(*) from evsource.events) from counts', $_[0]) };

	is($sql->(q{select count(*) from pg_extension_update_paths('evsource') where path is not null and target <> source}), 1, "$mode: there is a version to update to");
	$sql->(q{
create extension evsource;
create table counts (stream text primary key, n bigint);
select evsource.create_projection('counts', mode => 'async', tables => '{counts}', query =>
	'insert into public.counts select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = counts.n + excluded.n');
select evsource.create_projection('states', handler => 'evsource.fold_count', snapshot_every => 2);
select count(evsource.append('a-' || n % 3, 'Counted')) from generate_series(1, 30) n;
});
	$sql->('select evsource.start_daemon()') unless $preload;
	$applied->('the daemon applies');

	# A handler that does not come to an end.
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('select pg_advisory_lock(1)');
	$sql->(q{
create table seen (position bigint primary key);
create function slow(e evsource.event) returns void language plpgsql as $$
begin
	perform pg_advisory_xact_lock_shared(1);
	insert into public.seen values (e.position);
end $$;
select evsource.create_projection('slow', 'public.slow', mode => 'async')});
	my $waits = q{select count(*) = 1 from pg_locks where locktype = 'advisory' and classid = 0 and objid = 1 and objsubid = 1 and not granted};
	$soon->($waits, 'a handler is at work');

	# A session from before the update has cached what there is.
	my $session = $node->background_psql('postgres');
	$session->query_safe(q{select evsource.append('b-1', 'Counted')});
	my $before = $sql->('select position, stream, version, type from evsource.events order by 1');
	my $old = $sql->(q{select string_agg(pid::text, ',') from evsource.daemon_status});

	# Sessions that have what is to be altered locked until their wait is over.
	$sql->(q{select evsource.create_subscription('idle', categories => '{quiet}')});
	my ($waits_for, $fetches, $comes_later, $reads, $updates) = map { Session->new(database => 'postgres') } 1 .. 5;
	my $fetch = q{select count(*) from evsource.fetch_events('idle', wait => '1min');};
	$waits_for->send(q{select evsource.wait_for('slow', timeout => '1min');});
	$fetches->send("begin; $fetch commit;");
	$soon->(q{select count(*) = 2 from pg_stat_activity where query ~ 'evsource\.(wait_for|fetch_events)' and wait_event in ('Extension', 'EvsourceWait', 'EvsourceFetch')}, 'two wait');
	$reads->must('begin');
	$reads->must('select count(*) from evsource.projections');
	$updates->send("set lock_timeout = '30s'; alter extension evsource update to '$next';");
	is(ends($waits_for), '55P03', "$mode: who waits for a projection gives way, with an error");
	is(ends($fetches), '0', "$mode: who waits for events has none");
	$soon->(q{select count(*) = 1 from pg_locks where relation = 'evsource.projections'::regclass and not granted}, 'the update waits for somebody else');
	$comes_later->must('begin');
	is($comes_later->must($fetch), '0', "$mode: who comes meanwhile does not wait either");
	$comes_later->send($fetch);
	is(ends($comes_later), '55P03', "$mode: nor does that one keep its locks when it calls again in the same transaction");
	$reads->must('commit');
	is(ends($updates), '', "$mode: the update goes on");
	is($comes_later->must('rollback; select count(*) from evsource.subscriptions where made_up is null'), '1', "$mode: and who has come meanwhile");
	$_->close foreach $waits_for, $fetches, $comes_later, $reads, $updates;
	is($sql->(q{select extversion from pg_extension where extname = 'evsource'}), $next, "$mode: updated");
	is($sql->('select evsource.made_up() || min(made_up) from evsource.projections'), 'made up7', "$mode: the new version is there");
	is($sql->('select position, stream, version, type from evsource.events order by 1'), $before, "$mode: every event is");
	is($sql->(q{select string_agg(projection || ' ' || mode || ' ' || state, ', ' order by projection) from evsource.projection_status}),
		'counts async active, slow async active, states inline active', "$mode: so are the projections");
	$soon->("select count(*) = 3 and bool_and(pid <> all ('{$old}')) from evsource.daemon_status", 'no process goes on with the old version');
	$soon->($waits, 'the handler is at work again');
	$holder->quit;
	$session->query_safe(q{select evsource.append('b-1', 'Counted')});
	$session->quit;
	is($sql->(q{select evsource.state('states', 'b-1') ->> 'count', evsource.stream_version('b-1')}), '2|2', "$mode: a session from before appends, and dispatches");
	$applied->('the daemon goes on');
	$soon->('select count(*) = (select count(*) from evsource.events) from seen', 'also with what the update has interrupted');
	is($sql->(q{select count(*) from pg_depend where objid = 'evsource.made_up()'::regprocedure and deptype = 'e'}), 1, "$mode: what is new belongs to the extension");
	$node->stop;
}

done_testing();
