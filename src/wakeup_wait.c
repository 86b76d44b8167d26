/*
 * wakeup_wait.c - wait until something was committed: the other side of wakeup.c.
 *
 * A waiter is registered before it looks whether it has to wait; from then on
 * nothing that it waits for is missed.
 *
 * What it wants may be committed and not safe to read: another append is open and holds
 * the safe position, S, below it.  To look at each commit would be in vain for as long as
 * that lasts, and a hundred that do so leave the others a twentieth of their speed.  So the
 * waiter notes in its entry where it is held, at S + 1, and appends with a higher bound pass
 * it over (wakeup.c).  No wake-up is lost by that:
 *
 * - The waiter makes its note, passes a full barrier, and then asks whether an append is open
 *   whose bound is at or below the note (evs_horizon_is_held()).  If not, it looks again.  If
 *   so, then until that append ends nothing above S is safe to read, and up to S all was
 *   looked at.  When the append ends, it withdraws its bound, passes a full barrier, and then
 *   reads the note.  The waiter has seen the bound, so that was withdrawn afterwards, and the
 *   note is seen; the bound is not higher, so the waiter is woken, or one of its group is; and
 *   its note is taken out, so that the next append does not pass it over.  What it may have
 *   noted anew by then goes with that, for which it looks in vain once more.
 * - It may be any append at or below the note.  Which is the lowest, and what others come or
 *   go meanwhile, be it with lower bounds, as imports can, decides only how often the waiter
 *   looks in vain: whenever it is woken it finds out and notes all of it again.
 * - An append ends by a commit, a rollback, the end of its session, or PREPARE: each of
 *   them calls the same callback, and then wakes.  A savepoint's rollback leaves the bound
 *   and so ends nothing.  The bound of a prepared one is a lock; the command that ends that
 *   does not know it, and wakes everybody.  A process that ends it without a command, such as
 *   one of logical replication, wakes nobody: so a held waiter looks now and then, where there
 *   can be prepared ones.  Where a backend dies otherwise, so do all who wait.
 * - The note stays while the waiter looks, so that no other append disturbs it.  What has
 *   passed it over meanwhile is above S if it is held again.  If it is not, it takes the note
 *   back and looks once more (evs_wakeup_want()).
 * - In a group, nobody may look after a commit that has passed over all of it.  The end of
 *   what they are held by wakes one, and who leaves before hands on.
 * - What else there is to wait for, cursors that come free and the like, asks for no note.
 */
#include "evsource.h"

#include <limits.h>

#include "access/twophase.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/resowner.h"

#include "clock.h"
#include "give_way.h"
#include "shmem.h"
#include "waited.h"
#include "wakeup.h"
#include "wakeup_channel.h"
#include "wakeup_group.h"

/* how long we sleep where a session may not know that it should wake us (ms) */
#define SAFETY_TIMEOUT		1000

/* what we wait for */
static bool registered = false;
static uint32 registered_channel;
static EvsWanted wanted;		/* and which events, unless ... */
static bool wants_all;			/* ... it has to be all of them for now, ... */
static int64 held_at;			/* ... or those that hold back what is wanted; 0: all */
static uint64 registered_group; /* 0: none */
static bool watches;			/* somebody has to, in the group */

static uint32 session_wait_event = 0;

static void
count_registration(EvsShared *shared, int change)
{
	if (wants_all)
		pg_atomic_fetch_add_u32(&shared->waiting_events, change);
	else if (wanted.nkinds > 0)
	{
		int64		me = (int64) evs_shmem_one_waiting(EvsMyProcNumber());

		for (int i = 0; i < wanted.nkinds; i++)
			pg_atomic_fetch_add_u64(&shared->waiting_kinds[wanted.kinds[i] % EVS_KIND_GROUPS], change * me);
		pg_atomic_fetch_add_u32(&shared->waiting_some, change);
	}
	if (registered_channel != EVS_CHANNEL_EVENTS)
		pg_atomic_fetch_add_u32(&shared->waiting_projections, change);
}

