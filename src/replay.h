/*
 * replay.h - apply to one projection what the log already has.
 */
#ifndef EVS_REPLAY_H
#define EVS_REPLAY_H

#include "evsource.h"
#include "dispatch.h"
#include "projection.h"
#include "registry.h"

/*
 * Apply a batch of the events after the checkpoint up to and including a position,
 * in order, and move the checkpoint (the struct, not its row).  Returns the number
 * of events applied.
 */
extern int64 evs_replay_some(EvsProjection *projection, EvsCheckpoint *checkpoint,
							 int64 upto, const EvsScanLimit *limit);

/*
 * Bring an inline projection up to date in this transaction and make it active:
 * the bulk first, the rest behind the barrier, which stays held.
 */
extern void evs_replay_activate(EvsProjection *projection);

/* The second half of it, for a caller who holds the barrier. */
extern void evs_replay_finish(EvsProjection *projection, EvsCheckpoint *checkpoint);

/*
 * Take an active inline projection out of the appenders' hands: take the
 * barrier and write down how far it is and how much it has applied.
 */
extern void evs_replay_settle(EvsProjection *projection);

/* Write down most of how much it has applied; the caller has the lock on its name. */
extern void evs_replay_note_count(const EvsProjection *projection);

/*
 * Write down what the active inline projections have applied by now, where that
 * has not been done for long: who asks for the count then counts from there.
 * Below the safe position it cannot change any more.  Leaves out those that
 * somebody else works on.
 */
extern void evs_replay_note_counts(void);

#endif							/* EVS_REPLAY_H */
