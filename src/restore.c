/*
 * restore.c - rows that bring their places in the log: a restore, or an import.
 *
 * A reader that has come to a position never looks below it again, so no event may
 * turn up there.  Two kinds of rows cannot do so:
 *
 * - Those of a log that is not open yet.  A log opens when the first position is
 *   drawn in it (positions.c), or when somebody has come to a position of it: a
 *   reader who was shown events, a subscription, a projection, a state that was saved.
 *   Until then everything in it is restored, by however many transactions and in
 *   whatever order.  Such a transaction publishes the lowest bound there is, so that
 *   nobody who appends meanwhile is read before it ends.  The bound is published
 *   first, then it is asked whether the log is open: an event that was read before
 *   that had opened it.  A dump brings whoever has followed the log it was made of, its
 *   events first; the next statement, which is no part of the restore, finds both.
 *
 *   A log that holds nothing, and into which nobody is appending, is as good, though
 *   positions were drawn and taken back: nobody comes to one before the first event
 *   (horizon.c).
 *
 * - Those above the bound that their own transaction has published.  Readers stop
 *   there until it ends.
 *
 * Into an open log a row goes as an append would go: its stream is locked, and it
 * has to follow the stream's last event in version and position.  The sequence moves
 * past it at once, for others draw from it meanwhile.
 *
 * The owner may know that nobody follows the log: evsource.allow_passed_positions.
 *
 * A projection that will not meet a row of its own is told of it: see missed.c.
 *
 * Where rows come in any order, a stream's first event may never come.  Such a
 * stream is noted at the end of the statement in evsource.truncations, for
 * evsource.streams to find it: its first event may still come with a later one.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/stratnum.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "horizon.h"
#include "in_use.h"
#include "missed.h"
#include "positions.h"
#include "query.h"
#include "replication.h"
#include "restore.h"
#include "settings.h"
#include "streams.h"

/* decided at a transaction's first row */
static LocalTransactionId decided_in = InvalidLocalTransactionId;
static bool is_open;			/* the log */
static bool any_position;		/* no position of the log is passed */
static int64 lowest_free;		/* else: those from here on are not */

/*
 * The column of the first row that an index finds, be it of a transaction in
 * progress; 0 if there is none.
 */
