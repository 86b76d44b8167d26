/*
 * snapshot_due.c - shall a state be saved by the way, by an append or by somebody
 * who asks for it?
 *
 * A snapshot takes the place of the one before, if nobody may still look at that:
 * no vacuum is needed.  While a transaction is open that may (a backup, a report,
 * the analysis of a large table) each snapshot takes new room, and a state that
 * is saved every 100 events of some thousand a second soon takes a hundred times
 * what it needs.  Nobody has to have them all: as long as the one before cannot
 * go, a large state is saved more rarely.
 */
#include "snapshots.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"

/* a state of fewer bytes leaves little behind */
#define LARGE_STATE		1024

/*
 * So many times rarer: what there is to fold stays a moment's work, also when
 * each event costs what it takes to copy a very large state.
 */
#define PATIENCE		4
#define VERY_LARGE_STATE	(64 * 1024)
#define LESS_PATIENCE	2

/* The row of a key as it is now, whoever can see that. */
typedef struct Newest
{
	TransactionId writer;		/* who wrote it; invalid: there is none */
	bool		busy;			/* somebody else is writing it */
} Newest;

static void
look(Relation snapshots, const char *projection, text *key, Newest *newest)
{
	Relation	index = index_open(evs_catalog()->snapshots_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(snapshots, NULL);
	IndexScanDesc scan;
	ScanKeyData keys[2];
	SnapshotData dirty;

	newest->writer = InvalidTransactionId;
	newest->busy = false;
	InitDirtySnapshot(dirty);

	/* ScanKeyInit compares by the C collation: that of the columns */
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(projection));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(key));
	scan = index_beginscan(snapshots, index, &dirty, NULL, 2, 0, SO_NONE);
	index_rescan(scan, keys, 2, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);

		/* what is frozen has a writer that may be taken for one to come */
		newest->writer = HeapTupleHeaderGetXmin(tuple->t_data);
		newest->busy = newest->busy || TransactionIdIsValid(dirty.xmin) ||
			TransactionIdIsValid(dirty.xmax);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
}

/* Does the key have a snapshot that somebody may still see the one before of? */
static bool
is_recent(Relation snapshots, const Newest *newest)
{
	return TransactionIdIsNormal(newest->writer) &&
		!GlobalVisCheckRemovableXid(snapshots, newest->writer);
}

static int
patience(const Jsonb *state)
{
	if (VARSIZE(state) < LARGE_STATE)
		return 1;
	return VARSIZE(state) < VERY_LARGE_STATE ? PATIENCE : LESS_PATIENCE;
}

int64
evs_snapshot_distance(const EvsState *state)
{
	/* of a key that is no stream all events that are read are in the state */
	return state->seen_version > 0 ? state->seen_version - state->saved_version :
		state->event_count - state->saved_count;
}

bool
evs_snapshot_is_due(const EvsProjection *projection, text *key, const EvsState *state)
{
	int64		every = projection->policy.snapshot_every;
	int64		events = evs_snapshot_distance(state);
	Relation	snapshots;
	Newest		newest;
	bool		due;

	if (state->event_count == 0 || every == 0 || events < every)
		return false;
	snapshots = evs_catalog_open(evs_catalog()->snapshots, AccessShareLock);
	look(snapshots, projection->name, key, &newest);
	due = events >= every * patience(state->state) || !is_recent(snapshots, &newest);
	table_close(snapshots, NoLock);

	/* one that has saved very many has no lock of the key: nor shall it wait for the row */
	return due && !newest.busy &&
		evs_snapshot_lock(projection->name, key, EVS_SNAPSHOT_TRY_KEY);
}
