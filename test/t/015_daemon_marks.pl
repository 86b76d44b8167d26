# A worker says on disk what it is about to do, in case that ends the server. When it
# does not come to that, or ends in good order, it takes back what it has said itself,
# and nothing else: else who is not at work would be blamed for the next crash, or
# who is would not.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin, "$FindBin::RealBin/../stress";
use Node;
use Session;

let_daemon_work();

my $node = start_node('daemon_marks', q{
shared_preload_libraries = 'evsource'
log_min_messages = log
});
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
my ($sql, $soon) = asking($node);

$sql->(q{
create extension evsource;
create table applied (position bigint primary key);
create function apply(e evsource.event) returns void language sql as $$ insert into public.applied values (e.position) $$;
select evsource.append('a-1', 'Happened');
});

# Somebody waits for the projection while the mark is written, and has it before the batch.
my ($keeps, $alters) = map { Session->new(database => 'postgres') } 1 .. 2;
my $mark = q{insert into evsource.crash_marks (projection, partition, position, events, attempts, careful, batch) values ('p', 0, 1, 5, 0, 0, 0)};
$keeps->must('begin');
$keeps->must($mark);
$sql->(q{select evsource.create_projection('p', 'apply', mode => 'async')});
$soon->(q{select count(*) = 1 from pg_stat_activity where backend_type = 'evsource worker' and wait_event = 'transactionid'}, 'a worker is about to leave a mark');
$alters->must('begin');
$alters->send(q{select from evsource.alter_projection('p', notify => false);});
$soon->(q{select count(*) = 1 from pg_locks where locktype = 'advisory' and objsubid = 231 and not granted}, 'somebody waits for the projection');
$keeps->must('rollback');
is(ends($alters), '', 'and has it then');
$soon->('select count(*) = 0 from evsource.crash_marks where events > 0', 'the worker is not at work, and says so');
$alters->must('commit');
$soon->('select count(*) = 1 from applied', 'it goes on when it can');
$soon->('select count(*) = 0 from evsource.crash_marks', 'and is trusted');

# A mark that is not its own.
$sql->($mark);
$sql->('select evsource.stop_daemon()');
is($sql->('select projection, events from evsource.crash_marks'), 'p|5', 'a worker that leaves takes back no mark of another one');
unlike(slurp_file($node->logfile), qr/the process died/, 'nobody has died');
$_->close foreach $keeps, $alters;
$node->stop;

done_testing();
