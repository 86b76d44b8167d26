/*
 * replication.h - is this log a copy that a subscription of PostgreSQL fills?
 * See replication.c.
 */
#ifndef EVS_REPLICATION_H
#define EVS_REPLICATION_H

#include "evsource.h"

extern void evs_replication_init(void);

/* Does a subscription fill evsource.events? */
extern bool evs_replication_is_copy(void);

/* On a copy: does what is published arrive in one order with the events? */
extern bool evs_replication_is_ordered(void);

/* On a copy: 25006, "cannot" do this. */
extern void evs_replication_refuse(const char *action);

#endif							/* EVS_REPLICATION_H */
