# A rebuild that has failed in the daemon and is asked for again: what it has built goes on;
# where it has built nothing, it begins. And what it is asked for stays what was asked for,
# whatever it has decided meanwhile.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('rebuild_again', q{
shared_preload_libraries = 'evsource'
autovacuum = off
restart_after_crash = on
evsource.async_attempts = 1
});
my ($sql, $soon) = asking($node);

# In a rebuild the handler fails at some events, and waits at some.
$sql->(q{
create extension evsource;
create schema elsewhere;
create table counts (stream text primary key, n bigint not null default 0);
create table wrong (position bigint);
create table halts (position bigint);
create function count_up(e evsource.event) returns void language plpgsql as $$
begin
	if evsource.replaying() then
		if exists (select from public.wrong w where w.position = e.position) then
			raise 'no';
		end if;
		if exists (select from public.halts h where h.position = e.position) then
			perform pg_advisory_xact_lock(e.position);
		end if;
	end if;
	insert into counts as c values (e.stream, 1) on conflict (stream) do update set n = c.n + 1;
end $$;
select evsource.create_projection('counts', 'count_up', mode => 'async', tables => '{counts}');
select count(*) from generate_series(1, 6000) i, evsource.append('account-' || i % 500, 'Paid');
});
$soon->(q{select lag = 0 from evsource.projection_status}, 'all is applied');

my $failed = q{select state = 'failed' from evsource.progress};
my $at = 'select coalesce((select state from evsource.progress), (select state from evsource.projection_status))';
my $error = q{select concat_ws('; ', last_error, detail) from evsource.progress};

# Spoil the read model, so that one that is not built anew is seen.
sub spoil
{
	$sql->(q{update counts set n = 777});
	return;
}

# How often has a server's process ended by a signal?  Each starts the daemon anew.
sub crashes
{
	return scalar(() = slurp_file($node->logfile) =~ /was terminated by signal/g);
}

# It comes to its end, with a read model that is right.
sub is_done
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($node->poll_query_until('postgres', 'select count(*) = 0 from evsource.progress'), "$name: it is done")
		or diag($sql->('select * from evsource.rebuilds'));
	is($sql->(q{
		select count(*) from (select stream, count(*) as n from evsource.events group by 1) e
			full join counts c using (stream, n) where e.stream is null or c.stream is null}), 0, "$name: built anew");
	is(crashes(), 0, "$name: no process has died");
	is($sql->('select (select count(*) from evsource.rebuilds) + (select count(*) from evsource.crash_marks where partition < 0)'), 0,
		"$name: nothing is left behind");
	die 'the rebuild is not what it should be' unless Test::More->builder->is_passing;
	return;
}

