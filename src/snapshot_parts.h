/*
 * snapshot_parts.h - large states, as many short rows: evsource.snapshot_parts.
 */
#ifndef EVS_SNAPSHOT_PARTS_H
#define EVS_SNAPSHOT_PARTS_H

#include "evsource.h"

#include "utils/snapshot.h"

/* A state as parts. */
typedef struct EvsParts
{
	int			count;
	Datum	   *parts;			/* bytea */
} EvsParts;

/*
 * Take a state apart, in CurrentMemoryContext, if it is too large for a row even
 * when it is compressed; false if it is not.  The names in its row take so many
 * bytes.
 */
extern bool evs_parts_make(const Jsonb *state, Size names, EvsParts *parts);

/* The key's state is this from now on; the row of the key was written. */
extern void evs_parts_write(const char *projection, text *key, const EvsParts *parts);

/* Has the projection any?  Those of these keys (a text[]) that are small by now go. */
extern bool evs_parts_exist(const char *projection);
extern void evs_parts_clear_small(const char *projection, Datum keys);

/*
 * The state of a key whose row has none, in CurrentMemoryContext; NULL when it
 * cannot be read here.
 */
extern Jsonb *evs_parts_read(const char *projection, text *key, Snapshot snapshot);

/* Remove a projection's. */
extern void evs_parts_clear(const char *projection);

#endif							/* EVS_SNAPSHOT_PARTS_H */
