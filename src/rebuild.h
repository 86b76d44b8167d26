/*
 * rebuild.h - rebuilds that were asked for, and done by whoever has the time.
 *
 * evsource.request_rebuild() leaves a row in evsource.rebuilds.  A worker does
 * the work, a transaction at a time:
 *
 *	while ((outcome = evs_rebuild_step(name, &wait)) != EVS_DONE)
 *		if (outcome == EVS_WAIT)
 *			sleep for a second or so
 *
 * All that must survive is in tables: another worker, or this one after a crash,
 * goes on where it stopped.
 */
#ifndef EVS_REBUILD_H
#define EVS_REBUILD_H

#include "evsource.h"
#include "procedure.h"

#include "nodes/pg_list.h"

/*
 * The names of the projections whose rebuild was requested and is not complete,
 * in CurrentMemoryContext.  Call in a transaction.
 */
extern List *evs_rebuilds_requested(void);

/*
 * Go on with a rebuild that was requested.  Call outside a transaction: begins
 * and commits its own, which apply one batch.
 *
 * EVS_MORE: call again at once.  EVS_WAIT: something is in the way (an open
 * append, a reader of the table to be swapped, an old snapshot, another worker
 * whose turn it is), call again after so many ms.  EVS_WORN: end, and let another
 * process go on.  EVS_DONE: complete, cancelled or failed; nothing to do for this name.
 *
 * An error of the handler's is logged and kept in evsource.rebuilds, and ends
 * the request; one that is nobody's fault, or a cancel, is kept there and is EVS_WAIT, for
 * longer each time in a row.  Only what ends the process gets out, and an error that could
 * not be kept.
 */
extern EvsOutcome evs_rebuild_step(const char *name, int *wait);

/* Of all others this process remembers nothing from here on: they were cancelled, say. */
extern void evs_rebuild_keep(const List *names);

/*
 * Rebuild a projection from its snapshots in the caller's transaction, as
 * rebuild_projection does inside a transaction block.  False: they could not be used,
 * and it was rebuilt from the log.
 */
extern bool evs_rebuild_from_snapshot(const char *name);

#endif							/* EVS_REBUILD_H */
