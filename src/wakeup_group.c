/*
 * wakeup_group.c - of those who wait for the same subscription, wake one.
 *
 * What there is to be handed out goes to one of them, and to wake a thousand for it
 * would be a thousand looks in vain.  So each commit sees to it that one of them
 * looks after it: one that sleeps, or else one that is looking just now does so
 * again.  One that was woken and has not begun to look yet is enough.
 *
 * The one that was woken may not be able to take all there is: there may be something
 * in other partitions, or its time is over.  And what it takes comes free again when its
 * lease runs out, which somebody must know.  So one that leaves hands on, to one more,
 * unless it has looked in vain and knows of nothing to come (wakeup_wait.c).
 *
 * The states go round by compare-and-swap:
 *
 *	gone -> looks		it has registered
 *	looks -> sleeps		it has found nothing
 *	sleeps -> woken		by a committer, which also sets the latch
 *	looks -> woken		by a committer: it is not to sleep, but to look again
 *	any -> looks		it looks: what was committed before is seen
 *	any -> gone			it leaves, and knows whether it was woken
 */
#include "evsource.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"

#include "wakeup_group.h"

/* groups that have one who will look; those that do not fit are woken once too often */
#define MAX_SERVED			256
#define MAX_PROBES			4

static uint64 served[MAX_SERVED];

/* Where the group is among them, or could be; NULL: there is no room. */
static uint64 *
place_of(uint64 group)
{
	for (int i = 0; i < MAX_PROBES; i++)
	{
		uint64	   *place = &served[(group + i) % MAX_SERVED];

		if (*place == group || *place == 0)
			return place;
	}
	return NULL;
}

/*
 * True: this one will look, after what we have committed.  If it is looking just now
 * it is asked to only if there is no other.
 */
static bool
rouse(EvsWaiter *waiter, int number, uint64 group, bool also_looking)
{
	uint32		state = pg_atomic_read_u32(&waiter->state);

	while (state == EVS_WAITER_SLEEPS || (state == EVS_WAITER_LOOKS && also_looking))
	{
		if (pg_atomic_compare_exchange_u32(&waiter->state, &state, EVS_WAITER_WOKEN))
		{
			SetLatch(&GetPGProcByNumber(number)->procLatch);
			state = EVS_WAITER_WOKEN;
		}
	}
	pg_read_barrier();
	/* the entry may be another's by now */
	return state == EVS_WAITER_WOKEN && waiter->group == group;
}

void
evs_group_begin(void)
{
	memset(served, 0, sizeof(served));
}

/* Has the group nobody who will look yet, but one who is looking? */
bool
evs_group_offer(EvsWaiter *waiter, int number, bool again)
{
	uint64		group = waiter->group;
	uint64	   *place = place_of(group);

	if (place != NULL && *place == group)
		return false;
	if (!rouse(waiter, number, group, again))
		return pg_atomic_read_u32(&waiter->state) == EVS_WAITER_LOOKS;
	if (place != NULL)
		*place = group;
	return false;
}

static bool
rouse_one_of(EvsShared *shared, uint64 group, bool also_looking)
{
	EvsWaiter  *waiters = evs_shmem_waiters(shared);

	for (int i = 0; i < shared->nslots; i++)
	{
		if (waiters[i].group == group && rouse(&waiters[i], i, group, also_looking))
			return true;
	}
	return false;
}

void
evs_group_hand_on(EvsShared *shared, uint64 group)
{
	if (!rouse_one_of(shared, group, false))
		(void) rouse_one_of(shared, group, true);
}
