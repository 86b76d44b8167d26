/*
 * horizon.h - which positions are safe to read: below the safe position no
 * event can appear any more.  See horizon.c for the protocol.
 */
#ifndef EVS_HORIZON_H
#define EVS_HORIZON_H

#include "evsource.h"

extern void evs_horizon_init(void);

/*
 * Writer: publish a lower bound, unless this transaction has done so, before rows
 * are stored at positions that are given (a restore).  Whoever reads from here on
 * goes no further than below it, but may have gone up to the last position drawn
 * by now.
 */
extern void evs_horizon_publish(int64 bound);

/*
 * Writer: draw so many positions, one after the other, and return the first.
 * The stream is locked and its version read.
 */
extern int64 evs_horizon_draw(int count);

/* The last position drawn from the sequence, 0 when there is none. */
extern int64 evs_horizon_last_position(void);

/*
 * Behind the barrier: where the log ends, with this transaction's own events.  The last
 * position drawn, but 0 while the log holds no event: a restore may bring some below it.
 */
extern int64 evs_horizon_end(void);

/*
 * Reader: every event at or below the result is visible to a snapshot that is
 * taken after this call (and none can come later).  Take the snapshot AFTER.
 * 0 while the log holds no event.
 */
extern int64 evs_horizon_safe_position(void);

/*
 * Has any open append a bound as low as this?  Until all such have ended the safe position
 * is below it.  True on a standby and a copy, which do not know.
 */
extern bool evs_horizon_is_held(int64 bound);

/*
 * The lower bound that this transaction has published: no projection goes past
 * the positions below it before it ends.  0: it has appended nothing.
 */
extern int64 evs_horizon_own_bound(void);

/* An open transaction that has appended, or a prepared one. */
typedef struct EvsHolder
{
	int64		bound;			/* its lower bound */
	int			pid;			/* 0: it is prepared */
	TransactionId xid;			/* of a prepared one; else invalid */
} EvsHolder;

/* All of them in this database, in CurrentMemoryContext and no order. */
extern EvsHolder *evs_horizon_holders(int *count);

#endif							/* EVS_HORIZON_H */
