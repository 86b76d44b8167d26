/*
 * alter.h - change a registered projection.
 */
#ifndef EVS_ALTER_H
#define EVS_ALTER_H

#include "evsource.h"
#include "projection.h"

/*
 * Replace one definition by another, in this transaction.  Behind the barrier
 * when appends are concerned; a projection that becomes inline catches up,
 * unless concurrently says that activate_projection will do it.
 */
extern void evs_alter_apply(EvsProjection *old, EvsProjection *new, bool concurrently);

/* Nothing more is applied to it; behind the barrier when appends are concerned. */
extern void evs_alter_pause(EvsProjection *projection);

/*
 * Empty the read model, as the owner, and forget the states and snapshots.  The
 * rows of projection and checkpoint are the caller's.  55000 when there is no
 * way to empty it.
 */
extern void evs_reset_check(const EvsProjection *projection);
extern void evs_reset_read_model(EvsProjection *projection);

/* The tables that are to be emptied, with their partitions. */
extern List *evs_reset_relations(const EvsProjection *projection);

/* Only empty it: snapshots stay. */
extern void evs_reset_tables(EvsProjection *projection);

/* Is an on_reset function running? */
extern bool evs_reset_is_calling(void);

#endif							/* EVS_ALTER_H */
