# BenchListener.pm - a client that listens: it applies a projection whenever it is
# notified, as one would without a daemon, or writes down what it hears and when. It
# speaks the protocol itself: psql cannot wait.
package BenchListener;
use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use Time::HiRes qw(time);

# Starts one, in a process of its own, on the database of the environment.
sub new
{
	my ($class, $projection) = @_;
	return $class->start(sub { follow($projection) });
}

# One that writes a line for each notification: seconds since 1970, and the payload.
sub recorder
{
	my ($class, $channel, $file) = @_;
	return $class->start(sub { record($channel, $file) });
}

sub start
{
	my ($class, $work) = @_;
	my $pid = fork // die "fork: $!\n";
	return bless { pid => $pid }, $class if $pid;
	eval { $work->(); 1 } or print STDERR "bench: $@";
	POSIX::_exit(1);
}

sub end
{
	my ($self) = @_;
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
}

sub connect_to_server
{
	my $socket = IO::Socket::UNIX->new(Peer => "$ENV{PGHOST}/.s.PGSQL.$ENV{PGPORT}") or die "cannot connect: $!\n";
	my $start = pack('N', 196608) . join("\0", user => $ENV{PGUSER}, database => $ENV{PGDATABASE}) . "\0\0";
	print {$socket} pack('N', 4 + length $start) . $start;
	$socket->flush;
	answer($socket);
	return $socket;
}

sub follow
{
	my ($projection) = @_;
	my $socket = connect_to_server();
	my $select = IO::Select->new($socket);
	query($socket, 'listen events');
	for (;;)
	{
		# those that came meanwhile are done with this one, or with the next
		my $notified = query($socket, "select evsource.run_projection('$projection')");
		next if $notified;
		$select->can_read;
		message($socket);
	}
}

sub record
{
	my ($channel, $file) = @_;
	my $socket = connect_to_server();
	query($socket, "listen $channel");
	open my $out, '>', $file or die "$file: $!\n";
	$out->autoflush;
	for (;;)
	{
		my ($type, $body) = message($socket);
		next unless $type eq 'A';
		my (undef, $payload) = unpack 'x4 Z* Z*', $body;
		printf {$out} "%.6f %s\n", time, $payload;
	}
}

sub query
{
	my ($socket, $sql) = @_;
	print {$socket} 'Q' . pack('N', 5 + length $sql) . "$sql\0";
	$socket->flush;
	return answer($socket);
}

# Reads up to the end of an answer; returns how many notifications were among it.
sub answer
{
	my ($socket) = @_;
	my $notified = 0;
	for (;;)
	{
		my ($type, $body) = message($socket);
		die "the server said: $body\n" if $type eq 'E';
		$notified++ if $type eq 'A';
		return $notified if $type eq 'Z';
	}
}

sub message
{
	my ($socket) = @_;
	read($socket, my $head, 5) == 5 or die "the server has gone\n";
	my ($type, $length) = unpack 'a N', $head;
	my $body = '';
	read($socket, $body, $length - 4) if $length > 4;
	return ($type, $body);
}

1;
