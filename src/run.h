/*
 * run.h - apply the log to async projections in the caller's session.
 */
#ifndef EVS_RUN_H
#define EVS_RUN_H

#include "evsource.h"

extern void evs_run_init(void);

#endif							/* EVS_RUN_H */
