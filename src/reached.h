/*
 * reached.h - how far the log has come, whatever its sequence says.
 */
#ifndef EVS_REACHED_H
#define EVS_REACHED_H

#include "evsource.h"

#include "utils/snapshot.h"

/*
 * The highest position of an event, of one that was restored and rolled back, and of who
 * follows the log, 0 when there is none.
 */
extern int64 evs_reached(void);

/* The highest position of an event that the snapshot sees, 0 when there is none. */
extern int64 evs_reached_event(Snapshot snapshot);

/* The highest value of a column, of bigint, in a table of a few rows; 0 when there is none. */
extern int64 evs_reached_in(Oid table, AttrNumber column, Snapshot snapshot);

#endif							/* EVS_REACHED_H */
