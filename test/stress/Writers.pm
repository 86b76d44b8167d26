# Writers: 32 sessions that append in every way there is.
#
# Random sleeps before the commit, rollbacks, rolled-back savepoints, an xid taken
# before the append, prepared transactions that are ended at once, later, or by
# another session, INSERT and COPY, many streams at once, races for a version.
# Each transaction is a text for psql.
package Writers;

use strict;
use warnings;
use IO::Select;
use List::Util qw(uniq);
use Time::HiRes qw(time);
use Session;

our $count = 32;

my %kinds = (single => 25, quick => 10, batch => 8, several => 10, savepoint => 8, savepoint_first => 6, xid_first => 10, insert => 8,
	copy => 6, copy_many => 2, race => 5, exceptions => 3, again => 3, serializable => 3, prepared => 12);
my ($gids, $ids) = (0, 0);
my %left;			# how another session is to end what the writer is preparing
my $asynchronous = 0;

sub pick { return $_[ rand @_ ] }
sub stream { return 'hot-' . int rand(rand() < 0.3 ? 30 : 1000) }	# some are crowded
sub streams { return uniq sort map { stream() } 1 .. shift }
sub nap { return sprintf "select pg_sleep(%.4f);\n", rand(rand() < 0.01 ? 0.3 : 0.015) }
sub append { my ($stream, $type) = @_; return "select from evsource.append('$stream', '$type', '{\"w\": 1}');\n" }
# what makes a commit take long, after it has begun; or not wait for the disk
sub slow_commit {
	return pick('', '', "notify evsource_stress;\n", "create temp table slow (a int primary key, b text) on commit drop;\n",
		$asynchronous ? "set local synchronous_commit = off;\n" : '');
}
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

# Writers->new(database => NAME, prepared => can they prepare transactions,
#	asynchronous => may a commit not wait for the disk)
sub new {
	my ($class, %self) = @_;
	my %weights = %kinds;
	delete $weights{prepared} unless $self{prepared};
	$self{kinds} = [ map { ($_) x $weights{$_} } sort keys %weights ];
	$self{errors} = {};
	$self{transactions} = 0;
	$self{to_end} = [];
	$asynchronous = $self{asynchronous};
	return bless \%self, $class;
}

sub connect {
	my ($self) = @_;
	$self->{idle} = [ map { Session->reconnect(database => $self->{database}, name => "writer-$_") } 1 .. $count ];
	$self->{session} = { map { fileno($_->out) => $_ } @{ $self->{idle} } };
	$self->{ender} = Session->reconnect(database => $self->{database}, name => 'ender');
	$self->{select} = IO::Select->new;
	return;
}

# All sessions are gone with their server. What was prepared is still there; who
# prepared it will not end it any more.
sub connect_again {
	my ($self) = @_;
	$_->abandon for values %{ $self->{session} }, $self->{ender};
	%left = ();
	$self->connect;
	my @gids = $self->{ender}->must("select gid from pg_prepared_xacts where database = current_database() and gid like 'evsource_stress_%'");
	$self->{to_end} = [ map { [ time + rand 0.5, pick('commit', 'rollback') . " prepared '$_';\n" ] } @gids ];
	return;
}

# A session has done what it was sent.
sub take_back {
	my ($self, $session) = @_;
	my $kind = $session->{kind};
	if ($session->{name} =~ /-[12]$/) { unshift @{ $self->{idle} }, $session }
	else { push @{ $self->{idle} }, $session }
	my @errors = grep { $_ ne '25P02' && !($kind eq 'prepared' && $_ eq '42704') } $session->errors;
	$self->{errors}{$_}++ for @errors;
	if (my @bad = grep { !$expected{$_} } @errors) {
		die "a transaction of kind $kind failed with @bad: " . join("\n", $session->lines) . "\n";
	}
	my $left = delete $left{ $session->{name} };
	push @{ $self->{to_end} }, [ time + rand 0.2, $left ] if $left && !@errors;
	return;
}

# Write for so long.
sub write_for {
	my ($self, $seconds, $in_between) = @_;
	my $until = time + $seconds;
	return $self->write_while(sub { time < $until }, $in_between);
}

# Write as long as a condition holds. In between a sub is called that may crash the
# server; it returns true when it has, and the server is back.
#
# In a crowd there is nearly always an older append in flight, which hides a
# missing bound. So the crowd thins out now and then, while two writers, whose
# transactions are short, go on all the time.
sub write_while {
	my ($self, $goes_on, $in_between) = @_;
	my ($last_news, $crowd, $next_crowd) = (time, $count, 0);

	$self->connect;
	while ($goes_on->() || $self->{select}->count) {
		if ($goes_on->() && $in_between && $in_between->()) {
			$self->connect_again;
			$last_news = time;
		}
		($crowd, $next_crowd) = (pick(3, 3, 4, 8, $count, $count), time + 0.25) if time > $next_crowd;
		while ($goes_on->() && $self->{select}->count < $crowd) {
			my $session = shift @{ $self->{idle} };
			$session->{kind} = $session->{name} =~ /-[12]$/ ? 'quick' : pick(@{ $self->{kinds} });
			$session->send($transaction{ $session->{kind} }->($session->{name}));
			$self->{select}->add($session->out);
			$self->{transactions}++;
		}
		my @ready = $self->{select}->can_read(0.02);
		die "for a minute no writer got on\n" if time - ($last_news = @ready ? time : $last_news) > 60;
		for my $handle (@ready) {
			my $session = $self->{session}{ fileno $handle };
			next unless $session->receive;
			$self->{select}->remove($handle);
			$self->take_back($session);
		}
		$self->end_prepared(grep { $$_[0] < time } @{ $self->{to_end} });
	}
	$self->end_prepared(@{ $self->{to_end} });
	$_->close for $self->{ender}, @{ $self->{idle} };
	return;
}

sub end_prepared {
	my ($self, @due) = @_;
	return unless @due;
	$self->{ender}->must(join '', map { $$_[1] } @due);
	my %done = map { $_ => 1 } @due;
	$self->{to_end} = [ grep { !$done{$_} } @{ $self->{to_end} } ];
	return;
}

# "1234 transactions (5 40001, 6 VE001)"
sub summary {
	my ($self) = @_;
	my $errors = $self->{errors};
	return "$self->{transactions} transactions" . (%$errors ? ' (' . join(', ', map { "$$errors{$_} $_" } sort keys %$errors) . ')' : '');
}

1;
