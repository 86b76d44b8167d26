# What fails only when the transaction commits is an event's fault as well: the one is found, tried
# again, and then it stops the projection or is parked.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('commit', q{
shared_preload_libraries = 'evsource'
evsource.async_attempts = 2
evsource.async_retry_delay = 10
});
my ($sql, $soon) = asking($node);
plan skip_all => 'needs postgres_fdw'
	unless $sql->(q{select count(*) from pg_available_extensions where name = 'postgres_fdw'});

# A handler's own deferred constraint would be refused; that of another server is checked when
# postgres_fdw commits there, which is at the commit here.
$node->safe_psql('postgres', 'create database other');
$node->safe_psql('other', q{
create table known (id int primary key);
insert into known values (1);
create table rows (projection text, position bigint, id int references known deferrable initially deferred);
});
my ($host, $port) = ($node->host, $node->port);
$sql->(qq{
create extension evsource;
create extension postgres_fdw;
create server other foreign data wrapper postgres_fdw options (host '$host', port '$port', dbname 'other');
create user mapping for current_user server other;
create foreign table far (projection text, position bigint, id int) server other options (table_name 'rows');
create function send(e evsource.event) returns void language sql as
	\$\$ insert into public.far values (e.data ->> 'to', e.position, (e.data ->> 'id')::int) \$\$;
select evsource.create_projection('parks', 'send', mode => 'async', types => '{Parks}', on_error => 'dead_letter');
select evsource.create_projection('stops', mode => 'async', types => '{Stops}', query =>
	\$\$ insert into public.far select data ->> 'to', position, (data ->> 'id')::int from new_events \$\$);
create function append(type text) returns void language sql as \$\$
	select evsource.append('s-' || i % 7, type, jsonb_build_object('to', type, 'id', case when i = 40 then 2 else 1 end))
	from generate_series(1, 100) i
\$\$;
});
my $far = sub { return $node->safe_psql('other', "select count(*), count(distinct position) from rows where projection = '$_[0]'") };

$sql->(q{select append('Parks')});
$sql->(q{select evsource.wait_for('parks', timeout => '1min')});
is($sql->(q{select position, sqlstate, attempts from evsource.dead_letters where attempts > 0}), '40|23503|2', 'the event at which the commit fails is parked');
is($sql->(q{select count(*) from evsource.dead_letters}), '9', 'and those of its stream behind it');
is($far->('Parks'), '91|91', 'all others are applied, once');
is($sql->(q{select state, event_count, dead_letters from evsource.projection_status where projection = 'parks'}), 'active|91|9', 'and counted');
is($sql->(q{select count(*) from evsource.projection_failures}), '0', 'and nothing else has failed');

$sql->(q{select append('Stops')});
$soon->(q{select state = 'failed' from evsource.projection_status where projection = 'stops'}, 'a projection that does not park stops');
is($sql->(q{select position, attempts, sqlstate from evsource.projection_failures}), '140|2|23503', 'at that event');
is($far->('Stops'), '39|39', 'and what comes before it is applied');
is($sql->(q{select position, event_count from evsource.projection_status where projection = 'stops'}), '139|39', 'and counted');

# Once the other server takes it, all goes on.
$node->safe_psql('other', 'insert into known values (2)');
is($sql->(q{select * from evsource.retry_dead_letters('parks')}), '9|0', 'what was parked can be applied');
$sql->(q{select evsource.resume_projection('stops'); select evsource.wait_for('stops', timeout => '1min')});
is($far->($_), '100|100', "$_: all is applied") foreach qw(Parks Stops);

# Events that were released are found as well.
$sql->(q{create or replace function send(e evsource.event) returns void language plpgsql as $$ begin
	if e.data ->> 'id' = '0' then raise exception 'no'; end if;
	insert into public.far values (e.data ->> 'to', e.position, (e.data ->> 'id')::int);
end $$});
$sql->(q{select evsource.append('r-1', 'Parks', jsonb_build_object('to', 'Released', 'id', id)) from unnest('{0,1,3,1}'::int[]) id});
$sql->(q{select evsource.wait_for('parks', timeout => '1min')});
is($sql->(q{select count(*) from evsource.dead_letters}), '4', 'events are parked');
$sql->(q{select evsource.truncate_stream('r-1', 2, force => true)});
$soon->(q{select count(*) = 2 and max(sqlstate) = '23503' from evsource.dead_letters}, 'one of those that are released is to blame');
is($far->('Released'), '1|1', 'the one before it is applied');
is($sql->(q{select state, lag from evsource.projection_status where projection = 'parks'}), 'active|0', 'and the projection goes on');


# So it is while an inline projection catches up.
$sql->(q{select evsource.create_projection('inline', 'send', types => '{Parks}', concurrently => true, start_after => 201)});
$soon->(q{select state = 'failed' from evsource.projection_status where projection = 'inline'}, 'one that catches up stops');
is($sql->(q{select position from evsource.projection_failures}), '203', 'at the event');

$node->stop;
done_testing();
