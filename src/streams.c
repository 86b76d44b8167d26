/*
 * streams.c - serialise appends to one stream, and know its last version.
 *
 * There is no row a stream: its version is that of its last event, found by a
 * backward scan of the index on (stream, version).  Appends to one stream take
 * turns by a lock tag of our own, a hash of the name; a collision only makes
 * two streams take turns with each other.  The unique index is the last guard.
 *
 * The lock table is finite, so a transaction that appends to very many streams
 * (a bulk COPY) stops taking locks at some point.  From there the version is
 * read with a dirty snapshot, which waits for an inserter in progress.  The
 * position is drawn after the version was read in both ways, so positions of
 * one stream never run against its versions.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "streams.h"

#define STREAM_LOCK_CLASS	0xE5

/* beyond this many streams in one transaction no more locks are taken */
#define MAX_STREAM_LOCKS	64

static int	locks_taken = 0;
static LocalTransactionId locks_taken_in = InvalidLocalTransactionId;

static void
stream_locktag(LOCKTAG *tag, text *stream)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(stream),
										   VARSIZE_ANY_EXHDR(stream), 0);

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 STREAM_LOCK_CLASS);
}

/* Returns false when this transaction has its fill of locks. */
static bool
lock_stream(text *stream)
{
	LOCKTAG		tag;

	if (locks_taken_in != EvsMyLocalTransactionId())
	{
		locks_taken_in = EvsMyLocalTransactionId();
		locks_taken = 0;
	}
	stream_locktag(&tag, stream);

	if (locks_taken >= MAX_STREAM_LOCKS)
		return LockHeldByMe(&tag, ExclusiveLock, false);

	if (LockAcquire(&tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
		locks_taken++;
	return true;
}

/*
 * The transaction's own snapshot must see the stream's last event, or what it
 * decided on was a stream that is no more (as with an UPDATE of a changed row).
 */
static void
check_transaction_snapshot(Relation events, TupleTableSlot *slot, text *stream)
{
	bool		isnull;

	if (!IsolationUsesXactSnapshot())
		return;
	/* our own row, perhaps of the command that is running */
	if (TransactionIdIsCurrentTransactionId(
			DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull))))
		return;
	if (!table_tuple_satisfies_snapshot(events, slot, GetTransactionSnapshot()))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent append to stream \"%.*s\"",
						(int) VARSIZE_ANY_EXHDR(stream), VARDATA_ANY(stream)),
				 errdetail("Another transaction appended to the stream after this transaction took its snapshot."),
				 errhint("Run the transaction again.")));
}

/* The version in the stream's last row that the snapshot sees; 0 if none. */
static int64
last_version(Relation events, text *stream, Snapshot snapshot, bool serializable)
{
	Relation	index = index_open(evs_catalog()->events_stream, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(events, NULL);
	IndexScanDesc scan;
	ScanKeyData key;
	int64		version = 0;

	ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(stream));
	scan = index_beginscan(events, index, snapshot, NULL, 1, 0);
	index_rescan(scan, &key, 1, NULL, 0);

	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		bool		isnull;

		version = DatumGetInt64(slot_getattr(slot, EVS_EVENTS_VERSION, &isnull));
		if (serializable)
			check_transaction_snapshot(events, slot, stream);
	}

	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	return version;
}

/* The last version, once nobody is in the middle of adding one. */
static int64
last_version_settled(Relation events, text *stream)
{
	for (;;)
	{
		SnapshotData dirty = {0};	/* xmin stays invalid without a row */

		CHECK_FOR_INTERRUPTS();
		InitDirtySnapshot(dirty);
		(void) last_version(events, stream, &dirty, false);
		if (!TransactionIdIsValid(dirty.xmin))
			break;
		XactLockTableWait(dirty.xmin, events, NULL, XLTW_None);
	}
	return last_version(events, stream, SnapshotSelf, true);
}

/*
 * Lock the stream and return its last version.  May raise 40001 under
 * REPEATABLE READ and above, and 40P01 when transactions lock streams in
 * opposite orders.
 */
int64
evs_stream_lock(Relation events, text *stream)
{
	if (lock_stream(stream))
		return last_version(events, stream, SnapshotSelf, true);
	return last_version_settled(events, stream);
}

/* The last version, without a lock: it may be old by the time it is read. */
int64
evs_stream_version(Relation events, text *stream)
{
	return last_version(events, stream, SnapshotSelf, false);
}
