/*
 * old_snapshots.c - wait until all snapshots see what a rebuild has committed.
 *
 * Transactions in other databases read other tables, and vacuum reads no read
 * models.  Who comes later sees it, and is not waited for, even where the oldest
 * transaction that he has to ask about (his xmin) is older: so the list is made
 * once, when the transaction has ended, and grows shorter.
 *
 * Who waits for his turn to append while we keep appenders out has an old snapshot and
 * will keep it until we let him.  Under READ COMMITTED his handlers have newer
 * ones, and so has his next statement; under REPEATABLE READ he gets 40001
 * (dispatch.c) after an exchange, whatever he appends.  Not so who appends and reads
 * in one statement, and who is cancelled while he waits and goes on from a savepoint.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "catalog.h"
#include "old_snapshots.h"
#include "rebuilds.h"

void
evs_old_snapshots_forget(EvsProcedure *procedure)
{
	procedure->built = InvalidTransactionId;
	procedure->nreaders = 0;
	if (procedure->readers != NULL)
		pfree(procedure->readers);
	procedure->readers = NULL;
}

void
evs_old_snapshots_begin(EvsProcedure *procedure, int64 events)
{
	evs_old_snapshots_forget(procedure);
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

static bool
only_appenders(const EvsProcedure *procedure)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < procedure->nreaders; i++)
	{
		PGPROC	   *process = evs_vxid_get_proc(&procedure->readers[i]);

		if (process != NULL && !waits_to_append(process->pid, locks))
			return false;
	}
	return true;
}

bool
evs_old_snapshots_gone(EvsProcedure *procedure, bool but_appenders)
{
	look(procedure);
	if (procedure->nreaders == 0 || (but_appenders && only_appenders(procedure)))
		return true;

	procedure->awaited = procedure->readers[procedure->nreaders - 1];
	evs_rebuild_waits_for_transactions(procedure->name, procedure->readers, procedure->nreaders);
	return false;
}
