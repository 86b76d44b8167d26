# crashes.pl: the order promise, while the server is stopped at once and started
# again every few seconds: see Order.pm. Half of the time no commit waits for the
# disk, else some do not: so positions are given again after a crash, and who was
# handed out an event must find it there.
use strict;
use warnings;
use Order;

Order::run('crashes', crash_every => 4);
