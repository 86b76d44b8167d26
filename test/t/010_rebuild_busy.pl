# An online rebuild of an inline projection beside sessions that read its table and then
# append, others that only append, and others that only read, all without a gap.  It
# finds no moment without them, so it ends at the cost of those that have read and come to
# append then: they are told at once, and each appends when it tries again. PostgreSQL would
# look for a deadlock only after a minute.

use strict;
use warnings;

use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

my $node = start_node('rebuild_busy', q{
shared_preload_libraries = 'evsource'
evsource.daemon = off
deadlock_timeout = '1min'
});
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my ($sql) = asking($node);

$sql->(q{
create extension evsource;
create table counts (stream text primary key, n int);
}, count_events(), q{
do $$ begin
	for i in 1 .. 8 loop execute format('create table more_%s (id serial, note text)', i); end loop;
end $$;
select evsource.alter_projection('counts', tables => '{more_1,more_2,more_3,more_4,more_5,more_6,more_7,more_8,counts}');
create table stop (at text);
create table failed (code text, message text, pid int default pg_backend_pid());
create procedure work(reads bool, appends bool, pause float) language plpgsql as $$
declare
	account text;
begin
	while not exists (select from stop) loop
		account := 'account-' || (random() * 100)::int;
		begin
			if reads then
				perform n from counts where stream = account;
			end if;
			perform pg_sleep(pause);
			if appends then
				perform evsource.append(account, 'Paid');
			end if;
		exception when serialization_failure or deadlock_detected then
			insert into failed values (sqlstate, sqlerrm);
		end;
		commit;
	end loop;
end $$;
select count(*) from generate_series(1, 300) i, lateral evsource.append('account-' || i % 100, 'Paid');
});

my @sessions;
foreach my $work (('true, true, 0.02') x 6, ('true, true, 0') x 3, ('false, true, 0.001') x 3, ('true, false, 0') x 3)
{
	push @sessions, Session->new(database => 'postgres', name => $work);
	$sessions[-1]->send("call work($work);");
}

my ($calls, $told) = (0, 'f');
while ($told eq 'f' && $calls++ < 20)
{
	$sql->(q{call evsource.rebuild_projection('counts', online => true)});
	$told = $sql->(q{select exists (select from failed where code = '40001' and message like '%"counts" is being exchanged')});
}
$sql->('insert into stop values (null)');
is(ends($_), '', "$_->{name}: it has gone on") foreach @sessions;
is($told, 't', 'a rebuild has ended at the cost of transactions that had read and came to append');
is($sql->(q{select count(*) from failed where code <> '40001' or message not like '%"counts" is being exchanged'}),
	0, 'and at nobody else\'s');
cmp_ok($sql->('select coalesce(max(n), 0) from (select count(*) n from failed group by pid) f'), '<=', 10 * $calls,
	'each is told a few times, not again and again until the rebuild waits for the table');
is($sql->('select sum(n) = (select count(*) from evsource.events) from counts'), 't', 'with all events');
$sql->(q{call evsource.rebuild_projection('counts', online => true); select version from evsource.append('account-1', 'Paid')});
is($sql->('select sum(n) = (select count(*) from evsource.events) from counts'), 't', 'nobody is kept any more');

$_->close foreach @sessions;
$node->stop;
done_testing();
