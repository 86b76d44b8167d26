/*
 * horizon.h - which positions are safe to read: below the safe position no
 * event can appear any more.  See horizon.c for the protocol.
 */
#ifndef EVS_HORIZON_H
#define EVS_HORIZON_H

#include "evsource.h"

extern void evs_horizon_init(void);

/* Writer: call before rows are stored at positions that are given (a restore). */
extern void evs_horizon_publish(void);

/*
 * Writer: draw so many positions, one after the other, and return the first.
 * The stream is locked and its version read.
 */
extern int64 evs_horizon_draw(int count);

/* The last position drawn from the sequence, 0 when there is none. */
extern int64 evs_horizon_last_position(void);

/*
 * Reader: every event at or below the result is visible to a snapshot that is
 * taken after this call (and none can come later).  Take the snapshot AFTER.
 */
extern int64 evs_horizon_safe_position(void);

#endif							/* EVS_HORIZON_H */
