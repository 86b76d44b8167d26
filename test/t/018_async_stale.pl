# A worker is a session for months, and some functions remember for as long what
# tables were like. What fails for that, and would not in a new session, is no event's
# fault.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('stale', q{
shared_preload_libraries = 'evsource'
evsource.async_attempts = 1
});
my ($sql) = asking($node);

# A PL/pgSQL function keeps the types that the fields of a record once had.
$sql->(q{
create extension evsource;
create table prices (name text primary key, price integer);
insert into prices values ('x', 5);
create table charged (stream text, version bigint, price numeric);
create function charge(e evsource.event) returns void language plpgsql as $$
declare r record;
begin
    select * into r from public.prices where name = 'x';
    insert into public.charged values (e.stream, e.version, r.price);
end $$;
select evsource.create_projection('parks', 'charge', mode => 'async', on_error => 'dead_letter', types => '{Parked}', tables => '{charged}');
select evsource.create_projection('stops', 'charge', mode => 'async', types => '{Stopped}', tables => '{charged}');
select from evsource.append('a-1', 'Parked') a, evsource.append('b-1', 'Stopped') b;
});
my $wait = sub { $sql->("select evsource.wait_for(projection, timeout => '1min') from evsource.projection_status") };
$wait->();
foreach my $type ('numeric', 'bigint', 'numeric')
{
	$sql->("alter table prices alter price type $type");
	$sql->("select from evsource.append('a-1', 'Parked') a, evsource.append('b-1', 'Stopped') b");
	$wait->();
}
is($sql->('select stream, version, price from charged order by 1, 2'),
	join("\n", map { my $stream = $_; map { "$stream-1|$_|5" } 1 .. 4 } ('a', 'b')),
	'after a change of a table each event is applied');
is($sql->(q{select count(*) from evsource.dead_letters}), '0', 'none is parked');
is($sql->(q{select string_agg(projection || ' ' || state || ' ' || event_count, ', ' order by projection) from evsource.projection_status}),
	'parks active 4, stops active 4', 'no projection is stopped');

# What a new session cannot take, either, is dealt with as ever.
$sql->(q{alter table prices alter price type jsonb using to_jsonb(price)});
$sql->("select from evsource.append('a-1', 'Parked') a, evsource.append('b-1', 'Stopped') b");
$node->poll_query_until('postgres', q{select count(*) = 2 from evsource.projection_status where dead_letters = 1 or state = 'failed'})
	or die 'nothing has failed';
is($sql->(q{select sqlstate, attempts from evsource.dead_letters}), '42804|1', 'an event that fails in a new session, too, is parked');
$sql->(q{alter table prices alter price type integer using price::integer});
$sql->(q{select evsource.resume_projection('stops')});
$sql->("select evsource.wait_for('stops', timeout => '1min')");
is($sql->(q{select count(*) from charged where stream = 'b-1'}), '5', 'when the table is mended, the projection goes on');

$node->stop;
done_testing();
