/*
 * state_past.h - the states of many keys before a time.
 */
#ifndef EVS_STATE_PAST_H
#define EVS_STATE_PAST_H

#include "evsource.h"
#include "state_keys.h"
#include "state_load.h"

/* What is done with one, which is valid during the call. */
typedef void (*EvsUseState) (void *arg, text *key, EvsState *state);

/*
 * As evs_state_load_key_at() and evs_state_finish(), of each key that the walk has
 * and that is no stream, in its order.
 */
extern void evs_state_load_keys_at(EvsFolder *folder, EvsKeyWalk *walk, const EvsStateAt *at,
								   Snapshot snapshot, EvsUseState use, void *arg);

#endif							/* EVS_STATE_PAST_H */
