/*
 * rebuild_readers.c - wait until all snapshots see what a rebuild has committed.
 *
 * The list of transactions with older snapshots is made once, when the rebuild's
 * transaction has ended, and only grows shorter.  A transaction that takes its
 * snapshot later sees what was committed and is not waited for, even where its xmin
 * is older.  Those in other databases read other tables, and VACUUM reads no read
 * models.
 *
 * A transaction that waits to append while the rebuild keeps appenders out has an old
 * snapshot and keeps it until it may go on.  Waiting for it would never end, and it
 * need not be waited for: under READ COMMITTED its handlers and its next statement
 * take newer snapshots; under REPEATABLE READ its append fails with 40001 after the
 * exchange (dispatch.c).  Two kinds remain that can still read the old way: a statement
 * that appends and reads at once, and a transaction that is cancelled while it waits
 * and goes on from a savepoint.
 *
 * Nor is who sleeps in fetch_events() or wait_for() waited for: that may take long, and
 * may not end before somebody appends or the projection moves, which the rebuild keeps
 * from happening.  He reads no read model as he sleeps, and his next statement takes a
 * newer snapshot; a table that this one is to read he has locked, and so the exchange
 * waits for it, with nothing held still.  What it comes to later: see waited.c.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "catalog.h"
#include "rebuild_readers.h"
#include "rebuild_row.h"
#include "wakeup.h"

void
evs_rebuild_readers_forget(EvsProcedure *procedure)
{
	procedure->built = InvalidTransactionId;
	procedure->nreaders = 0;
	if (procedure->readers != NULL)
		pfree(procedure->readers);
	procedure->readers = NULL;
}

void
evs_rebuild_readers_begin(EvsProcedure *procedure, int64 events)
{
	evs_rebuild_readers_forget(procedure);
	procedure->built = GetTopTransactionId();
	procedure->built_events = events;
}

static bool
is_among(const VirtualTransactionId *transaction, const VirtualTransactionId *others, int count)
{
	for (int i = 0; i < count; i++)
		if (VirtualTransactionIdEquals(*transaction, others[i]))
			return true;
	return false;
}

/* The list, without those that have gone. */
static void
look(EvsProcedure *procedure)
{
	int			count;
	VirtualTransactionId *now = GetCurrentVirtualXIDs(procedure->built, true, false,
													  PROC_IS_AUTOVACUUM | PROC_IN_VACUUM,
													  &count);
	int			left = 0;

	if (procedure->readers == NULL)
	{
		procedure->readers = MemoryContextAlloc(MemoryContextGetParent(procedure->context),
												sizeof(VirtualTransactionId) * Max(count, 1));
		memcpy(procedure->readers, now, sizeof(VirtualTransactionId) * count);
		procedure->nreaders = count;
		return;
	}
	for (int i = 0; i < procedure->nreaders; i++)
		if (is_among(&procedure->readers[i], now, count))
			procedure->readers[left++] = procedure->readers[i];
	procedure->nreaders = left;
}

/* Does this process wait for its turn to append? */
static bool
waits_to_append(int pid, const LockData *locks)
{
	for (int i = 0; i < locks->nelements; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];

		if (lock->pid == pid && lock->waitLockMode == RowExclusiveLock &&
			lock->locktag.locktag_type == LOCKTAG_RELATION &&
			lock->locktag.locktag_field1 == MyDatabaseId &&
			lock->locktag.locktag_field2 == evs_catalog()->events)
			return true;
	}
	return false;
}

/* Those of the list that have to be waited for: for now, the others may be later. */
static VirtualTransactionId *
awaited_readers(const EvsProcedure *procedure, bool but_appenders, int *count)
{
	VirtualTransactionId *awaited = palloc(sizeof(VirtualTransactionId) * procedure->nreaders);
	LockData   *locks = GetLockStatusData();

	*count = 0;
	for (int i = 0; i < procedure->nreaders; i++)
	{
		PGPROC	   *process = evs_vxid_get_proc(&procedure->readers[i]);

		if (process != NULL && !evs_wakeup_waits(process, locks) &&
			!(but_appenders && waits_to_append(process->pid, locks)))
			awaited[(*count)++] = procedure->readers[i];
	}
	return awaited;
}

bool
evs_rebuild_readers_gone(EvsProcedure *procedure, bool but_appenders)
{
	VirtualTransactionId *awaited;
	int			count;

	look(procedure);
	if (procedure->nreaders == 0)
		return true;
	awaited = awaited_readers(procedure, but_appenders, &count);
	if (count == 0)
		return true;

	procedure->awaited = awaited[count - 1];
	evs_rebuild_waits_for_transactions(procedure->name, awaited, count);
	return false;
}
