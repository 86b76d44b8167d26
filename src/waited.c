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
 * A sleeper notes it itself.  For the others the rebuild says in shared memory by which
 * transaction it has built what it exchanges.  Snapshots that see that were waited for,
 * or are new enough.  Those that do not may be used by others as well: parallel workers, and
 * who imports them.  Where the library is not preloaded not every session would look
 * there, and the rebuild leaves nobody else out.
 *
 * The exchange writes the table's row in pg_class.  So do ALTER TABLE, GRANT, a first
 * foreign key or partition, and REFRESH of a materialized view: they give the same error to
 * such a snapshot, needlessly.
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

/* The number of a transaction that is not in the future, with its epoch. */
static uint64
full_xid(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
}

/* Has a rebuild not waited for this snapshot, as far as we know? */
static bool
is_overtaken(Snapshot snapshot)
{
	EvsShared  *shared = evs_shmem();
	uint64		newest = pg_atomic_read_u64(&shared->overtaking);
	uint64		next;
	uint64		xmin;

	/* most are newer than all */
	if (newest == 0 || TransactionIdPrecedes((TransactionId) newest, snapshot->xmin))
		return false;
	next = U64FromFullTransactionId(ReadNextFullTransactionId());
	xmin = full_xid(snapshot->xmin, FullTransactionIdFromU64(next));
	if (newest < xmin)
		return false;
	for (int i = 0; i < EVS_OVERTAKINGS; i++)
	{
		uint64		built = pg_atomic_read_u64(&shared->overtakings[i]);

		if (built < xmin)
			continue;
		/* one that gives its place to another meanwhile is among the forgotten before */
		pg_read_barrier();
		if (pg_atomic_read_u32(&shared->overtaken_in[i]) == MyDatabaseId &&
			XidInMVCCSnapshot((TransactionId) built, snapshot))
			return true;
	}
	pg_read_barrier();
	return pg_atomic_read_u64(&shared->forgotten) >= xmin;
}

static bool
has_waited(Snapshot snapshot)
{
	if (LocalTransactionIdIsValid(waited_in) && waited_in == EvsMyLocalTransactionId())
		return true;
	return evs_shmem_is_preloaded() && is_overtaken(snapshot);
}

static void
statement_starts(QueryDesc *query, int flags)
{
	if (query->snapshot != NULL && IsMVCCSnapshot(query->snapshot) && has_waited(query->snapshot))
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

/* Raise a number that others raise, too. */
static void
raise_to(pg_atomic_uint64 *number, uint64 value)
{
	uint64		current = pg_atomic_read_u64(number);

	while (current < value && !pg_atomic_compare_exchange_u64(number, &current, value))
		;
}

void
evs_waited_overtake(TransactionId built)
{
	EvsShared  *shared = evs_shmem();
	uint64		full = full_xid(built, ReadNextFullTransactionId());
	uint64		number;

	Assert(evs_shmem_is_preloaded());
	/* we look again and again who is in the way */
	for (int i = 0; i < EVS_OVERTAKINGS; i++)
		if (pg_atomic_read_u64(&shared->overtakings[i]) == full)
			return;
	number = pg_atomic_fetch_add_u64(&shared->novertakings, 1) % EVS_OVERTAKINGS;
	raise_to(&shared->forgotten, pg_atomic_read_u64(&shared->overtakings[number]));
	pg_atomic_write_u64(&shared->overtakings[number], 0);
	pg_write_barrier();
	pg_atomic_write_u32(&shared->overtaken_in[number], MyDatabaseId);
	pg_write_barrier();
	pg_atomic_write_u64(&shared->overtakings[number], full);
	raise_to(&shared->overtaking, full);
}

void
evs_waited_before_copy(const CopyStmt *statement)
{
	if (statement->is_from || statement->relation == NULL || !ActiveSnapshotSet() ||
		!has_waited(GetActiveSnapshot()))
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
