/*
 * state_keys.h - walk the keys of a fold projection, in their order.
 */
#ifndef EVS_STATE_KEYS_H
#define EVS_STATE_KEYS_H

#include "evsource.h"
#include "projection.h"

#include "utils/snapshot.h"

typedef struct EvsKeyWalk EvsKeyWalk;

/*
 * Keyed by stream: the streams of the filter's categories that the snapshot
 * sees, whether or not any of their events is the projection's.  Otherwise: the
 * keys that have a row.
 */
extern EvsKeyWalk *evs_key_walk(const EvsProjection *projection, Snapshot snapshot);

/* The next key, or NULL; valid until the next call. */
extern text *evs_key_walk_next(EvsKeyWalk *walk);
extern void evs_key_walk_end(EvsKeyWalk *walk);

#endif							/* EVS_STATE_KEYS_H */
