# The daemon follows its extension: dropped, created again, updated. No process
# goes on with what it knows of another one.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

foreach my $preload ('evsource', '')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('extension' . $preload, "shared_preload_libraries = '$preload'\nmax_worker_processes = 16\nlog_min_messages = debug1");

	my ($sql, $soon) = asking($node, $mode);
	my $applied = sub { $soon->('select coalesce(sum(n), 0) = (select count(*) from evsource.events) from counts', $_[0]) };
	my $start = sub { $sql->('select evsource.start_daemon()') unless $preload };
	my $pids = sub { return $sql->(q{select coalesce(string_agg(pid::text, ','), '') from evsource.daemon_status}) };
	my $others = sub { my ($old, $name) = @_; $soon->("select count(*) = 2 and bool_and(pid <> all ('{$old}')) from evsource.daemon_status", $name) };
	my $project = q{
select from evsource.append('a-1', 'Counted');
select evsource.create_projection('counts', mode => 'async', tables => '{counts}', query =>
	'insert into public.counts select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = counts.n + excluded.n');
};
	my $drop = 'set evsource.allow_drop = on; drop extension evsource cascade; truncate counts;';

	$sql->("create extension evsource; create table counts (stream text primary key, n bigint); $project");
	$start->();
	$applied->('it applies');

	# Dropped, and created again.
	$sql->($drop);
	$soon->(q{select count(*) = 0 from pg_stat_activity where backend_type in ('evsource coordinator', 'evsource worker')}, 'it leaves when the extension is dropped');
	$sql->("create extension evsource; $project");
	$start->();
	$applied->('it comes back with another one');

	# In one transaction.
	my $old = $pids->();
	$sql->("begin; $drop create extension evsource; $project commit");
	$others->($old, 'no process goes on with an extension that was replaced');
	$applied->('the new one is applied');

	# Updated: there is no other version to update to, so the row is changed by hand.
	$old = $pids->();
	$sql->(q{update pg_extension set extversion = '0.0' where extname = 'evsource'});
	$sql->(q{alter extension evsource update to '0.0'});
	$others->($old, 'no process goes on with a version that was updated');
	$sql->(q{select from evsource.append('a-2', 'Counted')});
	$applied->('the new version goes on');
	is($sql->('select evsource.start_daemon()'), 'f', "$mode: there is one daemon");
	is($sql->(q{select count(*) from pg_stat_activity where backend_type ~ '^evsource'}), 3, "$mode: of three processes");

	# A process of the daemon would wait for itself, be told to leave, and come back to it.
	foreach my $command ('alter extension evsource update', 'drop extension evsource cascade')
	{
		$sql->(qq{
create or replace function change() returns void language plpgsql as \$\$ begin $command; end \$\$;
create or replace function change(e evsource.event) returns void language sql as 'select change()';
select evsource.create_projection('handles', 'change(evsource.event)', mode => 'async');
select evsource.create_projection('resets', 'evsource._noop', mode => 'async', on_reset => 'change()');
select evsource.request_rebuild('resets', online => false);
});
		$soon->(q{select count(*) = 1 from evsource.projection_failures where projection = 'handles' and sqlstate = '55000' and message ~ '^a handler cannot'}, "$command: no handler does that");
		$soon->(q{select count(*) = 1 from evsource.progress where projection = 'resets' and state = 'failed' and last_error ~ 'an on_reset function cannot'}, 'nor an on_reset function');
		$sql->(q{select evsource.cancel_rebuild('resets'); select evsource.drop_projection(p) from unnest('{handles,resets}'::text[]) p});
	}
	unlike(slurp_file($node->logfile), qr/worker.*terminating background worker/, "$mode: no worker is told to leave");

	# While a drop is open nobody comes to look, again and again, whether it still is.
	my $dropper = Session->new(database => $node->connstr('postgres'));
	$dropper->must("begin; set client_min_messages = error; $drop");
	$soon->(q{select count(*) = 0 from pg_stat_activity where backend_type in ('evsource coordinator', 'evsource worker')}, 'it leaves when a drop begins');
	my $log = -s $node->logfile;
	my $begin = $sql->('select now()');
	$soon->("select clock_timestamp() > '$begin'::timestamptz + interval '1.6 seconds'", 'the drop lasts for a while');
	unlike(substr(slurp_file($node->logfile), $log), qr/starting background worker process "evsource coordinator/, "$mode: nobody looks meanwhile");
	$dropper->run('rollback');
	$dropper->close;
	$sql->(q{select from evsource.append('a-3', 'Counted')});
	$applied->('it is back after a rollback');
	$node->stop;
}

done_testing();
