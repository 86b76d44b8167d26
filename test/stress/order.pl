# order.pl: the order promise, under everything that writers can do.
#
# 32 writers append for some seconds: random sleeps before the commit, rollbacks,
# rolled-back savepoints, an xid taken before the append, prepared transactions,
# INSERT and COPY, many streams at once, races for a version. Meanwhile one
# transaction that wrote elsewhere, and one that looked at a stream without
# appending, stay open all the time. Consumers follow the log, each knowing
# nothing but the last position that it received.
#
# Then every consumer must have received what is in the table: nothing missing,
# nothing doubled, everything in order, and each stream's versions without a gap;
# and that before the idle transactions end.
#
# That it would notice was tried by breaking the code: a safe position that is
# the last one, a bound that is too high, withdrawn before the commit, lost
# at PREPARE or with a savepoint, or published after the draw. A snapshot taken
# before the safe position loses so few that it took a minute to be noticed.
use strict;
use warnings;
use IO::Select;
use List::Util qw(max uniq);
use Time::HiRes qw(time sleep);
use File::Temp qw(tempdir);
use POSIX ();
use Session;

my $database = 'evsource_stress_order';
my $seconds = $ENV{EVSOURCE_STRESS_SECONDS} || 8;
my $seed = $ENV{EVSOURCE_STRESS_SEED} || int(time * 1000) % 1_000_000;
my $writers = 32;
my $dir = tempdir(CLEANUP => 1);
srand $seed;

# how each consumer asks for what comes after position %d
my %consumers = (
	read_all => 'select position, stream, version from evsource.read_all(%d);',
	'small pages' => 'select position, stream, version from evsource.read_all(%d, 40);',
	read_category => "select position, stream, version from evsource.read_category('hot', %d, 100);",
	'REPEATABLE READ' => 'begin isolation level repeatable read; select from pg_class limit 1; select pg_sleep(0.003);'
		. ' select position, stream, version from evsource.read_all(%d); commit;',
	'safe_position' => "select evsource.safe_position() as safe \\gset\n"
		. "select position, stream, version from evsource.events where position > %d and position <= :safe order by position;",
	'into a table' => 'with r as (insert into received select position, stream, version from evsource.read_all(%d) returning *)'
		. ' select * from r order by position;',
);
my %condition = (read_category => "where evsource.category(stream) = 'hot'");

#
# Writers: each transaction is a text for psql
#
my $prepared = 0;
my %kinds = (single => 25, quick => 10, batch => 8, several => 10, savepoint => 8, savepoint_first => 6, xid_first => 10, insert => 8,
	copy => 6, copy_many => 2, race => 5, exceptions => 3, again => 3, serializable => 3, prepared => 12);
my @kinds;
my ($gids, $ids) = (0, 0);
my %left;			# how another session is to end what the writer is preparing
my @to_end;			# what is prepared now: when, how

sub pick { return $_[ rand @_ ] }
sub stream { return 'hot-' . int rand(rand() < 0.3 ? 30 : 1000) }	# some are crowded
sub streams { return uniq sort map { stream() } 1 .. shift }
sub nap { return sprintf "select pg_sleep(%.4f);\n", rand(rand() < 0.01 ? 0.3 : 0.015) }
sub append { my ($stream, $type) = @_; return "select from evsource.append('$stream', '$type', '{\"w\": 1}');\n" }
# what makes a commit take long, after it has begun
sub slow_commit { return pick('', '', "notify evsource_stress;\n", "create temp table slow (a int primary key, b text) on commit drop;\n") }
sub end { return slow_commit() . (rand() < 0.2 ? "rollback;\n" : "commit;\n") }
sub copy_rows { return "copy evsource.events (stream, type) from stdin;\n" . join('', map { "$_\tCopied\n" } @_) . "\\.\n" }

