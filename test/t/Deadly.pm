# Handlers that end the server, in the daemon, as a bug in C does.
#
# A handler that calls deadly.meet() with a name and a position that stand in
# deadly.events says who it is and waits to be killed.

package Deadly;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time sleep);

use Killing;

our @EXPORT = qw(deadly_schema victim kill_until);

sub deadly_schema
{
	return q{
create schema deadly;
create table deadly.events (name text, position bigint);
create function deadly.meet(name text, "position" bigint) returns void language plpgsql as $$
begin
	if exists (select from deadly.events d where (d.name, d.position) = (meet.name, meet.position)) then
		perform set_config('application_name', 'deadly', true);
		perform pg_sleep(60);
	end if;
end $$;
};
}

# The process that waits for it, or 0.
sub victim
{
	return q{(select coalesce(min(pid), 0) from pg_stat_activity where application_name = 'deadly' or wait_event = 'PgSleep' and backend_type = 'evsource worker')};
}

# Kill whoever waits for it until the query says true; returns how often that was. It dies
# where the query never does.
sub kill_until
{
	my ($node, $query) = @_;
	my $kills = 0;

	for (my $start = time; time - $start < $PostgreSQL::Test::Utils::timeout_default; sleep 0.02)
	{
		if (my $pid = ask($node, 'select ' . victim()))
		{
			kill_and_wait($node, $pid);
			$kills++;
			next;
		}
		return $kills if (ask($node, $query) // '') eq 't';
	}
	die "after $kills kills this is not true: $query\n";
}

1;