sub request
{
	my ($options) = @_;
	$sql->(q{select evsource.request_rebuild('counts'} . ($options ? ", $options" : '') . ')');
	return;
}

sub fails
{
	my ($name, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$soon->($failed, "$name: it fails");
	like($sql->($error), $message, "$name: and says why");
	return;
}

# Ask for it, and hold it at an event; what is called with a session that lets it go on.
sub halted_at
{
	my ($position, $do) = @_;
	my $holder = $node->background_psql('postgres');
	$holder->query_safe("insert into halts values ($position); select pg_advisory_lock($position)");
	$do->();
	$node->poll_query_until('postgres', "select count(*) = 1 from pg_locks where locktype = 'advisory' and objid = $position and not granted")
		or die "nobody waits at event $position";
	return $holder;
}

sub let_go
{
	my ($holder) = @_;
	$holder->query_safe(q{delete from halts where position in (select objid from pg_locks where pid = pg_backend_pid() and locktype = 'advisory');
		select pg_advisory_unlock_all()});
	$holder->quit;
	return;
}

# It fails before it has made its tables.
foreach my $how ('request', 'call')
{
	foreach my $options ('online => true', '')
	{
		my $name = "$how($options) again before it has begun";
		spoil();
		$sql->(q{insert into wrong values (1)});
		request($options);
		fails($name, qr/^no$/);
		is($sql->('select events_done from evsource.progress'), 0, "$name: nothing is built");
		$sql->('delete from wrong');
		$how eq 'request' ? request($options) :
			$sql->(q{call evsource.rebuild_projection('counts'} . ($options ? ", $options" : '') . ')');
		is_done($name);
	}
}

# It has made them, begins anew, and fails then.
foreach my $how ('request', 'call')
{
	my $name = "$how again after a beginning anew";
	spoil();
	my $holder = halted_at(3000, sub { request('') });
	$sql->(q{insert into wrong values (1)});
	$sql->(q{select evsource.alter_projection('counts', state_version => coalesce((select state_version from evsource.projections), 0) + 1)});
	let_go($holder);
	fails($name, qr/^no$/);
	is($sql->('select events_done, events_total, started_at from evsource.progress'), '0||', "$name: nothing is built");
	$sql->('delete from wrong');
	$how eq 'request' ? request('') : $sql->(q{call evsource.rebuild_projection('counts')});
	is_done($name);
}
foreach my $change (
	['alter table counts rename to other', 'alter table other rename to counts'],
	['alter table counts set schema elsewhere', 'alter table elsewhere.counts set schema public'])
{
	my ($do, $undo) = @$change;
	spoil();
	my $holder = halted_at(3000, sub { request('online => true') });
	$sql->($do);
	let_go($holder);
	fails($do, qr/does not exist/);
	request('online => true');
	fails("$do, again", qr/does not exist/);
	is(crashes(), 0, "$do: no process has died");
	$sql->($undo);
	request('online => true');
	is_done($do);
}

# In place, it fails before the read model is emptied.
foreach my $how ('request', 'call')
{
	my $name = "$how in place again before it has begun";
	spoil();
	$sql->('create table refers (stream text references counts)');
	request('online => false');
	fails($name, qr/^cannot truncate a table referenced in a foreign key constraint/);
	$sql->('drop table refers');
	$how eq 'request' ? request('online => false') :
		$sql->(q{call evsource.rebuild_projection('counts', online => false)});
	is_done($name);
}

# It fails halfway, in place, and somebody else completes the read model: a later request is a new one.
spoil();
my $holder = halted_at(3000, sub { request('online => false') });
$sql->(q{insert into wrong values (3500)});
let_go($holder);
fails('halfway in place', qr/^no$/);
$sql->(q{
select evsource.pause_projection('counts');
delete from wrong;
select evsource.resume_projection('counts')});
$soon->(q{select lag = 0 and state = 'active' from evsource.projection_status}, 'halfway in place: somebody completes it');
is($sql->('select count(*) from evsource.progress'), 0, 'halfway in place: then it is not under way, nor has it failed');
spoil();
request('online => false');
is_done('halfway in place');

# A row as a server left it that could not tell what had begun.
foreach my $row ('online = true', 'online = false')
{
	spoil();
	$sql->(q{insert into wrong values (1)});
	request('online => true');
	fails("a row with $row", qr/^no$/);
	$sql->(qq{delete from wrong; update evsource.rebuilds set state = 'building', $row});
	request($row eq 'online = true' ? 'online => true' : 'online => false');
	is_done("a row with $row");
}

# A server that dies again and again where it goes on, as crash_marks says, is left alone.
$holder = halted_at(3000, sub { request('online => true') });
$sql->(q{insert into wrong values (3500)});
let_go($holder);
fails('a crash where it goes on', qr/^no$/);
$sql->(q{
delete from wrong;
insert into evsource.crash_marks (projection, partition, position, events, attempts, careful, batch)
	select projection, -1, position, 0, 100, 1, 1 from evsource.rebuilds});
request('online => true');
fails('a crash where it goes on', qr/^the process died when the rebuild went on; It did so 100 times\.$/);
is($sql->(q{select events_done > 0 from evsource.progress}), 't', 'what it has built is there');
spoil();
request('online => true');
is_done('a crash where it goes on');

# Where nothing was demanded, one that begins anew is in place if it must be; else it fails.
foreach my $options ('', 'online => true')
{
	my $name = $options || 'nothing demanded';
	spoil();
	$holder = halted_at(3000, sub { request($options) });
	is($sql->('select online from evsource.progress'), 't', "$name: it is online");
	$sql->(q{create rule counts_rule as on delete to counts do also nothing});
	$sql->(q{select evsource.alter_projection('counts', state_version => (select state_version from evsource.projections) + 1)});
	let_go($holder);
	if ($options)
	{
		fails($name, qr/^cannot rebuild projection "counts" online; .* table public\.counts has rules/);
		$sql->('drop rule counts_rule on counts');
		request('');
	}
	is_done($name);
	$sql->('drop rule if exists counts_rule on counts');
}

# What would keep the tables from being exchanged is noticed on the way, and not at the end.
spoil();
$holder = halted_at(3000, sub { request('') });
$sql->(q{create rule counts_rule as on delete to counts do also nothing});
let_go($holder);
fails('a rule', qr/^cannot complete the online rebuild of projection "counts"; Online it is not possible any more: table public\.counts has rules\.$/);
is($sql->('select events_done between 3000 and 5999 from evsource.progress'), 't', 'it is on its way');
my $shadow = $sql->(q{select 'evsource_shadow_counts.counts'::regclass::oid});
$sql->('drop rule counts_rule on counts');
$holder = halted_at(5000, sub { request('') });
is($sql->(q{select 'evsource_shadow_counts.counts'::regclass::oid}), $shadow, 'asked for again, it goes on with what it has built');
$sql->('alter table counts add column more int');
my $second_holder = halted_at(4000, sub { let_go($holder) });
$soon->(q{select count(*) = 1 from pg_attribute where attrelid = to_regclass('evsource_shadow_counts.counts') and attname = 'more'},
	'changed tables are built anew at once');
let_go($second_holder);
is_done('changed tables');

# A session that waits for an attempt that fails, and then asks for it again, mended, is not
# answered with that error: its request goes on, or begins.
$sql->(q{
create function mended_first() returns trigger language plpgsql as $$
begin
	-- an error that is noted by who has let go of the rebuild comes last
	while exists (select from public.wrong)
		and not exists (select from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') loop
		perform pg_sleep(0.01);
	end loop;
	return null;
end $$;
create trigger mended_first before update on evsource.rebuilds execute function mended_first()});
foreach my $how ("request_rebuild('counts')", "request_rebuild('counts', online => false)", "cancel_rebuild('counts')")
{
	my $name = "$how during an attempt that fails";
	spoil();
	$holder = halted_at(3000, sub { request('online => true') });
	$sql->('insert into wrong values (3001)');
	my $mender = $node->background_psql('postgres');
	my $pid = $mender->query_safe('select pg_backend_pid()');
	$mender->query_until(qr/begun/, "\\echo begun\nbegin\\; select evsource.$how\\; delete from wrong\\; commit;\n\\echo mended\n");
	$soon->("select count(*) = 1 from pg_locks where locktype = 'advisory' and pid = $pid and not granted", "$name: it waits");
	let_go($holder);
	$mender->query_until(qr/mended/, '');
	$mender->quit;
	request('online => false') if $how =~ /^cancel/;
	is_done($name);
}
$sql->('drop trigger mended_first on evsource.rebuilds');

# Somebody who is at the table just then is not waited for, and an index that is being made is no obstacle.
spoil();
$holder = halted_at(3000, sub { request('') });
my $reader = $node->background_psql('postgres');
my $maker = $node->background_psql('postgres');
$reader->query_safe('begin isolation level repeatable read; select 1 from counts limit 1');
$maker->query_until(qr/begun/, "\\echo begun\ncreate index concurrently counts_n on counts (n);\n\\echo made\n");
$soon->(q{select count(*) = 1 from pg_index where indexrelid = to_regclass('counts_n') and not indisvalid}, 'an index is being made');
let_go($holder);
$soon->(q{select events_done = 6000 from evsource.progress}, 'it is no obstacle on the way');
$reader->query_safe('commit');
$maker->query_until(qr/made/, '');
$_->quit foreach $reader, $maker;
is_done('an index');

$node->stop;
done_testing();
