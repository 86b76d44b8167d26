/*
 * streams.c - serialise appends to one stream, and know its last version.
 *
 * There is no row a stream: its version is that of its last event, found by a
 * backward scan of the index on (stream, version).  Appends to one stream take
 * turns by a lock tag of our own, a hash of the name; a collision only makes
 * two streams take turns with each other.  The unique index is the last guard.
 *
 * The lock table is finite, so a transaction that appends to very many streams
 * (a bulk COPY) stops keeping locks at some point.  From there it holds a
 * stream's lock only until its row is in the table, and that row itself keeps
 * others away: the version is always read with a dirty snapshot, and who finds
 * an event in progress there waits for its transaction.  So nobody gets a
 * version that is taken, and only opposite orders are an error (40P01).
 *
 * The position is drawn after the version was read in both ways, so positions
 * of one stream never run against its versions.
 *
 * Each session remembers the last versions of some streams, and where it stored
 * them itself.  An append that expects such an event to be the last looks at the
 * row instead of searching the index for it.  What is remembered is no more than a
 * place to look at: it may be wrong about everything, and costs nothing to keep.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/smgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "lock_classes.h"
#include "store.h"
#include "streams.h"

/* beyond this many streams in one transaction locks are not kept */
#define MAX_STREAM_LOCKS	64

static int	locks_kept = 0;
static LocalTransactionId locks_kept_in = InvalidLocalTransactionId;

/* the locks beyond these, held until the next ones are taken */
static LOCKTAG passing_locks[EVS_STREAMS_AT_ONCE];
static int	passing_count = 0;
static LocalTransactionId passing_in = InvalidLocalTransactionId;

/* What this session knows of streams; they share a place by their hash. */
typedef struct Remembered
{
	uint64		hash;
	int64		version;		/* 0: nothing */
	ItemPointerData tid;		/* where we have stored it; invalid: somebody else has */
	TransactionId xid;			/* in this transaction; it was not rolled back */
} Remembered;

#define REMEMBERED 1024			/* a power of 2 */

static Remembered remembered[REMEMBERED];

/* this transaction has stored some of them */
static bool stored_some = false;

uint64
evs_stream_hash(const text *stream)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(stream),
							   VARSIZE_ANY_EXHDR(stream), 0);
}

static void
stream_locktag(LOCKTAG *tag, uint64 hash)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 EVS_LOCK_STREAM);
}

/* Returns false when this transaction has its fill of locks. */
static bool
keep_lock(const LOCKTAG *tag)
{
	if (locks_kept_in != EvsMyLocalTransactionId())
	{
		locks_kept_in = EvsMyLocalTransactionId();
		locks_kept = 0;
	}
	if (locks_kept >= MAX_STREAM_LOCKS)
		return LockHeldByMe(tag, ExclusiveLock, false);

	if (LockAcquire(tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
		locks_kept++;
	return true;
}

/* Let go of the locks that were taken in passing: their rows are in the table. */
static void
release_passing_locks(void)
{
	ResourceOwner old_owner = CurrentResourceOwner;

	CurrentResourceOwner = TopTransactionResourceOwner;
	for (; passing_count > 0 && passing_in == EvsMyLocalTransactionId(); passing_count--)
		LockRelease(&passing_locks[passing_count - 1], ExclusiveLock, false);
	CurrentResourceOwner = old_owner;
	passing_count = 0;
	passing_in = EvsMyLocalTransactionId();
}

/*
 * Take the lock until release_passing_locks().  The top transaction owns it, so
 * that a savepoint's end does not matter.  Returns false if another has it and
 * "wait" is false.
 */
static bool
lock_in_passing(const LOCKTAG *tag, bool wait)
{
	ResourceOwner old_owner = CurrentResourceOwner;
	bool		locked;

	Assert(passing_count < EVS_STREAMS_AT_ONCE);
	CurrentResourceOwner = TopTransactionResourceOwner;
	locked = LockAcquire(tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
	if (locked)
		passing_locks[passing_count++] = *tag;
	CurrentResourceOwner = old_owner;
	return locked;
}

static bool
is_ours(TupleTableSlot *slot)
{
	bool		isnull;

	return TransactionIdIsCurrentTransactionId(
			DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)));
}

void
evs_stream_report_newer(const text *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent append to stream \"%.*s\"",
					(int) VARSIZE_ANY_EXHDR(stream), VARDATA_ANY(stream)),
			 errdetail("Another transaction appended to the stream after this transaction took its snapshot."),
			 errhint("Run the transaction again.")));
}

