# A consumer that waits for some kinds of events sleeps while others append events of
# other kinds: nothing wakes it, and so it costs them nothing.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('waiters', "shared_preload_libraries = 'evsource'\nevsource.daemon = off");
my ($sql) = asking($node);
$sql->(q{create extension evsource});

# Append a lot that a subscription does not want, and then what it does; returns how
# often it was looked at meanwhile, which is how often its consumer was awake.
my $asleep = q{select count(*) from pg_stat_activity where query ~ 'fetch_events' and wait_event in ('Extension', 'EvsourceFetch')};
sub looks
{
	my ($filter, $append, $wanted) = @_;
	$sql->("select evsource.create_subscription('waits', start => 'now', $filter)");
	my $waiter = $node->background_psql('postgres');
	$waiter->query_until(qr/begun/, "\\echo begun\nbegin;\n"
		. "select 'got', stream, type from evsource.fetch_events('waits', wait => '50 s');\n"
		. "select 'looks', seq_scan + coalesce(idx_scan, 0) from pg_stat_xact_all_tables where relid = 'evsource.subscriptions'::regclass;\n"
		. "commit;\n\\echo ended\n");
	$node->poll_query_until('postgres', $asleep, '1') or die 'nobody waits';
	$sql->($append) for 1 .. 30;
	$sql->($wanted);
	my $out = $waiter->query_until(qr/ended/, '');
	$waiter->quit;
	$sql->(q{select evsource.drop_subscription('waits')});
	my ($got) = $out =~ /^got\|(.*)$/m;
	my ($looks) = $out =~ /^looks\|(\d+)$/m;
	return ($got, $looks);
}

sub sleeps
{
	my ($what, $filter, $stream, $type, $append) = @_;
	my ($got, $looks) = looks($filter, $append // q{select evsource.append('busy-1', 'Common')}, "select evsource.append('$stream', '$type')");
	is($got, "$stream|$type", "$what: gets what it wants");
	cmp_ok($looks, '<', 15, "$what: sleeps until then");
}

sleeps('one category', q{categories => '{one}'}, 'one-1', 'Common');
sleeps('several categories', q{categories => '{one,two,three}'}, 'two-1', 'Common');
sleeps('types', q{types => '{Never,Rare}'}, 'busy-1', 'Rare');
sleeps('types of a category', q{categories => '{busy}', types => '{Never,Rare}'}, 'busy-1', 'Rare');
sleeps('types of several categories', q{categories => '{busy,one}', types => '{Never,Rare}'}, 'one-1', 'Rare');
my $many = join ',', map { "k$_" } 1 .. 32;
sleeps('more than eight', q{categories => '{a,b,c,d,e,f,g,h,i,j,k,one}'}, 'one-1', 'Common');
sleeps('many categories with few types', "categories => '{$many,one}', types => '{Never,Rare}'", 'one-1', 'Rare');
sleeps('few categories with many types', "categories => '{one,two}', types => '{$many,Rare}'", 'two-1', 'Rare');
sleeps('rows that are inserted', q{categories => '{busy}', types => '{Rare}'}, 'busy-1', 'Rare', q{insert into evsource.events (stream, type) values ('busy-1', 'Common')});
sleeps('batches', q{categories => '{busy}', types => '{Rare}'}, 'busy-1', 'Rare', q{select evsource.append_batch('busy-1', '{A,B,B,C}', '{1,2,3,4}')});

# what cannot be told by few kinds is woken by all
my ($got) = looks("categories => '{$many,one}', types => '{$many,Rare}'", q{select evsource.append('busy-1', 'Common')}, q{select evsource.append('one-1', 'Rare')});
is($got, 'one-1|Rare', 'too many of both: gets what it wants');
($got) = looks(q{types => '{Last}'}, q{select 1}, q{select evsource.append_batch('busy-1', '{A,B,C,D,E,F,G,H,I,Last}', array_fill('1'::jsonb, array[10]))});
is($got, 'busy-1|Last', 'an append of more types than are told apart wakes those who want one of them');
# a trigger of the user's has the last word on the type
$sql->(q{create function become() returns trigger language plpgsql as $$ begin new.type := 'Become'; return new; end $$},
	q{create trigger zz_become before insert on evsource.events for each row when (new.type = 'Other') execute function become()});
($got) = looks(q{types => '{Become}'}, q{select 1}, q{select evsource.append('busy-1', 'Other')});
is($got, 'busy-1|Become', 'a type that a trigger has changed wakes those who want it');

$node->stop;
done_testing();
