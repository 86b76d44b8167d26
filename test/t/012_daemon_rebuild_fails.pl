# What ends a rebuild in the daemon is on record, as what a projection fails at is: the error
# with all its parts and, if it was one, the event. Nobody works on it then.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;
use Time::HiRes qw(sleep);

let_daemon_work();

my $node = start_node('daemon_rebuild_fails', q{
shared_preload_libraries = 'evsource'
evsource.max_workers = 1
evsource.async_attempts = 1
evsource.max_dead_letters = 1
});
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
create table rows (position bigint primary key);
create table wrong (stream text, version bigint);
create function handle(e evsource.event) returns void language plpgsql as $$
begin
	if exists (select from public.wrong w where (w.stream, w.version) = (e.stream, e.version)) then
		raise 'no' using errcode = 'ZZ001', detail = 'Not this one.', hint = 'Mend it.';
	end if;
	insert into rows values (e.position);
end $$;
select evsource.create_projection('rows', 'handle', tables => '{rows}');
select evsource.create_projection('other', 'evsource.fold_count', mode => 'async');    -- there is a worker
select version from evsource.append_batch('account-1', array_fill('Paid'::text, array[20]), array_fill('{}'::jsonb, array[20]));
});
# with the version for the position
my $record = sub {
	my ($projection) = @_;
	return $sql->(qq{select concat_ws('; ', p.state, coalesce(e.version::text, '-'), p.sqlstate, p.last_error, p.detail, p.hint,
		coalesce('pid ' || p.pid, 'nobody')) from evsource.progress p
		left join evsource.events e on e.position = p.last_error_position where projection = '$projection'});
};
my $fails = sub {
	my ($projection, $options, $name) = @_;
	$sql->("select evsource.request_rebuild('$projection', $options)");
	$soon->(qq{select state = 'failed' from evsource.progress where projection = '$projection'}, $name);
};

$sql->(q{insert into wrong values ('account-1', 7)});
$fails->('rows', 'online => true', 'a rebuild fails beside the old version');
is($record->('rows'), 'failed; 7; ZZ001; no; Not this one.; Mend it.; nobody', 'the record has it all');
is($sql->(q{select context ~ 'event at position \d+ of stream "account-1"' and context ~ 'PL/pgSQL function' from evsource.progress}), 't', 'and where it was');
is($sql->(q{select count(*) from pg_stat_activity where backend_type = 'evsource worker'}), 1, 'its worker is still there');
$fails->('rows', 'online => false', 'it fails in place');
is($record->('rows'), 'failed; 7; ZZ001; no; Not this one.; Mend it.; nobody', 'with the same record');
is($sql->(q{select count(*) from evsource.projection_failures}), 0, 'which is none of the projection that is live');

# evsource's own errors say why in their details; no event is to blame.
$sql->(q{truncate wrong});
$sql->(q{call evsource.rebuild_projection('rows', online => false)});
$sql->(q{create table refers (position bigint references rows)});
$fails->('rows', 'online => true', 'what cannot be done online fails');
is($record->('rows'), q{failed; -; 55000; cannot rebuild projection "rows" online; }
	. q{Online it is not possible: table public.rows is referenced by foreign key refers_position_fkey of table public.refers.; }
	. q{Remove what is in the way; or rebuild in place, with online => false.; nobody}, 'and says why');

# Several events at once: the error does not say at which of them.
$sql->(q{
create table counts (n bigint);
select evsource.create_projection('counts', tables => '{counts}', query =>
	'insert into counts select count(*) / (1 - (select count(*) from public.wrong)) from new_events');
insert into wrong values ('account-1', 7)});
$fails->('counts', 'online => false', 'a statement fails');
like($record->('counts'), qr/^failed; -; 22012; division by zero; .*nobody$/, 'at no single event');

# A handler for whose function the rows of the new table are of the wrong type: that is possible
# in place, says the hint.
$sql->(q{
create table typed (position bigint primary key);
create function is_typed(typed) returns boolean language sql as 'select true';
create function handle_typed(e evsource.event) returns void language plpgsql as $$
begin
	insert into typed values (e.position);
	perform is_typed(t) from typed t;
end $$;
select evsource.create_projection('typed', 'handle_typed', tables => '{typed}')});
$fails->('typed', 'online => null', 'a handler does not find its function');
like($record->('typed'), qr/^failed; 1; 42883; .*; A function that takes rows .* online => false\.; nobody$/, 'and why is said');

# An event that is set aside is no failure; one too many is.
$sql->(q{
truncate wrong;
drop table refers;
select evsource.cancel_rebuild('rows');
select evsource.alter_projection('rows', mode => 'async', on_error => 'dead_letter');
insert into wrong values ('account-1', 7);
select evsource.append('account-2', 'Paid');
insert into wrong values ('account-2', 1)});
$fails->('rows', 'online => false', 'more fail than may be set aside');
is($record->('rows'), 'failed; 1; ZZ001; no; Not this one.; It has as many dead letters as evsource.max_dead_letters allows.; nobody', 'at the first of these');

# Mended and requested again, it is done, and nothing is left of the error.
$sql->(q{truncate wrong; select evsource.request_rebuild('rows')});
$soon->(q{select not exists (select from evsource.progress where projection = 'rows')}, 'mended, it is done');
is($sql->('select (select count(*) from rows) + (select count(*) from evsource.dead_letters)'), 21, 'with all events');

