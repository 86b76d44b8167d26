/*
 * wakeup.c - wait until something was committed, and wake those who wait.
 *
 * With shared memory (shmem.c) every backend has an entry that says what it
 * waits for, and counters say how many do: for all events, for those of one
 * category (by its hash), for other things.  A transaction that appended ends:
 * its bound is withdrawn, its locks are released, then, after a barrier, it
 * looks at the counters.  Nobody waits: that was all.  Else it goes through the
 * entries and sets the latches of those that wait for what it did.
 *
 * No wake-up is lost: who waits writes its entry, raises the counter (a full
 * barrier), and only then looks whether it has to wait.  Either it sees what
 * was committed, or the committer sees the entry.
 *
 * Without shared memory (up to 16, not preloaded) who waits holds a lock tag of
 * our own, in share mode, and the committer asks the lock table who holds it.
 * The lock table tells of transactions, so who waits is in one; the lock belongs
 * to the transaction and goes with it.
 *
 * The committer acts in a callback for the release of resources, after locks: up
 * to then, without shared memory, the bound is still published.  Nothing may
 * fail there, the transaction is committed.
 */
#include "evsource.h"

#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "daemon.h"
#include "event.h"
#include "shmem.h"
#include "wakeup.h"

/* what there is to wait for: events, or a projection (the hash of its name) */
#define CHANNEL_EVENTS		0

/* the lock tags of who waits: for a channel, and for anything at all */
#define WAIT_LOCK_CLASS		0xE9
#define ANY_CHANNEL			1	/* in the tag's second field; 0: the channel in the third */

/* how long we sleep where somebody may not know that he should wake us (ms) */
#define SAFETY_TIMEOUT		1000

/* So many projections are told apart; a transaction that moves more wakes all. */
#define MAX_MOVED			16

/* what the transaction that is ending has done */
static bool appended = false;
static bool changed = false;
static Oid	created_database = InvalidOid;
static uint32 moved[MAX_MOVED];
static int	nmoved = 0;

/* and to which categories it has appended, by their hashes */
#define MAX_CATEGORIES		8	/* more: any */
static uint32 categories[MAX_CATEGORIES];
static int	ncategories = 0;

/* what we wait for */
static bool registered = false;
static uint32 registered_channel;
static bool registered_category;	/* for a category's events, unless ... */
static bool wants_all;			/* ... it has to be all of them for now */
static uint32 wanted_category;

static uint32 session_wait_event = 0;

static uint32
projection_channel(const char *projection)
{
	uint32		hash = DatumGetUInt32(hash_any((const unsigned char *) projection,
											   strlen(projection)));

	return hash == CHANNEL_EVENTS ? 1 : hash;
}

/* A name of its own among the channels: a subscription may be called as a projection. */
static uint32
subscription_channel(const char *subscription)
{
	return hash_combine(projection_channel(subscription), 6) | 1;
}

static void
wait_locktag(LOCKTAG *tag, uint32 kind, uint32 channel)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, kind, channel, WAIT_LOCK_CLASS);
}

/*
 * Waking.
 */

static bool
has_moved(uint32 channel)
{
	for (int i = 0; i < nmoved; i++)
	{
		if (moved[i] == channel)
			return true;
	}
	return false;
}

static bool
has_appended_to(uint32 category)
{
	for (int i = 0; i < Min(ncategories, MAX_CATEGORIES); i++)
	{
		if (categories[i] == category)
			return true;
	}
	return ncategories > MAX_CATEGORIES;
}

/* Has it done something that this entry is about? */
static bool
concerns(const EvsWaiter *waiter)
{
	if (changed || has_moved(waiter->channel))
		return true;
	if (!appended)
		return false;
	return waiter->wants == EVS_WANTS_ALL ||
		(waiter->wants == EVS_WANTS_CATEGORY && has_appended_to(waiter->category));
}

/* Does anybody wait for the categories that were appended to? */
static bool
category_is_wanted(EvsShared *shared)
{
	if (pg_atomic_read_u32(&shared->waiting_category) == 0)
		return false;
	if (ncategories > MAX_CATEGORIES)
		return true;
	for (int i = 0; i < ncategories; i++)
	{
		if (pg_atomic_read_u32(&shared->waiting_categories[categories[i] % EVS_CATEGORY_GROUPS]) > 0)
			return true;
	}
	return false;
}

static void
wake_entries(EvsShared *shared)
{
	EvsWaiter  *waiters = evs_shmem_waiters(shared);

	for (int i = 0; i < shared->nslots; i++)
	{
		if (pg_atomic_read_u32(&waiters[i].database) != MyDatabaseId)
			continue;
		pg_read_barrier();
		if (concerns(&waiters[i]))
			SetLatch(&GetPGProcByNumber(i)->procLatch);
	}
}

