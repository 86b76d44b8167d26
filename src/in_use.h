/*
 * in_use.h - whether a log is in use: no dump is restored over it.
 */
#ifndef EVS_IN_USE_H
#define EVS_IN_USE_H

#include "evsource.h"

/* Were events appended here, or imported where readers may have been? */
extern bool evs_log_in_use(void);

#endif							/* EVS_IN_USE_H */
