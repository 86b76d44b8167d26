/*
 * rebuild_readers.c - wait until all snapshots see what a rebuild has committed.
 *
 * The list of transactions with older snapshots is made once, when the rebuild's
 * transaction has ended, and only grows shorter.  A transaction that takes its
 * snapshot later sees what was committed and is not waited for, even where its xmin
 * is older.  Those in other databases read other tables, and VACUUM reads no read
 * models.
 *
 * Two kinds of them are not waited for, because that would never end, or not for long.
 *
 * Those that sleep in fetch_events() or wait_for(): they may not go on before somebody
 * appends or the projection moves.
 *
 * And those that wait for us while the projection is held still: to append, or for a lock of
 * one that waits to append, and so on; a row that two transactions change is enough.  They
 * all keep the snapshots that they have until we let the projection go.  Nor is one that
 * waits for a lock of a sleeper waited for.
 *
 * Under READ COMMITTED the handlers of such a transaction and its next statement take
 * newer snapshots; and a table that the statement itself is to read it has locked, so that
 * the exchange waits for it.  It does so with the projection held still, but only for a
 * moment (evs_procedure_moment()), and then lets go of all; for if that one waits for a
 * lock of one who waits to append, it could not end before.  What the statement comes to
 * later, and what a transaction under REPEATABLE READ does: see waited.c, which has it
 * fail if it opens a table that was exchanged.
 *
 * If the tables were taken before the barrier (rebuild_tables.c), one that waits for them may
 * only want to read: we let go of them, so that it reads the old version and is gone.
 *
 * That is so in sessions that have loaded the library: in all where it is preloaded.
 * Elsewhere only those are left out who wait in a function of evsource's themselves; and
 * if somebody waits for a lock of theirs, there is no use in holding the projection still
 * any longer.  Two kinds remain there that can still read the old way: a statement that
 * appends and then reads, and a transaction that is cancelled while it waits to append
 * and goes on from a savepoint.  What they see is a whole read model, as the new version
 * was when they took their snapshot: the moments before the exchange are missing.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "catalog.h"
#include "kept_waiting.h"
#include "rebuild_readers.h"
#include "rebuild_row.h"
#include "rebuild_tables.h"
#include "shmem.h"
#include "waited.h"
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

static bool
waits_for_tables(const VirtualTransactionId *reader, const EvsProcesses *waiting,
				 const EvsProcesses *elsewhere, int *pid)
{
	PGPROC	   *process = evs_vxid_get_proc(reader);

	if (process == NULL)
		return false;
	*pid = process->pid;
	return evs_is_among(*pid, waiting) && !evs_is_among(*pid, elsewhere);
}

/*
 * A session that waits for tables that were taken before the barrier may only want to read:
 * all such are let in, unless each of them is known to append then.
 */
static bool
lets_in(EvsProcedure *procedure, const EvsProcesses *waiting, const EvsProcesses *elsewhere)
{
	bool		any = false;
	int			pid;

	for (int i = 0; i < procedure->nreaders && !any; i++)
		any = waits_for_tables(&procedure->readers[i], waiting, elsewhere, &pid) &&
			(!evs_shmem_is_preloaded() || !evs_tables_appends(procedure, pid));
	for (int i = 0; i < procedure->nreaders && any; i++)
	{
		if (waits_for_tables(&procedure->readers[i], waiting, elsewhere, &pid))
			evs_tables_note(procedure, &procedure->readers[i], pid);
	}
	return any;
}

/* Those of the list that have to be waited for: for now, the others may be later. */
static VirtualTransactionId *
awaited_readers(EvsProcedure *procedure, bool still, List *taken, int *count)
{
	VirtualTransactionId *awaited = palloc(sizeof(VirtualTransactionId) * procedure->nreaders);
	LockData   *locks = GetLockStatusData();
	List	   *sleepers = evs_wakeup_sleepers(locks);
	List	   *keepers = still ? lappend_int(list_copy(sleepers), MyProcPid) : sleepers;
	EvsProcesses kept = evs_kept_waiting(keepers, locks);

	if (taken != NIL)
	{
		EvsProcesses elsewhere = evs_kept_waiting(keepers, evs_tables_without(locks, taken));

		procedure->tables_taken = !lets_in(procedure, &kept, &elsewhere);
		if (!procedure->tables_taken)
			kept = elsewhere;
	}
	procedure->in_vain = false;
	*count = 0;
	for (int i = 0; i < procedure->nreaders; i++)
	{
		VirtualTransactionId *reader = &procedure->readers[i];
		PGPROC	   *process = evs_vxid_get_proc(reader);
		bool		is_kept = process != NULL && evs_is_among(process->pid, &kept);

		if (process == NULL)
			continue;
		if (is_kept && evs_shmem_is_preloaded())
			evs_waited_overtake(procedure->built);
		else if (!is_kept || !(list_member_int(sleepers, process->pid) ||
							   waits_to_append(process->pid, locks)))
		{
			awaited[(*count)++] = *reader;
			procedure->in_vain |= is_kept && still;
		}
	}
	return awaited;
}

bool
evs_rebuild_readers_gone(EvsProcedure *procedure, bool still, List *taken)
{
	VirtualTransactionId *awaited;
	int			count;

	look(procedure);
	if (procedure->nreaders == 0)
		return true;
	awaited = awaited_readers(procedure, still, taken, &count);
	if (count == 0)
		return true;

	procedure->awaited = awaited[count - 1];
	evs_rebuild_waits_for_transactions(procedure->name, awaited, count);
	return false;
}
