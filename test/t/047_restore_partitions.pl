# restore_projection() of an async fold with partitions, while others append: what
# comes in between its two looks at the states is in them, whatever its partition.
use strict;
use warnings;
use FindBin qw($RealBin);
use lib $RealBin, "$RealBin/../stress";
use Node;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

my $node = start_node('restore_partitions', q{
autovacuum = off
evsource.daemon = off
});
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my ($sql, $soon) = asking($node, 'restore');

$sql->(q{
create extension evsource;
select evsource.create_projection('counts', 'evsource.fold_count', mode => 'async', partitions => 4, snapshot_every => 7);
create table over ();
create procedure work(stream text) language plpgsql as $$ begin
	while not exists (select from over) loop
		for i in 1 .. 10 loop
			perform evsource.append(stream || i, 'Paid');
		end loop;
		commit;
	end loop;
end $$;
});

my @workers = map { Session->new(database => 'postgres', name => "worker $_") } 1 .. 2;
$workers[$_]->send("call work('account-$_');") foreach 0 .. 1;
$soon->('select count(*) > 500 from evsource.events', 'they append');
$sql->(q{select evsource.restore_projection('counts')}) foreach 1 .. 8;
$sql->('insert into over default values');
foreach (@workers)
{
	1 until $_->receive;
	is(join(' ', $_->errors), '', "$_->{name} has met no error");
	$_->close;
}
$sql->(q{select evsource.run_projection('counts')});
is($sql->(q{select count(*) from evsource.states s where projection = 'counts'
	and (state->>'count')::bigint <> (select count(*) from evsource.events e where e.stream = s.key)}), 0,
	'every state has all events of its stream');

$node->stop;
done_testing();
