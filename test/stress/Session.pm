# Session: a psql at the other end of two pipes.
#
# One text of SQL at a time: send it, and read until it is done, or let an
# IO::Select watch the handle of many sessions and call "receive" on each that
# has something to say.
package Session;

use strict;
use warnings;
use Errno;
use IPC::Open3;

my $end = 'evsource stress: done';

# writing to one whose server is gone is not the end of us
$SIG{PIPE} = 'IGNORE';

# Session->new(database => NAME [, name => for messages])
sub new {
	my ($class, %self) = @_;
	my $self = bless { name => 'session', text => '', lines => [], %self }, $class;
	$self->{pid} = open3($self->{in}, $self->{out}, undef,
		'psql', '-X', '-q', '-A', '-t', '-F', ' ', '-v', 'VERBOSITY=sqlstate', '-d', $self->{database});
	$self->{in}->autoflush(1);
	return $self;
}

# The same once the server lets us in again.
sub reconnect {
	my ($class, %self) = @_;
	for my $try (1 .. 600) {
		my $self = $class->new(%self);
		return $self if eval { $self->run('select 1') };
		$self->abandon;
		select undef, undef, undef, 0.1;
	}
	die "the server did not come back within a minute\n";
}

sub out { return $_[0]{out} }

# Hand over SQL; what it says comes by receive.
sub send {
	my ($self, $sql) = @_;
	print { $self->{in} } "$sql\n\\echo $end\n" or die "$self->{name}: psql has gone away\n";
	return;
}

# Read what is there, at least one byte. True when the SQL is done: then "lines"
# holds what it printed.
sub receive {
	my ($self) = @_;
	my $count = sysread($self->{out}, $self->{text}, 65536, length $self->{text});
	return 0 if !defined $count && $!{EINTR};
	die "$self->{name}: psql has gone away: $self->{text}\n" unless $count;
	return 0 unless $self->{text} =~ s/\A(.*?)^\Q$end\E\n//ms;
	$self->{lines} = [ grep { $_ ne '' } split /\n/, $1 ];
	return 1;
}

sub lines { return @{ $_[0]{lines} } }

# The SQLSTATEs of the errors among the lines.
sub errors { return map { /^(?:psql:.*?: )?(?:ERROR|FATAL|PANIC): +(\S+)/ ? $1 : () } @{ $_[0]{lines} } }

# Run a statement or more and return the lines, whatever they say.
sub run {
	my ($self, $sql) = @_;
	$self->send("$sql;");
	1 until $self->receive;
	return $self->lines;
}

# Run what must not fail.
sub must {
	my ($self, $sql) = @_;
	my @lines = $self->run($sql);
	die "$self->{name}: @lines\nafter: $sql\n" if $self->errors;
	return wantarray ? @lines : $lines[0];
}

# Forget about it: its server is gone, or shall see it vanish.
sub abandon {
	my ($self) = @_;
	kill KILL => $self->{pid};
	return $self->close;
}

sub close {
	my ($self) = @_;
	close $self->{in};
	close $self->{out};
	waitpid $self->{pid}, 0;
	return;
}

1;
