/*
 * guard.h - the log is not dropped by accident.
 */
#ifndef EVS_GUARD_H
#define EVS_GUARD_H

#include "evsource.h"

extern void evs_guard_init(void);

#endif							/* EVS_GUARD_H */