/* In a word: see evs_shmem_awaited(). */
static uint64
registered_set(void)
{
	uint64		set = evs_channel_set_of(registered_channel);

	if (wants_all)
		return EVS_CHANNEL_SET_ALL;
	for (int i = 0; i < wanted.nkinds; i++)
		set |= evs_channel_set_of_kind(wanted.kinds[i]);
	return set;
}

/* True: we were woken, and have not looked since. */
static bool
withdraw_entry(void)
{
	EvsShared  *shared = evs_shmem();
	EvsWaiter  *waiter = &evs_shmem_waiters(shared)[EvsMyProcNumber()];
	bool		woken = pg_atomic_exchange_u32(&waiter->state, EVS_WAITER_GONE) == EVS_WAITER_WOKEN;

	pg_atomic_write_u32(&waiter->database, InvalidOid);
	pg_atomic_write_u64(&evs_shmem_awaited(shared)[EvsMyProcNumber()], 0);
	count_registration(shared, -1);
	registered = false;
	return woken;
}

static void
leave(void)
{
	bool		woken = withdraw_entry();

	if (registered_group != 0 && (woken || watches))
		evs_group_hand_on(evs_shmem(), registered_group);
}

static void
process_exits(int code, Datum arg)
{
	if (registered && evs_shmem() != NULL)
		leave();
}

static void
publish_entry(EvsShared *shared)
{
	static bool cleans_up = false;
	int			number = EvsMyProcNumber();
	EvsWaiter  *waiter;

	if (number < 0 || number >= shared->nslots)
		elog(ERROR, "backend number %d is outside of evsource's %d slots",
			 number, shared->nslots);
	if (!cleans_up)
	{
		before_shmem_exit(process_exits, (Datum) 0);
		cleans_up = true;
	}

	waiter = &evs_shmem_waiters(shared)[number];
	waiter->channel = registered_channel;
	waiter->nkinds = wanted.nkinds;
	memcpy(waiter->kinds, wanted.kinds, sizeof(wanted.kinds));
	waiter->wants = wants_all ? EVS_WANTS_ALL :
		wanted.nkinds > 0 ? EVS_WANTS_KINDS : EVS_WANTS_NONE;
	waiter->group = registered_group;
	pg_atomic_write_u64(&waiter->held_at, (uint64) held_at);
	watches = true;
	pg_write_barrier();
	pg_atomic_write_u32(&waiter->database, MyDatabaseId);
	pg_write_barrier();
	pg_atomic_write_u32(&waiter->state, EVS_WAITER_LOOKS);
	pg_atomic_write_u64(&evs_shmem_awaited(shared)[number], registered_set());
	/* a full barrier: what we look at from now on is looked at after it */
	count_registration(shared, 1);
}

/* The tags of what we wait for; the first is of anything at all. */
static int
registered_locktags(LOCKTAG *tags)
{
	int			count = 0;

	evs_channel_locktag(&tags[count++], EVS_CHANNEL_ANY, 0);
	if (registered_channel != EVS_CHANNEL_EVENTS)
		evs_channel_locktag(&tags[count++], 0, registered_channel);
	if (wanted.nkinds > 0 || wants_all)
		evs_channel_locktag(&tags[count++], 0, EVS_CHANNEL_EVENTS);
	return count;
}

static void
take_locks(void)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	LOCKTAG		tags[3];

	Assert(IsTransactionState());
	CurrentResourceOwner = TopTransactionResourceOwner;
	for (int i = registered_locktags(tags); i > 0; i--)
		(void) LockAcquire(&tags[i - 1], ShareLock, false, false);
	CurrentResourceOwner = old_owner;
}

static void
release_locks(void)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	LOCKTAG		tags[3];

	CurrentResourceOwner = TopTransactionResourceOwner;
	for (int i = registered_locktags(tags); i > 0; i--)
		(void) LockRelease(&tags[i - 1], ShareLock, false);
	CurrentResourceOwner = old_owner;
}

