# A session that has read the read model of an inline projection has its table locked, and when
# it appends in the same transaction, it waits for the rebuild that is about to exchange that.
# So the rebuild does not wait for it, but lets go of all, and takes the tables first the next
# time. No session dies of that, and it ends; and one that only reads then reads what it knows of.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

foreach my $preload ('', 'evsource')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('rebuild_tables' . $preload, qq{
shared_preload_libraries = '$preload'
autovacuum = off
evsource.daemon = off
});
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	my ($sql, $soon) = asking($node, $mode);

	$sql->(q{
create extension evsource;
create table counts (stream text primary key, n int);
}, count_events(), q{
create function apply_both(e evsource.event) returns void language plpgsql as $$ begin
	insert into first as f values ((e).stream, 1) on conflict (stream) do update set n = f.n + 1;
	insert into second as s values ((e).stream, 1) on conflict (stream) do update set n = s.n + 1;
end $$;
create table first (stream text primary key, n int);
create table second (stream text primary key, n int);
select evsource.create_projection('both', 'apply_both', categories => '{pair}', tables => '{first,second}');

-- read a table, append and commit, all the time
create table over ();
create procedure work(what regclass, stream text) language plpgsql as $$ begin
	while not exists (select from over) loop
		execute format('select count(*) from %s', what);
		perform evsource.append(stream, 'Paid');
		commit;
	end loop;
end $$;

-- until a lock is waited for, or had, or the session that is to wait for it is done; else
-- until statement_timeout ends it with an error
create function await_lock(what regclass, mode text, granted bool, waiter int default 0) returns void language plpgsql as $$ begin
	while not exists (select from pg_locks l where l.relation = what and l.mode = await_lock.mode and l.granted = await_lock.granted)
		and not exists (select from pg_stat_activity where pid = waiter and state = 'idle') loop
		perform pg_sleep(0.001);
		perform pg_stat_clear_snapshot();
	end loop;
end $$;
select count(*) from generate_series(1, 20) i, lateral evsource.append('account-' || i % 4, 'Paid');
});

	my ($rebuild, $open, $user, $holder, $reader) =
		map { Session->new(database => 'postgres', name => $_) } qw(rebuild open user holder reader);
	$_->must(qq{set statement_timeout = '$PostgreSQL::Test::Utils::timeout_default s'}) foreach $rebuild, $user, $holder, $reader;
	my $reads = $reader->must('select pg_backend_pid()');
	my $append = q{select version from evsource.append('account-1', 'Paid')};

	# It has the projection held still when one appends who has read the table before.
	$open->must('begin');
	$open->must($append);
	$rebuild->send(q{call evsource.rebuild_projection('counts', online => true, lock_timeout => '1h');});
	$soon->(q{select exists (select from evsource.progress where waits_for is not null)}, 'an open append is in the way');
	$user->must('begin');
	$user->must('select count(*) from counts');
	$user->send(q{select from await_lock('evsource.events', 'ShareRowExclusiveLock', true);} . "$append;");
	$open->must('commit');
	is(ends($user), '7', "$mode: who has read the table appends, and the rebuild lets go of appends");

	# While it waits for the table next, before anything else, one comes to read it who does
	# not see the last event.
	$holder->must('begin');
	$holder->must('select count(*) from counts');
	$reader->must('begin isolation level repeatable read');
	my $known = $reader->must(q{select count(*) from evsource.events where stream like 'account-%'});
	$reader->send(q{select from await_lock('counts', 'AccessExclusiveLock', false); select sum(n) from counts; commit;});
	$holder->send(qq{select from await_lock('counts', 'AccessShareLock', false, $reads); commit;});
	$user->must('commit');
	my $read = ends($reader);
	is($read, $known, "$mode: a session that reads meanwhile with an older snapshot reads what it knows of");
	is(ends($holder), '', "$mode: so does who has locked the table");
	is(ends($rebuild), '', "$mode: then the rebuild ends");
	is($sql->('select sum(n) from counts'), 22, "$mode: with all events");

	# Many, without a gap; and where they read one table of two.
	foreach (['counts', 'counts', 'account'], ['both', 'second', 'pair'])
	{
		my ($projection, $table, $category) = @$_;
		my @workers = map { Session->new(database => 'postgres', name => "worker $_") } 1 .. 4;

		$sql->('truncate over');
		$workers[$_]->send("call work('$table', '$category-$_');") foreach 0 .. 3;
		$soon->(qq{select coalesce(sum(n), 0) > 100 from $table}, "they read $table and append");
		$rebuild->send(qq{call evsource.rebuild_projection('$projection', online => true);});
		is(ends($rebuild), '', "$mode: a rebuild ends while others read $table and append, without a gap") if $preload;
		$sql->('insert into over default values');
		is(ends($_), '', "$mode: $_->{name} has met no error") foreach @workers;
		is(ends($rebuild), '', "$mode: and the rebuild ends") if !$preload;
		is($sql->(qq{select sum(n) - (select count(*) from evsource.events where stream like '$category-%') from $table}), 0,
			"$mode: with all events");
		$_->close foreach @workers;
	}

	$_->close foreach $rebuild, $open, $user, $holder, $reader;
	$node->stop;
}

done_testing();
