# size.pl - what an event takes on disk, heap and indexes: 200 bytes of data, in
# 20,000 streams of 20 events that all grow side by side, by one-event appends.
use strict;
use warnings;

my ($streams, $each) = (20_000, 20);
my $events = $streams * $each;

Bench::start_server();
Bench::fresh_database();
Bench::sql("do \$\$ begin
	perform evsource.append('account-' || s, 'MoneyDeposited', bench.data(s * $each + v))
	from generate_series(1, $each) v, generate_series(1, $streams) s order by v, hashint4(s);
	end \$\$");
my ($heap, $indexes, $data) = split /\|/, Bench::sql(
	"select pg_table_size('evsource.events') / $events.0, pg_indexes_size('evsource.events') / $events.0,
	(select avg(pg_column_size(data)) from evsource.events)");
my $total = $heap + $indexes;
Bench::row(
	path => 'bytes an event, heap + indexes',
	budget => '≤ 400',
	measured => sprintf('%.0f + %.0f = %.0f', $heap, $indexes, $total),
	floor => sprintf('%.0f of them are data', $data),
	checks => [ [ 'bytes', $total, '<=', 400 ] ]);
Bench::stop_server();
1;
