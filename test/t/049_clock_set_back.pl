# The clock is set back by an hour: what the daemon has put off comes when it was meant to
# come, not an hour later. The server gets its clock from a library of the test's.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

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
	static const volatile unsigned char *hours;
	if (hours == NULL)
		hours = mmap(NULL, 1, PROT_READ, MAP_SHARED, open(FILE_OF_HOURS, O_RDONLY), 0);
	return *hours * 3600;
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
sub set_back
{
	my ($hours) = @_;
	open my $file, '+>', "$folder/hours" or die "$folder/hours: $!";
	print $file chr $hours;
	close $file;
	return;
}
set_back(0);
plan skip_all => 'no compiler, or no such clock'
	if $^O ne 'linux' || system_log('cc', '-shared', '-fPIC', '-o', "$folder/clock.so", "-DFILE_OF_HOURS=\"$folder/hours\"", "$folder/clock.c") != 0;

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
is($sql->("select now() between '$began'::timestamptz - interval '1h' and '$began'::timestamptz - interval '50min'"), 't', 'the clock is set back');
$sql->('call append_many()');
$soon->('select sum(n) = 1200 from counts', 'and it goes on');
$soon->(q{select count(*) = 0 from evsource.daemon_status where heartbeat > now()}, 'all of its processes say so');
ok($node->stop('fast'), 'and ends when it is told to');
done_testing();
