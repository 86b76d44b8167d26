/*
 * run.h - apply the log to async projections in the caller's session.
 */
#ifndef EVS_RUN_H
#define EVS_RUN_H

#include "evsource.h"
#include "projection.h"

extern void evs_run_init(void);

/*
 * Apply what the log has to an async or manual projection that is active;
 * returns how many events that were.  The caller holds its name, and the level
 * is READ COMMITTED.
 */
extern int64 evs_run(EvsProjection *projection);

#endif							/* EVS_RUN_H */
