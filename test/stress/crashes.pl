# crashes.pl: the order promise, while the server is stopped at once and started
# again every few seconds: see Order.pm. Some commits do not wait for the disk, so
# positions are given again after a crash; who was handed out an event keeps it.
use strict;
use warnings;
use Order;

Order::run('crashes', crash_every => 4);
