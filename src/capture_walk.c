/*
 * capture_walk.c - all rows that a table has at this moment.
 *
 * For those who capture rows that no statement touches: a backfill, and TRUNCATE of
 * a partition.  They hold a lock that keeps others from changing rows.
 */
#include "capture.h"

#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

void
evs_capture_each_row(Relation table, EvsCaptureVisit visit, void *argument)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(table, NULL);
	TableScanDesc scan = table_beginscan(table, snapshot, 0, NULL, SO_NONE);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "evsource captured row",
													  ALLOCSET_DEFAULT_SIZES);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		MemoryContext old = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		visit(slot, argument);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_context);
	}

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(row_context);
}
