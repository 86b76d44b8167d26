/*
 * run_batch.h - run a batch of events through a projection: what the dispatcher is made of.
 */
#ifndef EVS_RUN_BATCH_H
#define EVS_RUN_BATCH_H

#include "evsource.h"
#include "projection.h"
#include "scan.h"

/*
 * Under REPEATABLE READ and above a handler reads with the transaction's snapshot,
 * and so does the transaction afterwards.  It must not see half of a read model:
 * of one that was rebuilt, reset or changed since, by somebody whom we have waited for.
 *
 * Error: 40001.
 */
extern void evs_run_check_serializable(const EvsProjection *projection);

/* Is the event the projection's business? */
static inline bool
evs_run_accepts(const EvsProjection *projection, const EvsEvent *event)
{
	return event->position > projection->start_after &&
		evs_filter_accepts(&projection->filter, event);
}

/*
 * Run a batch through a projection; returns how many events it applied.  taken: how many of
 * the batch, where it is bounded in time by the alarm (alarm.h), one that it wants at least;
 * NULL: it is not.
 */
extern int	evs_run_batch(EvsProjection *projection, const EvsBatch *batch, int *taken);

#endif							/* EVS_RUN_BATCH_H */