/*
 * The transaction's own snapshot must see the stream's last event, or what it
 * decided on was a stream that is no more (as with an UPDATE of a changed row).
 */
static void
check_transaction_snapshot(Relation events, TupleTableSlot *slot, text *stream)
{
	/* our own row is ours to follow, even when its command is still running */
	if (!IsolationUsesXactSnapshot() || is_ours(slot))
		return;
	if (!table_tuple_satisfies_snapshot(events, slot, GetTransactionSnapshot()))
		evs_stream_report_newer(stream);
}

/* A stream's last event, as much of it as matters here. */
typedef struct LastEvent
{
	int64		version;		/* 0: there is none */
	int64		position;
	bool		ours;			/* this transaction added it */
	TransactionId in_progress;	/* the other transaction that is adding it */
} LastEvent;

/*
 * The last row of the stream, be it committed, ours, or in progress.  With
 * "serializable", a committed one that this transaction may not follow is an
 * error.
 *
 * The index reads all that matches on a page before it gives the first row.  So
 * who believes to know the version says so in "at_least": then it reads what is
 * there from that version on, and no more if that is right.
 */
static LastEvent
last_event(Relation events, text *stream, int64 at_least, bool serializable)
{
	/* the lock that inserting into the index takes next */
	Relation	index = index_open(evs_catalog()->events_stream, RowExclusiveLock);
	TupleTableSlot *slot = table_slot_create(events, NULL);
	SnapshotData dirty = {0};	/* xmin stays invalid without a row */
	LastEvent	last = {0};
	ScanKeyData keys[2];
	bool		found = false;

	InitDirtySnapshot(dirty);
	ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid,
						   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(stream));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(at_least));
	for (int nkeys = at_least > 1 ? 2 : 1; nkeys > 0 && !found; nkeys--)
	{
		IndexScanDesc scan = index_beginscan(events, index, &dirty, NULL, nkeys, 0, SO_NONE);

		index_rescan(scan, keys, nkeys, NULL, 0);
		found = index_getnext_slot(scan, BackwardScanDirection, slot);
		index_endscan(scan);
	}

	if (found)
	{
		bool		isnull;

		last.version = DatumGetInt64(slot_getattr(slot, EVS_EVENTS_VERSION, &isnull));
		last.position = DatumGetInt64(slot_getattr(slot, EVS_EVENTS_POSITION, &isnull));
		last.in_progress = dirty.xmin;
		last.ours = is_ours(slot);
		if (serializable && !TransactionIdIsValid(dirty.xmin))
			check_transaction_snapshot(events, slot, stream);
	}
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	return last;
}

/*
 * Lock the stream and return its last event.  With "kept" its lock is kept
 * already; otherwise it is taken in passing.  May raise 40001 under REPEATABLE
 * READ and above, and 40P01 when transactions lock streams in opposite orders.
 */
static LastEvent
lock_and_read(Relation events, text *stream, int64 at_least, const LOCKTAG *tag, bool kept)
{
	if (!kept && !lock_in_passing(tag, false))
	{
		/* behind our own event we need no lock: who has it waits for us */
		LastEvent	last = last_event(events, stream, at_least, false);

		if (last.ours)
			return last;
		(void) lock_in_passing(tag, true);
	}

	for (;;)
	{
		LastEvent	last = last_event(events, stream, at_least, true);

		if (!TransactionIdIsValid(last.in_progress))
			return last;
		XactLockTableWait(last.in_progress, events, NULL, XLTW_None);
		CHECK_FOR_INTERRUPTS();
	}
}

/* As far as this session knows, the stream goes on behind this version. */
static int64
remembered_version(uint64 hash)
{
	const Remembered *place = &remembered[hash % REMEMBERED];

	return place->hash == hash ? place->version : 0;
}

static LastEvent
lock_stream(Relation events, text *stream, int64 at_least)
{
	uint64		hash = evs_stream_hash(stream);
	LastEvent	last;
	LOCKTAG		tag;
	bool		kept;

	stream_locktag(&tag, hash);
	kept = keep_lock(&tag);
	if (!kept)
		release_passing_locks();
	last = lock_and_read(events, stream, at_least > 0 ? at_least : remembered_version(hash), &tag, kept);
	if (last.version > 0 && last.version != remembered_version(hash))
	{
		Remembered *place = &remembered[hash % REMEMBERED];

		place->hash = hash;
		place->version = last.version;
		ItemPointerSetInvalid(&place->tid);
	}
	return last;
}

int64
evs_stream_lock(Relation events, text *stream, int64 at_least)
{
	return lock_stream(events, stream, at_least).version;
}

