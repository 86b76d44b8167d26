/*
 * dispatch.h - one dispatcher: inline, async, rebuild and replay all run
 * batches of events through it.
 */
#ifndef EVS_DISPATCH_H
#define EVS_DISPATCH_H

#include "evsource.h"
#include "clock.h"
#include "projection.h"
#include "scan.h"

extern void evs_dispatch_init(void);

/*
 * Is any projection there that appends dispatch to?  Call with RowExclusiveLock
 * on events held: the answer cannot change until the transaction ends, unless
 * the transaction itself changes it.
 */
extern bool evs_dispatch_wanted(void);

/*
 * Dispatch events that this transaction has just stored to every inline
 * projection.  When called from inside a handler (a handler that appends), the
 * events are copied and wait until all projections have finished the current
 * batch.
 */
extern void evs_dispatch_inline(const EvsBatch *batch);

/*
 * The same for so many events that each projection gets them from a scan of its own,
 * which it has begun with the projection's filter.  last is the position of the last
 * one.  Not to be called from inside a handler.
 */
typedef EvsScan *(*EvsBeginScan) (const EvsFilter *filter, const void *arg);

extern void evs_dispatch_inline_scans(EvsBeginScan begin, const void *arg, int64 last);

/*
 * Run one batch through one projection, as its owner: filter, then handler.
 * The batch is in the order of application.  Returns how many events the
 * projection applied.  An error of the handler passes through.  What the
 * handler appends has been dispatched to the inline projections on return.
 */
extern int64 evs_dispatch_batch(EvsProjection *projection, const EvsBatch *batch);

/*
 * The same for as many events, from the first on and at least one, as there is time for;
 * returns how many that were, also counting those that the filter does not let through.
 */
extern int	evs_dispatch_some(EvsProjection *projection, const EvsBatch *batch, EvsTime until);

/*
 * The same for the next events of a scan.  Event handlers and queries get them
 * straight from the scan and are not bound by memory: the more a query sees at
 * once, the fewer rows it writes twice.  The others get what fits into
 * maintenance_work_mem, unless there is a limit of their own.
 */
typedef struct EvsScanLimit
{
	int64		max_events;		/* at most so many */
	EvsTime		until;			/* if it is set, no more after that time: whoever gets
								 * many at once gets no other call */
	int			memory_kb;		/* that limit; 0: there is none */
} EvsScanLimit;

typedef struct EvsScanned
{
	int64		taken;			/* events that left the scan */
	int64		applied;		/* by the projection */
	int64		position;		/* of the last one taken, if any */
	bool		at_end;			/* the scan has no more */
} EvsScanned;

extern void evs_dispatch_scan(EvsProjection *projection, EvsScan *scan,
							  const EvsScanLimit *limit, EvsScanned *result);

/*
 * See that events could be dispatched to the projection: its owner is there and
 * may read the log, its functions can be called, its query can be planned.
 */
extern void evs_dispatch_check(EvsProjection *projection);

/*
 * Is a handler running?  Events may then be stored that wait to be dispatched:
 * it is no time to apply the log's history to an inline projection.
 */
extern bool evs_dispatch_is_running(void);

/*
 * Raise 55000 if one is, or an on_reset function, or whatever the daemon's processes call:
 * "a handler cannot" do this.
 */
extern void evs_dispatch_refuse(const char *action, const char *detail, const char *hint);

/*
 * From here to the abort of the subtransaction (it is going to be rolled back)
 * no projection hears of what is appended.
 */
extern void evs_dispatch_mute(void);


#endif							/* EVS_DISPATCH_H */
