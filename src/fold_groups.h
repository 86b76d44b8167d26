/*
 * fold_groups.h - take a batch apart by key.
 */
#ifndef EVS_FOLD_GROUPS_H
#define EVS_FOLD_GROUPS_H

#include "evsource.h"
#include "projection.h"

/* A key and its events, in their order. */
typedef struct EvsKeyGroup
{
	text	   *key;
	EvsEvent  **events;
	int			count;
} EvsKeyGroup;

/*
 * The groups of a batch, in the order of their first events, in
 * CurrentMemoryContext.  NULL: it is bounded in time, and that is over.  Call as
 * the projection's owner.
 *
 * Errors: as evs_keyer_open() and evs_keyer_keys().
 */
extern EvsKeyGroup *evs_group_by_key(EvsProjection *projection, EvsEvent *const *events,
									 int count, bool bounded, int *ngroups);

#endif							/* EVS_FOLD_GROUPS_H */
