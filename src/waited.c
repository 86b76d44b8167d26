/*
 * waited.c - what a statement reads after it has waited.
 *
 * An online rebuild does not wait for who sleeps in fetch_events() or wait_for(): see
 * rebuild_readers.c.  A statement has locked its tables before it sleeps, and the
 * exchange waits for that; only a STABLE function that it calls afterwards opens others
 * with the same snapshot.  One that was exchanged meanwhile would look empty: so that is
 * an error.
 *
 * The exchange writes the table's row in pg_class; so does ALTER TABLE, which is as rare
 * here, and nothing that is done to a table every day.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "storage/proc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

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
				 errdetail("While this statement waited, an online rebuild has exchanged the table's contents, or somebody has altered it."),
				 errhint("Run the transaction again; better, wait in one statement and read in the next.")));
	ReleaseSysCache(row);
}

static void
statement_starts(QueryDesc *query, int flags)
{
	if (waited_in == EvsMyLocalTransactionId() && LocalTransactionIdIsValid(waited_in) &&
		query->snapshot != NULL && IsMVCCSnapshot(query->snapshot))
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
evs_waited_init(void)
{
	previous_start = ExecutorStart_hook;
	ExecutorStart_hook = statement_starts;
}
