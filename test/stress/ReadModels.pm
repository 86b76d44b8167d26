# ReadModels: async projections of every kind that the daemon applies, and what
# must be so of them at the end: each is a full replay of the log.
#
#	by_query	a query, a row a stream
#	by_event	a handler called once an event, which writes down in which order
#	by_fold		a fold keyed by stream
#	in_order	a fold of the whole log, whose state depends on the order
#	by_part		a handler on four partitions, of a part of the log
package ReadModels;

use strict;
use warnings;
use Time::HiRes qw(time sleep);

my $tables = <<'END';
create table by_query (stream text primary key, n bigint, versions bigint, last bigint);
create table by_event (place bigint generated always as identity primary key, position bigint unique, stream text, version bigint);
create table by_part (like by_event including all);
create function apply_event(e evsource.event) returns void language plpgsql as
	$$begin insert into by_event (position, stream, version) values (e.position, e.stream, e.version); end$$;
create function apply_part(e evsource.event) returns void language sql as
	$$insert into by_part (position, stream, version) values (e.position, e.stream, e.version)$$;
create function chain(before text, n bigint) returns text language sql immutable as $$select md5(coalesce(before, '') || n)$$;
create aggregate chain(bigint) (sfunc = chain, stype = text);
create function apply_fold(state jsonb, e evsource.event) returns jsonb language plpgsql as
	$$begin return jsonb_build_object('n', coalesce((state ->> 'n')::bigint, 0) + 1, 'chain', chain(state ->> 'chain', e.position)); end$$;
END
my %projections = (
	by_query => "tables => '{by_query}', query => 'insert into by_query as q select stream, count(*), sum(version), max(position) from new_events group by stream"
		. " on conflict (stream) do update set n = q.n + excluded.n, versions = q.versions + excluded.versions, last = excluded.last'",
	by_event => "handler => 'apply_event', tables => '{by_event}'",
	by_fold => "handler => 'apply_fold', snapshot_every => 7",
	in_order => "handler => 'apply_fold', key => 'global'",
	by_part => "handler => 'apply_part', tables => '{by_part}', categories => '{hot,own}', partitions => 4",
);
my $part = "evsource.category(stream) in ('hot', 'own')";

sub create {
	my ($session) = @_;
	$session->must($tables);
	$session->must("select evsource.create_projection('$_', mode => 'async', $projections{$_})") for sort keys %projections;
	return;
}

sub names { my @names = sort keys %projections; return @names }

# How many rows are in one but not in the other.
my $events = 'select position, stream, version from evsource.events';
my $states = "jsonb_build_object('n', count(*), 'chain', chain(position order by position)) as state, count(*) as event_count";
sub compare {
	my ($stored, $replayed) = @_;
	return "select (select count(*) from (($stored) except all ($replayed)) s) + (select count(*) from (($replayed) except all ($stored)) r)";
}
my @must_be_none = (
	[ 'rows of by_query differ from the log', compare('table by_query', 'select stream, count(*), sum(version)::bigint, max(position) from evsource.events group by 1') ],
	[ 'rows of by_event differ from the log', compare('select position, stream, version from by_event', $events) ],
	[ 'rows of by_part differ from the log', compare('select position, stream, version from by_part', "$events where $part") ],
	[ 'states of by_fold differ from the log', compare("select key, state, event_count from evsource.load_states('by_fold')", "select stream, $states from evsource.events group by 1") ],
	[ 'states of in_order differ from the log', compare("select state, event_count from evsource.load_states('in_order')", "select $states from evsource.events having count(*) > 0") ],
	[ 'events went to by_event out of order', 'select count(*) from (select position, lag(position) over (order by place) as before from by_event) e where position <= before' ],
	[ 'events went to by_part out of their stream\'s order', 'select count(*) from (select version, lag(version, 1, 0::bigint) over (partition by stream order by place) as before from by_part) e where version <> before + 1' ],
	[ 'event counts are wrong', 'select count(*) from evsource.projections p where evsource.event_count(p.projection) <>'
		. " (select count(*) from evsource.events where p.projection <> 'by_part' or $part)" ],
	[ 'events are dead letters', 'select count(*) from evsource.dead_letters' ],
	[ 'failures are on record', 'select count(*) from evsource.projection_failures' ],
);

# Wait until all are at the end of the log; returns what is wrong then. Nobody may
# write meanwhile.
sub faults {
	my ($session) = @_;
	my $end = $session->must('select evsource.safe_position()');
	my $behind = 'select count(*) from evsource.projection_status where state <> \'active\' or position is distinct from evsource.safe_position()'
		. ' or exists (select from evsource.progress)';
	my $until = time + 120;
	my $failure = '';

	sleep 0.05 while $session->must($behind) && time < $until;
	if ($session->must($behind)) {
		return "not at the end of the log ($end) after two minutes: " . join('; ',
			$session->must('select projection, state, position, lag, last_error from evsource.projection_status order by 1')) . "\n";
	}
	for (@must_be_none) {
		my ($what, $query) = @$_;
		my $count = $session->must($query);
		$failure .= "$count $what\n" if $count;
	}
	return $failure;
}

1;