/* Each category with each type, or else whatever there are few of. */
void
evs_wakeup_wanted(const EvsFilter *filter, EvsWanted *set)
{
	bool		pairs = Max(filter->ncategories, 1) * Max(filter->ntypes, 1) <= EVS_WAITER_KINDS;
	int			ncategories = pairs || filter->ncategories <= EVS_WAITER_KINDS ? filter->ncategories : 0;
	int			ntypes = pairs || (ncategories == 0 && filter->ntypes <= EVS_WAITER_KINDS) ? filter->ntypes : 0;

	memset(set, 0, sizeof(EvsWanted));
	for (int c = 0; c < Max(ncategories, 1); c++)
	{
		uint32		category = ncategories == 0 ? 0 :
			evs_channel_category(VARDATA_ANY(filter->categories[c]),
								 VARSIZE_ANY_EXHDR(filter->categories[c]));

		for (int t = 0; t < ntypes; t++)
		{
			uint32		type = evs_channel_type(filter->types[t]);

			set->kinds[set->nkinds++] = ncategories == 0 ? type :
				evs_channel_category_type(category, type);
		}
		if (ntypes == 0 && ncategories > 0)
			set->kinds[set->nkinds++] = category;
	}
}

static void
set_wanted(const EvsWanted *set, bool all)
{
	wants_all = all;
	if (set == NULL)
		memset(&wanted, 0, sizeof(wanted));
	else
		wanted = *set;
}

static void
register_channel(uint32 channel, uint64 group, bool all, const EvsWanted *set)
{
	EvsShared  *shared = evs_shmem();

	if (registered)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for events or projections during another wait"),
				 errdetail("This session waits already, and has called a function meanwhile."),
				 errhint("Do not wait in upcasters.")));
	registered_channel = channel;
	registered_group = group;
	set_wanted(set, all);
	held_at = 0;
	if (shared != NULL)
		publish_entry(shared);
	else
		take_locks();
	registered = true;
}

void
evs_wakeup_register_events(void)
{
	register_channel(EVS_CHANNEL_EVENTS, 0, true, NULL);
}

void
evs_wakeup_register_daemon(void)
{
	register_channel(evs_channel_of_daemon(), 0, false, NULL);
}

void
evs_wakeup_register_subscription(const char *subscription, const EvsWanted *set)
{
	register_channel(evs_channel_of_subscription(subscription), evs_channel_group(subscription),
					 set->nkinds == 0, set);
	evs_waited_note();
}

bool
evs_wakeup_want(const EvsWanted *set, int64 bound)
{
	EvsShared  *shared = evs_shmem();
	bool		all = bound != 0 || set->nkinds == 0;
	bool		was_passed_over = held_at != 0;

	Assert(registered);
	/* the locks are those of all events in any case */
	if (shared == NULL)
		return false;
	held_at = bound;
	if (wants_all != all || memcmp(&wanted, set, sizeof(EvsWanted)) != 0)
	{
		(void) withdraw_entry();
		set_wanted(set, all);
		publish_entry(shared);
		registered = true;
		return true;
	}
	pg_atomic_write_u64(&evs_shmem_waiters(shared)[EvsMyProcNumber()].held_at, (uint64) bound);
	/* from now on we look at who holds us, or at all there is */
	pg_memory_barrier();
	return was_passed_over && bound == 0;
}

void
evs_wakeup_unregister(void)
{
	if (!registered)
		return;
	if (evs_shmem() != NULL)
		leave();
	else
		release_locks();
	registered = false;
}

void
evs_wakeup_looks(void)
{
	EvsShared  *shared = evs_shmem();

	if (shared == NULL)
		return;
	watches = true;
	/* a full barrier: what was committed before is seen by the look to come */
	(void) pg_atomic_exchange_u32(&evs_shmem_waiters(shared)[EvsMyProcNumber()].state, EVS_WAITER_LOOKS);
}

