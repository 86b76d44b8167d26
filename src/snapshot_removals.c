/*
 * snapshot_removals.c - who has removed snapshots of a projection last, so that
 * nobody brings them back.
 *
 * A handler that was replaced, or a rebuild, makes what is saved worth nothing:
 * it is removed.  Others may still see it: a transaction whose snapshot is fixed,
 * or one that has read a row and is folding the events after it.  Handler and state
 * version are looked up as they are now, so a state that began with such a row is
 * a mixture, and must neither be saved nor kept.
 *
 * A removal leaves a row of evsource.snapshot_removals: a session that has a
 * snapshot that does not see its last version may still see rows that are gone.
 * And it invalidates what sessions know of projections: one that has a lock under
 * which snapshots are written, and has heard of nothing since before it read
 * anything, knows that what it read is still there.
 *
 * The row is written under the lock on all of the projection's snapshots.  It
 * stays when the projection is dropped: another one may get its name.
 */
#include "snapshots.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "query.h"
#include "state_cache.h"

static EvsQuery note = {
	"insert into evsource.snapshot_removals (projection, removed_at)"
	" select projection, clock_timestamp() from evsource.projections where projection = $1"
	" on conflict (projection) do update set removed_at = excluded.removed_at",
	1, {TEXTOID}, SPI_OK_INSERT
};

void
evs_snapshots_note_removal(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	/* those of a trial are nobody else's business */
	if (evs_query_run_latest(&note, values, NULL) > 0)
		CacheInvalidateRelcacheByRelid(evs_catalog()->projections);
}

/* The transaction that has removed some last, as of now. */
static TransactionId
last_remover(const char *projection)
{
	Relation	removals = evs_catalog_open(evs_catalog()->snapshot_removals, AccessShareLock);
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());
	TransactionId remover = InvalidTransactionId;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(projection));
	scan = systable_beginscan(removals, evs_catalog()->snapshot_removals_pkey, true, latest,
							  1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		remover = HeapTupleHeaderGetXmin(tuple->t_data);
	systable_endscan(scan);
	UnregisterSnapshot(latest);
	table_close(removals, AccessShareLock);
	return remover;
}

bool
evs_snapshots_removed_since(const char *projection, Snapshot snapshot)
{
	TransactionId remover = last_remover(projection);

	if (!TransactionIdIsNormal(remover))
		return false;

	/* where we have removed some ourselves, others may have removed some before */
	if (TransactionIdIsCurrentTransactionId(remover))
		return IsolationUsesXactSnapshot();
	return XidInMVCCSnapshot(remover, snapshot);
}

bool
evs_snapshots_unchanged_since(uint64 generation)
{
	AcceptInvalidationMessages();
	return generation == evs_state_cache_generation();
}
