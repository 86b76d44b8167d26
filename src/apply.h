/*
 * apply.h - apply the log to an async projection, and deal with the events that
 * its handler cannot take.
 *
 *	evs_apply_begin(&apply, projection, partition);
 *	while (evs_apply_batch(&apply, safe, max_events, EVS_NO_TIME) == EVS_APPLY_MORE)
 *		;
 *	evs_apply_end(&apply);
 *
 * All of it in the caller's transaction.  Whoever calls this holds the unit, or
 * the projection's name.
 */
#ifndef EVS_APPLY_H
#define EVS_APPLY_H

#include "evsource.h"
#include "clock.h"
#include "crash_mark.h"
#include "projection.h"
#include "unit.h"

typedef enum EvsApplied
{
	EVS_APPLY_MORE,				/* not yet at the end: again */
	EVS_APPLY_END,				/* everything is applied, or parked */
	EVS_APPLY_RETRY,			/* an event failed: at unit.failure.retry_at */
	EVS_APPLY_FAILED			/* and too often: the projection is stopped */
} EvsApplied;

typedef struct EvsApply
{
	EvsProjection *projection;
	EvsUnit		unit;			/* under its name failures are recorded */
	bool		raise;			/* let errors through, record nothing, and do
								 * without subtransactions */
	bool		rebuilds;		/* let an error through that would stop it */
	bool		worn;			/* or that a new process may not meet */
	int64		applied;		/* events */
	int64		began_at;		/* position */
} EvsApply;

/* Read where the unit is.  The projection's filter is set to the partition. */
extern void evs_apply_begin(EvsApply *apply, EvsProjection *projection, int partition);

/*
 * The same for a rebuild, which takes all partitions together, from wherever it
 * is.  A projection with dead letters records them under the name; of others
 * every error gets out.
 */
extern void evs_apply_begin_rebuild(EvsApply *apply, EvsProjection *projection,
									const char *name, const EvsCheckpoint *checkpoint);

/* When its next attempt at an event is due; 0 when there is nothing to wait for. */
extern EvsTime evs_apply_due(const EvsApply *apply);

/*
 * Apply the next events after the checkpoint, up to a position below which no
 * event can appear any more.  At most so many, and no more after the time is up
 * (EVS_NO_TIME: as many): one event, or one call of who gets many at once, is the least.
 *
 * An error of the handler's is isolated to its event, recorded and reported by
 * a WARNING: what came before it stays applied.  Errors that are nobody's fault
 * (evs_failure_is_transient) get out.
 */
extern EvsApplied evs_apply_batch(EvsApply *apply, int64 upto, int64 max_events,
								  EvsTime until);

/*
 * The next event is to blame for having ended the server: park it, or stop the projection.
 */
extern EvsApplied evs_apply_crashed(EvsApply *apply, int64 upto, const EvsCaution *caution);

/*
 * The next event is to blame for an error that came when it had been applied, at the commit of
 * a batch of its own: the same, and it is tried again until it has failed often enough.
 * EVS_APPLY_END: there is none that is.
 */
extern EvsApplied evs_apply_blame(EvsApply *apply, int64 upto, ErrorData *error);

/*
 * Write down where the unit is now, and tell listeners.  Of a rebuild the caller
 * does so with unit.checkpoint.
 */
extern void evs_apply_end(EvsApply *apply);

/*
 * Bring all partitions of a projection to one position.  The caller holds the
 * projection's name.  Errors: 55000 when an event cannot be applied, or there are
 * too many for one transaction, or they take too long.
 */
extern void evs_apply_gather(EvsProjection *projection);

/* How many events are best applied at once. */
extern int	evs_apply_limit(const EvsProjection *projection);

#endif							/* EVS_APPLY_H */
