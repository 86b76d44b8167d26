# registration.pl: projections are registered, altered, paused, rebuilt and
# dropped while 32 appenders run, and neither lose nor double an event.
#
# pgbench appends for some seconds: single events, transactions that idle before
# they commit, rollbacks, savepoints that roll back, plain INSERTs. Meanwhile
# one session changes four projections, one of each kind, in every way there is,
# and a second one runs an async projection.
#
# After each change appends are locked out for a moment, and the read model, the
# state and the count of events of that projection must be those of the log. An
# event applied twice fails at once: positions are the primary key of each read
# model.
use strict;
use warnings;
use File::Temp qw(tempdir);
use POSIX ();
use Time::HiRes qw(time sleep);
use Session;

my $database = 'evsource_stress_registration';
my $seconds = $ENV{EVSOURCE_STRESS_SECONDS} || 8;
my $seed = $ENV{EVSOURCE_STRESS_SEED} || int(time * 1000) % 1_000_000;
my $writers = 32;
my $dir = tempdir(CLEANUP => 1);
srand $seed;

my $setup = <<'END';
create extension evsource;
create table by_query (position bigint primary key, stream text, version bigint);
create table by_event (like by_query including all);
create table by_batch (like by_query including all);
create table by_run (like by_query including all);
create function apply_event(e evsource.event) returns void language plpgsql as
	$$begin insert into by_event values ((e).position, (e).stream, (e).version); end$$;
create function apply_batch(e evsource.event[]) returns void language sql as
	$$insert into by_batch select position, stream, version from unnest(e)$$;
create function apply_fold(state jsonb, e evsource.event) returns jsonb language plpgsql as
	$$begin return jsonb_build_object('n', coalesce((state ->> 'n')::bigint, 0) + 1, 'sum', coalesce((state ->> 'sum')::bigint, 0) + (e).version); end$$;
select count(*) from generate_series(1, 2000) i, lateral evsource.append('hot-' || i % 20, 'Old', '{}');
END

# what create_projection is called with, and what tells the difference to the log
sub table_of { return "select count(*) from $_[0] t full join (select position, stream, version from evsource.events where $_[1]) e"
	. ' using (position, stream, version) where t.stream is null or e.stream is null' }
my %projections = (
	by_query => "query => 'insert into by_query select position, stream, version from new_events', tables => '{by_query}'",
	by_event => "handler => 'apply_event', tables => '{by_event}'",
	by_batch => "handler => 'apply_batch', tables => '{by_batch}'",
	by_fold => "handler => 'apply_fold', snapshot_every => 20",
);
my %filters = (all => 'true', hot => "evsource.category(stream) = 'hot'", new => "type = 'New'");
my %filter_argument = (all => "defaults => '{categories,types}'", hot => "categories => '{hot}', defaults => '{types}'",
	new => "types => '{New}', defaults => '{categories}'");
my %filter = map { $_ => 'all' } keys %projections;

sub difference {
	my ($name) = @_;
	my $condition = $filters{ $filter{$name} };
	return table_of($name, $condition) if $name ne 'by_fold';
	return "select count(*) from evsource.load_states('by_fold') s full join"
		. " (select stream as key, jsonb_build_object('n', count(*), 'sum', sum(version)) as state from evsource.events where $condition group by 1) e"
		. ' using (key) where s.state is distinct from e.state';
}

