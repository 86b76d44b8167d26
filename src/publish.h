/*
 * publish.h - the safe position, for those that cannot compute it.
 */
#ifndef EVS_PUBLISH_H
#define EVS_PUBLISH_H

#include "evsource.h"

/* Publish the safe position of now with this transaction's commit; returns it. */
extern int64 evs_publish_safe_position(void);

/*
 * The same if it is higher than what was published before, for who cannot wait.  -1: another
 * one publishes, and may not end; or the log is closed, and it is not for us to end a
 * restore (restore.c).
 */
extern int64 evs_publish_next(int64 published);

#endif							/* EVS_PUBLISH_H */
