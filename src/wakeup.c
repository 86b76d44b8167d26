/*
 * wakeup.c - wake those who wait (wakeup_wait.c) when what they wait for commits.
 *
 * With shared memory (shmem.c) every backend has an entry that says what it
 * waits for, and counters say how many do: for all events, for those of some
 * kinds (hashes of categories and types), for other things.  A transaction that
 * appended ends: its bound is withdrawn, its locks are released, then, after a
 * barrier, it looks at the counters.  Nobody waits: that was all.  One alone waits
 * for a kind of its events: it looks at that entry.  Else it goes through the words
 * that say in short what each waits for, and the entries of those that it may
 * concern.  It sets the latches of those that wait for what it did.
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

#include "access/xact.h"
#include "catalog/namespace.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"

#include "daemon.h"
#include "event.h"
#include "shmem.h"
#include "wakeup.h"
#include "wakeup_channel.h"
#include "wakeup_group.h"

/* So many projections are told apart; a transaction that moves more wakes all. */
#define MAX_MOVED			16

/* what the transaction that is ending has done */
static bool appended = false;
static int64 withdrawn_bound = 0;	/* 0: not known */
static bool changed = false;
static bool concerns_daemon = false;
static Oid	opened_database = InvalidOid;	/* or EVS_ALL_DATABASES */
static uint32 moved[MAX_MOVED];
static int	nmoved = 0;

/* what it has locked, and lets go when it is rolled back */
static uint32 held[MAX_MOVED];
static int	nheld = 0;
static bool held_more = false;

/* and the kinds of events that it has appended: for each category and type three */
#define KINDS_AN_EVENT		3
#define MAX_KINDS			(8 * KINDS_AN_EVENT)	/* more: any */
static uint32 kinds[MAX_KINDS];
static int	nkinds = 0;

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
any_kind(void)
{
	return nkinds > MAX_KINDS;
}

static bool
has_appended_some(const EvsWaiter *waiter)
{
	for (int i = 0; i < Min(waiter->nkinds, EVS_WAITER_KINDS); i++)
	{
		for (int k = 0; k < nkinds && !any_kind(); k++)
		{
			if (waiter->kinds[i] == kinds[k])
				return true;
		}
	}
	return any_kind();
}

/* Is that one waiting for the end of another append, with a lower bound?  See wakeup_wait.c. */
static bool
passes_over(EvsWaiter *waiter)
{
	int64		held_at = (int64) pg_atomic_read_u64(&waiter->held_at);

	return held_at != 0 && withdrawn_bound > held_at;
}

/* Has it done something that this entry is about? */
static bool
concerns(EvsWaiter *waiter)
{
	if (has_moved(waiter->channel))
		return true;
	if (!appended)
		return false;
	if (waiter->wants == EVS_WANTS_ALL)
		return !passes_over(waiter);
	return waiter->wants == EVS_WANTS_KINDS && has_appended_some(waiter);
}

/* Or something that all who wait for the same are to know? */
static bool
concerns_all(const EvsWaiter *waiter)
{
	return changed ||
		(waiter->group != 0 && has_moved(evs_channel_of_changes(waiter->channel)));
}

/* What it has done, or more, in a word: see evs_shmem_awaited(). */
static uint64
done_set(void)
{
	uint64		set = 0;

	if (changed || (appended && any_kind()))
		return EVS_CHANNEL_SET_ALL;
	for (int i = 0; i < nmoved; i++)
		set |= evs_channel_set_of(moved[i]);
	if (appended)
	{
		set |= EVS_CHANNEL_SET_OF_EVENTS;
		for (int i = 0; i < nkinds; i++)
			set |= evs_channel_set_of_kind(kinds[i]);
	}
	return set;
}

