/*
 * publish.h - the safe position, for those that cannot compute it.
 */
#ifndef EVS_PUBLISH_H
#define EVS_PUBLISH_H

#include "evsource.h"

/* Publish the safe position of now with this transaction's commit; returns it. */
extern int64 evs_publish_safe_position(void);

#endif							/* EVS_PUBLISH_H */
