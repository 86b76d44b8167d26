# A worker that rebuilds is a session for months, too: what its functions remember is no
# event's fault, neither in the rebuild nor in what the worker applies afterwards.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('daemon_rebuild_stale', q{
shared_preload_libraries = 'evsource'
evsource.max_workers = 1
evsource.async_attempts = 1
});
my ($sql, $soon) = asking($node);
my $wait = sub { $sql->("select evsource.wait_for('$_[0]', timeout => '1min')") };
my $rebuild = sub {
	my ($options, $name) = @_;
	$sql->("select evsource.request_rebuild($options)");
	$soon->(q{select not exists (select from evsource.progress)}, $name);
};

# Variables of a row type, where the worker's first call of the function is a rebuild.
$sql->(q{
create extension evsource;
create table counts (stream text primary key, n bigint not null);
create function count_events(e evsource.event) returns void language plpgsql as $$
declare old counts; new counts;
begin
    select * into old from counts where stream = e.stream;
    new := old;
    new.stream := e.stream;
    new.n := coalesce(old.n, 0) + 1;
    insert into counts select new.* on conflict (stream) do update set n = excluded.n;
end $$;
select evsource.create_projection('counts', 'count_events', mode => 'async', on_error => 'dead_letter', types => '{Happened}', tables => '{counts}');
select from generate_series(1, 10) i, lateral evsource.append('a-' || i % 5, 'Happened');
});
$wait->('counts');
$node->restart;
foreach my $turn (1 .. 3)
{
	$rebuild->("'counts', online => true", "rebuild $turn is complete");
	is($sql->(q{select sum(n) from counts}), 9 + $turn, 'with all events');
	$sql->(q{select from evsource.append('a-1', 'Happened')});
	$wait->('counts');
}
is($sql->(q{select sum(n), (select count(*) from evsource.dead_letters) from counts}), '13|0', 'none is parked, by a rebuild or after it');

# A PL/pgSQL function keeps the types that the fields of a record once had.
$sql->(q{
create table prices (price integer);
insert into prices values (5);
create table charged (stream text, version bigint, price numeric);
create function charge(e evsource.event) returns void language plpgsql as $$
declare r record; doubled numeric;
begin
    select * into r from public.prices;
    doubled := r.price * 2;
    if doubled < 0 then
        raise 'negative' using errcode = 'datatype_mismatch';
    end if;
    insert into charged values (e.stream, e.version, doubled);
end $$;
select evsource.create_projection('charged', 'charge', mode => 'async', on_error => 'dead_letter', types => '{Charged}', tables => '{charged}');
select from generate_series(1, 3) i, lateral evsource.append('b-' || i, 'Charged');
});
$wait->('charged');
my $result = sub { $sql->(q{select count(*), (select count(*) from evsource.dead_letters) from charged}) };
$rebuild->("'charged', online => false", 'it is rebuilt');
$sql->(q{alter table prices alter price type numeric});
$rebuild->("'charged', online => false", 'it is rebuilt after a change of a table');
is($result->(), '3|0', 'and each event is applied');
like(slurp_file($node->logfile), qr/the rebuild of projection "charged" failed, and is continued by a new process/, 'by a new process');

# What a rebuild has called is known to whoever applies the next event.
$node->restart;
$rebuild->("'charged', online => false", 'it is rebuilt first');
$sql->(q{alter table prices alter price type bigint});
$sql->(q{select from evsource.append('b-1', 'Charged')});
$wait->('charged');
is($result->(), '4|0', 'an event after the rebuild is applied');

# What a new process cannot take, either, is dealt with as ever.
$sql->(q{update prices set price = -5});
$rebuild->("'charged', online => false", 'with events that a new process cannot take it is complete');
is($result->(), '0|4', 'they are parked');
$sql->(q{select evsource.alter_projection('charged', on_error => 'stop')});
$sql->(q{select evsource.request_rebuild('charged', online => false)});
$soon->(q{select state = 'failed' from evsource.progress}, 'where it is to stop, it does');
is($sql->(q{select sqlstate, last_error from evsource.progress}), '42804|negative', 'with that error');

# A row of a copy is of another type than a variable: the copies are at fault, not the events.
$sql->(q{
create table mixed (stream text primary key, n bigint not null);
create function count_mixed(e evsource.event) returns void language plpgsql as $$
declare r mixed; before bigint;
begin
    r := row(e.stream, 0)::mixed;
    select (coalesce(m, r)).n into before from (values (1)) v left join mixed m on m.stream = e.stream;
    insert into mixed values (e.stream, before + 1) on conflict (stream) do update set n = excluded.n;
end $$;
select evsource.create_projection('mixed', 'count_mixed', mode => 'async', on_error => 'dead_letter', types => '{Mixed}', tables => '{mixed}');
select from generate_series(1, 10) i, lateral evsource.append('c-' || i % 5, 'Mixed');
});
$wait->('mixed');
foreach my $worker ('that has used it', 'that is new')
{
	$sql->(q{select evsource.request_rebuild('mixed', online => true)});
	$soon->(q{select state = 'failed' from evsource.rebuilds where projection = 'mixed'}, "the rebuild by a worker $worker fails");
	is($sql->(q{select sqlstate from evsource.rebuilds where projection = 'mixed'}), '55000', 'which the copies may be the reason of');
	is($sql->(q{select sum(n), (select count(*) from evsource.dead_letters where projection like '%mixed%') from mixed}), '10|0', 'and leaves all as it was');
	$node->restart;
}
$sql->(q{select evsource.request_rebuild('mixed', online => false)});
$soon->(q{select not exists (select from evsource.rebuilds where projection = 'mixed')}, 'in place it is complete');
is($sql->(q{select sum(n), (select count(*) from evsource.dead_letters where projection = 'mixed') from mixed}), '10|0', 'with all events');

$node->stop;
done_testing();
