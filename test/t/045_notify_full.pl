# Somebody listens and idles in a transaction, so the queue of notifications fills up:
# projections and consumers go on all the same, and nothing is told until there is room again.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = Cluster->new('notify_full');
plan skip_all => 'before PostgreSQL 17 the queue is too large to be filled' if $node->pg_version < 17;
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'evsource'
max_notify_queue_pages = 64
evsource.async_attempts = 1
});
$node->start;
my ($sql) = asking($node);

$sql->(q{
create extension evsource;
create table told (position bigint);
select evsource.create_projection('async', mode => 'async', tables => '{told}', query => 'insert into told select position from new_events');
select evsource.create_projection('inline', notify => true, query => 'insert into told select position from new_events');
});
my $listener = $node->background_psql('postgres');
$listener->query_safe('listen other; listen evsource_events; begin; select 1');
my ($code, $rounds) = (0, 0);
while ($code == 0 && $rounds++ < 100)
{
	$code = $node->psql('postgres', q{do $$ begin for i in 1 .. 10 loop perform pg_notify('other', repeat('x', 7900) || i); end loop; end $$});
}
is($sql->('select pg_notification_queue_usage() > 0.9'), 't', 'the queue is full');

is($sql->(q{select version from evsource.append('a-1', 'Happened')}), '1', 'an append that tells of its projection succeeds');
$sql->(q{select evsource.wait_for('async', timeout => '1min')});
is($sql->(q{select string_agg(state || ' ' || lag, ', ') from evsource.projection_status}), 'active 0, active 0', 'the projections are up to date');

# What notifies itself cannot commit: that is no attempt, and for no event's fault.
$sql->(q{select evsource.create_projection('tells', mode => 'async', start => 'now', query => $$select pg_notify('other', stream) from new_events$$)});
$sql->(q{select version from evsource.append('t-1', 'Happened')});
$node->poll_query_until('postgres', q{select count(*) = 1 from evsource.projection_failures where message like 'too many notifications%'}) or die 'no failure';
is($sql->(q{select attempts, f.position is null, state from evsource.projection_failures f join evsource.projection_status using (projection)}), '0|t|active', 'a projection that notifies itself waits');

# Half of the time that the statement has is over when it begins: what it passes over is kept.
$sql->(q{
insert into evsource.events (stream, type) select 'cold-1', 'Common' from generate_series(1, 3000);
select evsource.create_subscription('rare', types => '{Rare}')});
is($sql->(q{do $$ begin
	perform set_config('statement_timeout', '1', true);
	perform from evsource.fetch_events('rare');
end $$;
select position > 1000 and position < 3000 from evsource.cursors where subscription = 'rare'}), 't', 'a call that must end keeps how far it has got');

$listener->query_safe('commit');
$node->poll_query_until('postgres', 'select pg_notification_queue_usage() < 0.9') or die 'the queue does not empty';
$sql->(q{select evsource.wait_for('tells', timeout => '2min')});
is($sql->(q{select count(*) from evsource.projection_failures}), '0', 'when there is room it goes on');
my $heard = $listener->query_safe('listen evsource_projection');
$sql->(q{select version from evsource.append('a-1', 'Happened'); select evsource.wait_for('async', timeout => '1min')});
$heard .= $listener->query_safe('select 1');
like($heard, qr/"projection": "inline", "position": 3003/, 'when there is room it is told again');
foreach (1 .. 600)
{
	last if $heard =~ /"evsource_events" with payload "3003"/;
	$heard .= $listener->query_safe('select pg_sleep(0.1)');
}
like($heard, qr/"evsource_events" with payload "3003"/, 'also of events');
$listener->quit;
$node->stop;
done_testing();
