# states.pl - whatever happens to streams, folds, policies and snapshots, a state is
# what a replay of all its events gives, and counts each of them once.
#
# In each round a session of its own does a few dozen random things: appends of all
# kinds, some in savepoints and transactions that roll back, changes of policies and
# of state versions, saved, cleared, damaged and restored snapshots, truncated
# streams, questions about now and the past. Now and then the session is
# terminated in the middle, or the whole server is stopped at once. Then
# another session asks for every state, and folds every event itself.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Time::HiRes qw(time);

my $database = 'evsource_stress_states';
my $seconds = $ENV{EVSOURCE_STRESS_SECONDS} || 8;
my $seed = $ENV{EVSOURCE_STRESS_SEED} || int(time * 1000) % 1_000_000;
srand $seed;
my $dir = tempdir(CLEANUP => 1);
my $maintenance = $ENV{PGDATABASE} || 'postgres';

sub fail { print "states: seed $seed: $_[0]\n"; exit 1 }

# Runs a script in a session; returns whether it came to its end, and what it said.
sub psql
{
	my ($db, $script, %option) = @_;
	my $file = "$dir/script.sql";
	open my $out, '>', $file or die "$file: $!\n";
	print $out $script;
	close $out;
	my $stop = $option{errors} ? '' : '-v ON_ERROR_STOP=1';
	my $said = `psql -X -q -A -t $stop -v VERBOSITY=verbose -d $db -f $file 2>&1`;
	return ($? == 0, $said);
}
sub must
{
	my ($ok, $said) = psql($_[1] // $database, $_[0]);
	fail("failed: $said") unless $ok;
	$said =~ s/\s+\z//;
	return $said;
}

must("drop database if exists $database", $maintenance);
must("create database $database", $maintenance);
must(<<'END');
create extension evsource;
create function sum_up(state jsonb, e evsource.event) returns jsonb language plpgsql immutable as $$
begin
	return jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1, 'sum', coalesce((state ->> 'sum')::int, 0) + (e.data ->> 'i')::int, 'last', e.type);
