# states.pl - whatever happens to streams, folds, policies and snapshots, a state is
# what a replay of all its events gives, and counts each of them once.
#
# In each round two sessions at a time do a few dozen random things: appends of all
# kinds, some in savepoints and transactions that roll back, changes of policies, of
# filters, of handlers, and of state versions, whose folds make other states, with functions that
# bring old ones up, or cannot, or fail; saved, cleared, damaged and restored
# snapshots, rebuilds, truncated streams, questions about now and the past. Now and
# then one of the sessions is terminated in the middle, or the whole server is
# stopped at once. Then another session asks for every state, and folds every event
# itself.
#
# The numbers come from EVSOURCE_STRESS_SEED, which is printed: the same one does the
# same things (not at the same moments).
use strict;
use warnings;
use File::Temp qw(tempdir);
use Time::HiRes qw(time sleep);

my $database = 'evsource_stress_states';
my $seconds = $ENV{EVSOURCE_STRESS_SECONDS} || 8;
my $seed = $ENV{EVSOURCE_STRESS_SEED} || int(time * 1000) % 1_000_000;
srand $seed;
my $dir = tempdir(CLEANUP => 1);
my $maintenance = $ENV{PGDATABASE} || 'postgres';

# so many rounds make a log; then another one is begun
my $rounds_of_log = 25;

