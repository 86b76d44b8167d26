/*
 * publish.h - the safe position, for those that cannot compute it.
 */
#ifndef EVS_PUBLISH_H
#define EVS_PUBLISH_H

#include "evsource.h"

/* Publish the safe position of now with this transaction's commit; returns it. */
extern int64 evs_publish_safe_position(void);

/*
 * For who cannot wait: have our turn until the end of the transaction.  False: somebody else
 * has it, and may keep it.
 */
extern bool evs_publish_try_turn(void);

#endif							/* EVS_PUBLISH_H */