#
# Appenders
#
my %scripts = (
	single => [ 6, "\\set s random(1, 60)\nselect from evsource.append('hot-' || :s, 'New', '{\"n\": 1}');\n" ],
	cold => [ 3, "\\set s random(1, 500)\nselect from evsource.append('cold-' || :s, 'New');\n" ],
	idle => [ 3, "\\set s random(1, 40)\n\\set ms random(1, 20)\nbegin;\nselect from evsource.append('hot-' || :s, 'Old');\n\\sleep :ms ms\n"
		. "select from evsource.append('hot-' || (:s + 20), 'New');\ncommit;\n" ],
	rollback => [ 2, "\\set s random(1, 60)\nbegin;\nselect from evsource.append('hot-' || :s, 'New');\nrollback;\n" ],
	savepoint => [ 2, "\\set s random(1, 60)\n\\set ms random(1, 5)\nbegin;\nsavepoint a;\nselect from evsource.append('hot-' || :s, 'New');\nrollback to a;\n"
		. "\\sleep :ms ms\nselect from evsource.append('hot-' || :s, 'New');\nsavepoint b;\nselect from evsource.append('hot-' || :s, 'Old');\nrelease b;\ncommit;\n" ],
	insert => [ 2, "\\set s random(1, 40)\ninsert into evsource.events (stream, type) values ('hot-' || :s, 'New'), ('hot-' || (:s + 1), 'Old'), ('insert-' || :client_id, 'New');\n" ],
);

sub start_appenders {
	my @arguments;
	for my $name (sort keys %scripts) {
		open my $script, '>', "$dir/$name.sql" or die "$dir/$name.sql: $!\n";
		print {$script} $scripts{$name}[1];
		close $script;
		push @arguments, '-f', "$dir/$name.sql\@$scripts{$name}[0]";
	}
	my $pid = fork // die "fork: $!\n";
	return $pid if $pid;
	open STDOUT, '>', "$dir/pgbench.out";
	open STDERR, '>&', \*STDOUT;
	exec 'pgbench', '-n', '-c', $writers, '-j', 2, '-T', $seconds, @arguments, $database or POSIX::_exit(127);
}

#
# The async projection, in a process of its own: always a prefix of the log
#
sub run_async {
	my $session = Session->new(database => $database, name => 'runner');
	my $until = time + $seconds;
	while (time < $until) {
		$session->must("select evsource.run_projection('by_run')");
		$session->must("call evsource.rebuild_projection('by_run')") if rand() < 0.02;
		sleep 0.01;	# something is to be appended between two runs
	}
	$session->close;
	return;
}

#
# Changes; between two steps there is time for appends
#
sub rebuild { return "call evsource.rebuild_projection('$_[0]', lock_timeout => '1s')" }
sub activate { return "call evsource.activate_projection('$_[0]', lock_timeout => '1s')" }
sub create { my ($name, @more) = @_; return "select evsource.create_projection('$name', " . join(', ', $projections{$name}, @more) . ')' }
sub drop {
	my ($name) = @_;
	my $empty = $name eq 'by_fold' ? 'select 1' : "truncate $name";
	return ("begin", "select evsource.drop_projection('$name')", $empty, "commit");
}

my %changes = (
	'create' => sub { $filter{ $_[0] } = 'all'; return (drop(@_), create(@_)) },
	'create and roll back' => sub { $filter{ $_[0] } = 'all'; return (drop(@_), 'begin', create(@_), 'select pg_sleep(0.02)', 'rollback', create(@_)) },
	'create in a savepoint' => sub { $filter{ $_[0] } = 'all'; return (drop(@_), 'begin', 'savepoint s', create(@_), 'rollback to s', create(@_), 'commit') },
	'create between own appends' => sub { $filter{ $_[0] } = 'all'; my $append = "select from evsource.append('own-1', 'New')";
		return (drop(@_), 'begin', $append, create(@_), $append, 'commit') },
	'create concurrently' => sub { $filter{ $_[0] } = 'all'; return (drop(@_), create($_[0], 'concurrently => true'), 'select pg_sleep(0.02)', activate(@_)) },
	'pause and resume' => sub { return ("select evsource.pause_projection('$_[0]')", 'select pg_sleep(0.02)', "select evsource.resume_projection('$_[0]')") },
	'pause and resume concurrently' => sub { return ("select evsource.pause_projection('$_[0]')", 'select pg_sleep(0.02)',
		"select evsource.resume_projection('$_[0]', concurrently => true)", activate(@_)) },
	'rebuild' => sub { return rebuild(@_) },
	'rebuild in a block' => sub { return ('begin', rebuild(@_), 'commit') },
	'alter the filter and rebuild' => sub { my $new = $filter{ $_[0] } = (sort keys %filters)[ rand keys %filters ];
		return ("select evsource.alter_projection('$_[0]', $filter_argument{$new})", 'select pg_sleep(0.01)', rebuild(@_)) },
	'to async and back' => sub { return ("select evsource.alter_projection('$_[0]', mode => 'async')", 'select pg_sleep(0.02)',
		"select evsource.run_projection('$_[0]', max_batches => 1)", "select evsource.alter_projection('$_[0]', mode => 'inline')") },
	'reset and activate' => sub { return ("select evsource.reset_projection('$_[0]')", 'select pg_sleep(0.01)', activate(@_)) },
	'alter the state version' => sub { return ("select evsource.alter_projection('$_[0]', state_version => " . (2 + int rand 1000) . ')') },
);

