# What was parked behind an event that is truncated since goes on by itself, in a worker:
# in order, and before later events. A handler that dies of it does not for ever.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

let_daemon_work();

my $node = start_node('truncated', q{
shared_preload_libraries = 'evsource'
evsource.async_attempts = 1
evsource.async_batch_events = 2
});
my ($sql, $soon) = asking($node);

# A handler that fails at some types of events and dies of others.
$sql->(q{
create extension evsource;
create table done (at bigint generated always as identity, stream text, type text, looked_up text, batch bigint default txid_current());
create table looked_up (x int);
insert into looked_up values (1);
create function take(e evsource.event) returns void language plpgsql as $$
declare r record;
begin
    if e.type like 'Bad%' then raise exception 'cannot take %', e.type; end if;
    if e.type = 'Deadly' then perform pg_terminate_backend(pg_backend_pid()), pg_sleep(60); end if;
    select * into r from public.looked_up;
    insert into public.done (stream, type, looked_up) values (e.stream, e.type, r.x);
end $$;
select evsource.create_projection('narrow', 'take', mode => 'async', on_error => 'dead_letter', categories => '{a}', tables => '{done}', partitions => 2);
});
my $wait = sub { $sql->(q{select evsource.wait_for('narrow', timeout => '1min')}) };
my $append = sub { my $stream = shift; $sql->("select evsource.append('$stream', '$_')") for @_; };

$append->('a-1', qw(Bad1 Second Third Bad4 Fifth));
$append->('a-2', qw(Bad1 Second));
$append->('a-3', qw(First));
$wait->();
is($sql->('select stream, count(*) from evsource.dead_letters group by 1 order by 1'), "a-1|5\na-2|2", 'events are parked');

# The worker wants nothing of what comes.
$sql->(q{select evsource.truncate_stream('a-1', 2, force => true)});
$soon->(q{select count(*) = 2 from done where stream = 'a-1'}, 'what was parked behind a truncated event is applied');
is($sql->(q{select type, attempts from evsource.dead_letters where stream = 'a-1' order by position}), "Bad4|1\nFifth|0", 'up to the next one that fails');
is($sql->(q{select count(*) from evsource.dead_letters where stream = 'a-2'}), 2, 'and of no other stream');
$append->('a-1', 'Sixth');
$append->('a-3', 'Second');
$wait->();
$sql->(q{select evsource.truncate_stream('a-1', 5, force => true)});
$soon->(q{select count(*) = 4 from done where stream = 'a-1'}, 'the next time, too');
is($sql->(q{select string_agg(type, ' ' order by at) from done where stream = 'a-1'}), 'Second Third Fifth Sixth', 'in the order of the stream');
is($sql->(q{select event_count from evsource.projection_status}), $sql->('select count(*) from done'), 'and counted');

# Here it dies.
my ($deadly, $beside, $later) = split "\n", $sql->(q{select 'a-' || n from generate_series(10, 99) n where evsource._partition('a-' || n, 2) = 1 limit 3});
$append->($deadly, qw(Bad1 Deadly Third));
$append->($beside, qw(Bad1 Second Third));
$wait->();
$sql->(qq{
begin;
select evsource.truncate_stream('$deadly', 2, force => true), evsource.truncate_stream('$beside', 2, force => true);
select evsource.append('$later', 'First');
commit;
});
$soon->(q{select count(*) = 1 from evsource.dead_letters where type = 'Deadly' and attempts > 0 and sqlstate = '57P02'}, 'an event that ends the worker is left aside');
$wait->();
is($sql->(qq{select type, attempts > 0, retry from evsource.dead_letters where stream = '$deadly' order by position}), "Deadly|t|f\nThird|f|f", 'with what waits behind it');
is($sql->(qq{select string_agg(type, ' ' order by at) from done where stream in ('$beside', '$later')}), 'Second Third First', 'and no other event is blamed');
is($sql->('select count(*) from evsource.crash_marks where events > 0'), 0, 'nothing is left of it');

# What the log's next event ends is not theirs ...
$append->('a-5', qw(Bad1 Second Third));
$wait->();
$sql->(q{
begin;
select evsource.truncate_stream('a-5', 2, force => true);
select evsource.append('a-5', 'Deadly');
commit;
});
$wait->();
is($sql->(q{select string_agg(type, ' ' order by at) from done where stream = 'a-5'}), 'Second Third', 'what waited is applied before an event that ends the worker');
is($sql->(q{select type, sqlstate from evsource.dead_letters where stream = 'a-5'}), 'Deadly|57P02', 'which alone is blamed');

