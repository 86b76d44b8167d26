/*
 * guard.h - the log is not dropped by accident.
 */
#ifndef EVS_GUARD_H
#define EVS_GUARD_H

#include "evsource.h"

extern void evs_guard_init(void);

/* For who had to wait for a projection: 42704 if the extension was dropped meanwhile. */
extern void evs_guard_check_there(const char *name);

#endif							/* EVS_GUARD_H */