static void
wake_lock_holders(uint32 kind, uint32 channel)
{
	VirtualTransactionId *holders;
	LOCKTAG		tag;
	int			count;

	wait_locktag(&tag, kind, channel);
	if (LockWaiterCount(&tag) == 0)
		return;

	holders = GetLockConflicts(&tag, ExclusiveLock, &count);
	for (int i = 0; i < count; i++)
	{
		PGPROC	   *proc = evs_vxid_get_proc(&holders[i]);

		if (proc != NULL)
			SetLatch(&proc->procLatch);
	}
	pfree(holders);
}

/* Asking the lock table takes memory: that there is none must not be an error. */
static void
wake_by_locks(void)
{
	MemoryContext context = CurrentMemoryContext;
	uint32		holdoff = InterruptHoldoffCount;

	PG_TRY();
	{
		if (changed)
			wake_lock_holders(ANY_CHANNEL, 0);
		else
		{
			if (appended)
				wake_lock_holders(0, CHANNEL_EVENTS);
			for (int i = 0; i < nmoved; i++)
				wake_lock_holders(0, moved[i]);
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		InterruptHoldoffCount = holdoff;
		FlushErrorState();
	}
	PG_END_TRY();
}

static void
wake(void)
{
	EvsShared  *shared = evs_shmem();

	/* what we did is visible and withdrawn; now see who waits for it */
	pg_memory_barrier();
	if (shared == NULL)
		wake_by_locks();
	else if (((appended || changed) && pg_atomic_read_u32(&shared->waiting_events) > 0) ||
			 ((nmoved > 0 || changed) && pg_atomic_read_u32(&shared->waiting_projections) > 0) ||
			 (appended && category_is_wanted(shared)))
		wake_entries(shared);
}

void
evs_wakeup_appended(void)
{
	appended = true;
}

static uint32
category_hash(const char *name, int length)
{
	return DatumGetUInt32(hash_any((const unsigned char *) name, length));
}

void
evs_wakeup_stream(const text *stream)
{
	const char *name = VARDATA_ANY(stream);
	uint32		hash = category_hash(name, evs_category_length(name, VARSIZE_ANY_EXHDR(stream)));

	if (ncategories > MAX_CATEGORIES || has_appended_to(hash))
		return;
	if (ncategories < MAX_CATEGORIES)
		categories[ncategories] = hash;
	ncategories++;
}

void
evs_wakeup_any_stream(void)
{
	ncategories = MAX_CATEGORIES + 1;
}

static void
channel_moves(uint32 channel)
{
	/* attach now, an error later would come too late */
	(void) evs_shmem();
	if (has_moved(channel))
		return;
	if (nmoved < MAX_MOVED)
		moved[nmoved++] = channel;
	else
		changed = true;
}

void
evs_wakeup_projection(const char *projection)
{
	channel_moves(projection_channel(projection));
}

void
evs_wakeup_subscription(const char *subscription)
{
	channel_moves(subscription_channel(subscription));
}

void
evs_wakeup_changed(void)
{
	Oid			schema = get_namespace_oid("evsource", true);
	Oid			projections = OidIsValid(schema) ? get_relname_relid("projections", schema) : InvalidOid;

	/* those who are not waiting now read it by themselves */
	if (OidIsValid(projections))
		CacheInvalidateRelcacheByRelid(projections);
	(void) evs_shmem();
	changed = true;
}

void
evs_wakeup_database_created(Oid database)
{
	created_database = database;
}

/* What it did is not known here. */
void
evs_wakeup_prepared_ended(void)
{
	bool		saved = changed;

	(void) evs_shmem();
	changed = true;
	wake();
	changed = saved;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			/* nothing has moved, or not yet; but a bound may be withdrawn */
			changed = false;
			created_database = InvalidOid;
			nmoved = 0;
			break;
		default:
			break;
	}
}

static void
resources_released(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (appended || changed || nmoved > 0)
		wake();
	if (changed && evs_daemon_enabled)
		evs_shmem_request(MyDatabaseId);
	if (OidIsValid(created_database) && evs_daemon_enabled)
		evs_shmem_request(created_database);
	created_database = InvalidOid;
	appended = false;
	changed = false;
	nmoved = 0;
	ncategories = 0;
}

/*
 * Waiting.
 */

static void
count_registration(EvsShared *shared, int change)
{
	if (wants_all)
		pg_atomic_fetch_add_u32(&shared->waiting_events, change);
	else if (registered_category)
	{
		pg_atomic_fetch_add_u32(&shared->waiting_categories[wanted_category % EVS_CATEGORY_GROUPS], change);
		pg_atomic_fetch_add_u32(&shared->waiting_category, change);
	}
	if (registered_channel != CHANNEL_EVENTS)
		pg_atomic_fetch_add_u32(&shared->waiting_projections, change);
}