/* True: nobody of the group sleeps, but this one is looking. */
static bool
wake_one(EvsShared *shared, int number, bool again)
{
	EvsWaiter  *waiter = &evs_shmem_waiters(shared)[number];
	bool		all;

	if (pg_atomic_read_u32(&waiter->database) != MyDatabaseId)
		return false;
	pg_read_barrier();
	all = concerns_all(waiter);
	if (!all && !concerns(waiter))
		return false;
	/* one of a group looks now, but the end of what held them is that for all */
	if (appended && !passes_over(waiter))
		pg_atomic_write_u64(&waiter->held_at, 0);
	if (!all && waiter->group != 0)
		return evs_group_offer(waiter, number, again);
	if (!again)
		SetLatch(&GetPGProcByNumber(number)->procLatch);
	return false;
}

/* True: there is a group in which nobody sleeps. */
static bool
wake_some(EvsShared *shared, bool again)
{
	pg_atomic_uint64 *awaited = evs_shmem_awaited(shared);
	uint64		done = done_set();
	bool		nobody_sleeps = false;

	for (int i = 0; i < shared->nslots; i++)
	{
		if ((pg_atomic_read_u64(&awaited[i]) & done) == 0)
			continue;
		pg_read_barrier();
		nobody_sleeps |= wake_one(shared, i, again);
	}
	return nobody_sleeps;
}

static void
wake_entries(EvsShared *shared)
{
	evs_group_begin();
	if (wake_some(shared, false))
		(void) wake_some(shared, true);
}

/* Those who wait for the kinds of events that were appended: mostly none, or one. */
static void
wake_for_kinds(EvsShared *shared)
{
	int			alone[MAX_KINDS];
	int			nalone = 0;
	bool		together = any_kind();

	if (pg_atomic_read_u32(&shared->waiting_some) == 0)
		return;
	for (int i = 0; i < nkinds && !together; i++)
	{
		uint64		who = pg_atomic_read_u64(&shared->waiting_kinds[kinds[i] % EVS_KIND_GROUPS]);

		if (evs_shmem_count_waiting(who) == 1)
			alone[nalone++] = evs_shmem_who_is_alone(who);
		together = evs_shmem_count_waiting(who) > 1;
	}
	if (together)
	{
		wake_entries(shared);
		return;
	}
	if (nalone == 0)
		return;
	pg_read_barrier();
	evs_group_begin();
	for (int i = 0; i < nalone; i++)
	{
		if (wake_one(shared, alone[i], false))
			(void) wake_one(shared, alone[i], true);
	}
}

static void
wake_lock_holders(uint32 kind, uint32 channel)
{
	VirtualTransactionId *holders;
	LOCKTAG		tag;
	int			count;

	evs_channel_locktag(&tag, kind, channel);
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
			wake_lock_holders(EVS_CHANNEL_ANY, 0);
		else
		{
			if (appended)
				wake_lock_holders(0, EVS_CHANNEL_EVENTS);
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
			 ((nmoved > 0 || changed) && pg_atomic_read_u32(&shared->waiting_projections) > 0))
		wake_entries(shared);
	else if (appended)
		wake_for_kinds(shared);
}

void
evs_wakeup_appended(int64 bound)
{
	appended = true;
	withdrawn_bound = bound;
}

bool
evs_wakeup_is_awaited(const char *projection)
{
	EvsShared  *shared = evs_shmem();
	uint32		channel = evs_channel_of_projection(projection);
	LOCKTAG		tag;

	if (shared == NULL)
	{
		evs_channel_locktag(&tag, 0, channel);
		return LockWaiterCount(&tag) > 0;
	}
	for (int i = 0; i < shared->nslots; i++)
	{
		EvsWaiter  *waiter = &evs_shmem_waiters(shared)[i];

		if (pg_atomic_read_u32(&waiter->database) == MyDatabaseId && waiter->channel == channel)
			return true;
	}
	return false;
}

/* As if something had been appended; what the transaction has done so far stays. */
void
evs_wakeup_followers(void)
{
	bool		saved = appended;

	appended = true;
	wake();
	appended = saved;
}

