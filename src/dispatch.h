/*
 * dispatch.h - one dispatcher: inline, async, rebuild and replay all run
 * batches of events through it.
 */
#ifndef EVS_DISPATCH_H
#define EVS_DISPATCH_H

#include "evsource.h"
#include "projection.h"

extern void evs_dispatch_init(void);

/*
 * Is any projection there that appends dispatch to?  Call with RowExclusiveLock
 * on events held: the answer cannot change until the transaction ends.
 */
extern bool evs_dispatch_wanted(void);

/*
 * Dispatch events that this transaction has just stored to every inline
 * projection.  When called from inside a handler (a handler that appends), the
 * events wait until all projections have finished the current batch.
 */
extern void evs_dispatch_inline(const EvsBatch *batch);

/*
 * Run one batch through one projection, as its owner: filter, then handler.
 * The batch is in the order of application.  Returns how many events the
 * projection applied.  An error of the handler passes through.
 */
extern int64 evs_dispatch_batch(EvsProjection *projection, const EvsBatch *batch);

#endif							/* EVS_DISPATCH_H */