static int64
first_in(Relation events, Oid index_oid, ScanKey key, ScanDirection direction, AttrNumber column)
{
	Relation	index = index_open(index_oid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(events, NULL);
	int			nkeys = key == NULL ? 0 : 1;
	SnapshotData dirty = {0};
	IndexScanDesc scan;
	int64		first = 0;
	bool		isnull;

	InitDirtySnapshot(dirty);
	scan = index_beginscan(events, index, &dirty, NULL, nkeys, 0, SO_NONE);
	index_rescan(scan, key, nkeys, NULL, 0);
	if (index_getnext_slot(scan, direction, slot))
		first = DatumGetInt64(slot_getattr(slot, column, &isnull));
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	return first;
}

static bool
holds_events(Relation events)
{
	return first_in(events, evs_catalog()->events_pkey, NULL,
					BackwardScanDirection, EVS_EVENTS_POSITION) != 0;
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

/*
 * Who follows a log opens it.  So these came with the events of another one; its
 * tables are dumped in the order of their names, "projections" and "subscriptions"
 * after "events".
 */
static EvsQuery select_followers = {
	"select from evsource.projections p"
	" where p.mode = 'inline' and p.state = 'active' and p.kind <> 'fold'"
	"  or exists (select from evsource.checkpoints c where c.projection = p.projection and c.position > 0)"
	"  or exists (select from evsource.partitions c where c.projection = p.projection and c.position > 0)"
	"  or exists (select from evsource.snapshots s where s.projection = p.projection)"
	" union all"
	" select from evsource.subscriptions s"
	" where exists (select from evsource.cursors c where c.subscription = s.subscription and c.position > 0)"
	" limit 1",
	0, {0}, SPI_OK_SELECT
};

static bool
was_restored(Relation events)
{
	return holds_events(events) && evs_query_run_latest(&select_followers, NULL, NULL) > 0;
}

static void
decide(Relation events)
{
	bool		closed = !evs_positions_log_is_open();

	if (closed && was_restored(events))
	{
		evs_positions_open_log();
		closed = false;
	}
	if (!closed)
		evs_positions_follow_timeline();
	evs_horizon_publish(closed || !holds_events(events) ? 1 : evs_positions_last() + 1);
	is_open = !closed || evs_positions_log_is_open();
	any_position = !is_open ||
		(evs_horizon_own_bound() == 1 && !others_append() && !holds_events(events));

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
			 errdetail("Events are appended or followed here; when this transaction stored its first event, the last position drawn was %lld.",
					   (long long) lowest_free - 1),
			 errhint("Restore before the log is used, or import at positions above. "
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

/*
 * Whoever follows the log has come up to this position.  Who opens the log by that
 * looks again: a restore that began before will store its rows below.  A log that holds
 * nothing ends at 0, but while nobody is restoring that is no reason to refuse.
 */
void
evs_restore_followed(int64 position)
{
	if (position == 0 || evs_positions_log_is_open())
		return;
	evs_positions_open_log();
	pg_memory_barrier();
	if (evs_horizon_safe_position() < position && (evs_horizon_own_bound() != 0 || others_append()))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not follow the log while events are being restored"),
				 errdetail("A transaction that is open may store events below position %lld.",
						   (long long) position),
				 errhint("Run the command again when the restore has ended.")));
}

int64
evs_restore_reader_comes(int64 after)
{
	int64		safe = evs_horizon_safe_position();

	if (safe == 0 || safe < after || evs_positions_log_is_open() ||
		RecoveryInProgress() || evs_replication_is_copy())
		return safe;
	evs_positions_open_log();
	pg_memory_barrier();
	return evs_horizon_safe_position();
}

/* ---- streams that come without their first events ---- */

/* A stream of the statement's rows: by its hash, of 64 bits. */
typedef struct Stream
{
	uint64		hash;
	int64		lowest;			/* version that came */
	text	   *name;			/* NULL when that is 1 */
} Stream;

struct EvsRestored
{
	MemoryContext context;
	HTAB	   *streams;
	long		sift_at;		/* so many of them: look which are needed */
	EvsMissed  *missed;			/* NULL: the log is not open */
	int64		last;			/* position; 0: no row yet */
	bool		in_use;			/* by who appends, not only by who reads: in_use.c */
};

#define SIFT_AT 65536

EvsRestored *
evs_restore_begin(void)
{
	EvsRestored *restored = palloc0(sizeof(EvsRestored));
	HASHCTL		control = {0};

	restored->context = CurrentMemoryContext;
	restored->sift_at = SIFT_AT;
	control.keysize = sizeof(uint64);
	control.entrysize = sizeof(Stream);
	control.hcxt = CurrentMemoryContext;
	restored->streams = hash_create("evsource restored streams", 256, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return restored;
}

static void
forget(EvsRestored *restored, Stream *stream)
{
	if (stream->name != NULL)
		pfree(stream->name);
	(void) hash_search(restored->streams, &stream->hash, HASH_REMOVE, NULL);
}

/* Keep only the streams whose first version is not in the table. */
static void
sift(EvsRestored *restored, Relation events)
{
	HASH_SEQ_STATUS status;
	Stream	   *stream;

	hash_seq_init(&status, restored->streams);
	while ((stream = hash_seq_search(&status)) != NULL)
	{
		bool		begun = stream->lowest == 1;

		CHECK_FOR_INTERRUPTS();
		if (!begun)
		{
			ScanKeyData key;

			ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, InvalidOid,
								   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(stream->name));
			begun = first_in(events, evs_catalog()->events_stream, &key,
							 ForwardScanDirection, EVS_EVENTS_VERSION) == 1;
		}
		if (begun)
			forget(restored, stream);
	}
	restored->sift_at = Max(SIFT_AT, 2 * hash_get_num_entries(restored->streams));
}

static void
remember(EvsRestored *restored, Relation events, const EvsEvent *row)
{
	uint64		hash = evs_stream_hash(row->stream);
	bool		found;
	Stream	   *stream;

	if (hash_get_num_entries(restored->streams) >= restored->sift_at)
		sift(restored, events);
	stream = hash_search(restored->streams, &hash, HASH_ENTER, &found);
	if (!found)
	{
		stream->lowest = row->version;
		stream->name = NULL;
		if (row->version > 1)
		{
			MemoryContext caller = MemoryContextSwitchTo(restored->context);

			stream->name = (text *) PG_DETOAST_DATUM_COPY(PointerGetDatum(row->stream));
			MemoryContextSwitchTo(caller);
		}
	}
	stream->lowest = Min(stream->lowest, row->version);
}

/* Of what was found before, the first one counts; what was truncated is known better. */
static EvsQuery note = {
	"insert into evsource.truncations (stream, version, first_recorded_at)"
	" select e.stream, e.version, e.recorded_at"
	" from (select x.stream, x.version, x.recorded_at from evsource.events x"
	"  where x.stream = $1 order by x.version limit 1) e"
	" where e.version > 1 and not exists (select from evsource.truncations t"
	"  where t.stream = e.stream and (t.truncated_at is not null or t.version <= e.version))",
	1, {TEXTOID}, SPI_OK_INSERT
};

void
evs_restore_end(EvsRestored *restored, Relation events)
{
	HASH_SEQ_STATUS status;
	Stream	   *stream;

	if (restored->missed != NULL)
		evs_missed_tell(restored->missed);
	if (restored->last > 0 && !restored->in_use)
		evs_positions_are_restored(restored->last);
	/* nor has any session a state without a row that came behind it */
	if (any_position || evs_allow_passed_positions)
		CacheInvalidateRelcacheByRelid(evs_catalog()->projections);

	sift(restored, events);
	if (hash_get_num_entries(restored->streams) == 0)
		return;

	/* the table may be restored itself at this moment: one after the other */
	LockRelationOid(get_relname_relid("truncations", evs_catalog()->schema),
					ShareRowExclusiveLock);
	hash_seq_init(&status, restored->streams);
	while ((stream = hash_seq_search(&status)) != NULL)
	{
		Datum		values[] = {PointerGetDatum(stream->name)};

		CHECK_FOR_INTERRUPTS();
		(void) evs_query_run(&note, values, NULL);
	}
}

static void
note_missed(EvsRestored *restored, const EvsEvent *row)
{
	if (restored->missed == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(restored->context);

		restored->missed = evs_missed_begin();
		MemoryContextSwitchTo(caller);
	}
	evs_missed_note(restored->missed, row, !any_position && row->position < lowest_free);
}

void
evs_restore_row(EvsRestored *restored, Relation events, const EvsEvent *row)
{
	if (decided_in != EvsMyLocalTransactionId())
		decide(events);
	if (restored->last == 0)
		restored->in_use = evs_log_in_use() || (is_open && others_append());
	restored->last = Max(restored->last, row->position);
	if (is_open)
		note_missed(restored, row);
	if (any_position || evs_allow_passed_positions)
	{
		remember(restored, events, row);
		return;
	}
	check_not_passed(row);
	check_follows(events, row);
	evs_positions_pass(row->position);
}