bool
evs_wakeup_found_nothing(bool watches_something)
{
	EvsShared  *shared = evs_shmem();
	uint32		expected = EVS_WAITER_LOOKS;

	if (shared == NULL)
		return true;
	watches = watches_something;
	return pg_atomic_compare_exchange_u32(&evs_shmem_waiters(shared)[EvsMyProcNumber()].state,
										  &expected, EVS_WAITER_SLEEPS);
}

bool
evs_wakeup_needs_transaction(void)
{
	return evs_shmem() == NULL;
}

/*
 * Without shared memory a committer cannot be found by everybody at all times.
 * And COMMIT PREPARED may come from a session that has not loaded the library,
 * unless all sessions do; or, if what was prepared holds us, be no command that we see.
 */
static long
safe_timeout(long timeout)
{
	bool		everybody_wakes = evs_shmem() != NULL &&
		((evs_shmem_is_preloaded() && held_at == 0) || max_prepared_xacts == 0);

	if (everybody_wakes || (timeout >= 0 && timeout < SAFETY_TIMEOUT))
		return timeout;
	return SAFETY_TIMEOUT;
}

void
evs_wakeup_sleep(long timeout, uint32 wait_event)
{
	/* WaitLatch() takes no more; who waits longer looks in between */
	timeout = Min(safe_timeout(timeout), INT_MAX);
	/* what came during another wait, say of a commit for a standby, has set no latch for us */
	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
					 timeout, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static bool
wait_registered(EvsWakeupCondition condition, void *argument, long timeout)
{
	EvsTime		until = timeout < 0 ? EVS_NEVER : evs_clock_in(timeout);
	EvsTime		soon = until;

	if (session_wait_event == 0)
		session_wait_event = evs_wakeup_wait_event("EvsourceWait");

	while (!condition(argument))
	{
		bool		gives_way = evs_give_way(&soon);
		long		left = -1;

		if (gives_way || timeout >= 0)
		{
			left = evs_clock_left(gives_way ? soon : until);
			if (left <= 0 && gives_way)
				evs_give_way_or_fail();
			else if (left <= 0)
				return false;
		}
		evs_wakeup_sleep(left, session_wait_event);
	}
	return true;
}

bool
evs_wakeup_wait_projection(const char *projection, EvsWakeupCondition condition,
						   void *argument, long timeout)
{
	volatile bool holds = false;

	register_channel(evs_channel_of_projection(projection), 0, false, NULL);
	evs_waited_note();
	PG_TRY();
	{
		holds = wait_registered(condition, argument, timeout);
	}
	PG_CATCH();
	{
		evs_wakeup_unregister();
		PG_RE_THROW();
	}
	PG_END_TRY();
	evs_wakeup_unregister();
	return holds;
}

static List *
sleepers_by_locks(const LockData *locks)
{
	List	   *pids = NIL;
	LOCKTAG		tag;

	evs_channel_locktag(&tag, EVS_CHANNEL_ANY, 0);
	for (int i = 0; i < locks->nelements; i++)
	{
		if (locks->locks[i].holdMask != 0 &&
			memcmp(&locks->locks[i].locktag, &tag, sizeof(LOCKTAG)) == 0)
			pids = lappend_int(pids, locks->locks[i].pid);
	}
	return pids;
}

List *
evs_wakeup_sleepers(const LockData *locks)
{
	EvsShared  *shared = evs_shmem();
	List	   *pids = NIL;

	if (shared == NULL)
		return sleepers_by_locks(locks);
	for (int i = 0; i < shared->nslots; i++)
	{
		if (pg_atomic_read_u32(&evs_shmem_waiters(shared)[i].database) == MyDatabaseId)
			pids = lappend_int(pids, GetPGProcByNumber(i)->pid);
	}
	return pids;
}

uint32
evs_wakeup_wait_event(const char *name)
{
	return WaitEventExtensionNew(name);
}