void
evs_wakeup_event(const text *stream, const text *type)
{
	const char *name = VARDATA_ANY(stream);
	uint32		category;
	uint32		type_hash;
	uint32		both;

	if (any_kind())
		return;
	category = evs_channel_category(name, evs_category_length(name, VARSIZE_ANY_EXHDR(stream)));
	type_hash = evs_channel_type(type);
	both = evs_channel_category_type(category, type_hash);
	for (int i = 0; i < nkinds; i += KINDS_AN_EVENT)
	{
		if (kinds[i] == both)
			return;
	}
	if (nkinds == MAX_KINDS)
	{
		evs_wakeup_any_event();
		return;
	}
	kinds[nkinds++] = both;
	kinds[nkinds++] = category;
	kinds[nkinds++] = type_hash;
}

void
evs_wakeup_any_event(void)
{
	nkinds = MAX_KINDS + 1;
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
	channel_moves(evs_channel_of_projection(projection));
}

void
evs_wakeup_subscription(const char *subscription)
{
	channel_moves(evs_channel_of_subscription(subscription));
}

void
evs_wakeup_subscription_changed(const char *subscription)
{
	channel_moves(evs_channel_of_subscription(subscription));
	channel_moves(evs_channel_of_changes(evs_channel_of_subscription(subscription)));
}

void
evs_wakeup_holds_cursor(const char *subscription)
{
	uint32		channel = evs_channel_of_subscription(subscription);

	(void) evs_shmem();
	for (int i = 0; i < nheld; i++)
	{
		if (held[i] == channel)
			return;
	}
	if (nheld < MAX_MOVED)
		held[nheld++] = channel;
	else
		held_more = true;
}

bool
evs_wakeup_holds_any_cursor(void)
{
	return nheld > 0;
}

void
evs_wakeup_daemon(void)
{
	channel_moves(evs_channel_of_daemon());
	concerns_daemon = true;
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

bool
evs_wakeup_has_changed(void)
{
	return changed;
}

void
evs_wakeup_database_opened(Oid database)
{
	opened_database = OidIsValid(opened_database) && opened_database != database ?
		EVS_ALL_DATABASES : database;
}

void
evs_wakeup_everybody(void)
{
	bool		saved = changed;

	changed = true;
	wake();
	changed = saved;
}

/* What it did is not known here. */
void
evs_wakeup_prepared_ended(void)
{
	evs_wakeup_everybody();
	if (evs_daemon_enabled)
		evs_shmem_request(MyDatabaseId);
}

/* What was locked is all that has moved. */
static void
let_go(void)
{
	memcpy(moved, held, sizeof(held));
	nmoved = nheld;
	changed = held_more;
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
			concerns_daemon = false;
			opened_database = InvalidOid;
			nmoved = 0;
			if (event == XACT_EVENT_ABORT)
				let_go();
			break;
		default:
			break;
	}
}

/* Part of a transaction is rolled back: it may be the part that has locked it. */
static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	uint32		moved_so_far[MAX_MOVED];
	int			count = nmoved;
	bool		changed_so_far = changed;

	if (event != SUBXACT_EVENT_ABORT_SUB || nheld == 0)
		return;
	memcpy(moved_so_far, moved, sizeof(moved));
	let_go();
	wake();
	memcpy(moved, moved_so_far, sizeof(moved));
	nmoved = count;
	changed = changed_so_far;
}

static void
resources_released(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	if (appended || changed || nmoved > 0)
		wake();
	if ((changed || concerns_daemon) && evs_daemon_enabled)
		evs_shmem_request(MyDatabaseId);
	/* whether the daemon is on there, this session's setting does not tell: it looks itself */
	if (OidIsValid(opened_database))
		evs_shmem_request(opened_database);
	opened_database = InvalidOid;
	appended = false;
	withdrawn_bound = 0;
	changed = false;
	concerns_daemon = false;
	nmoved = 0;
	nheld = 0;
	held_more = false;
	nkinds = 0;
}

void
evs_wakeup_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
	RegisterResourceReleaseCallback(resources_released, NULL);
}
