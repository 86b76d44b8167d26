/*
 * reached.c - how far the log has come, whatever its sequence says.
 *
 * Whoever sets evsource.position_seq, a dump that is restored over a log in use for
 * one, may set it below positions that are taken, or that somebody who follows the log
 * has passed: an event there would be met by nobody.  positions.c asks here before it
 * believes such a sequence.
 *
 * Rows count whoever can see them: an event whose transaction is open has its position,
 * and who is about to come to one will have passed it.  So do those that were restored and
 * rolled back, for what is drawn is behind them (in_use.c); positions may have gaps.  What
 * nobody has written down is not known: an open transaction that has drawn positions and
 * stored nothing at them yet, which collides then with who gets them, and a consumer outside
 * that goes by safe_position().
 *
 * No lock outlives the look: a background worker may sleep in its transaction.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "positions.h"
#include "reached.h"

/* Who follows the log, or begins behind a position of it: all that is below is passed. */
static const struct
{
	const char *table;
	const char *column;
}			followers[] = {
	{"checkpoints", "position"},
	{"partitions", "position"},
	{"projections", "start_after"},
	{"cursors", "position"},
	{"published", "safe_position"},
};

int64
evs_reached_in(Oid table, AttrNumber column, Snapshot snapshot)
{
	Relation	relation = table_open(table, AccessShareLock);
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL, SO_NONE);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	int64		highest = 0;

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, column, &isnull);

		CHECK_FOR_INTERRUPTS();
		/* who is at the last one, or beyond, came there by a sequence set so by mistake: that must not end the log */
		if (!isnull && DatumGetInt64(value) < EVS_MAX_POSITION)
			highest = Max(highest, DatumGetInt64(value));
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	return highest;
}

int64
evs_reached_event(Snapshot snapshot)
{
	Relation	events = evs_catalog_open(evs_catalog()->events, AccessShareLock);
	Relation	index = index_open(evs_catalog()->events_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(events, NULL);
	IndexScanDesc scan = index_beginscan(events, index, snapshot, NULL, 0, 0, SO_NONE);
	int64		last = 0;
	bool		isnull;

	index_rescan(scan, NULL, 0, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
		last = DatumGetInt64(slot_getattr(slot, EVS_EVENTS_POSITION, &isnull));
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(events, AccessShareLock);
	return last;
}

int64
evs_reached(void)
{
	bool		awaits_store;
	int64		reached = Max(evs_reached_event(SnapshotAny), evs_positions_restored(&awaits_store));

	for (int i = 0; i < lengthof(followers); i++)
	{
		Oid			table = get_relname_relid(followers[i].table, evs_catalog()->schema);

		reached = Max(reached, evs_reached_in(table, get_attnum(table, followers[i].column), SnapshotAny));
	}
	return reached;
}
