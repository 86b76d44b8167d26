# The clock is set back by minutes: what was put off comes when it was meant to come, and
# waits end then, not minutes later. The server gets its clock from a library of the test's.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

my $folder = PostgreSQL::Test::Utils::tempdir();
append_to_file("$folder/clock.c", q{
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

/* so many seconds too early, by the first byte of a file */
static int behind(void)
{
	static const volatile unsigned char *steps;
	if (steps == NULL)
		steps = mmap(NULL, 1, PROT_READ, MAP_SHARED, open(FILE_OF_STEPS, O_RDONLY), 0);
	return *steps * 540;
}
int gettimeofday(struct timeval *now, void *zone)
{
	struct timespec real;
	clock_gettime(CLOCK_REALTIME, &real);
	now->tv_sec = real.tv_sec - behind();
	now->tv_usec = real.tv_nsec / 1000;
	return 0;
}
});
# Further back than before: so many steps of nine minutes in all.
sub set_back
{
	my ($steps) = @_;
	open my $file, '+<', "$folder/steps" or die "$folder/steps: $!";
	print $file chr $steps;
	close $file;
	return;
}
append_to_file("$folder/steps", chr 0);
plan skip_all => 'no compiler, or no such clock'
	if $^O ne 'linux' || system_log('cc', '-shared', '-fPIC', '-o', "$folder/clock.so", "-DFILE_OF_STEPS=\"$folder/steps\"", "$folder/clock.c") != 0;

my $node;
{
	local $ENV{LD_PRELOAD} = "$folder/clock.so";
	$node = start_node('clock', "shared_preload_libraries = 'evsource'");
}
my ($sql, $soon) = asking($node);
$sql->(q{
create extension evsource;
create table counts (stream text primary key, n bigint not null);
}, count_events(), q{
select evsource.alter_projection('counts', mode => 'async');
create procedure append_many() language plpgsql as $$ begin
	for i in 1 .. 300 loop
		perform evsource.append('account-' || i % 7, 'Paid') from generate_series(1, 2);
		commit;
	end loop;
end $$;
});
$sql->('call append_many()');
$soon->('select sum(n) = 600 from counts', 'the daemon works');
my $began = $sql->('select now()');
set_back(1);
is($sql->("select now() between '$began'::timestamptz - interval '9min' and '$began'::timestamptz - interval '1min'"), 't', 'the clock is set back');
$sql->('call append_many()');
$soon->('select sum(n) = 1200 from counts', 'and it goes on');
$soon->(q{select count(*) = 0 from evsource.daemon_status where heartbeat > now()}, 'all of its processes say so');

# What has failed is tried again when it was to be.
$sql->(q{
create table faults (until int);
insert into faults values (1);
create function fail(e evsource.event) returns void language plpgsql as
	$$ begin if exists (select from faults) then raise 'not yet'; end if; end $$;
alter system set evsource.async_retry_delay = '1s';
select pg_reload_conf();
select evsource.create_projection('fails', 'fail', mode => 'async', categories => '{account}')});
$soon->('select exists (select from evsource.projection_failures where attempts > 0)', 'a projection fails');
set_back(2);
$sql->('delete from faults');
$soon->('select not exists (select from evsource.projection_failures)', 'and is tried again');

# What waits ends when it was meant to.
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my ($reader, $later, $rebuild, $append, $wait) = map { Session->new(database => 'postgres', name => $_) } qw(reader later rebuild append wait);

sub ends_soon
{
	my ($session, $name, $error) = @_;
	my $done = eval {
		local $SIG{ALRM} = sub { die "alarm\n" };
		alarm 60;
		1 until $session->receive;
		alarm 0;
		1;
	};
	is($done ? join(' ', $session->errors) : 'it waits', $error // '', $name);
	return;
}

# Does a call wait? It may as well have ended before we look.
sub waits
{
	my ($function, $event) = @_;
	return "select exists (select from pg_stat_activity where query like 'select%$function(%' and pid <> pg_backend_pid()"
		. " and (wait_event_type = '$event' or state = 'idle'))";
}

# appends wait while the exchange holds still for those with an older snapshot
$sql->(q{
create table totals (stream text primary key, n bigint not null);
select evsource.create_projection('totals', tables => '{totals}', query =>
	'insert into totals as t select stream, count(*) from new_events group by 1 on conflict (stream) do update set n = t.n + excluded.n')});
$reader->must('begin isolation level repeatable read');
$reader->must('select count(*) from totals');
$rebuild->send(q{call evsource.rebuild_projection('totals', online => true, lock_timeout => '4s');});
$soon->(q{select exists (select from evsource.rebuilds where projection = 'totals' and waits_for is not null)}, 'a rebuild waits for a reader');
$sql->(q{select evsource.append('account-1', 'Paid')});
$later->must('begin isolation level repeatable read');
$later->must('select count(*) from totals');
$reader->must('commit');
$append->send(q{select version > 0 from evsource.append('account-1', 'Paid');});
$soon->(waits('append', 'Lock'), 'an append waits for the exchange');
set_back(3);
ends_soon($append, 'and not for the clock');
$later->must('commit');
ends_soon($rebuild, 'nor does the rebuild');

$later->must('begin');
$later->must(q{select version > 0 from evsource.append('account-1', 'Paid')});
$append->must(q{select version > 0 from evsource.append('account-2', 'Paid')});
$wait->send(q{select evsource.wait_for('counts', timeout => '2s');});
$soon->(waits('wait_for', 'Extension'), 'wait_for() waits');
set_back(4);
ends_soon($wait, 'and not for longer than it was told to', 'VE009');
$later->must('commit');

ok($node->stop('fast'), 'and ends when it is told to');
done_testing();
