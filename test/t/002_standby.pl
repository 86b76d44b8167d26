# A standby reads the log up to the position that the primary has published,
# and loses nothing: neither while it follows, nor when it is promoted.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $primary = start_node('primary', '', allows_streaming => 1);
$primary->safe_psql('postgres', q{
create extension evsource;
create function noted(state jsonb, e evsource.event) returns jsonb language sql immutable as
    $$ select pg_catalog.jsonb_build_object('types', coalesce(state -> 'types', '[]') || pg_catalog.to_jsonb((e).type)) $$;
select evsource.create_projection('noted', handler => 'noted');
select evsource.append('a-1', 'One');
});

$primary->backup('base');
my $standby = Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub catch_up { return $primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert')) }

sub log_there { return $standby->safe_psql('postgres', 'select type from evsource.read_all()') }

catch_up();
is($standby->safe_psql('postgres', 'select evsource.safe_position()'), 0, 'nothing is published: nothing is safe');
is(log_there(), '', 'and the log is empty');
is($standby->safe_psql('postgres', q{select type from evsource.read_stream('a-1')}), 'One', 'a stream is not');

is($primary->safe_psql('postgres', 'select evsource.publish_safe_position()'), 1, 'the primary publishes');
catch_up();
is($standby->safe_psql('postgres', 'select evsource.safe_position()'), 1, 'the standby hears of it');
is(log_there(), 'One', 'and reads that far');

# An append that is under way holds the position back, on the standby as on the
# primary: Three is there before Two.
my $slow = $primary->background_psql('postgres');
$slow->query_safe(q{begin; select evsource.append('b-1', 'Two')});
$primary->safe_psql('postgres', q{select evsource.append('c-1', 'Three')});
is($primary->safe_psql('postgres', 'select evsource.publish_safe_position()'), 1, 'an open append is not safe');
catch_up();
is($standby->safe_psql('postgres', 'select type from evsource.events order by position'), "One\nThree", 'a later one has come');
is(log_there(), 'One', 'but is not read before the earlier one');
$slow->query_safe('commit');
$slow->quit;
is($primary->safe_psql('postgres', 'select evsource.publish_safe_position()'), 3, 'it ends, and both are safe');
catch_up();
is(log_there(), "One\nTwo\nThree", 'and read in their order');

# What is there to read reads; what writes says why it cannot.
is($standby->safe_psql('postgres', q{select version from evsource.streams order by stream}), "1\n1\n1", 'streams are there');
is($standby->safe_psql('postgres', q{select evsource.stream_version('b-1')}), 1, 'a version is there');
is($standby->safe_psql('postgres', q{select evsource.state('noted', 'c-1')}), '{"types": ["Three"]}', 'a state is there');
is($standby->safe_psql('postgres', q{select count(*) from evsource.events e, evsource.read_event(evsource.event_id(e))}), 3, 'ids are there');
my @writes = (
	q{select evsource.append('a-1', 'Four')},
	q{select evsource.append_json('a-1', '[]')},
	q{insert into evsource.events (stream, type) values ('a-1', 'Four')},
	q{select evsource.publish_safe_position()},
	q{select evsource.save_snapshot('noted')},
	q{select evsource.drop_projection('noted')},
	q{call evsource.rebuild_projection('noted')},
	q{select evsource.request_rebuild('noted')},
	q{select evsource.run_projection()},
	q{select evsource.retry_dead_letters('noted')});
foreach my $write (@writes)
{
	my ($status, $out, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\n$write");
	like($error, qr/25006: cannot execute|55000: .* while recovery is in progress/, "refused: $write");
}

# Promoted, it is a primary: its positions go on above all that was ever drawn.
$primary->safe_psql('postgres', q{begin; select evsource.append('lost-1', 'Lost'); rollback; select evsource.append('a-1', 'Four')});
catch_up();
$primary->stop;
$standby->promote;
is(log_there(), "One\nTwo\nThree\nFour", 'promoted: what was not published is read as well');
my (undef, undef, $refused) = $standby->psql('postgres', q{insert into evsource.events (stream, type, position, version, recorded_at)
	select 'import-1', 'Imported', last_value + 1, 1, now() from evsource.position_seq});
like($refused, qr/which readers of the log may have passed/, 'nothing is imported where the primary may have had an event');
is($standby->safe_psql('postgres', q{select version, position > 16777216 from evsource.append('a-1', 'Five')}), '3|t', 'and appends go on, far above');
is($standby->safe_psql('postgres', q{select a.position = 1 + (select max(position) from evsource.events) from evsource.append('b-1', 'Six') a}), 't',
	'the gap is left once');
is(log_there(), "One\nTwo\nThree\nFour\nFive\nSix", 'in order');
is($standby->safe_psql('postgres', q{select evsource.state('noted', 'a-1')}), '{"types": ["One", "Four", "Five"]}', 'and are folded');
is($standby->safe_psql('postgres', 'select evsource.publish_safe_position() = evsource.safe_position()'), 't', 'and published');
$standby->stop;

done_testing();
