# A request that takes the place of another, which has begun or not, is carried out as it
# was asked for: by whoever works on it, and whatever that one knows of the former.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

my $node = start_node('rebuild_replaced', q{
shared_preload_libraries = 'evsource'
autovacuum = off
evsource.max_workers = 1
evsource.daemon = off
});
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my ($sql, $soon) = asking($node);

my ($caller, $other) = map { Session->new(database => 'postgres', name => $_) } ('caller', 'other');
my $pid = $other->must('select pg_backend_pid()');
my $waits = qq{select exists (select from evsource.progress where waits_for = array[$pid])};
my $done = q{select not exists (select from evsource.progress)};

# Handlers that count everything so many times; what they are wrong about is in their
# snapshots.
my $handlers = sub {
	my ($value) = @_;
	return qq{
create or replace function handle_rows(e evsource.event) returns void language plpgsql as
	'begin insert into rows values (e.position, $value); end';
create or replace function handle_fold(state jsonb, e evsource.event) returns jsonb language sql as
	\$\$ select jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + $value) \$\$};
};
$sql->(q{
create extension evsource;
create table rows (position bigint primary key, value int)},
	$handlers->(1), q{
select evsource.create_projection('rows', 'handle_rows', tables => '{rows}', categories => '{account}');
select evsource.create_projection('fold', 'handle_fold', categories => '{account}');
select evsource.append('account-1', 'Paid') from generate_series(1, 100)});
my $save_mistakes = sub {
	$sql->($handlers->(1), q{
call evsource.rebuild_projection('rows', online => false);
call evsource.rebuild_projection('fold');
select evsource.save_snapshot('rows');
select evsource.save_snapshot('fold', 'account-1')},
		$handlers->(2));
};

my %uses = (
	rows => 'select count(*) from rows',
	fold => q{select version from evsource.append('other-1', 'Paid')},
);
my %right = (
	rows => q{select string_agg(distinct value::text, ',') from rows},
	fold => q{select state ->> 'n' from evsource.load_state('fold', 'account-1')},
);
my %result = (rows => '2', fold => '200');
my %again = (
	'is requested' => q{select evsource.request_rebuild('%s')},
	'is requested in place' => q{select evsource.request_rebuild('%s', online => false)},
	'is requested after a cancellation' => q{select evsource.cancel_rebuild('%s'); select evsource.request_rebuild('%s')},
);

# By a call, which carries out what has become of its request, and by the daemon.
my $in_turn = sub {
	my ($who, $begin, $end) = @_;
	foreach my $projection ('rows', 'fold')
	{
		foreach my $how (sort keys %again)
		{
			$save_mistakes->();
			$other->must('begin');
			$other->must($uses{$projection});
			$begin->($projection);
			$soon->($waits, "$who waits, to begin $projection with a snapshot");
			$sql->($again{$how} =~ s/%s/$projection/gr);
			$other->must('commit');
			$end->();
			is($sql->($right{$projection}), $result{$projection}, "it uses none when all of $projection $how");
		}
	}
};
$in_turn->('a call',
	sub { $caller->send("call evsource.rebuild_projection('$_[0]', from_snapshot => true, lock_timeout => '1h');") },
	sub {
		1 until $caller->receive;
		is(join(' ', $caller->errors), '', 'it ends');
		is($sql->($done), 't', 'with all that there was to do');
	});
$sql->(q{alter system set evsource.daemon = on; select pg_reload_conf()});
$in_turn->('the daemon',
	sub { $sql->("select evsource.request_rebuild('$_[0]', from_snapshot => true)") },
	sub { $soon->($done, 'it ends') });

# One that is requested while the old version is dropped, which waits for who has read a table
# that it refers to.
$sql->(q{
create table refers (id text primary key);
create table keyed (position bigint primary key, id text references refers);
insert into refers values ('a');
create function handle_keyed(e evsource.event) returns void language plpgsql as
	'begin insert into keyed values (e.position, ''a''); end';
select evsource.create_projection('keyed', 'handle_keyed', tables => '{keyed}', categories => '{account}')});
my $file = q{select relfilenode from pg_class where relname = 'keyed' and relnamespace = 'public'::regnamespace};
$other->must('begin');
$other->must('select count(*) from refers');
$sql->(q{select evsource.request_rebuild('keyed', online => true)});
$soon->($waits =~ s/where/where state = 'dropping' and/r, 'the old version is dropped');
my $dropping = $sql->($file);
$caller->send(q{select evsource.request_rebuild('keyed', online => true);});
$soon->(q{select exists (select from pg_locks l join pg_stat_activity a using (pid)
	where a.query ~ '^select evsource.request_rebuild' and l.locktype = 'advisory' and l.granted)}, 'the next rebuild is requested');
$other->must('commit');
1 until $caller->receive;
is(join(' ', $caller->errors), '', 'without an error');
$soon->($done, 'and done');
isnt($sql->($file), $dropping, 'anew');

$_->close for $caller, $other;
$node->stop;

done_testing();
