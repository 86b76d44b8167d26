/*
 * wakeup_group.h - of those who wait for the same subscription, wake one.
 */
#ifndef EVS_WAKEUP_GROUP_H
#define EVS_WAKEUP_GROUP_H

#include "evsource.h"

#include "shmem.h"

/*
 * Who goes through the entries and wakes: begin; offer a wake-up to each entry that
 * it concerns, and, if any offer says so, to each once more.  Never fails.
 */
extern void evs_group_begin(void);
extern bool evs_group_offer(EvsWaiter *waiter, int number, bool again);

/* For one that leaves a group: another is to look in its place. */
extern void evs_group_hand_on(EvsShared *shared, uint64 group);

#endif							/* EVS_WAKEUP_GROUP_H */
