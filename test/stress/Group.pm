# Group: three consumer processes of one subscription, killed at random, and what
# must be so of what they did with the events.
#
# A consumer is a process of ours with a psql, in a process group of its own, so that
# both are killed at once. There are two kinds:
#
#	exactly once	stores what it got in a table of the same database, and acknowledges
#					in that transaction: with the fetch in it, or with a fetch of before,
#					where a lease that is lost takes the result back (VE005)
#	at least once	adds what it got to a file, then acknowledges
package Group;

use strict;
use warnings;
use Fcntl qw(O_WRONLY O_APPEND O_CREAT);
use File::Temp qw(tempdir);
use POSIX ();
use Time::HiRes qw(sleep);
use Session;

# Group->new(database => NAME, subscription => NAME, exactly_once => BOOLEAN, consumers => N)
sub new {
	my ($class, %self) = @_;
	my $self = bless \%self, $class;
	$self->{dir} = tempdir(CLEANUP => 1);
	$self->{file} = "$self->{dir}/got";
	$self->{pids} = [ (0) x $self->{consumers} ];
	return $self;
}

sub create {
	my ($self, $session) = @_;
	$session->must("select evsource.create_subscription('$self->{subscription}', partitions => 4, max_attempts => 1000)");
	$session->must('create table results (n bigserial, position bigint, stream text, version bigint, type text)')
		if $self->{exactly_once};
	return;
}

# dies => 1: it dies between what it does with the first events and the acknowledgement.
sub start {
	my ($self, $which, %how) = @_;
	STDOUT->flush;
	my $pid = fork // die "fork: $!\n";
	if (!$pid) {
		setpgrp;
		srand;
		# its server may go away, and its lease: it ends, and another one is started
		eval { $self->{exactly_once} ? $self->store_results($which) : $self->write_down($which, %how) };
		POSIX::_exit($@ =~ /psql has gone away/ ? 0 : do { print $@; STDOUT->flush; 1 });
	}
	$self->{pids}[$which] = $pid;
	return;
}

sub start_all { my ($self) = @_; $self->start($_) for 0 .. $self->{consumers} - 1; return }

# As a machine that loses its power; or one that stands still for longer than its lease.
sub kill_one {
	my ($self, $which) = @_;
	kill KILL => -$self->{pids}[$which];
	waitpid $self->{pids}[$which], 0;
	die "a consumer of $self->{subscription} ended by itself\n" unless ($? & 127) == 9;
	return;
}
# At least one event is to be done again.
sub let_one_die_at_work {
	my ($self) = @_;
	$self->start(0, dies => 1);
	waitpid $self->{pids}[0], 0;
	die "a consumer of $self->{subscription} has not died\n" unless ($? & 127) == 9;
	return;
}
sub suspend { my ($self, $which) = @_; kill STOP => -$self->{pids}[$which]; return }
sub resume { my ($self, $which) = @_; kill CONT => -$self->{pids}[$which]; return }
sub kill_all { my ($self) = @_; $self->kill_one($_) for 0 .. $self->{consumers} - 1; return }

# Some fetches leave it to the server who they are, others say it and get back what is theirs.
sub fetch {
	my ($self, $which) = @_;
	return sprintf "evsource.fetch_events('%s', %d, %s, lease => '1 s', wait => '0.2 s')", $self->{subscription},
		1 + rand 1000, rand() < 0.5 ? 'null' : "'$which'";
}

sub store_results {
	my ($self, $which) = @_;
	my $session = Session->new(database => $self->{database}, name => "consumer $which");
	$session->must('create temporary table got as select * from ' . $self->fetch($which) . ' limit 0');
	my $store = 'insert into results (position, stream, version, type) select position, stream, version, type from got order by position;'
		. ' select evsource.ack(receipt, required => true) from got order by position desc limit 1;';
	while (1) {
		my $fetch = 'truncate got; insert into got select * from ' . $self->fetch($which) . ';'
			. ' select pg_sleep(random() * 0.05) from got having count(*) > 1;';
		$session->run(rand() < 0.5 ? "begin; $fetch $store commit" : "$fetch begin; $store commit");
		my @errors = grep { $_ ne 'VE005' && $_ ne '25P02' } $session->errors;
		die "$self->{subscription}: @{[$session->lines]}\n" if @errors;
	}
	return;
}

sub write_down {
	my ($self, $which, %how) = @_;
	my $session = Session->new(database => $self->{database}, name => "consumer $which");
	sysopen my $file, $self->{file}, O_WRONLY | O_APPEND | O_CREAT or die "$self->{file}: $!\n";
	while (1) {
		my @events = map { [ split / /, $_, 5 ] } $session->must('select receipt, position, stream, version, type from ' . $self->fetch($which));
		@events or next;
		# time to be killed in; those who died have left events that go out one by one
		sleep rand 0.05 if @events > 1;
		syswrite $file, join '', map { "@$_[1 .. 4]\n" } @events;
		kill KILL => -$$ if $how{dies};
		sleep rand 0.05 if @events > 1;
		# false is no error here: another one does it again
		$session->must("select evsource.ack('$events[-1][0]')");
	}
	return;
}

# What is wrong with what they did, and how often they did what they had done before.
sub faults {
	my ($self, $session) = @_;
	if (!$self->{exactly_once}) {
		$session->must('create table results (n bigserial, position bigint, stream text, version bigint, type text)');
		open my $in, '<', $self->{file} or die "$self->{file}: $!\n";
		open my $out, '>', "$self->{file}.csv" or die "$self->{file}.csv: $!\n";
		my %seen;
		while (my $line = <$in>) {
			chomp $line;
			my ($position, $stream, $version, $type) = split / /, $line, 4;
			if ($seen{$position}++) { $self->{repeated}++; next }
			print $out "$position\t$stream\t$version\t$type\n";
		}
		close $out;
		$session->must("\\copy results (position, stream, version, type) from '$self->{file}.csv'\nselect 1");
	}
	my $failure = '';
	my $check = sub {
		my ($what, $query) = @_;
		my $count = $session->must($query);
		$failure .= "$self->{subscription}: $count $what\n" if $count != 0;
	};
	$check->('events without a result', 'select count(*) from evsource.events e where not exists (select from results r where r.position = e.position)');
	if ($self->{exactly_once}) {
		$check->('results too many', 'select count(*) - count(distinct position) from results');
	}
	elsif (!$self->{repeated}) {
		$failure .= "$self->{subscription}: no event was fetched again\n";
	}
	$check->('results that are not the event', 'select count(*) from results r left join evsource.events e using (position, stream, version, type) where e.position is null');
	$check->('results out of order', 'select count(*) from (select version - row_number() over (partition by stream order by n) as off from results) r where off <> 0');
	$check->('types with another count than expected', 'select count(*) from (select type, count(*) from results group by 1) r'
		. ' full join expected x using (type) where r.count is distinct from x.count');
	$check->('dead letters', "select dead_letters from evsource.subscription_status where subscription = '$self->{subscription}'");
	$session->must('drop table results');
	return $failure;
}

1;
