/*
 * waited.c - what a transaction reads after it has waited.
 *
 * An online rebuild does not wait for who sleeps in fetch_events() or wait_for(), nor
 * for who cannot go on before it lets the projection go: see rebuild_readers.c.  A
 * statement has locked its tables before it waits, and the exchange waits for that.  But
 * with the same snapshot others may be opened afterwards: by a STABLE function that the
 * statement calls, and by all that follows under REPEATABLE READ.  One that was
 * exchanged meanwhile would look empty, or older than it should: so that is an error.
 *
 * Who sleeps notes it himself.  The others are told by the rebuild, in shared memory:
 * where the library is not preloaded not every session would look there, and the rebuild
 * leaves nobody else out.
 *
 * The exchange writes the table's row in pg_class; so does ALTER TABLE, which is as rare
 * here, and nothing that is done to a table every day.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "storage/proc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "shmem.h"
#include "waited.h"

static LocalTransactionId waited_in = InvalidLocalTransactionId;
static ExecutorStart_hook_type previous_start = NULL;

static void
check_not_exchanged(Oid relation, Snapshot snapshot)
{
	HeapTuple	row = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	TransactionId writer;

	if (!HeapTupleIsValid(row))
		return;
	writer = HeapTupleHeaderGetXmin(row->t_data);
	if (TransactionIdIsNormal(writer) && !TransactionIdIsCurrentTransactionId(writer) &&
		XidInMVCCSnapshot(writer, snapshot))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access because table \"%s\" was changed",
						NameStr(((Form_pg_class) GETSTRUCT(row))->relname)),
				 errdetail("While this transaction waited, an online rebuild has exchanged the table's contents, or somebody has altered it."),
				 errhint("Run the transaction again; better, wait in one statement and read in the next.")));
	ReleaseSysCache(row);
}

static bool
has_waited(void)
{
	LocalTransactionId mine = EvsMyLocalTransactionId();
	EvsShared  *shared;

	if (!LocalTransactionIdIsValid(mine))
		return false;
	if (waited_in == mine)
		return true;
	if (!evs_shmem_is_preloaded())
		return false;
	shared = evs_shmem();
	return EvsMyProcNumber() < shared->nslots &&
		pg_atomic_read_u32(&shared->slots[EvsMyProcNumber()].overtaken) == mine;
}

static void
statement_starts(QueryDesc *query, int flags)
{
	if (query->snapshot != NULL && IsMVCCSnapshot(query->snapshot) && has_waited())
	{
		ListCell   *cell;

		foreach(cell, query->plannedstmt->relationOids)
			check_not_exchanged(lfirst_oid(cell), query->snapshot);
	}
	if (previous_start != NULL)
		previous_start(query, flags);
	else
		standard_ExecutorStart(query, flags);
}

void
evs_waited_note(void)
{
	waited_in = EvsMyLocalTransactionId();
}

void
evs_waited_tell(const PGPROC *process, LocalTransactionId transaction)
{
	EvsShared  *shared = evs_shmem();
	int			number = (int) (process - GetPGProcByNumber(0));

	Assert(evs_shmem_is_preloaded());
	if (number >= 0 && number < shared->nslots)
		pg_atomic_write_u32(&shared->slots[number].overtaken, transaction);
}

void
evs_waited_before_copy(const CopyStmt *statement)
{
	if (statement->is_from || statement->relation == NULL || !ActiveSnapshotSet() || !has_waited())
		return;
	/* as COPY locks it */
	check_not_exchanged(RangeVarGetRelid(statement->relation, AccessShareLock, false),
						GetActiveSnapshot());
}

void
evs_waited_init(void)
{
	previous_start = ExecutorStart_hook;
	ExecutorStart_hook = statement_starts;
}