int64
evs_stream_lock_last(Relation events, text *stream, int64 *position)
{
	LastEvent	last = lock_stream(events, stream, 0);

	*position = last.position;
	return last.version;
}

void
evs_stream_lock_many(Relation events, text *const *streams, int64 *versions, int count)
{
	bool		released = false;

	Assert(count <= EVS_STREAMS_AT_ONCE);
	for (int i = 0; i < count; i++)
	{
		uint64		hash = evs_stream_hash(streams[i]);
		LOCKTAG		tag;
		bool		kept;

		stream_locktag(&tag, hash);
		kept = keep_lock(&tag);
		if (!kept && !released)
		{
			release_passing_locks();
			released = true;
		}
		versions[i] = lock_and_read(events, streams[i], remembered_version(hash), &tag, kept).version;
	}
}

void
evs_stream_remember(const EvsEvent *event, ItemPointer tid)
{
	uint64		hash = evs_stream_hash(event->stream);
	Remembered *place = &remembered[hash % REMEMBERED];

	place->hash = hash;
	place->version = event->version;
	place->tid = *tid;
	place->xid = GetCurrentTransactionId();
	stored_some = true;
}

/*
 * Is the event there?  The transaction that stored it is this one, or a committed one
 * of this session: so it is there while nobody has deleted it.
 */
static bool
event_is_at(Relation events, const Remembered *place, text *stream)
{
	BlockNumber block = ItemPointerGetBlockNumber(&place->tid);
	BlockNumber target = RelationGetTargetBlock(events);
	TupleDesc	desc = RelationGetDescr(events);
	HeapTupleData tuple;
	Buffer		buffer;
	bool		isnull;
	bool		found;

	/*
	 * The table may have become shorter; while we have it locked it does not.
	 * Where this session inserted last is there: it forgets that when the table
	 * is truncated.  Else the kernel has to be asked.
	 */
	if ((target == InvalidBlockNumber || block > target) &&
		block >= RelationGetNumberOfBlocks(events))
		return false;

	tuple.t_self = place->tid;
	if (!heap_fetch(events, SnapshotAny, &tuple, &buffer, false))
		return false;
	found = HeapTupleHeaderGetRawXmin(tuple.t_data) == place->xid &&
		(tuple.t_data->t_infomask & HEAP_XMAX_INVALID) != 0 &&
		DatumGetInt64(heap_getattr(&tuple, EVS_EVENTS_VERSION, desc, &isnull)) == place->version &&
		evs_same_text(DatumGetTextPP(heap_getattr(&tuple, EVS_EVENTS_STREAM, desc, &isnull)), stream);
	ReleaseBuffer(buffer);
	return found;
}

bool
evs_stream_lock_behind(Relation events, text *stream, int64 version)
{
	uint64		hash = evs_stream_hash(stream);
	Remembered *place = &remembered[hash % REMEMBERED];
	LOCKTAG		tag;

	if (place->hash != hash || place->version != version || !ItemPointerIsValid(&place->tid) ||
		IsolationUsesXactSnapshot() || events->rd_tableam != GetHeapamTableAmRoutine())
		return false;
	stream_locktag(&tag, hash);
	return keep_lock(&tag) && event_is_at(events, place, stream);
}

void
evs_stream_check_version(Relation events, text *stream, int64 expected, int64 actual)
{
	char	   *name;

	if (expected == EVS_EXPECTED_ANY ||
		expected == actual ||
		(expected == EVS_EXPECTED_EXISTS && actual > 0))
		return;

	/* clients parse the detail: its form is part of the interface */
	name = text_to_cstring(stream);
	ereport(ERROR,
			(errcode(ERRCODE_EVS_WRONG_EXPECTED_VERSION),
			 errmsg("wrong expected version for stream \"%s\"", name),
			 evs_store_may_tell_version(events, stream, actual) ?
			 errdetail("Stream \"%s\": expected version %lld, actual version %lld.",
					   name, (long long) expected, (long long) actual) :
			 errdetail("Stream \"%s\": expected version %lld.", name, (long long) expected),
			 errhint("Load the stream again and decide on what it holds now.")));
}

/* What we have stored is no more, or is for others to commit. */
static void
forget_places(void)
{
	for (int i = 0; stored_some && i < REMEMBERED; i++)
		ItemPointerSetInvalid(&remembered[i].tid);
	stored_some = false;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		forget_places();
	else if (event == XACT_EVENT_COMMIT)
		stored_some = false;
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_places();
}

void
evs_streams_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
