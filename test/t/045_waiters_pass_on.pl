# In a ring of consumers each waits for what the one before it appends, while others
# append, roll back and hold up the log: a wake-up that is lost stops the ring.

use strict;
use warnings;

use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my ($consumers, $steps, $patience) = (12, 60, 30);

my $node = start_node('ring', "shared_preload_libraries = 'evsource'\nevsource.daemon = off\nevsource.max_wait = 0\nsynchronous_commit = off");
$node->safe_psql('postgres', qq{
	create extension evsource;
	create table lost (consumer int);
	create table over (at timestamptz);
	-- one that is alone with what it waits for: a category, a type, two categories
	select evsource.create_subscription('ring' || i, start => 'now',
		categories => case when i % 3 = 0 then array['ring' || i] when i % 3 = 1 then array['ring' || i, 'other' || i] end,
		types => case when i % 3 = 2 then array['Ring' || i] end)
		from generate_series(0, $consumers - 1) i;
	create procedure ring(me int) language plpgsql as \$\$
	declare
		got evsource.fetched_event[];
		next int := (me + 1) % $consumers;
		passed int := 0;
		since timestamptz := clock_timestamp();
	begin
		while passed < $steps loop
			got := array(select f from evsource.fetch_events('ring' || me, 1, wait => '$patience s') f);
			-- a call also ends when it has moved a cursor that had nothing to do
			if cardinality(got) = 0 then
				commit;
				continue when clock_timestamp() < since + interval '$patience s';
				insert into lost values (me);
				return;
			end if;
			since := clock_timestamp();
			-- one transaction appends and does nothing else, and each wake-up counts
			perform evsource.append('ring' || next || '-' || passed % 5, 'Ring' || next);
			commit;
			perform evsource.ack(got[1].receipt);
			commit;
			passed := passed + 1;
		end loop;
	end \$\$;
	create procedure others() language plpgsql as \$\$
	begin
		for i in 1 .. 20000 loop
			perform evsource.append('busy-' || i % 7, 'Busy');
			-- not so fast that the ring gets no turn
			perform pg_sleep(0.002) where i % 10 = 0;
			if i % 3 = 0 then rollback; else commit; end if;
			exit when exists (select from over);
		end loop;
	end \$\$});

sub start_call
{
	my ($call) = @_;
	my $session = $node->background_psql('postgres');
	$session->query_until(qr/begun/, "\\echo begun\ncall $call;\n\\echo ended\n");
	return $session;
}

sub pass_on
{
	my ($what, $each) = @_;
	my @others = map { start_call('others()') } 1 .. 2;
	my @ring = map { my $i = $_; map { start_call("ring($i)") } 1 .. $each } 0 .. $consumers - 1;
	# one for each who is called at once, so that none of them is left without
	$node->safe_psql('postgres', "select evsource.append('ring0-$_', 'Ring0')") for 1 .. $each + 1;
	$_->query_until(qr/ended/, '') for @ring;
	$node->safe_psql('postgres', 'insert into over values (now())');
	$_->query_until(qr/ended/, '') for @others;
	$_->quit for @ring, @others;
	is($node->safe_psql('postgres', 'select count(*) from lost'), 0, "$what: all is passed on");
	$node->safe_psql('postgres', q{truncate over, lost; select count(evsource.seek_subscription('ring' || i, evsource.safe_position())) from generate_series(0, 11) i});
}

# Two that want the same are found as one alone is not, and of a group one is enough.
pass_on('each alone', 1);
$node->safe_psql('postgres', q{select count(evsource.alter_subscription('ring' || i, partitions => 4)) from generate_series(0, 11) i});
pass_on('two for each', 2);

$node->stop;
done_testing();
