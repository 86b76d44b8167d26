# order.pl: the order promise, under everything that writers can do: see Order.pm.
#
# That it would notice was tried by breaking the code: a safe position that is
# the last one, a bound that is too high, withdrawn before the commit, lost
# at PREPARE or with a savepoint, or published after the draw. A snapshot taken
# before the safe position loses so few that it took a minute to be noticed.
use strict;
use warnings;
use Order;

Order::run('order');
