/*
 * known.h - projections as this worker knows them.
 */
#ifndef EVS_KNOWN_H
#define EVS_KNOWN_H

#include "evsource.h"
#include "projection.h"

/*
 * The projection as it is now, or NULL.  It lives until it is asked for again, by this name
 * or by one that is new.  Call in a transaction.
 */
extern EvsProjection *evs_known_get(const char *name);

/* Look it up again, and let what running it has found out go. */
extern void evs_known_forget(const char *name);

/*
 * Has its handler run in this process, or may it have?  Then what it remembers may be of
 * other times.
 */
extern bool evs_known_used(const char *name);
extern void evs_known_set_used(const char *name);

#endif							/* EVS_KNOWN_H */
