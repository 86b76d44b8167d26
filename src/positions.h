/*
 * positions.h - draw positions from evsource.position_seq.
 */
#ifndef EVS_POSITIONS_H
#define EVS_POSITIONS_H

#include "evsource.h"

/* The last position drawn in this database, 0 when there is none. */
extern int64 evs_positions_last(void);

/*
 * Draw so many positions, without anybody else's between them, and return the
 * first.  "announce", if given, is called with it while nobody can see yet that
 * it is drawn; it must not do more than store it.
 */
extern int64 evs_positions_draw(int count, void (*announce) (int64 first));

#endif							/* EVS_POSITIONS_H */
