# Server: the server of PGHOST and so on, in whose daemon a database takes part,
# and what is done to both.
package Server;

use strict;
use warnings;
use Time::HiRes qw(time sleep);
use Session;

# Server->new(database => NAME): makes the database anew, with the extension
sub new {
	my ($class, %self) = @_;
	my $self = bless \%self, $class;
	my $admin = $self->admin;
	$admin->run("set client_min_messages = warning; drop database if exists $self{database};");
	$admin->must("create database $self{database}");
	# make check turns it off in the server's configuration
	$admin->must("alter database $self{database} set evsource.daemon = on");
	$self->{directory} = $admin->must('show data_directory');
	$self->{preloaded} = join('', $admin->must('show shared_preload_libraries')) =~ /evsource/;
	$self->{prepared} = $admin->must('show max_prepared_transactions') > 0;
	$admin->close;
	my $session = $self->session;
	$session->must('create extension evsource');
	$session->close;
	return $self;
}

sub mode {
	my ($self) = @_;
	return ($self->{preloaded} ? 'preloaded' : 'not preloaded') . ($self->{prepared} ? '' : ', without prepared transactions');
}

sub admin { return Session->reconnect(database => $ENV{PGDATABASE} || 'postgres', name => 'admin') }
sub session { return Session->reconnect(database => $_[0]{database}, name => $_[1] // 'watcher') }

sub drop {
	my ($self) = @_;
	my $admin = $self->admin;
	$admin->must("drop database $self->{database}");
	$admin->close;
	return;
}

# May we crash it?
sub can_crash {
	my ($self) = @_;
	return -w $self->{directory} && !system('command -v pg_ctl >/dev/null 2>&1');
}

# Shall the commits of sessions that begin from now on wait for the disk?
sub wait_for_disk {
	my ($self, $wait) = @_;
	my $admin = $self->admin;
	$admin->must("alter database $self->{database} set synchronous_commit = " . ($wait ? 'on' : 'off'));
	$admin->close;
	return;
}

# Preloaded, the daemon starts by itself.
sub start_daemon {
	my ($self) = @_;
	return if $self->{preloaded};
	my $session = $self->session;
	$session->must('select evsource.start_daemon()');
	$session->close;
	return;
}

# Stop the server at once, and start it again.
sub restart {
	my ($self) = @_;
	system("pg_ctl -D '$self->{directory}' -m immediate -w -t 60 -l '$self->{directory}/../server.log' restart >/dev/null 2>&1") == 0
		or die "the server did not start again\n";
	$self->start_daemon;
	return;
}

# Kill a worker as nobody should, which makes the server start anew; it has to
# come back by itself, and the daemon with it.
sub kill_worker {
	my ($self) = @_;
	my $session = $self->session;
	my $pid = $self->find_worker($session);
	kill KILL => $pid or return $session->close;
	# this session ends with the server; before that a new one might be let in
	eval { $session->run('select pg_sleep(60)') } for 1 .. 2;
	$session->abandon;
	$self->session->close;
	return;
}

# End a worker or the coordinator as an administrator would: the server goes on.
sub terminate {
	my ($self, $role) = @_;
	my $session = $self->session;
	$session->must("select pg_terminate_backend(pid) from (select pid from pg_stat_activity where backend_type = 'evsource $role'"
		. ' and datname = current_database() order by random() limit 1) one');
	$session->close;
	return;
}

# The process of some worker of this database.
sub find_worker {
	my ($self, $session) = @_;
	my $until = time + 30;
	while (time < $until) {
		my ($pid) = $session->must("select pid from pg_stat_activity where backend_type = 'evsource worker'"
			. ' and datname = current_database() order by random() limit 1');
		return $pid if $pid;
		sleep 0.02;
	}
	die "for half a minute there was no worker\n";
}

1;
