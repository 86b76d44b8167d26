# An INSERT into the log that SPI runs with a limit of rows stops early and fires no
# trigger at its end. What it has stored is applied to the inline projections all the same.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

foreach my $preload ('', 'evsource')
{
	my $mode = $preload ? 'preloaded' : 'not preloaded';
	my $node = start_node('stopped' . $preload, "shared_preload_libraries = '$preload'\nmax_prepared_transactions = 10");
	my $run = sub { return $node->safe_psql('postgres', $_[0]) };

	# each psql is a session of its own, which loads the library again
	my ($status, $out, $error) = $node->psql('postgres', 'create extension plperl');
	plan(skip_all => 'there is no PL/Perl') if $status != 0;
	$run->(q{
create extension evsource;
create table seen (n int generated always as identity, stream text, version bigint);
select evsource.create_projection('seen', query => 'insert into seen (stream, version) select stream, version from new_events', tables => '{seen}');
create function stopped(stream text, rows int) returns text language plperl as $$
	my ($stream, $rows) = @_;
	my $result = spi_exec_query("insert into evsource.events (stream, type) select '$stream', 'Happened' from generate_series(1, 10) returning version", $rows);
	return $result->{rows}[-1]->{version};
$$;
create function restored(stream text) returns text language plperl as $$
	my $result = spi_exec_query("insert into evsource.events (position, stream, version, type, recorded_at) values (1000000, '$_[0]', 1, 'Happened', now()) returning position", 1);
	return $result->{rows}[0]->{position};
$$;
create table outside (stream text);
create function stop_in_trigger() returns trigger language plpgsql as $$ begin perform stopped(new.stream, 2); return new; end $$;
create trigger stop before insert on outside for each row execute function stop_in_trigger();
});

	# What is stored of a stream, and what of that is applied in the order of the log.
	my $applied = sub {
		return $run->(qq{
select count(e), count(s), bool_and(s.n > s.before) from evsource.events e
	left join (select *, lag(n, 1, 0) over (order by n) as before from seen where stream ~ '^$_[0]') s using (stream, version) where e.stream ~ '^$_[0]'});
	};

	is($run->(q{select stopped('a-1', 1)}), 1, "$mode: a function stores one of the rows");
	is($applied->('a-'), '1|1|t', "$mode: it is applied");
	is($run->(q{select stopped('a-2', 3)}), 3, "$mode: or three of them");
	is($applied->('a-'), '4|4|t', "$mode: they are applied");

	$run->(q{
begin;
select stopped('b-1', 1);
select count(*) from seen where stream = 'b-1' having count(*) <> 1;
select evsource.append_batch('b-2', array_fill('Happened'::text, '{1000}'), array_fill('{}'::jsonb, '{1000}'));
copy evsource.events (stream, type) from stdin;
b-3	Happened
b-3	Happened
\.
commit;
});
	is($applied->('b-'), '1003|1003|t', "$mode: so is what the transaction appends afterwards");

	$run->(q{
begin;
select stopped('c-1', 1);
savepoint s;
select stopped('c-1', 2);
release s;
savepoint s;
select stopped('c-1', 2);
rollback to s;
select stopped('c-1', 3);
prepare transaction 'stopped';
commit prepared 'stopped';
});
	is($applied->('c-'), '6|6|t', "$mode: with savepoints, and prepared");

	$run->(q{
insert into outside values ('d-1'), ('d-2');
insert into evsource.events (stream, type) select 'd-' || i, stopped('d-1', 2) from generate_series(1, 3) i;
with other as (insert into evsource.events (stream, type) values ('d-4', 'Happened') returning stream) select stopped(stream, 2) from other;
});
	is($applied->('d-'), '16|16|t', "$mode: inside of other statements");

	is($run->(q{begin; select restored('e-1'); select position > 1000000 from evsource.append('e-2', 'Happened'); commit}), "1000000\nt",
		"$mode: a row that brings its position is restored");
	is($applied->('e-'), '2|1|t', "$mode: and not applied");
	$node->stop;
}

done_testing();
