# Streams that do not begin with version 1 are whole after a restore: those that were
# truncated, which the dump says, and those that were imported so, which it does not.
# Whatever comes first, and in whatever order the rows come.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Holds;
use Node;

my $node = start_node('main', '', extra => ['--encoding=UTF8']);
$node->safe_psql('postgres', 'create database old');
$node->safe_psql(
	'old', q{
create extension evsource;
-- the later event first in the table
insert into evsource.events (position, version, recorded_at, stream, type) values
    (16, 6, '2001-01-06', 'imported-1', 'Old'), (15, 5, '2001-01-05', 'imported-1', 'Old'),
    (22, 2, '2001-01-02', 'backwards-1', 'Old'), (21, 1, '2001-01-01', 'backwards-1', 'Old'),
    (33, 3, '2001-01-03', 'imported-2', 'Old'), (32, 2, '2001-01-02', 'imported-2', 'Old');
select evsource.append('meter-' || n % 3, 'Read', to_jsonb(n)) from generate_series(1, 30) n;
select evsource.truncate_stream('meter-1', 4), evsource.truncate_stream('imported-2', 3);
});
my $expected = holds($node, 'old');
# (where a begin came in a later statement, what was noted before is of no interest)
my $truncations = q{select * from evsource.truncations t
	where not exists (select from evsource.events e where e.stream = t.stream and e.version = 1) order by 1};
is($node->safe_psql('old', q{select stream, version from evsource.truncations order by 1}),
	"imported-1|5\nimported-2|3\nmeter-1|4", 'three streams begin later');
is($node->safe_psql('old', q{select string_agg(stream || ' ' || version, ', ' order by stream) from evsource.streams}),
	'backwards-1 2, evsource-lifecycle 2, imported-1 6, imported-2 3, meter-0 10, meter-1 10, meter-2 10', 'all streams are there');

my $dump = $node->backup_dir;
mkdir $dump;
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump/custom", 'old' ], 'dump in the custom format');
$node->command_ok([ 'pg_dump', '--inserts', '-f', "$dump/inserts.sql", 'old' ], 'dump as INSERTs');

sub restored_ok
{
	my ($name, @command) = @_;

	$node->safe_psql('postgres', "create database $name template template0");
	$node->command_ok(\@command, "$name: $command[0]");
	same_ok(holds($node, $name), $expected, "$name: everything is there");
	is($node->safe_psql($name, $truncations), $node->safe_psql('old', $truncations), "$name: and where streams begin");
	is($node->safe_psql($name, q{select string_agg(stream || ' ' || version || ' ' || problem, ', ') from evsource.check_log()}),
		'imported-1 5 versions 1 to 4 are missing', "$name: the log is as it was");
	is($node->safe_psql($name, q{select version from evsource.append('imported-1', 'New', expected_version => 6)}), 7, "$name: and goes on");
	return;
}

# The same dump with the rows of one table before those of all others, or after them.
sub list
{
	my ($name, $first) = @_;
	my ($list) = run_command([ 'pg_restore', '-l', "$dump/custom" ]);
	my @data = grep { /TABLE DATA|SEQUENCE SET/ } split /\n/, $list;
	my @moved = grep { /TABLE DATA evsource truncations / } @data;
	my @others = grep { !/TABLE DATA evsource truncations / } @data;
	my @rest = grep { !/^;/ && !/TABLE DATA|SEQUENCE SET/ } split /\n/, $list;

	is(scalar @moved, 1, "$name: the dump has where streams begin");
	append_to_file("$dump/$name.list", join("\n", @rest, $first ? (@moved, @others) : (@others, @moved)) . "\n");
	return "$dump/$name.list";
}

restored_ok('one', 'pg_restore', '--exit-on-error', '-d', 'one', "$dump/custom");
restored_ok('jobs', 'pg_restore', '-j4', '--exit-on-error', '-d', 'jobs', "$dump/custom");
restored_ok('before', 'pg_restore', '-L', list('before', 1), '--exit-on-error', '-d', 'before', "$dump/custom");
restored_ok('after', 'pg_restore', '-L', list('after', 0), '--exit-on-error', '-d', 'after', "$dump/custom");
restored_ok('inserts', 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-f', "$dump/inserts.sql", '-d', 'inserts');

$node->stop;

done_testing();