static void
withdraw_entry(void)
{
	EvsShared  *shared = evs_shmem();

	pg_atomic_write_u32(&evs_shmem_waiters(shared)[EvsMyProcNumber()].database, InvalidOid);
	count_registration(shared, -1);
	registered = false;
}

static void
process_exits(int code, Datum arg)
{
	if (registered && evs_shmem() != NULL)
		withdraw_entry();
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
	waiter->category = wanted_category;
	waiter->wants = wants_all ? EVS_WANTS_ALL :
		registered_category ? EVS_WANTS_CATEGORY : EVS_WANTS_NONE;
	pg_write_barrier();
	pg_atomic_write_u32(&waiter->database, MyDatabaseId);
	/* a full barrier: what we look at from now on is looked at after it */
	count_registration(shared, 1);
}

/* The tags of what we wait for; the first is of anything at all. */
static int
registered_locktags(LOCKTAG *tags)
{
	int			count = 0;

	wait_locktag(&tags[count++], ANY_CHANNEL, 0);
	if (registered_channel != CHANNEL_EVENTS)
		wait_locktag(&tags[count++], 0, registered_channel);
	if (registered_category || wants_all)
		wait_locktag(&tags[count++], 0, CHANNEL_EVENTS);
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

static void
register_channel(uint32 channel, bool all, const text *category)
{
	EvsShared  *shared = evs_shmem();

	if (registered)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for events or projections during another wait"),
				 errdetail("This session waits already, and has called a function meanwhile."),
				 errhint("Do not wait in upcasters.")));
	registered_channel = channel;
	wants_all = all;
	registered_category = category != NULL;
	wanted_category = category == NULL ? 0 :
		category_hash(VARDATA_ANY(category), VARSIZE_ANY_EXHDR(category));
	if (shared != NULL)
		publish_entry(shared);
	else
		take_locks();
	registered = true;
}

void
evs_wakeup_register_events(void)
{
	register_channel(CHANNEL_EVENTS, true, NULL);
}

void
evs_wakeup_register_projection(const char *projection)
{
	register_channel(projection_channel(projection), false, NULL);
}

void
evs_wakeup_register_subscription(const char *subscription, const text *category)
{
	register_channel(subscription_channel(subscription), category == NULL, category);
}

bool
evs_wakeup_want_all(bool all)
{
	EvsShared  *shared = evs_shmem();

	Assert(registered);
	if (shared == NULL || !registered_category || all == wants_all)
		return false;
	withdraw_entry();
	wants_all = all;
	publish_entry(shared);
	registered = true;
	return true;
}

void
evs_wakeup_unregister(void)
{
	if (!registered)
		return;
	if (evs_shmem() != NULL)
		withdraw_entry();
	else
		release_locks();
	registered = false;
}

bool
evs_wakeup_needs_transaction(void)
{
	return evs_shmem() == NULL;
}

/*
 * Without shared memory a committer cannot be found by everybody at all times.
 * And COMMIT PREPARED may come from a session that has not loaded the library,
 * unless all sessions do.
 */
static long
safe_timeout(long timeout)
{
	bool		everybody_wakes = evs_shmem() != NULL &&
		(evs_shmem_is_preloaded() || max_prepared_xacts == 0);

	if (everybody_wakes || (timeout >= 0 && timeout < SAFETY_TIMEOUT))
		return timeout;
	return SAFETY_TIMEOUT;
}

void
evs_wakeup_sleep(long timeout, uint32 wait_event)
{
	timeout = safe_timeout(timeout);
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
					 timeout, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static bool
wait_registered(EvsWakeupCondition condition, void *argument, long timeout)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout);

	if (session_wait_event == 0)
		session_wait_event = evs_wakeup_wait_event("EvsourceWait");

	while (!condition(argument))
	{
		long		left = -1;

		if (timeout >= 0)
		{
			left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
			if (left <= 0)
				return false;
		}
		evs_wakeup_sleep(left, session_wait_event);
	}
	return true;
}

static bool
wait_channel(uint32 channel, EvsWakeupCondition condition, void *argument, long timeout)
{
	volatile bool holds = false;

	register_channel(channel, channel == CHANNEL_EVENTS, NULL);
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

bool
evs_wakeup_wait_events(EvsWakeupCondition condition, void *argument, long timeout)
{
	return wait_channel(CHANNEL_EVENTS, condition, argument, timeout);
}

bool
evs_wakeup_wait_projection(const char *projection, EvsWakeupCondition condition,
						   void *argument, long timeout)
{
	return wait_channel(projection_channel(projection), condition, argument, timeout);
}

uint32
evs_wakeup_wait_event(const char *name)
{
	return WaitEventExtensionNew(name);
}

void
evs_wakeup_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterResourceReleaseCallback(resources_released, NULL);
}
