/*
 * give_way.h - who waits gives way to who updates or drops the extension.
 *
 * A session that sleeps in fetch_events(), wait_for() or start_daemon() has locked what it
 * has read until its statement ends, or its transaction.
 */
#ifndef EVS_GIVE_WAY_H
#define EVS_GIVE_WAY_H

#include "evsource.h"

#include "clock.h"


/*
 * Is somebody about to?  Then the wait is to end soon.  Asked before each sleep, by a session
 * that has registered (wakeup.h): whoever comes later wakes it.
 */
extern bool evs_give_way(EvsTime *until);

/* Error 55P03, if that somebody is still there; it lets go of the transaction's locks. */
extern void evs_give_way_or_fail(void);

/* For a caller that ends a wait without an error: the same if the transaction waits again. */
extern void evs_give_way_once(void);

#endif							/* EVS_GIVE_WAY_H */
