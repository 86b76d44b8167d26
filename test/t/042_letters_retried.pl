# Dead letters that several consumers try again at the same time: each is handed out
# once, and each stream in order.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('letters_retried', 'evsource.daemon = off');
$node->safe_psql('postgres', q{
create extension evsource;
select evsource.create_subscription('letters', max_attempts => 1);
insert into evsource.events (stream, type) select 'a-' || i % 20, 'Failed' from generate_series(1, 300) i;
create table taken (n bigserial, position bigint, stream text, version bigint, acked boolean);

-- the first of each stream fails, the others are behind it
do $$ begin
	for i in 1 .. 20 loop
		perform evsource.nack(receipt) from evsource.fetch_events('letters', 1);
	end loop;
	perform evsource.fetch_events('letters');
end $$;
});
is($node->safe_psql('postgres', q{select count(*) from evsource.subscription_dead_letters}), 300, 'all are dead letters');

# fetch, process and ack in transactions of their own, as clients do
$node->safe_psql('postgres', q{
select evsource.retry_subscription_dead_letters('letters');
create procedure consume() language plpgsql as $$
declare
	got evsource.fetched_event;
begin
	while exists (select from evsource.subscription_dead_letters) loop
		select f.* into got from evsource.fetch_events('letters') f;
		commit;
		continue when got.position is null;
		insert into taken (position, stream, version, acked) values (got.position, got.stream, got.version, null);
		commit;
		update taken t set acked = evsource.ack(got.receipt) where t.position = got.position;
		commit;
	end loop;
end $$;
});
my $script = $node->basedir . '/consume.sql';
append_to_file($script, 'call consume()');
$node->command_ok([ 'pgbench', '-n', '-c', 4, '-j', 2, '-t', 1, '-f', $script, 'postgres' ], 'four consumers end');
is($node->safe_psql('postgres', q{select count(*), count(distinct position), bool_and(acked) from taken}), '300|300|t', 'each was handed out once');
is($node->safe_psql('postgres', q{
	select count(*) from (select version, lag(version) over (partition by stream order by n) as before from taken) t where version < before}),
	0, 'in the order of its stream');

$node->stop;
done_testing();