# what two who change the same thing at the same time may do to each other
$ENV{PGOPTIONS} = ($ENV{PGOPTIONS} // '') . ' -c deadlock_timeout=50ms';

sub fail { print "states: seed $seed: $_[0]\n"; exit 1 }

# ---- sessions ----

# Begins to run a script in a session, past its errors or not.
sub begin
{
	my ($db, $name, $script, %option) = @_;
	my $file = "$dir/$name.sql";
	open my $out, '>', $file or die "$file: $!\n";
	print $out $script;
	close $out;
	my $stop = $option{errors} ? '' : '-v ON_ERROR_STOP=1';
	open my $said, '-|', "PGAPPNAME=$name psql -X -q -A -t $stop -v VERBOSITY=verbose -d $db -f $file 2>&1" or die "psql: $!\n";
	return $said;
}
# Waits for its end: whether it came to it, and what it said.
sub end
{
	my ($handle) = @_;
	my $said = join '', <$handle>;
	return (close $handle, $said);
}
sub must
{
	my ($ok, $said) = end(begin($_[1] // $database, 'watcher', $_[0]));
	fail("failed: $said") unless $ok;
	$said =~ s/\s+\z//;
	return $said;
}

# ---- what there is ----

# Versions 2k and 2k + 1 of a fold make the same states.
my @versions = 1 .. 9;
my $folds = join '', map { <<END } @versions;
create function sum_$_(state jsonb, e evsource.event) returns jsonb language plpgsql immutable as \$\$
begin
	return jsonb_build_object('shape', $_ / 2, 'n', coalesce((state ->> 'n')::int, 0) + 1,
		'sum', coalesce((state ->> 'sum')::int, 0) + (e.data ->> 'i')::int * (1 + $_ / 2), 'last', e.type);
end \$\$;
create function bring_up_$_(state jsonb, saved int) returns jsonb language sql immutable as \$\$
	select state || jsonb_build_object('shape', $_ / 2, 'sum', (state ->> 'sum')::int / (1 + saved / 2) * (1 + $_ / 2))
\$\$;
END

# The same fold, mended: without another version the states of old ones are wrong.
my @mended = 1 .. 3;
$folds .= join '', map { <<END } @mended;
create function mended_$_(state jsonb, e evsource.event) returns jsonb language sql immutable as
\$\$ select jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (e.data ->> 'i')::int % 10 + $_) \$\$;
END

# A projection of each kind; those of x and y change their folds, those of z, whose
# streams are truncated, cannot: what is gone is not folded again.
my @changing = qw(sum_up again by_type total);
my @projections = qw(sum_up again collect odd merge added counted mended by_type total kept kept_count);

sub start_over
{
	must("set client_min_messages = warning; drop database if exists $database", $maintenance);
	must("create database $database", $maintenance);
	must("create extension evsource; $folds" . <<'END');
create function collect(state jsonb, e evsource.event) returns jsonb language sql immutable as
$$ select case e.type when 'B' then state else state || jsonb_build_object('k' || (e.data ->> 'i')::int % 40, repeat(md5(e.version::text), 8)) end $$;
create function same_shape(saved int, current int) returns bool language sql immutable as $$ select saved / 2 = current / 2 $$;
create function never(saved int, current int) returns bool language sql immutable as $$ select false $$;
create function unsure(saved int, current int) returns bool language plpgsql as $$ begin raise 'unsure'; end $$;
create function as_it_is(state jsonb, saved int) returns jsonb language sql immutable as $$ select state $$;
create function cannot(state jsonb, saved int) returns jsonb language sql immutable as $$ select null::jsonb $$;
create function fails(state jsonb, saved int) returns jsonb language plpgsql as $$ begin raise 'cannot'; end $$;
create function types_of(e evsource.event) returns text[] language sql immutable as $$ select array[(e).type, 'any'] $$;

select evsource.create_projection('sum_up', 'sum_1', categories => '{x,y}', snapshot_every => 7);
select evsource.create_projection('again', 'sum_1', categories => '{x}', snapshots => 'max_durability', keep_snapshots => 2);
select evsource.create_projection('collect', 'collect', categories => '{x,y}', snapshot_every => 20);
select evsource.create_projection('odd', 'sum_2', types => '{A,C}', categories => '{x}', snapshots => 'high_performance', snapshot_every => 5);
select evsource.create_projection('merge', 'evsource.fold_merge', categories => '{x,y}', snapshots => 'disabled');
select evsource.create_projection('added', 'evsource.fold_sum', path => '{i}', categories => '{x,y}', keep_snapshots => 3, snapshot_every => 3);
select evsource.create_projection('counted', 'evsource.fold_count', categories => '{x,y}', mode => 'async', snapshot_every => 4);
select evsource.create_projection('mended', 'mended_1', categories => '{x,y}', keep_snapshots => 3, snapshot_every => 5, migrate_state => 'as_it_is');
select evsource.create_projection('by_type', 'sum_1', key => 'types_of', categories => '{x,y}', mode => 'async');
select evsource.create_projection('total', 'sum_1', key => 'global', categories => '{x,y}', mode => 'manual');
select evsource.create_projection('kept', 'sum_3', categories => '{z}', snapshot_every => 6, migrate_state => 'as_it_is');
select evsource.create_projection('kept_count', 'evsource.fold_count', categories => '{z}', keep_snapshots => 3, migrate_state => 'as_it_is');

-- What a fold over all events of a key makes of it, and of how many. The events
-- are those that were told: a truncated stream has lost some.
create table told ("position" bigint primary key, stream text, version bigint, e evsource.event);
create index on told (stream, version);
create procedure remember() language sql as $$
	insert into told select e.position, e.stream, e.version, e from evsource.read_all(coalesce((select max("position") from told), 0), 100000000) e
	where evsource.category(e.stream) in ('x', 'y', 'z') on conflict do nothing
$$;
create function keys_of(projection text, e evsource.event) returns text[] language sql immutable as
$$ select case projection when 'by_type' then types_of(e) when 'total' then '{global}' else array[(e).stream] end $$;
create function replay(name text, key text, upto bigint, before timestamptz, out state jsonb, out events bigint) language plpgsql as $$
declare
	p evsource.projections;
	told record;
begin
	select * into p from evsource.projections where projection = name;
	state := '{}';
	events := 0;
	for told in select t.e from told t where (t.stream = replay.key or name in ('by_type', 'total')) and t.version <= upto
			and coalesce((t.e).occurred_at, (t.e).recorded_at) < before and evsource.category(t.stream) = any (p.categories) order by t."position" loop
		continue when (told.e).type <> all (p.types) or not keys_of(name, told.e) @> array[key];
		if p.path is not null then
			execute format('select %s($1, $2, $3)', split_part(p.handler, '(', 1)) into state using state, told.e, p.path;
		else
			execute format('select %s($1, $2)', split_part(p.handler, '(', 1)) into state using state, told.e;
		end if;
		events := events + 1;
	end loop;
end $$;
create view keys as
	select distinct p.projection, k.key, case when p.projection not in ('by_type', 'total') then evsource.stream_version(k.key) end as version
	from evsource.projections p, told t, lateral unnest(keys_of(p.projection, t.e)) k (key)
	where evsource.category(t.stream) = any (p.categories);
create view wrong as
	select k.projection, k.key, l.*, r.*
	from keys k, lateral evsource.load_state(k.projection, k.key) l,
		lateral replay(k.projection, k.key, 1000000000, 'infinity') r (replayed, events)
	where l.state <> r.replayed or l.event_count <> r.events or l.version is distinct from k.version;
-- What was before the first event is {}.
create function past(projection text, key text, at_version bigint, before timestamptz) returns jsonb language plpgsql as $$
begin
	return coalesce(case when before is null then evsource.state_at_version(projection, key, at_version)
		else evsource.state_at_time(projection, key, before) end, '{}');
exception when no_data_found then return '{}';
end $$;
END
	return;
}

# ---- what is done ----

my $number = 0;
my $streams = 4;
my $session = 1;
sub pick { return $_[ rand @_ ] }
sub a_stream
{
	# only one session appends to what it truncates
	return 'z-' . pick(1, 2) if $session == 1 && rand() < 0.2;
	$streams++ if rand() < 0.01;
	return pick('x', 'y') . '-' . (1 + int rand $streams);
}
sub a_key { my ($p) = @_; return $p eq 'by_type' ? pick('A', 'B', 'any') : $p eq 'total' ? 'global' : a_stream() }
sub append
{
	my $stream = a_stream();
	my $n = rand() < 0.8 ? 1 : 1 + int rand 60;
	my $first = $number + 1;
	$number += $n;
	my $events = "generate_series($first, $number) i";
	my $when = "case when i % 5 = 0 then '2024-01-01Z'::timestamptz + i * 7919 % 1000 * interval '1 hour' end";
	return "insert into evsource.events (stream, type, data, occurred_at) select '$stream', chr(65 + i % 3), jsonb_build_object('i', i), $when from $events;" if rand() < 0.3;
	return "select from evsource.append_batch('$stream', array(select chr(65 + i % 3) from $events), array(select jsonb_build_object('i', i) from $events), occurred_at => array(select $when from $events));";
}
sub ask { my $p = pick(@projections); my $key = a_key($p); return "select count(*) from evsource.load_state('$p', '$key');" }
sub change_version
{
	my $p = pick(@changing);
	my $v = pick(@versions);
	my $migrate = pick("bring_up_$v", "bring_up_$v", 'cannot', 'fails', undef);
	my $compatible = pick('same_shape', 'same_shape', 'never', 'unsure', undef);
	my $defaults = join ',', $migrate ? () : 'migrate_state', $compatible ? () : 'is_compatible';
	return "select evsource.alter_projection('$p', handler => 'sum_$v', state_version => $v, defaults => '{$defaults}'"
		. ($migrate ? ", migrate_state => '$migrate'" : '') . ($compatible ? ", is_compatible => '$compatible'" : '') . ');';
}
my @deeds = (
	(\&append) x 12,
	sub { return 'begin; ' . append() . append() . (rand() < 0.5 ? 'rollback;' : 'commit;') },
	sub { return 'begin; ' . append() . 'savepoint s; ' . append() . ask() . 'rollback to s; ' . append() . 'commit;' },
	(\&ask) x 3,
	sub { my $p = pick(@projections); return "select evsource.state('$p', '" . a_key($p) . "') is null;" },
	sub { return "select evsource.state_at_version('" . pick('sum_up', 'added', 'again') . "', '" . a_stream() . "', 1 + (random() * 20)::int) is null;" },
	sub { return "select evsource.save_snapshot('" . pick(@projections) . "');" },
	sub { return "select evsource.clear_snapshots('" . pick(grep { !/by_type|total/ } @projections) . "');" },
	sub { return "select evsource.restore_projection('" . pick(@projections) . "');" },
	sub { return "call evsource.rebuild_projection('" . pick(grep { !/kept/ } @projections) . "', " . pick('true', 'false') . ');' },
	sub { return "select evsource.run_projection('" . pick('counted', 'by_type', 'total') . "'" . pick('', ', 1') . ');' },
	sub { return "select evsource.alter_projection('" . pick(@projections) . "', snapshot_every => " . pick(0, 1, 2, 10, 50) . ', snapshot_after_batch => ' . pick('true', 'false') . ', restore_from_snapshot => ' . pick('true', 'true', 'false') . ', keep_snapshots => ' . pick(1, 1, 3) . ');' },
	\&change_version, \&change_version,
	sub { return "select evsource.alter_projection('" . pick('kept', 'kept_count') . "', state_version => " . pick(@versions) . pick('', ", is_compatible => 'never'") . ');' },
	sub { return "select evsource.alter_projection('mended', handler => 'mended_" . pick(@mended) . "');" },
	sub { return "select evsource.alter_projection('mended', state_version => " . pick(@versions) . ');' },
	sub { return "select evsource.alter_projection('mended', " . pick("is_compatible => 'never'", "defaults => '{is_compatible}'") . ');' },
	sub { return "select evsource.alter_projection('odd', types => '" . pick('{A,C}', '{B}', '{A,B,C}') . "');" },
	sub { my $p = pick('sum_up', 'added', 'counted', 'total'); return "select evsource.pause_projection('$p'); " . append() . "select evsource.resume_projection('$p');" },
	sub { return "update evsource.snapshots set version = version + 1, state = '{}' where key = '" . a_stream() . "' and version is not null;" },
	sub { return "update evsource.snapshot_parts set bytes = bytes || 'x' where part = 2;" },
	sub { return append() unless $session == 1; my $s = 'z-' . pick(1, 2); return "call remember(); select evsource.truncate_stream('$s', greatest(evsource.stream_version('$s') - 5, 1), true);" },
);

# What may go wrong: no stream to truncate, no state yet, a session that ended, two
# in each other's way.
my $expected = qr/ (42704|57P01|57P02|57P03|22023|P0002|40P01|40001|55P03|25P02): |was changed meanwhile|is not active|is not paused|is paused|connection to server/;
sub bad_lines { return grep { /^psql:.*(ERROR|PANIC|FATAL):/ && !/$expected/ } split /\n/, $_[0] }

# ---- rounds ----

my $directory = must('show data_directory', $maintenance);
my $can_crash = -w $directory && !system('command -v pg_ctl >/dev/null 2>&1');
my ($rounds, $crashes, $killed, $events) = (0, 0, 0, 0);

sub crash
{
	system("pg_ctl -D '$directory' -m immediate -w -t 60 -l '$directory/../server.log' restart >/dev/null 2>&1") == 0
		or fail('the server did not start again');
	$crashes++;
	return;
}

sub do_things
{
	my @handles;
	for (1, 2)
	{
		$session = $_;
		push @handles, begin($database, "session_$_", join("\n", map { pick(@deeds)->() } 1 .. 20), errors => 1);
	}
	my $fate = $rounds % 6 == 1 ? 0 : $rounds % 6 == 4 ? 1 : rand;
	# whoever is hit is hit at a random moment
	sleep rand 0.3 if $fate < 0.05 || $fate > 0.9;
	if ($fate < 0.05 && $can_crash) { crash() }
	elsif ($fate > 0.9) { $killed += must("select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity where datname = '$database' and application_name like 'session%' order by random() limit 1) one", $maintenance) }
	my @said = map { (end($_))[1] } @handles;
	my @bad = map { bad_lines($_) } @said;
	fail("round $rounds: @bad") if @bad;
	return;
}

# What was interrupted goes on.
sub settle
{
	must("select evsource.resume_projection(projection) from evsource.projections where state = 'paused'");
	must("call evsource.rebuild_projection('$_')") for split /\n/, must("select projection from evsource.rebuilds union select projection from evsource.projections where state = 'rebuilding'");
	must("call evsource.activate_projection('$_')") for split /\n/, must("select projection from evsource.projections where state = 'catching_up'");
	must("call remember(); select evsource.run_projection(), evsource.run_projection('total')");
	return;
}

sub check
{
	my $wrong = must('select count(*), min(format(\'%s %s: %s of %s events, %s of %s replayed\', projection, key, state, event_count, replayed, events)) from wrong');
	fail("round $rounds: $wrong") unless $wrong =~ /^0\|/;
	my $stream = pick('x', 'y', 'z') . '-' . pick(1, 2);
	my $streams_of = "from (select p.* from evsource.projections p where evsource.category('$stream') = any (p.categories) and p.projection not in ('by_type', 'total')) p";
	my $first = "coalesce((select min(version) from evsource.read_stream('$stream')), 1)";
	$wrong = must("select count(*), min(p.projection || ' ' || v) $streams_of, generate_series($first, evsource.stream_version('$stream'), 7) v
		where past(p.projection, '$stream', v, null) <> (replay(p.projection, '$stream', v, 'infinity')).state");
	fail("round $rounds: states of $stream at versions of the past are wrong: $wrong") unless $wrong =~ /^0\|/;
	$stream =~ s/z/x/;
	my $before = "'2024-01-01Z'::timestamptz + " . int(rand 1100) . " * interval '1 hour'";
	$wrong = must("select count(*), min(p.projection) from (select projection, '$stream' as key $streams_of union values ('by_type', 'A'), ('total', 'global')) p
		where past(p.projection, p.key, null, $before) <> (replay(p.projection, p.key, 1000000000, $before)).state");
	fail("round $rounds: states of $stream at times of the past are wrong: $wrong") unless $wrong =~ /^0\|/;
	my $p = pick(grep { !/kept/ } @projections);
	$wrong = must("select count(*), min(key) from keys k left join evsource.load_states('$p', $before) s using (key)
		where k.projection = '$p' and coalesce(s.state, '{}') <> (replay('$p', key, 1000000000, $before)).state");
	fail("round $rounds: states of $p at a time of the past are wrong: $wrong") unless $wrong =~ /^0\|/;
	# every event was applied once
	$wrong = must("select count(*), min(format('%s: %s', p.projection, evsource.event_count(p.projection))) from evsource.projections p
		where p.projection not in ('odd', 'kept', 'kept_count') and evsource.event_count(p.projection) <> (select count(*) from told t where evsource.category(t.stream) = any (p.categories))");
	fail("round $rounds: events are not counted right: $wrong") unless $wrong =~ /^0\|/;
	return;
}

my $end = time + $seconds;
while (time < $end || $rounds < 2)
{
	if ($rounds % $rounds_of_log == 0)
	{
		$events += must('select count(*) from told') if $rounds;
		start_over();
	}
	do_things();
	settle();
	check();
	$rounds++;
}
$events += must('select count(*) from told');
fail('nothing was appended') unless $events;
must("drop database $database", $maintenance);
print "states: seed $seed, $rounds rounds, $events events, $killed sessions and $crashes servers killed: every state is its replay\n";
