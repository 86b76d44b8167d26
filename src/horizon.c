/*
 * horizon.c - up to which position the log is complete.
 *
 * Positions are drawn in one order and committed in another.  A reader that
 * trusts the highest position it sees skips what commits later.  So each open
 * transaction that appends publishes a lower bound of its positions:
 *
 *	writer	publishes the first position that it is about to draw, or a lower
 *			one, then draws, inserts, commits; the bound is withdrawn after the
 *			transaction has become visible.
 *	reader	reads the last drawn position, barrier, takes the lowest published
 *			bound; everything below it is decided.  Only then it takes the
 *			snapshot that reads events.
 *
 * A writer that the reader's scan did not see published after the scan, so it
 * draws after it, and its positions are above the last position that the reader
 * read before.  A writer that withdrew before the scan was visible before the
 * reader's snapshot.  The last position is read and drawn under the lock of the
 * sequence's buffer, and the bound is in its slot before that lock is released:
 * who can see that a position is drawn can see its bound.
 *
 * The bound lives in a slot of shared memory (shmem.c).  Without shared memory,
 * and for prepared transactions always, it lives in a lock tag of our own that
 * carries the position: the lock table is shared, PREPARE hands the lock to the
 * prepared transaction, and recovery brings it back.  A bound moves from slot
 * to tag, so readers look at the slots first and at the tags second.
 *
 * The bound belongs to the top transaction: a savepoint's rollback leaves it,
 * which is conservative and right.
 *
 * Before its first event the log ends at 0, whatever positions were drawn and taken
 * back: a restore may bring events to them (restore.c).  It publishes the lowest
 * bound, then sees that there are none; the reader sees that there are some, then
 * looks at the bounds.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "horizon.h"
#include "lock_classes.h"
#include "positions.h"
#include "reached.h"
#include "replication.h"
#include "shmem.h"
#include "wakeup.h"

/* what this transaction has published, 0 if nothing */
static int64 published_bound = 0;

/*
 * What tracking costs is measured by bench/tracking.pl, in a build of its own
 * that can do without it or without the slots.  Such a build loses events.
 */
#ifdef EVS_BENCH_TRACKING
static int	tracking = 'S';
#define tracking_is_off()	(tracking == 'O')
#define slots()				(tracking == 'S' ? evs_shmem() : NULL)
#else
#define tracking_is_off()	false
#define slots()				evs_shmem()
#endif

static void
bound_locktag(LOCKTAG *tag, int64 bound)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId,
						 (uint32) ((uint64) bound >> 32), (uint32) bound,
						 EVS_LOCK_BOUND);
}

/* Hold the bound as a lock until the top transaction ends. */
static void
publish_as_lock(int64 bound)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	LOCKTAG		tag;

	bound_locktag(&tag, bound);
	CurrentResourceOwner = TopTransactionResourceOwner;
	(void) LockAcquire(&tag, ShareLock, false, false);
	CurrentResourceOwner = old_owner;
	published_bound = bound;
}

static EvsSlot *
my_slot(EvsShared *shared)
{
	int			number = EvsMyProcNumber();

	if (number < 0 || number >= shared->nslots)
		elog(ERROR, "backend number %d is outside of evsource's %d slots",
			 number, shared->nslots);
	return &shared->slots[number];
}

static void
publish_in_slot(int64 bound)
{
	EvsSlot    *slot = my_slot(slots());

	slot->database = MyDatabaseId;
	pg_write_barrier();
	pg_atomic_write_u64(&slot->bound, (uint64) bound);
	published_bound = bound;
}

static void
publish(int64 bound)
{
	if (slots() != NULL)
		publish_in_slot(bound);
	else
		publish_as_lock(bound);

	/* nothing of what follows may become visible before the bound */
	pg_memory_barrier();
}

void
evs_horizon_publish(int64 bound)
{
	if (published_bound != 0)
		return;
	evs_wakeup_any_event();
	publish(bound);
}

/*
 * Draw so many positions and return the first; nobody else's are between them.
 * The transaction's first draw publishes its bound.
 */
