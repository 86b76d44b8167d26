/*
 * fold.h - fold projections: a state per key, computed from the key's events.
 */
#ifndef EVS_FOLD_H
#define EVS_FOLD_H

#include "evsource.h"
#include "projection.h"

/*
 * Fold events (already filtered, in order) into the states of their keys and
 * save what the projection's policy says.  Called by dispatch as the owner.
 * Inline: the events are already stored; a state is loaded up to the version
 * before the key's first event here.
 *
 * Returns how many from the first on that were.  bounded: it ends when the alarm has
 * rung, if it can: with 0 where that leaves several keys at different events.
 */
extern int	evs_fold_apply(EvsProjection *projection, EvsEvent *const *events, int count,
						   bool bounded);

#endif							/* EVS_FOLD_H */
