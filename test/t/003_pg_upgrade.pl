# pg_upgrade carries evsource over: nothing in it hangs on an OID that changes,
# and nothing of it stands in the way.  From a major to itself, which takes the
# same way as to a later one.

use strict;
use warnings;

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

# Read models that have lost columns of which old rows have values: what pg_upgrade keeps
# of such a column is its place in these.  They have sequences, which are members of the
# extension as the tables are.  The old version of the first one is kept, the next two
# are being rebuilt: an event stops them.
$old->safe_psql('postgres', q{
create table obstacles (position bigint);
create table applied (projection text, position bigint);
create function passes(model text, at bigint) returns boolean language plpgsql as $$
begin
    if exists (select from public.obstacles o where o.position = at) then
        raise exception 'no way past position %', at;
    end if;
    insert into public.applied values (model, at);
    return true;
end $$;
do $$
declare
    name text;
begin
    foreach name in array '{kept,building,cancelled,plain}'::text[] loop
        execute format('create table %I (gone_1 int default 1, id int generated always as identity, stream text primary key, gone_2 text default %L, at serial, n bigint, gone_3 bigint default 3)', name, repeat('x', 10));
        perform evsource.create_projection(name, tables => array[name], query => format(
            'insert into %1$I as t (stream, n) select stream, count(*) from new_events where public.passes(%1$L, position) group by 1
             on conflict (stream) do update set n = t.n + excluded.n', name));
        execute format('alter table %I drop gone_1, drop gone_2, drop gone_3', name);
    end loop;
end $$;
update kept set n = 0;
call evsource.rebuild_projection('kept', online => true, keep_old => true);
select evsource.append('item-' || n % 7, 'Placed') from generate_series(101, 600) n;
truncate applied;
insert into obstacles values (550);
});
my $rebuild = q{call evsource.rebuild_projection('building', online => true)};
my ($status, $out, $error) = $old->psql('postgres', $rebuild);
like($error, qr/no way past position 550/, 'a rebuild stops on its way');
($status, $out, $error) = $old->psql('postgres', q{call evsource.rebuild_projection('cancelled', online => true)});
like($error, qr/no way past position 550/, 'and another one');
$old->safe_psql('postgres', 'truncate obstacles');

my $expected = holds($old, 'postgres', 'orders');
$old->stop;

my $new = Cluster->new('new');
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
is($new->safe_psql('postgres', 'set role app_reader; select count(*) from evsource.read_all()'), 601, 'readers read');
is($new->safe_psql('postgres', q{insert into captured values (1); select captured_by, (select count(*) from evsource.events where stream = 'captured-1') from evsource.captured_tables}),
	'captor|1', 'tables are captured');

my $sum = q{select sum(n) from %s where stream <> 'captured-1'};
$new->safe_psql('postgres', $rebuild);
is($new->safe_psql('postgres', sprintf $sum, 'building'), 601, 'a rebuild that was under way is completed');
is($new->safe_psql('postgres', q{select count(*) - count(distinct position) from applied where projection = 'building' and position <= 600}), 0,
	'and goes on where it stopped');
is($new->safe_psql('postgres', q{select evsource.cancel_rebuild('cancelled')}), 't', 'another one is cancelled');
is($new->safe_psql('postgres', sprintf $sum, 'cancelled'), 601, 'and leaves the read model alone');
$new->safe_psql('postgres', q{call evsource.rebuild_projection('plain', online => true)});
is($new->safe_psql('postgres', sprintf $sum, 'plain'), 601, 'a new one begins');
$new->safe_psql('postgres', q{select evsource.revert_rebuild('kept')});
is($new->safe_psql('postgres', sprintf $sum, 'kept'), 501, 'an old version that was kept comes back');
$new->safe_psql('postgres', q{select evsource.revert_rebuild('kept')});
is($new->safe_psql('postgres', sprintf $sum, 'kept'), 601, 'and the new one');
$new->safe_psql('postgres', q{select evsource.accept_rebuild('kept')});
is($new->safe_psql('postgres', q{select count(*) from pg_namespace where nspname like 'evsource\_shadow%'}), 0,
	'nothing is left when it is accepted');
is($new->safe_psql('postgres', q{select count(*) from unnest('{kept,building,cancelled,plain}'::text[]) p, evsource.verify_projection(p)}), 0,
	'they hold what they should');

($status, $out, $error) = $new->psql('postgres', 'drop extension evsource cascade');
like($error, qr/its log holds events/, 'the guard stands');
$new->stop;

done_testing();
