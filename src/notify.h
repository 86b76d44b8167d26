/*
 * notify.h - tell listeners what happened.
 */
#ifndef EVS_NOTIFY_H
#define EVS_NOTIFY_H

#include "evsource.h"

#include "projection.h"

#define EVS_EVENTS_CHANNEL	"evsource_events"

/* The read model of a projection is at this position when we commit, if it is to be told. */
extern void evs_notify(const EvsProjection *projection, int64 position);

/*
 * There are events up to this position that can be read, when we commit; false: the queue
 * is full, and nobody is told.
 */
extern bool evs_notify_events(int64 position);

/*
 * Before that, for a process that cannot wait at its commit for others that notify, of which
 * one may never end: have our turn until the end of the transaction.  False: not in so many ms.
 */
extern bool evs_notify_turn_within(int timeout);

#endif							/* EVS_NOTIFY_H */
