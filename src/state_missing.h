/*
 * state_missing.h - errors for who asks for a state that is not there.
 */
#ifndef EVS_STATE_MISSING_H
#define EVS_STATE_MISSING_H

#include "evsource.h"
#include "states.h"

/*
 * P0002: no event of the key is the projection's.  The version is that of the
 * stream, if the key is one.
 */
pg_noreturn extern void evs_state_unknown(const EvsProjection *projection, text *key,
										  int64 version);

/*
 * The stream has nothing up to a version: P0002 when it has nothing at all, 22023
 * when it begins after that.
 */
pg_noreturn extern void evs_state_no_version(EvsStateCall *call, text *key);

/*
 * P0002: the key has no event that occurred before this time.  Reads its events
 * once more, to tell when the earliest did.
 */
pg_noreturn extern void evs_state_too_early(EvsStateCall *call, text *key,
											TimestampTz before, int64 version);

#endif							/* EVS_STATE_MISSING_H */