# From snapshots as well: what was set aside is tried again, and set aside again.
$sql->(q{
create function count_up(state jsonb, e evsource.event) returns jsonb language plpgsql as $$
begin
	if exists (select from public.wrong w where (w.stream, w.version) = (e.stream, e.version)) then
		raise 'no';
	end if;
	return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1);
end $$;
insert into wrong values ('order-1', 2);
select evsource.create_projection('fold', 'count_up', categories => '{order}', mode => 'async', on_error => 'dead_letter');
select evsource.append('order-' || i % 2, 'Placed') from generate_series(1, 6) i;
});
my $state = q{select concat_ws(' ', state, lag, event_count, (select string_agg(stream || ' ' || version, ', ' order by position)
	from evsource.dead_letters where projection = 'fold')) from evsource.projection_status where projection = 'fold'};
$soon->(q{select lag = 0 from evsource.projection_status where projection = 'fold'}, 'a fold sets events aside');
is($sql->($state), 'active 0 4 order-1 2, order-1 3', 'the one that fails, and the one behind it');
$sql->(q{select evsource.request_rebuild('fold', from_snapshot => true)});
$soon->(q{select not exists (select from evsource.progress where projection = 'fold')}, 'it is rebuilt from snapshots');
is($sql->($state), 'active 0 4 order-1 2, order-1 3', 'and has set them aside again');
$sql->(q{truncate wrong; select evsource.request_rebuild('fold', from_snapshot => true)});
$soon->(q{select not exists (select from evsource.progress where projection = 'fold')}, 'and again when its handler is mended');
is($sql->($state), 'active 0 6', 'then none is left');

# An on_reset function that would stop the process that runs it is refused that, as handlers are;
# and so is whatever else the daemon calls.
$sql->(q{
create table emptied (stream text);
create function stops() returns void language plpgsql as $$ begin perform evsource.stop_daemon(); end $$;
select evsource.create_projection('emptied', categories => '{reset}', mode => 'manual', on_reset => 'stops',
	query => 'insert into emptied select stream from new_events')});
my $worker = q{select pid from pg_stat_activity where backend_type = 'evsource worker'};
my $before = $sql->($worker);
$fails->('emptied', 'online => false', 'an on_reset function stops the daemon');
like($record->('emptied'), qr/^failed; -; 55000; an on_reset function cannot stop evsource's daemon; /, 'it is refused that');
$sql->(q{
create function keys(e evsource.event) returns text language plpgsql immutable as $$
begin
	perform evsource.stop_daemon();
	return e.stream;
end $$;
select evsource.create_projection('keyed', handler => 'count_up', key => 'keys', categories => '{keyed}', mode => 'async');
select from evsource.append('keyed-1', 'Paid')});
$soon->(q{select message ~ 'cannot stop evsource''s daemon$' from evsource.projection_failures where projection = 'keyed'}, 'nor can a key function');
is($sql->($worker), $before, 'the same worker goes on');
$sql->(q{select evsource.drop_projection('keyed'); select evsource.drop_projection('emptied')});

# What is nobody's fault (a cancel, say) does not end it. It is on record as well, as long as it
# does not get past it, and it takes its time between two attempts.
$sql->(q{
create table canceled (position bigint primary key);
create function handle_canceled(e evsource.event) returns void language plpgsql as $$
begin
	if exists (select from public.wrong) then
		raise 'canceled' using errcode = 'query_canceled', hint = 'Again.';
	end if;
	if e.version = 1100 then
		perform pg_advisory_xact_lock(1100);
	end if;
	insert into canceled values (e.position);
end $$;
select from evsource.append_batch('long-1', array_fill('Paid'::text, array[1200]), array_fill('{}'::jsonb, array[1200]));
select evsource.create_projection('canceled', 'handle_canceled', categories => '{long}', tables => '{canceled}');
insert into wrong values ('long-1', 1)});
my $log = -s $node->logfile;
foreach my $online ('true', 'false')
{
	my $what = $online eq 'true' ? 'online' : 'in place';
	$sql->("insert into wrong values ('again', 1); select evsource.request_rebuild('canceled', online => $online)");
	$soon->(q{select last_error is not null from evsource.progress where projection = 'canceled'}, "$what: a cancel is on record");
	like($record->('canceled'), qr/^(requested|rebuilding); 1; 57014; canceled; Again\.; /, 'with all its parts, and it goes on');
	if ($online eq 'true')
	{
		my @at;
		for (my $i = 0; $i < 600 && @at < 3; $i++)
		{
			@at = slurp_file($node->logfile, $log) =~ /^\S+ (\d+:\d+:[\d.]+) .*ERROR:  canceled/mg;
			sleep 0.1;
		}
		my ($first, $third) = map { my ($hour, $minute, $second) = split /:/; ($hour * 60 + $minute) * 60 + $second } @at[0, 2];
		cmp_ok(($third - $first) % 86400, '>=', 2.9, 'each time it waits for longer');
	}
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('begin; select pg_advisory_xact_lock(1100)');
	$sql->(q{truncate wrong});
	$soon->(q{select events_done > 0 and last_error is null and sqlstate is null and state = 'rebuilding' from evsource.progress where projection = 'canceled'},
		'past it, nothing is on record');
	$holder->query_safe('commit');
	$holder->quit;
	$soon->(q{select not exists (select from evsource.progress where projection = 'canceled')}, 'and it comes to its end');
	is($sql->('select count(*) from canceled'), 1200, 'with all events');
}
$node->stop;

done_testing();