int64
evs_horizon_draw(int count)
{
	if (tracking_is_off())
		return evs_positions_draw(count, NULL);
	if (published_bound == 0 && slots() != NULL)
		return evs_positions_draw(count, publish_in_slot);

	/* a lock cannot be taken while a buffer is locked */
	if (published_bound == 0)
		publish(evs_positions_last() + 1);
	return evs_positions_draw(count, NULL);
}

int64
evs_horizon_last_position(void)
{
	return evs_positions_last();
}

/* The lowest bound among the slots of this database, or "lowest". */
static int64
lowest_slot(EvsShared *shared, int64 lowest)
{
	for (int i = 0; i < shared->nslots; i++)
	{
		int64		bound = (int64) pg_atomic_read_u64(&shared->slots[i].bound);

		if (bound == 0 || bound >= lowest)
			continue;
		pg_read_barrier();
		if (shared->slots[i].database == MyDatabaseId)
			lowest = bound;
	}
	return lowest;
}

/* The lowest bound among the lock tags of this database, or "lowest". */
static int64
lowest_lock(int64 lowest)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LOCKTAG    *tag = &locks->locks[i].locktag;
		int64		bound;

		if (tag->locktag_type != LOCKTAG_ADVISORY ||
			tag->locktag_field4 != EVS_LOCK_BOUND ||
			tag->locktag_field1 != MyDatabaseId)
			continue;
		bound = (int64) (((uint64) tag->locktag_field2 << 32) | tag->locktag_field3);
		lowest = Min(lowest, bound);
	}
	if (locks->locks)
		pfree(locks->locks);
	pfree(locks);
	return lowest;
}

int64
evs_horizon_own_bound(void)
{
	return published_bound;
}

/*
 * Who holds this lock?  A prepared transaction has no process; it holds the lock
 * on its own id, too.
 */
static void
add_lock_holder(EvsHolder *holder, const LockData *locks, const LockInstanceData *bound)
{
	const LOCKTAG *tag = &bound->locktag;

	holder->bound = (int64) (((uint64) tag->locktag_field2 << 32) | tag->locktag_field3);
	holder->pid = bound->pid;
	holder->xid = InvalidTransactionId;
	if (bound->pid != 0)
		return;

	for (int i = 0; i < locks->nelements; i++)
	{
		const LockInstanceData *other = &locks->locks[i];

		if (other->locktag.locktag_type == LOCKTAG_TRANSACTION && other->pid == 0 &&
			other->holdMask != 0 && evs_same_lock_holder(other, bound))
			holder->xid = other->locktag.locktag_field1;
	}
}

EvsHolder *
evs_horizon_holders(int *count)
{
	EvsShared  *shared = evs_shmem();
	LockData   *locks = NULL;
	EvsHolder  *holders;

	/* a bound moves from slot to tag: in this order none is missed, one may be seen twice */
	*count = 0;
	holders = palloc(sizeof(EvsHolder) * ((shared ? shared->nslots : 0) + 1));
	for (int i = 0; shared != NULL && i < shared->nslots; i++)
	{
		int64		bound = (int64) pg_atomic_read_u64(&shared->slots[i].bound);

		pg_read_barrier();
		if (bound == 0 || shared->slots[i].database != MyDatabaseId)
			continue;
		holders[*count].bound = bound;
		holders[*count].pid = GetPGProcByNumber(i)->pid;
		holders[(*count)++].xid = InvalidTransactionId;
	}
	pg_memory_barrier();
	if (shared != NULL && max_prepared_xacts == 0)
		return holders;

	locks = GetLockStatusData();
	holders = repalloc(holders, sizeof(EvsHolder) * (*count + locks->nelements + 1));
	for (int i = 0; i < locks->nelements; i++)
	{
		const LOCKTAG *tag = &locks->locks[i].locktag;

		if (tag->locktag_type == LOCKTAG_ADVISORY &&
			tag->locktag_field4 == EVS_LOCK_BOUND &&
			tag->locktag_field1 == MyDatabaseId)
			add_lock_holder(&holders[(*count)++], locks, &locks->locks[i]);
	}
	return holders;
}