end $$;
create function collect(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$ select case e.type when 'B' then state else state || jsonb_build_object('k' || (e.data ->> 'i')::int % 40, repeat(md5(e.version::text), 8)) end $$;
create function add_v(state jsonb, saved int) returns jsonb language sql immutable as $$ select state $$;
create function never(saved int, current int) returns bool language sql immutable as $$ select false $$;
select evsource.create_projection('sum_up', 'sum_up', snapshot_every => 7);
select evsource.create_projection('collect', 'collect', snapshot_every => 20);
select evsource.create_projection('odd', 'sum_up', types => '{A,C}', categories => '{x}', snapshots => 'high_performance', snapshot_every => 5);
select evsource.create_projection('merge', 'evsource.fold_merge', snapshots => 'disabled');
select evsource.create_projection('added', 'evsource.fold_sum', path => '{i}', keep_snapshots => 3, snapshot_every => 3);
select evsource.create_projection('counted', 'evsource.fold_count', mode => 'async', snapshot_every => 4);

-- What a fold over all events of a stream makes of it, and of how many. The events
-- are those that were told: a truncated stream has lost some.
create table told (stream text, version bigint, e evsource.event, primary key (stream, version));
create function replay(name text, stream text, upto bigint, out state jsonb, out events bigint) language plpgsql as $$
declare
	p evsource.projections;
	told record;
begin
	select * into p from evsource.projections where projection = name;
	state := '{}';
	events := 0;
	for told in select t.e from told t where t.stream = replay.stream and t.version <= upto order by t.version loop
		continue when (told.e).type <> all (p.types) or evsource.category((told.e).stream) <> all (p.categories);
		if p.path is not null then
			execute format('select %s($1, $2, $3)', split_part(p.handler, '(', 1)) into state using state, told.e, p.path;
		else
			execute format('select %s($1, $2)', split_part(p.handler, '(', 1)) into state using state, told.e;
		end if;
		events := events + 1;
	end loop;
end $$;
create procedure remember() language sql as $$
	insert into told select e.stream, e.version, e from evsource.read_all(0, 100000000) e where evsource.category(e.stream) in ('x', 'y') on conflict do nothing
$$;
create view wrong as
	select p.projection, s.stream, l.*, r.*
	from evsource.projections p,
		(select stream, max(version) as version from told group by 1) s,
		lateral evsource.load_state(p.projection, s.stream) l,
		lateral replay(p.projection, s.stream, s.version) r (replayed, events)
	where l.state <> r.replayed or l.event_count <> r.events or l.version <> s.version;
END

my @projections = qw(sum_up collect odd merge added counted);
my @streams = map { ("x-$_", "y-$_") } 1 .. 4;
my %version = map { $_ => 1 } @projections;
my $number = 0;
sub pick { return $_[ rand @_ ] }
sub append
{
	my $stream = pick(@streams);
	my $n = rand() < 0.8 ? 1 : 1 + int rand 60;
	my $first = $number + 1;
	$number += $n;
	return "insert into evsource.events (stream, type, data) select '$stream', chr(65 + i % 3), jsonb_build_object('i', i) from generate_series($first, $number) i;" if rand() < 0.3;
	return "select from evsource.append_batch('$stream', array(select chr(65 + i % 3) from generate_series($first, $number) i), array(select jsonb_build_object('i', i) from generate_series($first, $number) i));";
}
my @deeds = (
	([ \&append ]) x 12,
	[ sub { return 'begin; ' . append() . append() . (rand() < 0.5 ? 'rollback;' : 'commit;') } ],
	[ sub { return 'begin; ' . append() . 'savepoint s; ' . append() . "select count(*) from evsource.load_state('" . pick(@projections) . "', '" . pick(@streams) . "'); rollback to s; " . append() . 'commit;' } ],
	([ sub { return "select evsource.state('" . pick(@projections) . "', '" . pick(@streams) . "') is null;" } ]) x 3,
	[ sub { return "select evsource.save_snapshot('" . pick(@projections) . "');" } ],
	[ sub { return "select evsource.clear_snapshots('" . pick(@projections) . "');" } ],
	[ sub { return "select evsource.restore_projection('" . pick(@projections) . "');" } ],
	[ sub { return "call evsource.rebuild_projection('" . pick(@projections) . "', " . pick('true', 'false') . ');' } ],
	[ sub { return "select evsource.run_projection('counted');" } ],
	[ sub { return "select evsource.alter_projection('" . pick(@projections) . "', snapshot_every => " . pick(0, 1, 2, 10, 50) . ', snapshot_after_batch => ' . pick('true', 'false') . ', restore_from_snapshot => ' . pick('true', 'true', 'false') . ', keep_snapshots => ' . pick(1, 1, 3) . ');' } ],
	# the same fold under another version: what was saved may be brought up, or is not used
	[ sub { my $p = pick(@projections); my $v = ++$version{$p}; return "select evsource.alter_projection('$p', state_version => $v, migrate_state => 'add_v'" . pick('', ", is_compatible => 'never'") . ');' } ],
	[ sub { return "update evsource.snapshots set version = version + 1, state = '{}' where key = '" . pick(@streams) . "' and version is not null;" } ],
	[ sub { return "update evsource.snapshot_parts set bytes = bytes || 'x' where part = 2;" } ],
	[ sub { my $s = pick(@streams); return "call remember(); select evsource.run_projection('counted'); select evsource.truncate_stream('$s', greatest(evsource.stream_version('$s') - 5, 1), true);" } ],
);

my $directory = must('show data_directory', $maintenance);
my $can_crash = -w $directory && !system('command -v pg_ctl >/dev/null 2>&1');
my ($rounds, $crashes, $killed) = (0, 0, 0);
my $end = time + $seconds;
while (time < $end)
{
	my @script = map { pick(@deeds)->[0]->() } 1 .. 30;
	my $fate = rand;
	push @script, 'select pg_terminate_backend(pg_backend_pid());' if $fate < 0.1 && ++$killed;
	push @script, 'begin; ' . append(), "\\! pg_ctl -D '$directory' -m immediate -w -t 60 -l '$directory/../server.log' restart >/dev/null 2>&1"
		if $can_crash && $fate > 0.97 && ++$crashes;
	my ($ok, $said) = psql($database, join("\n", @script), errors => 1);
	# what may go wrong: no such stream to truncate, no state yet, a session that ended
	my @bad = grep { /^psql:.*(ERROR|PANIC|FATAL)/ && !/ (42704|57P01|57P02|22023|P0002): / } split /\n/, $said;
	fail("round $rounds: @bad") if @bad;

	must("call remember(); select evsource.run_projection('counted')");
	my $wrong = must('select count(*), min(format(\'%s %s: %s events, %s replayed\', projection, stream, event_count, events)) from wrong');
	fail("round $rounds: $wrong") unless $wrong =~ /^0\|/;
	my $stream = pick(@streams);
	my $past = must("select count(*) from evsource.projections p, generate_series(greatest(1, (select coalesce(min(version), 1) from evsource.read_stream('$stream'))), evsource.stream_version('$stream'), 7) v
		where coalesce(evsource.state_at_version(p.projection, '$stream', v), '{}') <> (replay(p.projection, '$stream', v)).state");
	fail("round $rounds: $past states of the past of $stream are wrong") unless $past eq '0';
	$rounds++;
}
my $events = must('select count(*) from told');
must("drop database $database", $maintenance);
print "states: seed $seed, $rounds rounds, $events events, $killed sessions and $crashes servers killed: every state is its replay\n";