sub check {
	my ($session, $name) = @_;
	my @lines = $session->must('begin; lock table evsource.events in share row exclusive mode; ' . difference($name)
		. "; select evsource.event_count('$name') - count(*) from evsource.events where $filters{ $filter{$name} }; commit");
	return "$name: $lines[0] differences, event_count is off by $lines[1]" if "@lines" ne '0 0';
	return;
}

#
# The run
#
my $admin = Session->new(database => $ENV{PGDATABASE} || 'postgres', name => 'admin');
$admin->run("set client_min_messages = warning; drop database if exists $database;");
$admin->must("create database $database");
my $session = Session->new(database => $database, name => 'changes');
$session->must('set client_min_messages = warning');
$session->must($setup);
$session->must(create($_)) for sort keys %projections;
$session->must("select evsource.create_projection('by_run', query => 'insert into by_run select position, stream, version from new_events',"
	. " tables => '{by_run}', mode => 'async')");
my $mode = join('', $session->must('show shared_preload_libraries')) =~ /evsource/ ? 'preloaded' : 'not preloaded';

my $appenders = start_appenders();
my $runner = fork // die "fork: $!\n";
if (!$runner) {
	my $ok = eval { run_async(); 1 };
	print $@ unless $ok;
	close STDOUT;
	POSIX::_exit($ok ? 0 : 1);
}

my $failure = '';
my %done;
my $until = time + $seconds;
my @names = sort keys %projections;
eval {
	while (time < $until && !$failure) {
		my $name = $names[ rand @names ];
		my $change = (sort keys %changes)[ rand keys %changes ];
		$session->must($_) for $changes{$change}->($name);
		$done{$change}++;
		my $fault = check($session, $name);
		$failure .= "after \"$change\": $fault\n" if $fault;
	}
	1;
} or $failure .= $@;

waitpid $appenders, 0;
open my $out, '<', "$dir/pgbench.out" or die $!;
my $said = join '', <$out>;
$failure .= "pgbench failed: $said\n" if $? || $said =~ /aborted|ERROR/;
my ($transactions) = $said =~ /number of transactions actually processed: (\d+)/;
waitpid $runner, 0;
$failure .= "the runner of by_run failed\n" if $?;

if (!$failure) {
	for my $name (@names) {
		my $fault = check($session, $name);
		$failure .= "at the end: $fault\n" if $fault;
	}
	$session->must("select evsource.run_projection('by_run')");
	$filter{by_run} = 'all';
	my $fault = check($session, 'by_run');
	$failure .= "at the end: $fault\n" if $fault;
}
my ($events) = $failure ? 0 : $session->must('select count(*) from evsource.events');
$session->close;

if ($failure) {
	print "registration: seed $seed, $mode: $failure";
	exit 1;
}
$admin->must("drop database $database");
$admin->close;
my $count = 0;
$count += $_ for values %done;
print "registration: changes: ", join(', ', map { "$_ $done{$_}" } sort keys %done), "\n";
print "registration: $mode, seed $seed: $count changes of " . @names . " projections, while $writers appenders ran $transactions transactions"
	. " ($events events): none lost, none doubled\n";