# ... nor what has been counted before they were released. A new worker reads the count.
$append->('a-6', qw(Bad1 Second));
$wait->();
$sql->(q{alter system set evsource.daemon = off});
$node->restart;
$sql->(q{
begin;
insert into evsource.crash_marks (projection, partition, position, events, attempts, careful, batch)
    select projection, partition, position, 1, 10, 1, 1 from evsource.partitions;
select evsource.truncate_stream('a-6', 2, force => true);
commit;
});
$sql->(q{alter system reset evsource.daemon});
$node->restart;
$soon->(q{select count(*) = 0 from evsource.dead_letters where stream = 'a-6' and attempts = 0}, 'a new worker begins with what was released');
is($sql->(q{select type from done where stream = 'a-6'}), 'Second', 'and tries it before it blames it');

# It is applied in batches, as the log is.
$append->('a-7', qw(Bad1 Second Third Fourth Fifth Sixth));
$wait->();
$sql->(q{select evsource.truncate_stream('a-7', 2, force => true)});
$soon->(q{select count(*) = 5 from done where stream = 'a-7'}, 'all of many events is applied');
is($sql->(q{select string_agg(type, ' ' order by at), count(distinct batch) >= 3 from done where stream = 'a-7'}), 'Second Third Fourth Fifth Sixth|t', 'in more than one transaction');

# A worker that remembers how a table was lets a new one try.
$append->('a-8', qw(Bad1 Second));
$append->('a-3', 'Third');
$wait->();
$sql->(q{
begin;
alter table looked_up alter x type text;
select evsource.truncate_stream('a-8', 2, force => true);
commit;
});
$soon->(q{select count(*) = 0 from evsource.dead_letters where stream = 'a-8' and attempts = 0}, 'what waited is tried where a table has changed');
is($sql->(q{select type from done where stream = 'a-8'}), 'Second', 'by a process that knows the table');

# With keys of its own an event may wait behind others that were parked long before. Each
# batch begins where the last one ended; what it knows of those before it, it knows by the keys.
$sql->(q{
select evsource.drop_projection('narrow');
create table taken (at bigint generated always as identity, position bigint, batch bigint default txid_current());
create function keys_of(e evsource.event) returns text[] language sql immutable as
    $$ select array(select jsonb_array_elements_text(e.data)) $$;
create function keyed(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
    if e.type like 'Bad%' then raise exception 'cannot take %', e.type; end if;
    insert into public.taken (position) values (e.position);
    return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
select evsource.create_projection('narrow', 'keyed', key => 'keys_of', mode => 'async', on_error => 'dead_letter', categories => '{k}', start => 'now');
select evsource.append('k-1', 'Bad1', '["a"]'), evsource.append('k-2', 'Bad2', '["b"]'), evsource.append('k-3', 'Bad3', '["e"]');
select evsource.append(stream, 'Last', '["f"]') from unnest('{k-1,k-2}'::text[]) stream;
select evsource.append('k-' || i, 'Good', case
    when i = 70 then '["b", "a"]'            -- from here on they meet
    when i % 3 = 0 then '["a"]' when i % 3 = 1 then '["b"]'
    when i % 2 = 0 then '["b", "c"]' else '["c", "d"]' end::jsonb)
from generate_series(12, 99) i;
});
$wait->();
is($sql->('select count(*) from evsource.dead_letters'), 91, 'all is parked');
$sql->('truncate taken');
my (%waits, @now, @later);
$waits{a} = 1;
foreach (split "\n", $sql->(q{select position, array_to_string(keys, ' ') from evsource.dead_letters where stream not in ('k-1', 'k-2', 'k-3') order by position}))
{
	my ($position, $keys) = split /\|/;
	my $waits = grep { $waits{$_} } split ' ', $keys;

	push @{ $waits ? \@later : \@now }, $position;
	@waits{ split ' ', $keys } = (1, 1) if $waits;
}
my $taken = q{select string_agg(position::text, ' ' order by at) from (select position, min(at) as at from taken group by 1) t};
$sql->(q{select evsource.truncate_stream('k-2', 2, force => true)});
$soon->('select not exists (select from evsource.dead_letters where retry)', 'what waited behind nothing else is applied');
is($sql->($taken), join(' ', @now), 'all of it, in order');
is($sql->(q{select string_agg(position::text, ' ' order by position) from evsource.dead_letters where stream not in ('k-1', 'k-3')}),
	join(' ', @later), 'nothing of what waits behind another one');
cmp_ok($sql->('select count(distinct batch) from taken'), '>=', @now / 2, 'in so many transactions');
$sql->(q{truncate taken; select evsource.truncate_stream('k-1', 2, force => true)});
$soon->(q{select count(*) = 1 from evsource.dead_letters}, 'when that one is gone, the rest');
is($sql->($taken), join(' ', @later), 'in order');
is($sql->('select count(*) from evsource.parked_keys'), 1, 'with their keys');
is($sql->('select event_count from evsource.projection_status'), @now + @later + 2, 'each is counted once');

$node->stop;
done_testing();
