/*
 * restore.h - rows that bring their places in the log.
 */
#ifndef EVS_RESTORE_H
#define EVS_RESTORE_H

#include "evsource.h"

#include "utils/relcache.h"

/*
 * Call before a row is stored at the position that it brings: makes it safe for
 * readers, or raises 55000 where it cannot be.
 */
extern void evs_restore_row(Relation events, const EvsEvent *row);

#endif							/* EVS_RESTORE_H */
