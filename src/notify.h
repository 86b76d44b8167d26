/*
 * notify.h - tell listeners that a read model changed.
 */
#ifndef EVS_NOTIFY_H
#define EVS_NOTIFY_H

#include "evsource.h"
#include "projection.h"

/* If the projection wants it: NOTIFY when this transaction commits. */
extern void evs_notify(const EvsProjection *projection, int64 position);

#endif							/* EVS_NOTIFY_H */
