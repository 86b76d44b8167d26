# With client_min_messages = debug1 evsource tells what it does with an event: to
# whom it goes, what is saved, restored and rejected. A
# line a batch, not one an event.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('narration');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nevsource.daemon = off\n");
$node->start;
$node->safe_psql('postgres', q{
create extension evsource;
create function paid(state jsonb, e evsource.event) returns jsonb language sql immutable as
	$$ select pg_catalog.jsonb_build_object('total', coalesce((state ->> 'total')::int, 0) + ((e).data ->> 'amount')::int) $$;
create table narrated (amount int);
select evsource.create_projection('sums', handler => 'paid', snapshot_every => 3);
select evsource.create_projection('amounts', mode => 'manual', tables => '{narrated}', query =>
	'insert into public.narrated select (data ->> ''amount'')::int from new_events');
});

# PostgreSQL has more to say at this level: only what names a projection is ours.
sub tells
{
	my ($sql, $expected, $name) = @_;
	my ($status, $out, $error) = $node->psql('postgres', "set client_min_messages = debug1; $sql");
	my @lines = map { /^(?:psql:<stdin>:\d+: )?DEBUG:\s+(.*\bprojection ".*)$/ ? $1 : () } split /\n/, $error;
	is($status, 0, "$name: done");
	is(join("\n", @lines), join("\n", @$expected), $name);
	return;
}

my $append = q{select evsource.append_batch('narrated-1', '{Paid,Paid}', '{"{\"amount\": 1}","{\"amount\": 2}"}')};
tells($append, [ 'dispatching 2 events to projection "sums"' ], 'an append tells to whom it goes');
tells($append, [ 'dispatching 2 events to projection "sums"', 'saving 1 snapshot of projection "sums"' ], 'and what is saved');
tells(q{select evsource.state('sums', 'narrated-1')}, [], 'to load a state that is saved is nothing to tell');
tells(q{select evsource.run_projection('amounts')},
	[ 'projection "amounts": applied 4 events up to position 4' ],
	'a run tells how far it got');
tells(q{select evsource.save_snapshot('amounts')},
	[ 'saving the tables of projection "amounts" at position 4' ],
	'tables are saved');
tells(q{select evsource.restore_projection('amounts')},
	[ 'restoring the tables of projection "amounts" as of position 4' ],
	'and restored');
$node->safe_psql('postgres', q{select evsource.alter_projection('sums', state_version => 2)});
tells(q{select evsource.state('sums', 'narrated-1')}, [ 'saving 1 snapshot of projection "sums"' ], 'another version is saved anew');
like(slurp_file($node->logfile), qr/LOG:  snapshot of projection "sums" for key "narrated-1" is not used\n.*DETAIL:  It has state version 1, not 2/,
	'that the old one is rejected is in the log');
$node->stop;

done_testing();
