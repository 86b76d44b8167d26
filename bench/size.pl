# size.pl - what an event takes on disk, heap and indexes: 200 bytes of data, in
# 10,000 streams of 20 events, of which a hundred grow side by side.
use strict;
use warnings;

Bench::start_server();
Bench::fresh_database();
my $events = 200_000;
Bench::fill_log(events => $events, streams => 10_000);
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
