# Consumers: processes that follow the log, each knowing nothing but the last
# position that it received, and what must be so of what they received.
package Consumers;

use strict;
use warnings;
use File::Temp qw(tempdir);
use List::Util qw(max);
use POSIX ();
use Time::HiRes qw(time sleep);
use Session;

# how each consumer asks for what comes after position %d
my %queries = (
	read_all => 'select position, stream, version from evsource.read_all(%d);',
	'small pages' => 'select position, stream, version from evsource.read_all(%d, 40);',
	read_category => "select position, stream, version from evsource.read_category('hot', %d, 100);",
	'REPEATABLE READ' => 'begin isolation level repeatable read; select from pg_class limit 1; select pg_sleep(0.003);'
		. ' select position, stream, version from evsource.read_all(%d); commit;',
	'safe_position' => "select evsource.safe_position() as safe \\gset\n"
		. "select position, stream, version from evsource.events where position > %d and position <= :safe order by position;",
	# what it has committed may be more than it was told of, when the server crashes: the table knows
	'into a table' => 'with r as (insert into received select position, stream, version'
		. ' from evsource.read_all((select coalesce(max(position), 0) from received)) returning *) select * from r order by position;',
);
my %condition = (read_category => "where evsource.category(stream) = 'hot'");

# Consumers->new(database => NAME, test => for messages, crashes => does the server crash)
sub new {
	my ($class, %self) = @_;
	$self{dir} = tempdir(CLEANUP => 1);
	$self{queries} = {%queries};
	# a plain SELECT does not wait for what it shows to be on disk
	delete $self{queries}{safe_position} if $self{crashes};
	return bless \%self, $class;
}

sub names { my @names = sort keys %{ $_[0]{queries} }; return @names }
sub file { my ($self, $name) = @_; $name =~ tr/ /_/; return "$self->{dir}/$name" }

sub start {
	my ($self) = @_;
	STDOUT->flush;
	for my $name ($self->names) {
		my $pid = fork // die "fork: $!\n";
		if (!$pid) {
			my $ok = eval { $self->consume($name); 1 };
			print $@ unless $ok;
			STDOUT->flush;
			POSIX::_exit($ok ? 0 : 1);
		}
		$self->{pid}{$name} = $pid;
	}
	return;
}

# Let them read to the end; returns what failed.
sub finish {
	my ($self) = @_;
	my $failure = '';
	kill USR1 => values %{ $self->{pid} };
	for my $name ($self->names) {
		waitpid $self->{pid}{$name}, 0;
		$failure .= "consumer $name failed\n" if $?;
	}
	return $failure;
}

sub consume {
	my ($self, $name) = @_;
	my @who = (database => $self->{database}, name => $name);
	my $session = Session->new(@who);
	my ($after, $finishing, $polls, $waited) = (0, 0, 0, 0);
	my $last_news = time;

	local $SIG{USR1} = sub { $finishing = 1 };
	open my $received, '>', $self->file($name) or die "$name: $!\n";
	for (;;) {
		my $last_time = $finishing;
		my $query = $self->{queries}{$name} =~ s/%d/$after/r;
		my @rows = eval { $session->must($query) };
		if ($@) {
			die $@ unless $self->{crashes} && $@ =~ /gone away/;
			$session->abandon;
			$session = Session->reconnect(@who);
			next;
		}
		@rows = grep { /^\d+ \S+ \d+$/ } @rows;
		$polls++;
		if (@rows) {
			print {$received} map { "$_\n" } @rows;
			($after) = $rows[-1] =~ /^(\d+)/;
			$waited = max $waited, time - $last_news;
			$last_news = time;
		}
		elsif ($last_time) { last }
		# so that each asks at another moment
		sleep rand 0.004;
	}
	close $received or die "$name: $!\n";
	$session->close;
	printf "%s: %s: %d polls, longest wait for news %.2f s\n", $self->{test}, $name, $polls, $waited;
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
	return map { $$_[0] ? "$$_[0] $$_[1]" : () } [ $missing, 'missing' ], [ $doubled, 'doubled' ],
		[ $unordered, 'out of order' ], [ $gaps, 'out of their stream\'s order' ], [ $alien, 'not in the table' ];
}

my %must_be_none = (
	'rows of the table that a consumer filled are wrong' => 'select count(*) from received r full join evsource.events e using (position)'
		. ' where (r.stream, r.version) is distinct from (e.stream, e.version)',
	'streams have a gap in their versions' => 'select count(*) from (select from evsource.events group by stream'
		. ' having count(*) <> max(version) or min(version) <> 1) s',
	'events stand in another order than that of their stream' => 'select count(*) from (select version, lag(version, 1, 0::bigint)'
		. ' over (partition by stream order by position) as before from evsource.events) e where version <> before + 1',
);

# What is wrong at the end.
sub faults {
	my ($self, $session) = @_;
	my $failure = '';
	for my $name ($self->names) {
		next if $name eq 'into a table' && $self->{crashes};
		my @stored = $session->must("select position, stream, version from evsource.events " . ($condition{$name} // '') . " order by position");
		my @faults = compare($self->file($name), \@stored);
		$failure .= "consumer $name: of " . @stored . " events " . join(', ', @faults) . "\n" if @faults;
	}
	for my $what (sort keys %must_be_none) {
		my $count = $session->must($must_be_none{$what});
		$failure .= "$count $what\n" if $count;
	}
	return $failure;
}

1;
