/*
 * hand_out.h - put the events of a claimed cursor into the result of a call.
 */
#ifndef EVS_HAND_OUT_H
#define EVS_HAND_OUT_H

#include "evsource.h"

#include "nodes/bitmapset.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "clock.h"
#include "subscription.h"
#include "wakeup.h"

/* One call of fetch_events(). */
typedef struct EvsFetch
{
	const char *name;
	const char *consumer;
	int			max_count;
	int64		max_bytes;
	int64		lease_ms;
	Tuplestorestate *result;
	MemoryContext context;		/* of one look */
	int			count;			/* events that were handed out */
	EvsTime		until;			/* to search for them any longer would take too long */
	bool		unfinished;		/* the last look has ended because of that */

	/* what the last look in vain has seen */
	EvsTime		due;			/* when a cursor becomes free; none: unknown */
	int64		held_at;		/* there are events from here on that are not safe to read yet; 0: none */
	bool		has_locks;		/* cursors may be locked by this transaction */
	Bitmapset  *locked;			/* partitions that another transaction has */
	int			locked_in;		/* ... when the definition had this number */
	EvsWanted	wanted;			/* which events wake us */
} EvsFetch;

/* Is the time of a call over? */
extern bool evs_hand_out_is_late(const EvsFetch *fetch);

/*
 * Hand out what comes next, up to the safe position; the snapshot was taken after
 * that was asked for.  fetch->count says how many there were; when there were none,
 * because all of it was parked behind dead letters or there was no time to look
 * further, the cursor has been moved to there.
 */
extern void evs_hand_out_batch(EvsFetch *fetch, EvsClaim *claim, int64 safe, Snapshot snapshot);

/*
 * The same with a dead letter that is tried again; it may fail again at once, if it
 * cannot be read.  False: its event is gone from the log, and nothing was done.
 */
extern bool evs_hand_out_dead_letter(EvsFetch *fetch, EvsClaim *claim, int64 position,
									 int attempt, Snapshot snapshot);

/* Nothing is handed out, and that is not the end: tell everybody. */
extern void evs_hand_out_later(const EvsFetch *fetch);

#endif							/* EVS_HAND_OUT_H */
