/*
 * new_events.h - the kind of projection that is a query: one statement, which
 * sees all events of a batch as the relation new_events.
 */
#ifndef EVS_NEW_EVENTS_H
#define EVS_NEW_EVENTS_H

#include "evsource.h"
#include "handlers.h"
#include "projection.h"

/* Run the query over the events that next() returns. */
extern void evs_new_events_run(EvsProjection *projection, EvsNextEvent next, void *source);

#endif							/* EVS_NEW_EVENTS_H */
