# Rebuilds that were requested are done at once, though the number of jobs and of
# workers changes when they begin: nobody leaves the job to somebody who sleeps.
# (Who gets on first is up to the machine: one round in ten used to go wrong.)

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('requests', "shared_preload_libraries = 'evsource'");
$node->safe_psql('postgres', q{
create extension evsource;
create table counts (n bigint);
insert into evsource.events (stream, type, data)
	select 'account-' || i % 10000, 'Counted', jsonb_build_object('text', repeat('x', 150)) from generate_series(1, 150000) i;
select evsource.create_projection('counts', mode => 'async', query => 'insert into public.counts select count(*) from new_events');
select evsource.create_projection('fold', handler => 'evsource.fold_count', mode => 'async', key => 'global', snapshots => 'disabled');
});
ok($node->poll_query_until('postgres', 'select bool_and(lag = 0) from evsource.projection_status'), 'all is applied');

my $longest = 0;
foreach my $round (1 .. 20)
{
	my $start = time;
	# to wait in one session is the quickest way to see it, and to come again
	$node->safe_psql('postgres', q{
call evsource.rebuild_projection('fold', online => false);
select evsource.request_rebuild('fold');
do $$ begin
	for i in 1 .. 1000 loop
		exit when not exists (select from evsource.progress);
		perform pg_sleep(0.01);
		rollback;
	end loop;
end $$;
});
	my $time = time - $start;
	$longest = $time if $time > $longest;
	last if $longest > 9;
}
is($node->safe_psql('postgres', 'select count(*) from evsource.progress'), 0, 'no rebuild is left');
cmp_ok($longest, '<', 9, 'and none had to wait for a look that is taken twice a minute');
is($node->safe_psql('postgres', q{select count(*) from evsource.load_states('fold') where event_count = 150000}), 1, 'each begins anew');
$node->stop;

done_testing();
