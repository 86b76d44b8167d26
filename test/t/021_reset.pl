# reset_projection does not keep appenders and readers waiting for ever when somebody
# idles in a transaction.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Node;

my $node = start_node('reset');
$node->safe_psql('postgres', q{
create extension evsource;
create table model (stream text);
select evsource.create_projection('model', tables => '{model}', query => 'insert into public.model select stream from new_events');
select evsource.append('a-1', 'Happened');
});
my $others = $node->background_psql('postgres');

# What is said when somebody else has done this and not ended.
sub refused
{
	my ($statement, $setting, $reset) = @_;
	$reset //= q{select evsource.reset_projection('model')};
	$others->query_safe("begin; $statement");
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nset statement_timeout = '1min'; set lock_timeout = '$setting'; $reset");
	is($code == 0 ? 'reset' : 'refused', 'refused', "not while another transaction is open: $statement");
	$others->query_safe('rollback');
	return $err;
}

my $error = qr/could not reset projection "model"/;
like(refused(q{select from evsource.append('a-1', 'Happened')}, '100ms'), qr/$error.*have appended were in the way for 100 ms/s, 'it says what is in the way');
like(refused('select from model', '100ms'), qr/$error.*have used its tables were in the way for 100 ms/s, 'also where that is a reader');
like(refused('select from model', 0), qr/$error.*in the way for 10000 ms/s, 'it does not wait for ever');
like(refused(q{select from evsource.append('a-1', 'Happened')}, '100ms', q{select evsource.pause_projection('model')}),
	qr/ERROR:  55P03: could not change projection "model".*have appended were in the way for 100 ms.*See evsource.blockers/s, 'so does whoever changes what appends do');
is($node->safe_psql('postgres', q{select count(*) from model}), '1', 'nothing has changed');
is($node->safe_psql('postgres', q{select evsource.reset_projection('model'); select count(*) from model}), "\n0", 'with nobody in the way it is reset');

# What a function empties only that function knows.
$node->safe_psql('postgres', q{
create table unnamed (stream text);
create function clear() returns void language sql as 'truncate public.unnamed';
select evsource.create_projection('cleared', on_reset => 'clear', query => 'insert into public.unnamed select stream from new_events');
});
like(refused('select from unnamed', '100ms', q{select evsource.reset_projection('cleared')}), qr/could not reset projection "cleared".*used what its on_reset function empties were in the way for 100 ms/s, 'also what only on_reset knows');
like(refused('select from unnamed', 0, q{call evsource.rebuild_projection('cleared', lock_timeout => '10ms')}), qr/could not get a moment without readers for projection "cleared"/, 'nor does a rebuild in place wait for ever');
is($node->safe_psql('postgres', q{select evsource.append('a-1', 'Happened'); select count(*) from unnamed}) =~ /\n(\d+)$/ ? $1 : '', '2', 'nothing has changed, and appends go on');
$node->safe_psql('postgres', q{call evsource.rebuild_projection('cleared')});
is($node->safe_psql('postgres', q{select state, event_count, (select count(*) from unnamed) from evsource.projection_status where projection = 'cleared'}), 'active|2|2', 'with nobody in the way it is rebuilt');
$others->quit;
$node->stop;
done_testing();
