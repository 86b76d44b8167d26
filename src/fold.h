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
 */
extern void evs_fold_apply(EvsProjection *projection, EvsEvent *const *events, int count);

#endif							/* EVS_FOLD_H */
