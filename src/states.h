/*
 * states.h - what the functions about states and snapshots share: one call of
 * theirs, on one fold projection.
 */
#ifndef EVS_STATES_H
#define EVS_STATES_H

#include "evsource.h"
#include "folder.h"
#include "identity.h"
#include "projection.h"
#include "state_cache.h"

#include "utils/snapshot.h"

typedef struct EvsStateCall
{
	EvsProjection *projection;
	EvsFolder  *folder;
	EvsIdentity identity;
	Snapshot	snapshot;		/* registered and active */
	int64		definition;		/* by which events are folded: evs_snapshot_definition() */
	bool		applied_only;	/* see evs_state_ask_for_all() */
} EvsStateCall;

/* What the caller wants to do with a projection's states. */
typedef enum EvsStateAccess
{
	EVS_STATE_READ,				/* SELECT on events, or the owner's rights */
	EVS_STATE_MANAGE			/* the owner's rights */
} EvsStateAccess;

/*
 * The fold projection of this name, after the caller's rights were checked.
 * Errors: 42704 unknown, 42809 no fold, 42501.
 */
extern EvsProjection *evs_state_projection(const char *name, EvsStateAccess access);

/* May the current user do that? */
extern bool evs_state_may(const EvsProjection *projection, EvsStateAccess access);

/*
 * The argument "key" of a function, for this projection; NULL means that it was
 * not given.  Errors: 22004 when it is missing, 22023 when it makes no sense.
 */
extern text *evs_state_key(const EvsProjection *projection, text *key);

/*
 * Become the owner, with a folder and a snapshot; and come back.  The
 * generation is that of before the projection was loaded, or 0 for a call that
 * leaves the cache alone.
 */
extern void evs_state_begin(EvsStateCall *call, EvsProjection *projection, uint64 generation);
extern void evs_state_end(EvsStateCall *call);

/*
 * All keys are asked for: a stream of which an event is parked shall not keep the
 * others from being told.  Its state ends before that event, as what the projection
 * has applied does.
 */
extern void evs_state_ask_for_all(EvsStateCall *call);

/*
 * The state of a stream now, by way of the cache, in CurrentMemoryContext.  The
 * generation is that of before the projection was loaded.
 */
extern void evs_state_now(EvsProjection *projection, uint64 generation, text *stream,
						  EvsState *state);

/*
 * The state of a key now, apart from the cache, its jsonb in the folder.  For a
 * key that has no events, event_count is 0.
 */
extern void evs_state_of_key(EvsStateCall *call, text *key, EvsState *state);

#endif							/* EVS_STATES_H */