my %transaction = (
	single => sub { "begin;\n" . append(stream(), 'Single') . nap() . end() },
	quick => sub { "select pg_sleep(0.001);\n" . append(pick(stream(), "own-$_[0]"), 'Quick') },
	batch => sub {
		my $count = 1 + int rand 20;
		my ($types, $data) = map { "array_fill($_, array[$count])" } "'Batch'::text", "'{}'::jsonb";
		return "begin;\nselect from evsource.append_batch('" . stream() . "', $types, $data);\n" . nap() . end();
	},
	several => sub { "begin;\n" . join('', map { append($_, 'Several') . nap() } streams(4)) . end() },
	savepoint => sub {
		my ($first, @others) = streams(3);
		return "begin;\n" . append($first, 'Kept')
			. join('', map { "savepoint s;\n" . append($_, 'Tried') . append($first, 'Tried') . nap() . pick("rollback to s;\n", "release s;\n") } @others)
			. append($first, 'Kept') . nap() . end();
	},
	savepoint_first => sub {
		my ($first, $second) = streams(2);
		return "begin;\nsavepoint s;\n" . append($first, 'Tried') . nap() . pick("rollback to s;\n", "release s;\n")
			. append($second // $first, 'Kept') . nap() . end();
	},
	xid_first => sub { "begin;\nselect pg_current_xact_id();\n" . nap() . append(stream(), 'Late') . nap() . end() },
	insert => sub {
		my $rows = join ', ', map { "('$_', 'Inserted')" } sort map { stream() } 1 .. 4;
		return "begin;\ninsert into evsource.events (stream, type) values $rows;\n" . nap() . end();
	},
	copy => sub { "begin;\n" . copy_rows(sort map { stream() } 1 .. 6) . nap() . end() },
	copy_many => sub {
		my @streams = uniq sort map { 'bulk-' . int rand 300 } 1 .. 100;
		return "begin;\n" . copy_rows(sort(streams(1), @streams), @streams) . nap() . end();
	},
	race => sub {
		my $stream = stream();
		return "select evsource.stream_version('$stream') as v \\gset\n" . nap()
			. "select from evsource.append('$stream', 'Raced', expected_version => :v);\n";
	},
	exceptions => sub {
		return 'do $$ begin for i in 1 .. 5 loop begin'
			. " perform evsource.append('" . stream() . "', 'InBlock');"
			. ' if random() < 0.5 then raise division_by_zero; end if;'
			. ' exception when division_by_zero then null; end; end loop; end $$;' . "\n";
	},
	again => sub {
		my $id = sprintf '0d000000-0000-4000-8000-%012d', ++$ids;
		my $call = "select from evsource.append('" . stream() . "', 'Again', id => '$id');\n";
		return "begin;\n$call" . nap() . end() . $call . $call;
	},
	serializable => sub { "begin isolation level " . pick('serializable', 'repeatable read') . ";\n" . append(stream(), 'Isolated') . nap() . end() },
	prepared => sub {
		my $gid = 'evsource_stress_' . ++$gids;
		my $end = pick('commit', 'commit', 'rollback') . " prepared '$gid';\n";
		my $elsewhere = rand() < 0.3;
		$left{ $_[0] } = $end if $elsewhere;
		return "begin;\n" . join('', map { append($_, 'Prepared') } streams(2)) . nap() . "prepare transaction '$gid';\n"
			. ($elsewhere ? '' : nap() . $end);
	},
);

# Errors that such transactions have to expect. After one, what is left of the
# transaction fails with 25P02, and there is nothing to commit by COMMIT PREPARED (42704).
my %expected = map { $_ => 1 } qw(VE001 40001 40P01);

# In a crowd there is nearly always an older append in flight, which hides a
# missing bound. So the crowd thins out now and then, while two writers, whose
# transactions are short, go on all the time.
sub write_events {
	my @idle = map { Session->new(database => $database, name => "writer-$_") } 1 .. $writers;
	my %session = map { fileno($_->out) => $_ } @idle;
	my $ender = Session->new(database => $database, name => 'ender');
	my $select = IO::Select->new;
	my (%errors, %kind_of, $transactions);
	my ($until, $last_news, $crowd, $next_crowd) = (time + $seconds, time, $writers, 0);

	while (time < $until || $select->count) {
		($crowd, $next_crowd) = (pick(3, 3, 4, 8, $writers, $writers), time + 0.25) if time > $next_crowd;
		while (time < $until && $select->count < $crowd) {
			my $session = shift @idle;
			my $kind = $kind_of{ $session->{name} } = $session->{name} =~ /-[12]$/ ? 'quick' : pick(@kinds);
			$session->send($transaction{$kind}->($session->{name}));
			$select->add($session->out);
			$transactions++;
		}
		my @ready = $select->can_read(0.02);
		die "for a minute no writer got on\n" if time - ($last_news = @ready ? time : $last_news) > 60;
		for my $handle (@ready) {
			my $session = $session{ fileno $handle };
			next unless $session->receive;
			$select->remove($handle);
			if ($session->{name} =~ /-[12]$/) { unshift @idle, $session }
			else { push @idle, $session }
			my $kind = $kind_of{ $session->{name} };
			my @errors = grep { $_ ne '25P02' && !($kind eq 'prepared' && $_ eq '42704') } $session->errors;
			$errors{$_}++ for @errors;
			if (my @bad = grep { !$expected{$_} } @errors) {
				die "a transaction of kind $kind failed with @bad: " . join("\n", $session->lines) . "\n";
			}
			my $left = delete $left{ $session->{name} };
			push @to_end, [ time + rand 0.2, $left ] if $left && !@errors;
		}
		if (my @due = grep { $$_[0] < time } @to_end) {
			$ender->must(join '', map { $$_[1] } @due);
			my %done = map { $_ => 1 } @due;
			@to_end = grep { !$done{$_} } @to_end;
		}
	}
	$ender->must(join '', map { $$_[1] } @to_end);
	$_->close for $ender, @idle;
	return ($transactions, \%errors);
}

#
# A consumer, in a process of its own
#
sub consume {
	my ($name, $query, $file) = @_;
	my $session = Session->new(database => $database, name => $name);
	my ($after, $finishing, $polls, $waited) = (0, 0, 0, 0);
	my $last_news = time;

	local $SIG{USR1} = sub { $finishing = 1 };
	open my $received, '>', $file or die "$file: $!\n";
	for (;;) {
		my $last_time = $finishing;
		my @rows = $session->must(sprintf $query, $after);
		@rows = grep { /^\d+ \S+ \d+$/ } @rows;
		$polls++;
		if (@rows) {
			print {$received} map { "$_\n" } @rows;
			($after) = $rows[-1] =~ /^(\d+)/;
			$waited = max $waited, time - $last_news;
			$last_news = time;
		}
		elsif ($last_time) { last }
		sleep rand 0.004;
	}
	close $received or die "$file: $!\n";
	$session->close;
	printf "order: %s: %d polls, longest wait for news %.2f s\n", $name, $polls, $waited;
	return;
}

# What is wrong with what a consumer received, given the rows of the table.
sub compare {
	my ($file, $stored) = @_;
	open my $in, '<', $file or die "$file: $!\n";
	chomp(my @received = <$in>);
	my (%seen, %version, $last);
	my ($doubled, $unordered, $gaps) = (0, 0, 0);

	for (@received) {
		my ($position, $stream, $version) = split ' ';
		$doubled++ if $seen{$_}++;
		$unordered++ if defined $last && $position <= $last;
		$gaps++ if $version != ($version{$stream} // 0) + 1;
		($last, $version{$stream}) = ($position, $version);
	}
	my %stored = map { $_ => 1 } @$stored;
	my $missing = grep { !$seen{$_} } @$stored;
	my $alien = grep { !$stored{$_} } keys %seen;
	my @faults = map { $$_[0] ? "$$_[0] $$_[1]" : () } [ $missing, 'missing' ], [ $doubled, 'doubled' ],
		[ $unordered, 'out of order' ], [ $gaps, 'out of their stream\'s order' ], [ $alien, 'not in the table' ];
	return (scalar @received, @faults);
}

#
# The run
#
my $admin = Session->new(database => $ENV{PGDATABASE} || 'postgres', name => 'admin');
$admin->run("set client_min_messages = warning; drop database if exists $database;");
$admin->must("create database $database");
my $watcher = Session->new(database => $database, name => 'watcher');
$watcher->must('create extension evsource; create table received (position bigint primary key, stream text, version bigint); create table elsewhere (n int);');
my $mode = join('', $watcher->must('show shared_preload_libraries')) =~ /evsource/ ? 'preloaded' : 'not preloaded';
if ($watcher->must('show max_prepared_transactions')) { $prepared = 1 }
else { delete $kinds{prepared} }
@kinds = map { ($_) x $kinds{$_} } sort keys %kinds;

# idle all the time: one that wrote elsewhere, one that holds the log's lock and a stream's
my @idle = map { Session->new(database => $database, name => "idle $_") } 1, 2;
$idle[0]->must('begin; insert into elsewhere values (1); select pg_current_xact_id();');
$idle[1]->must("begin; select pg_current_xact_id(); select from evsource.append_batch('idle-1', '{}', '{}');");

my (%pid, %file);
for my $name (sort keys %consumers) {
	($file{$name} = "$dir/$name") =~ tr/ /_/;
	my $pid = fork // die "fork: $!\n";
	if (!$pid) {
		my $ok = eval { consume($name, $consumers{$name}, $file{$name}); 1 };
		print $@ unless $ok;
		STDOUT->flush;
		POSIX::_exit($ok ? 0 : 1);
	}
	$pid{$name} = $pid;
}

my ($transactions, $errors) = eval { write_events() };
my $failure = $@;

# a prepared transaction holds the safe position below its events until it ends
if ($prepared && !$failure) {
	for my $how ('commit', 'rollback') {
		my $before = $watcher->must('select last_value from evsource.position_seq');
		$watcher->must("begin; select from evsource.append('pending-1', 'Prepared'); prepare transaction 'evsource_stress_$how'");
		$watcher->must("select from evsource.append('pending-2', 'Behind')");
		my $safe = $watcher->must('select evsource.safe_position()');
		$failure .= "safe position is $safe, not $before, below a prepared transaction\n" if $safe != $before;
		$watcher->must("$how prepared 'evsource_stress_$how'");
	}
}

# now nothing is in flight but what is idle: all is safe, and goes out
my ($safe, $last) = split ' ', $watcher->must('select evsource.safe_position(), last_value from evsource.position_seq');
$failure .= "safe position $safe does not reach the last position $last, though no append is open\n" if !$failure && $safe != $last;

kill USR1 => values %pid;
for my $name (sort keys %pid) {
	waitpid $pid{$name}, 0;
	$failure .= "consumer $name failed\n" if $?;
}
$_->must('commit'), $_->close for @idle;

my $total = 0;
for my $name (sort keys %file) {
	my @stored = $watcher->must("select position, stream, version from evsource.events " . ($condition{$name} // '') . " order by position");
	my ($count, @faults) = compare($file{$name}, \@stored);
	$total = max $total, $count;
	$failure .= "consumer $name: of " . @stored . " events " . join(', ', @faults) . "\n" if @faults;
}
my %must_be_none = (
	'rows of the table that a consumer filled are wrong' => 'select count(*) from received r full join evsource.events e using (position)'
		. ' where (r.stream, r.version) is distinct from (e.stream, e.version)',
	'streams have a gap in their versions' => 'select count(*) from (select from evsource.events group by stream'
		. ' having count(*) <> max(version) or min(version) <> 1) s',
	'events stand in another order than that of their stream' => 'select count(*) from (select version, lag(version, 1, 0::bigint)'
		. ' over (partition by stream order by position) as before from evsource.events) e where version <> before + 1',
);
for my $what (sort keys %must_be_none) {
	my $count = $watcher->must($must_be_none{$what});
	$failure .= "$count $what\n" if $count;
}
$watcher->close;

if ($failure) {
	print "order: seed $seed, $mode: $failure";
	exit 1;
}
$admin->must("drop database $database");
$admin->close;
print "order: $mode, ", $prepared ? '' : 'without prepared transactions, ', "seed $seed: ",
	"$total events of $transactions transactions (", join(', ', map { "$$errors{$_} $_" } sort keys %$errors), '), ',
	scalar(keys %consumers), " consumers: none missing, none doubled, all in order\n";