/* Columns of evsource.published. */
#define PUBLISHED_SAFE_POSITION	1
#define PUBLISHED_ARRIVED		3

/*
 * A standby, or a logical copy, has no slots and no tags: the primary publishes in a table.
 * What a copy has there may be its own word, from before it was one; or null, and nothing
 * is safe until the original publishes next.
 */
static int64
published_safe_position(AttrNumber column)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		safe = evs_reached_in(evs_catalog()->published, column, snapshot);

	UnregisterSnapshot(snapshot);
	return safe;
}

/* Does the log hold an event?  See the header of the file. */
static bool
holds_events(void)
{
	static Oid	held_by = InvalidOid;	/* once it does, it always will */
	const EvsCatalog *catalog = evs_catalog();
	Relation	events;
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	Snapshot	snapshot;
	bool		found;

	if (held_by == catalog->events)
		return true;

	events = evs_catalog_open(catalog->events, AccessShareLock);
	index = index_open(catalog->events_pkey, AccessShareLock);
	slot = table_slot_create(events, NULL);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = index_beginscan(events, index, snapshot, NULL, 0, 0, SO_NONE);
	index_rescan(scan, NULL, 0, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	/* a background worker may sleep in this transaction, and must not lock them */
	index_close(index, AccessShareLock);
	table_close(events, AccessShareLock);

	/* our own one may be taken back */
	if (found && published_bound == 0)
		held_by = catalog->events;
	return found;
}

int64
evs_horizon_end(void)
{
	return published_bound != 0 || holds_events() ? evs_positions_last() : 0;
}

/* See the header of the file: take the snapshot that reads AFTER this call. */
int64
evs_horizon_safe_position(void)
{
	EvsShared  *shared;
	int64		last;
	int64		lowest;

	if (evs_replication_is_copy())
		return evs_replication_is_ordered() ? published_safe_position(PUBLISHED_ARRIVED) : 0;
	if (RecoveryInProgress())
		return published_safe_position(PUBLISHED_SAFE_POSITION);
	if (!holds_events())
		return 0;
	pg_memory_barrier();

	shared = evs_shmem();
	last = evs_positions_last();
	pg_memory_barrier();

	lowest = last + 1;
	if (shared != NULL)
		lowest = lowest_slot(shared, lowest);
	pg_memory_barrier();
	if (shared == NULL || max_prepared_xacts > 0)
		lowest = lowest_lock(lowest);

	return lowest - 1;
}

bool
evs_horizon_is_held(int64 bound)
{
	EvsShared  *shared = evs_shmem();
	int64		above = bound + 1;

	/* what appends there do is not known here */
	if (evs_replication_is_copy() || RecoveryInProgress())
		return true;
	if (shared != NULL && lowest_slot(shared, above) < above)
		return true;
	pg_memory_barrier();
	return (shared == NULL || max_prepared_xacts > 0) && lowest_lock(above) < above;
}

/*
 * At PREPARE the bound moves from our slot to a lock that the prepared
 * transaction keeps.  At the end of the transaction it is withdrawn; the
 * callback runs after the transaction has become visible to others.  Locks go
 * by themselves.
 */
static void
transaction_ends(XactEvent event, void *arg)
{
	EvsShared  *shared;
	int64		bound = published_bound;

	if (bound == 0)
		return;
	shared = slots();

	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (shared != NULL)
				publish_as_lock(bound);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			if (shared != NULL)
				pg_atomic_write_u64(&my_slot(shared)->bound, 0);
			published_bound = 0;
			evs_wakeup_appended(bound);
			break;
		default:
			break;
	}
}

void
evs_horizon_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
#ifdef EVS_BENCH_TRACKING
	{
		static const struct config_enum_entry options[] = {
			{"slots", 'S', false}, {"tags", 'T', false}, {"off", 'O', false}, {NULL, 0, false}
		};

		DefineCustomEnumVariable("evsource.order_tracking", "How the order of the log is tracked.",
								 NULL, &tracking, 'S', options, PGC_BACKEND, 0, NULL, NULL, NULL);
	}
#endif
}
