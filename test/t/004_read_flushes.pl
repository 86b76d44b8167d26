# What a reader of the log has been given outlives a crash, even of a server that
# commits asynchronously: else the position could be given to another event, and
# a consumer outside would never ask for that one.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('main', q{
synchronous_commit = off
wal_writer_delay = 10s
autovacuum = off
});
$node->safe_psql('postgres', 'create extension evsource');
$node->safe_psql('postgres', 'create role tenant; grant usage on schema evsource to tenant;
grant execute on all functions in schema evsource to tenant; grant select on evsource.events to tenant;
alter table evsource.events enable row level security; create policy all_of_it on evsource.events using (true)');

sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}

# Nothing but the reader flushes what is committed between here and the crash.
my %readers = (
	'read_all' => q{select stream, version from evsource.read_all(0, null)},
	'read_category' => q{select stream, version from evsource.read_category('a', 0, null)},
	'read_all, by policy' => q{set role tenant; select stream, version from evsource.read_all(0, null)});

for my $case (map { ($_, "$_, frozen rows") } sort keys %readers)
{
	my ($reader, $frozen) = split /, (?=frozen)/, $case;
	# after this the row that names the position, and the pages, are not logged anew
	$node->safe_psql('postgres', q{set synchronous_commit = on; checkpoint; select evsource.append('a-0', 'Ticked'); vacuum (freeze) evsource.events});
	$node->safe_psql('postgres', qq{select evsource.append('a-$_', 'Ticked')}) for 1 .. 3;
	# they no longer say whose commit must be flushed
	$node->safe_psql('postgres', 'vacuum (freeze, truncate off, index_cleanup off) evsource.events') if $frozen;
	my $given = $node->safe_psql('postgres', $readers{$reader});
	my $safe = $node->safe_psql('postgres', 'select evsource.safe_position()');
	crash();
	is($node->safe_psql('postgres', $readers{$reader}), $given, "$case: what was read is there after a crash");
	cmp_ok($node->safe_psql('postgres', q{select position from evsource.append('b-1', 'Ticked')}),
		'>', $safe, "$case: what comes next stands behind it");
}

# A consumer outside, with its checkpoint in a file, misses nothing over crashes.
my $file = PostgreSQL::Test::Utils::tempdir() . '/checkpoint';
PostgreSQL::Test::Utils::append_to_file($file, $node->safe_psql('postgres', 'select evsource.safe_position()') . "\n");
my @got;
for my $crash (1 .. 3)
{
	for my $event (1 .. 4)
	{
		$node->safe_psql('postgres', qq{select evsource.append('c-$crash', 'Ticked', '{"n": $event}')});
		next if $event == 4;
		my ($checkpoint) = slurp_file($file) =~ /(\d+)\n\z/;
		foreach my $line (split /\n/, $node->safe_psql('postgres', qq{select position, stream || '/' || version from evsource.read_all($checkpoint, 2, '{c}')}))
		{
			my ($position, $read) = split /\|/, $line;
			push @got, $read;
			PostgreSQL::Test::Utils::append_to_file($file, "$position\n");
		}
	}
	crash();
}
my ($checkpoint) = slurp_file($file) =~ /(\d+)\n\z/;
push @got, split /\n/, $node->safe_psql('postgres', qq{select stream || '/' || version from evsource.read_all($checkpoint, null, '{c}')});
is(join(' ', @got), join(' ', split /\n/, $node->safe_psql('postgres', q{select stream || '/' || version from evsource.events where stream like 'c-%' order by position})),
	'a consumer with a checkpoint of its own has each event that there is, once');

done_testing();
