# With client_min_messages = debug1 evsource tells what it does with an event: to
# whom it goes, what is saved, restored and rejected. A
# line a batch, not one an event.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('narration', "autovacuum = off\nevsource.daemon = off");
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
tells(q{select evsource.state('sums', 'narrated-1')},
	[ 'state of projection "sums" for key "narrated-1": from the snapshot of version 4, 0 events folded' ],
	'a state that is loaded tells what it is made of');
$node->safe_psql('postgres', q{select evsource.append('narrated-1', 'Paid', '{"amount": 5}')});
tells(q{select from evsource.load_state('sums', 'narrated-1'); select evsource.append('narrated-1', 'Paid', '{"amount": 5}', expected_version => 5); select from evsource.load_state('sums', 'narrated-1')},
	[ 'state of projection "sums" for key "narrated-1": from the snapshot of version 4, 1 event folded',
	  'dispatching 1 events to projection "sums"',
	  'state of projection "sums" for key "narrated-1": as this session had it at version 6, 0 events folded' ],
	'and so does one that the session has had');
tells(q{select evsource.state_at_version('sums', 'narrated-1', 2)},
	[ 'state of projection "sums" for key "narrated-1": from the first event on, 2 events folded' ],
	'one of the past');
tells(q{select evsource.run_projection('amounts')},
	[ 'projection "amounts": applied 6 events up to position 6' ],
	'a run tells how far it got');
tells(q{select evsource.save_snapshot('amounts')},
	[ 'saving the tables of projection "amounts" at position 6' ],
	'tables are saved');
tells(q{select evsource.restore_projection('amounts')},
	[ 'restoring the tables of projection "amounts" as of position 6' ],
	'and restored');
$node->safe_psql('postgres', q{select evsource.alter_projection('sums', state_version => 2)});
tells(q{select evsource.state('sums', 'narrated-1')},
	[ 'state of projection "sums" for key "narrated-1": from the first event on, 6 events folded',
	  'saving 1 snapshot of projection "sums"' ],
	'another version is folded from the begin, and saved anew');
like(slurp_file($node->logfile), qr/LOG:  snapshot of projection "sums" for key "narrated-1" is not used\n.*DETAIL:  It has state version 1, not 2/,
	'that the old one is rejected is in the log');

# What is not kept by stream has a row.
$node->safe_psql('postgres', q{
select evsource.create_projection('all', handler => 'paid', mode => 'manual', key => 'global');
select evsource.run_projection('all')});
tells(q{select evsource.state('all')},
	[ 'state of projection "all" for key "global": from its row as of position 6, 0 events folded' ],
	'a state that is kept in a row');
$node->stop;

done_testing();
