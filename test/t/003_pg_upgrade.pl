# pg_upgrade carries evsource over: nothing in it hangs on an OID that changes,
# and nothing of it stands in the way.  From a major to itself, which takes the
# same way as to a later one.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Holds;
use Node;

my $old = start_node('old');
$old->safe_psql('postgres', q{
create extension evsource;
create role app_reader;
select evsource.grant_access('app_reader', 'reader');
create table orders (stream text primary key, n bigint);
create function count_order(e evsource.event) returns void language sql as
    $$ insert into public.orders values ((e).stream, 1) on conflict (stream) do update set n = orders.n + 1 $$;
create function total(state jsonb, e evsource.event) returns jsonb language sql immutable as
    $$ select pg_catalog.jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1) $$;
select evsource.create_projection('orders', handler => 'count_order', tables => array['orders']);
select evsource.create_projection('totals', handler => 'total', snapshot_every => 2);
select evsource.append('order-' || n % 7, 'Placed') from generate_series(1, 100) n;
select evsource.publish_safe_position();
create role captor;
select evsource.grant_access('captor', 'admin');
create table captured (id int primary key);
grant all on captured to captor;
set role captor;
select evsource.capture_table('captured');
});

my $expected = holds($old, 'postgres', 'orders');
$old->stop;

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
my $bindir = $new->config_data('--bindir');
chdir $PostgreSQL::Test::Utils::tmp_check;
$new->command_ok(
	[
		'pg_upgrade', '--no-sync',
		'-b', $bindir, '-B', $bindir,
		'-d', $old->data_dir, '-D', $new->data_dir,
		'-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade');
$new->start;

same_ok(holds($new, 'postgres', 'orders'), $expected, 'everything is there');
is($new->safe_psql('postgres', q{select version from evsource.append('order-1', 'Placed')}), 16, 'appends go on');
is($new->safe_psql('postgres', q{select n, evsource.state('totals', 'order-1') from orders where stream = 'order-1'}),
	'16|{"n": 16}', 'and are dispatched');
is($new->safe_psql('postgres', 'set role app_reader; select count(*) from evsource.read_all()'), 101, 'readers read');
is($new->safe_psql('postgres', q{insert into captured values (1); select captured_by, (select count(*) from evsource.events where stream = 'captured-1') from evsource.captured_tables}),
	'captor|1', 'tables are captured');
my ($status, $out, $error) = $new->psql('postgres', 'drop extension evsource cascade');
like($error, qr/its log holds events/, 'the guard stands');
$new->stop;

done_testing();
