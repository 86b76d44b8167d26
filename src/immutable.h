/*
 * immutable.h - events do not change.
 */
#ifndef EVS_IMMUTABLE_H
#define EVS_IMMUTABLE_H

#include "evsource.h"

extern void evs_immutable_init(void);

/* From here on (until the (sub)transaction fails) a DELETE of events passes, or not. */
extern void evs_immutable_allow_deletes(bool allowed);

#endif							/* EVS_IMMUTABLE_H */
