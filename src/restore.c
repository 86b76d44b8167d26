/*
 * restore.c - rows that bring their places in the log: a restore, or an import.
 *
 * A reader that has come to a position never looks below it again, so no event may
 * turn up there.  Two kinds of rows cannot do so:
 *
 * - Those of a log that is not open yet.  A log opens when the first position is
 *   drawn in it (positions.c); until then everything in it is restored, by however
 *   many transactions and in whatever order, and it is not for reading yet.  Such a
 *   transaction publishes the lowest bound there is, so that nobody who appends
 *   meanwhile is read before it ends.  The bound is published first, then it is
 *   asked whether the log is open: an event that was read before that had opened it.
 *
 *   A log that holds nothing, and into which nobody is appending, is as good, though
 *   positions were drawn and taken back: nobody was shown an event.
 *
 * - Those above the bound that their own transaction has published.  Readers stop
 *   there until it ends.
 *
 * Into an open log a row goes as an append would go: its stream is locked, and it
 * has to follow the stream's last event in version and position.  The sequence moves
 * past it at once, for others draw from it meanwhile.
 *
 * The owner may know that nobody follows the log: evsource.allow_passed_positions.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "horizon.h"
#include "positions.h"
#include "restore.h"
#include "settings.h"
#include "streams.h"

/* decided at a transaction's first row */
static LocalTransactionId decided_in = InvalidLocalTransactionId;
static bool any_position;		/* no position of the log is passed */
static int64 lowest_free;		/* else: those from here on are not */

/* Does the log hold an event, be it of a transaction in progress? */
static bool
holds_events(Relation events)
{
	Relation	index = index_open(evs_catalog()->events_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(events, NULL);
	SnapshotData dirty = {0};
	IndexScanDesc scan;
	bool		found;

	InitDirtySnapshot(dirty);
	scan = index_beginscan(events, index, &dirty, NULL, 0, 0);
	index_rescan(scan, NULL, 0, NULL, 0);
	found = index_getnext_slot(scan, BackwardScanDirection, slot);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	return found;
}

/* Is there any other transaction that may be appending? */
static bool
others_append(void)
{
	int			count;
	EvsHolder  *holders = evs_horizon_holders(&count);
	bool		others = false;

	for (int i = 0; i < count && !others; i++)
		others = holders[i].pid != MyProcPid;
	pfree(holders);
	return others;
}

static void
decide(Relation events)
{
	bool		closed = !evs_positions_log_is_open();

	evs_horizon_publish(closed ? 1 : evs_positions_last() + 1);
	any_position = (closed && !evs_positions_log_is_open()) ||
		(!others_append() && !holds_events(events));

	/* who has not seen the bound has come no further than this */
	lowest_free = evs_positions_last() + 1;
	decided_in = EvsMyLocalTransactionId();
}

static void
check_not_passed(const EvsEvent *row)
{
	if (row->position >= lowest_free)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot restore an event at position %lld, which readers of the log may have passed",
					(long long) row->position),
			 errdetail("Events are appended here; when this transaction stored its first event, the last position drawn was %lld.",
					   (long long) lowest_free - 1),
			 errhint("Restore before anything is appended, or import at positions above. "
					 "If nobody follows the log: SET evsource.allow_passed_positions = on.")));
}

static void
check_follows(Relation events, const EvsEvent *row)
{
	int64		last_position;
	int64		last = evs_stream_lock_last(events, row->stream, &last_position);

	if (row->version == last + 1 && row->position > last_position)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot import version %lld of stream \"%s\" at position %lld: it does not follow the stream's last event",
					(long long) row->version, text_to_cstring(row->stream),
					(long long) row->position),
			 last == 0 ?
			 errdetail("The stream does not exist: it begins with version 1.") :
			 errdetail("That is version %lld at position %lld.",
					   (long long) last, (long long) last_position),
			 errhint("Import the events of a stream in their order, without gaps. "
					 "If nobody follows the log: SET evsource.allow_passed_positions = on.")));
}

void
evs_restore_row(Relation events, const EvsEvent *row)
{
	if (decided_in != EvsMyLocalTransactionId())
		decide(events);
	if (any_position || evs_allow_passed_positions)
		return;
	check_not_passed(row);
	check_follows(events, row);
	evs_positions_pass(row->position);
}
