/*
 * price.c - what a statement takes, however few events it gets.
 *
 * A trigger of statements has its price, a join that reads a large table, a handler that
 * refreshes a view.  Who makes a batch shorter because it took too long must not think
 * that this is the events': with fewer of them each would only cost more, down to one
 * event a batch.  Two batches tell, if one was much longer than the other; where that is
 * not so, who decides about the next one sees to it.
 */
#include "price.h"

/* batches of about the same length tell nothing, but what else the machine does */
#define MUCH_LONGER		1.5

/* and some of the time is the events' */
#define LARGEST_SHARE	0.95

double
evs_price_without(EvsPrice *price, double events, double elapsed)
{
	double		before = price->last_events;

	if (events <= 0)
		return elapsed;
	if (before > 0 && (events >= before * MUCH_LONGER || before >= events * MUCH_LONGER))
	{
		double		each = (elapsed - price->last_elapsed) / (events - before);

		/* both have paid it: it is no more than what the quicker one took */
		price->price = Min(Max(elapsed - Max(each, 0) * events, 0), price->last_elapsed);
	}
	price->last_events = events;
	price->last_elapsed = elapsed;
	return elapsed - Min(price->price, elapsed * LARGEST_SHARE);
}
