/*
 * snapshots.c - the rows of evsource.snapshots: find them, write them.
 *
 * Reading is an index scan of our own, for it stands in the way of an append.
 * Writing is one statement for many rows, as the table's owner.  A row is
 * never replaced by an older one of the same definition.  A large state is
 * apart from its row: see snapshot_parts.c.
 *
 * Locks: a session that writes holds a row until its transaction ends, and one
 * that only asks for a state may write, unless it may idle afterwards (see
 * save_by_the_way() in states.c).  Nobody shall ever wait for that: a row
 * is written under a lock tag of its own, which those who save by the way (an
 * append, a state that was asked for) take only if it is free.  What they do
 * not save, somebody else has saved or will.  Those who were told to save or to
 * clear wait.  The tag of the projection is held as well: shared with one key,
 * exclusively with all of them.
 *
 * Two others must write.  An append of a projection that saves each state takes
 * no lock of a key: it has the stream.  It holds the projection's tag in a mode of
 * its own, which keeps out who clears or saves all; who has the barrier need not
 * keep out appends.  And a projection that is not inline is written by whoever has
 * the lock on its name, and by nobody else.  The order is: the name, the tags,
 * the barrier; or the log, the stream, the tag; then rows.
 *
 * What is written is bookkeeping: it goes by what is there now, also where the
 * transaction's own snapshot is an older one.
 *
 * The lock table is finite: a transaction that saves the states of very many
 * keys stops taking locks of keys at some point and relies on those of the rows.
 */
#include "snapshots.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "event.h"
#include "lock_classes.h"
#include "query.h"
#include "restore.h"
#include "snapshot_history.h"
#include "snapshot_parts.h"

PG_FUNCTION_INFO_V1(evsource__same_state);

/* columns of evsource.snapshots */
#define SNAPSHOTS_PROJECTION	1
#define SNAPSHOTS_KEY			2
#define SNAPSHOTS_VERSION		3
#define SNAPSHOTS_POSITION		4
#define SNAPSHOTS_LAST_EVENT_ID	5
#define SNAPSHOTS_EVENT_COUNT	6
#define SNAPSHOTS_STATE_VERSION	7
#define SNAPSHOTS_DEFINITION	8
#define SNAPSHOTS_SAVED_AT		9
#define SNAPSHOTS_OCCURRED_AT	10
#define SNAPSHOTS_RESTORES		11
#define SNAPSHOTS_REJECTIONS	12
#define SNAPSHOTS_STATE			13
#define SNAPSHOTS_SEEN_VERSION	14
#define SNAPSHOTS_SEEN_POSITION	15

/* beyond this many in one transaction no more locks of keys are taken */
#define MAX_KEY_LOCKS			64

/* a writer writes when it has this many rows, or bytes of states */
#define WRITER_ROWS				1000
#define WRITER_BYTES			(1024 * 1024)

#define WRITER_COLUMNS			12

/* ---- reading ---- */

static void
row_from_slot(EvsSnapshot *row, TupleTableSlot *slot)
{
	Datum	   *values = slot->tts_values - 1;
	bool	   *nulls = slot->tts_isnull - 1;

	slot_getallattrs(slot);
	row->version = nulls[SNAPSHOTS_VERSION] ? 0 : DatumGetInt64(values[SNAPSHOTS_VERSION]);
	row->position = DatumGetInt64(values[SNAPSHOTS_POSITION]);
	row->last_event_id = *DatumGetUUIDP(values[SNAPSHOTS_LAST_EVENT_ID]);
	row->event_count = DatumGetInt64(values[SNAPSHOTS_EVENT_COUNT]);
	row->state_version = DatumGetInt32(values[SNAPSHOTS_STATE_VERSION]);
	row->definition = DatumGetInt64(values[SNAPSHOTS_DEFINITION]);
	row->saved_at = DatumGetTimestampTz(values[SNAPSHOTS_SAVED_AT]);
	row->occurred_at = DatumGetTimestampTz(values[SNAPSHOTS_OCCURRED_AT]);
	row->upto = 0;
	row->seen_version = nulls[SNAPSHOTS_SEEN_VERSION] ? row->version :
		DatumGetInt64(values[SNAPSHOTS_SEEN_VERSION]);
	row->seen_position = nulls[SNAPSHOTS_SEEN_POSITION] ? row->position :
		DatumGetInt64(values[SNAPSHOTS_SEEN_POSITION]);
	row->state = nulls[SNAPSHOTS_STATE] ? NULL : DatumGetJsonbPCopy(values[SNAPSHOTS_STATE]);
}

bool
evs_snapshot_read(const char *projection, text *key, Snapshot snapshot, EvsSnapshot *row)
{
	Relation	snapshots = evs_catalog_open(evs_catalog()->snapshots, AccessShareLock);
	Relation	index = index_open(evs_catalog()->snapshots_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(snapshots, NULL);
	IndexScanDesc scan;
	ScanKeyData keys[2];
	bool		found;

	/* ScanKeyInit compares by the C collation: that of the columns */
	ScanKeyInit(&keys[0], SNAPSHOTS_PROJECTION, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(projection));
	ScanKeyInit(&keys[1], SNAPSHOTS_KEY, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(key));
	scan = index_beginscan(snapshots, index, snapshot, NULL, 2, 0, SO_NONE);
	index_rescan(scan, keys, 2, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	if (found)
	{
		row_from_slot(row, slot);
		if (row->state == NULL)
			row->state = evs_parts_read(projection, key, snapshot);
	}

	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(snapshots, NoLock);
	return found;
}

/* ---- locks ---- */

static int	key_locks = 0;
static LocalTransactionId key_locks_in = InvalidLocalTransactionId;

/* A tag for a projection (no key), or for a key of it; a collision does no harm. */
static void
set_locktag(LOCKTAG *tag, const char *projection, text *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) projection,
										   strlen(projection), 0);

	if (key != NULL)
		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(key),
								   VARSIZE_ANY_EXHDR(key), hash | 1);
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 EVS_LOCK_SNAPSHOT);
}

void
evs_snapshot_locktag(LOCKTAG *tag, const char *projection)
{
	set_locktag(tag, projection, NULL);
}

/* Keep out everybody; until those who are in have come to an end nobody waits behind us. */
static void
lock_out(const LOCKTAG *tag)
{
	if (LockAcquire(tag, AccessExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
		return;
	WaitForLockers(*tag, AccessExclusiveLock, false);
	(void) LockAcquire(tag, AccessExclusiveLock, false, false);
}

bool
evs_snapshot_lock(const char *projection, text *key, EvsSnapshotLock lock)
{
	LOCKTAG		tag;
	LOCKTAG		of_all;
	bool		try = lock == EVS_SNAPSHOT_TRY_KEY;

	set_locktag(&tag, projection, NULL);
	of_all = tag;
	switch (lock)
	{
		case EVS_SNAPSHOT_LOCK_ALL:
			(void) LockAcquire(&tag, ExclusiveLock, false, false);
			return true;
		case EVS_SNAPSHOT_LOCK_OUT:
			lock_out(&tag);
			return true;
		case EVS_SNAPSHOT_LOCK_EACH:
			(void) LockAcquire(&tag, AccessShareLock, false, false);
			return true;
		default:
			break;
	}
	if (LockAcquire(&tag, ShareLock, false, try) == LOCKACQUIRE_NOT_AVAIL)
		return false;

	if (key_locks_in != EvsMyLocalTransactionId())
	{
		key_locks_in = EvsMyLocalTransactionId();
		key_locks = 0;
	}
	if (key_locks >= MAX_KEY_LOCKS)
		return true;

	set_locktag(&tag, projection, key);
	switch (LockAcquire(&tag, ExclusiveLock, false, try))
	{
		case LOCKACQUIRE_NOT_AVAIL:
			/* nothing will be written under it: keep nobody out who clears or saves all */
			(void) LockRelease(&of_all, ShareLock, false);
			return false;
		case LOCKACQUIRE_OK:
			key_locks++;
			break;
		default:
			break;
	}
	return true;
}

/* ---- writing ---- */

/*
 * evsource._same_state(a jsonb, b jsonb) returns boolean: are they the same,
 * byte for byte?  Values of two sizes are not fetched.
 */
Datum
evsource__same_state(PG_FUNCTION_ARGS)
{
	Datum		a = PG_GETARG_DATUM(0);
	Datum		b = PG_GETARG_DATUM(1);
	Jsonb	   *left;
	Jsonb	   *right;

	if (toast_raw_datum_size(a) != toast_raw_datum_size(b))
		PG_RETURN_BOOL(false);
	left = DatumGetJsonbP(a);
	right = DatumGetJsonbP(b);
	PG_RETURN_BOOL(VARSIZE(left) == VARSIZE(right) && memcmp(left, right, VARSIZE(left)) == 0);
}

struct EvsSnapshotWriter
{
	const EvsProjection *projection;
	int64		definition;		/* of the states; 0: as it is when they are written */
	MemoryContext context;		/* holds the values below; reset at each write */
	int			count;			/* rows to be written */
	int			allocated;
	Size		bytes;			/* of their states */
	bool		is_there;		/* the key of the last one has been saved before */
	bool		cuts;			/* large states are cut into parts */
	bool		looked;			/* whether ... */
	bool		has_parts;		/* ... the projection has some by now */
	int64		written;		/* rows, by now */
	Datum	   *columns[WRITER_COLUMNS];
};

/* what differs from row to row, in the order of the statement's parameters */
enum
{
	WRITER_KEY,
	WRITER_VERSION,
	WRITER_POSITION,
	WRITER_LAST_EVENT_ID,
	WRITER_EVENT_COUNT,
	WRITER_OCCURRED_AT,
	WRITER_RESTORES,
	WRITER_REJECTIONS,
	WRITER_MIXED,
	WRITER_STATE,
	WRITER_SEEN_VERSION,
	WRITER_SEEN_POSITION
};

EvsSnapshotWriter *
evs_snapshot_writer(const EvsProjection *projection, int64 definition)
{
	EvsSnapshotWriter *writer = palloc0(sizeof(EvsSnapshotWriter));

	writer->projection = projection;
	writer->definition = definition;

	/* where every state is saved they are there to be searched */
	writer->cuts = projection->policy.snapshot_every != 1;
	writer->context = AllocSetContextCreate(CurrentMemoryContext, "evsource snapshots",
											ALLOCSET_DEFAULT_SIZES);
	return writer;
}

/* What is to be saved; a mixture of definitions is of none: 0 (see EVS_MIXED_DEFINITION). */
#define SAVED_COLUMNS \
	"(projection, key, version, position, last_event_id, event_count," \
	" state_version, definition, saved_at, occurred_at, restores, rejections, state," \
	" seen_version, seen_position)"

#define NEW_ROWS(rows) \
	" select $1, n.key, nullif(n.version, 0), n.position, n.last_event_id, n.event_count," \
	"  $2, case when n.mixed then 0 else $3 end, clock_timestamp()," \
	"  n.occurred_at, n.restores, n.rejections, n.state," \
	"  nullif(n.seen_version, 0), nullif(n.seen_position, 0)" \
	" from " rows \
	"  as n (key, version, position, last_event_id, event_count, occurred_at, restores," \
	"   rejections, mixed, state, seen_version, seen_position)"

/* A state that is the same as before is not written: a large one stays where it is. */
#define TAKE_NEW \
	"  version = excluded.version, position = excluded.position," \
	"  last_event_id = excluded.last_event_id, event_count = excluded.event_count," \
	"  state_version = excluded.state_version, definition = excluded.definition," \
	"  saved_at = excluded.saved_at, occurred_at = excluded.occurred_at," \
	"  seen_version = excluded.seen_version, seen_position = excluded.seen_position," \
	"  state = case when evsource._same_state(saved.state, excluded.state)" \
	"   then saved.state else excluded.state end," \
	"  restores = saved.restores + excluded.restores," \
	"  rejections = saved.rejections + excluded.rejections"

/* What another definition has computed, or the log does not confirm, is worth nothing. */
#define IS_BETTER \
	"(saved.position <= excluded.position or excluded.rejections > 0" \
	" or saved.state_version <> excluded.state_version" \
	" or saved.definition <> excluded.definition)"

#define UPSERT(rows) \
	"insert into evsource.snapshots as saved " SAVED_COLUMNS NEW_ROWS(rows) \
	" on conflict (projection, key) do update set" TAKE_NEW " where " IS_BETTER

#define ONE_ROW		"(values ($4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15))"

#define ONE_ROW_TYPES \
	15, {TEXTOID, INT4OID, INT8OID, TEXTOID, INT8OID, INT8OID, \
		UUIDOID, INT8OID, TIMESTAMPTZOID, INT8OID, INT8OID, BOOLOID, JSONBOID, \
		INT8OID, INT8OID}

static EvsQuery upsert_one = {UPSERT(ONE_ROW), ONE_ROW_TYPES, SPI_OK_INSERT};

/* The same where there is a row. */
static EvsQuery update_one = {
	"update evsource.snapshots as saved set" TAKE_NEW
	" from (" NEW_ROWS(ONE_ROW) ") as excluded " SAVED_COLUMNS
	" where saved.projection = $1 and saved.key = $4 and " IS_BETTER,
	ONE_ROW_TYPES, SPI_OK_UPDATE, .by_index = true
};

static EvsQuery upsert_many = {
	UPSERT("rows from (unnest($4), unnest($5), unnest($6), unnest($7), unnest($8),"
		   " unnest($9), unnest($10), unnest($11), unnest($12), unnest($13), unnest($14),"
		   " unnest($15))"),
	15, {TEXTOID, INT4OID, INT8OID, TEXTARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
		UUIDARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
		BOOLARRAYOID, JSONBARRAYOID, INT8ARRAYOID, INT8ARRAYOID},
	SPI_OK_INSERT
};

/*
 * ON CONFLICT locks the row first, and its new version inherits that: a lock of each savepoint,
 * all looked through each time.  So an UPDATE is tried where the row is known to be there, but
 * not under SERIALIZABLE: its look at the index would meet those who write the rows beside it.
 */
static uint64
write_one(Datum *values, const char *nulls, bool is_there)
{
	uint64		written = is_there && !IsolationIsSerializable() ?
		evs_query_run_latest(&update_one, values, nulls) : 0;

	return written > 0 ? written : evs_query_run_latest(&upsert_one, values, nulls);
}

/* The values of a column in all rows, as an array. */
static Datum
column_array(const EvsSnapshotWriter *writer, int column)
{
	Oid			type = upsert_one.argtypes[3 + column];
	int16		length;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &length, &byval, &align);
	return PointerGetDatum(construct_array(writer->columns[column], writer->count,
										   type, length, byval, align));
}

/* Write what is there; with parts it is one row, whose state is those. */
static void
write_rows(EvsSnapshotWriter *writer, const EvsParts *parts)
{
	const EvsProjection *projection = writer->projection;
	bool		one = writer->count == 1;
	bool		keep = projection->policy.keep_snapshots > 1;
	Datum		keys = (Datum) 0;
	char		nulls[3 + WRITER_COLUMNS];
	uint64		written;
	MemoryContext caller;
	Datum		values[3 + WRITER_COLUMNS];

	if (writer->count == 0)
		return;
	caller = MemoryContextSwitchTo(writer->context);
	if (!writer->looked)
		writer->has_parts = evs_parts_exist(projection->name);
	writer->looked = true;
	values[0] = CStringGetTextDatum(projection->name);
	values[1] = Int32GetDatum(projection->state_version);
	values[2] = Int64GetDatum(writer->definition != 0 ? writer->definition :
							  evs_snapshot_definition(projection));
	for (int i = 0; i < WRITER_COLUMNS; i++)
		values[3 + i] = one ? writer->columns[i][0] : column_array(writer, i);

	memset(nulls, ' ', sizeof(nulls));
	if (parts != NULL)
		nulls[3 + WRITER_STATE] = 'n';

	ereport(DEBUG1,
			(errmsg_plural("saving %d snapshot of projection \"%s\"",
						   "saving %d snapshots of projection \"%s\"",
						   writer->count, writer->count, projection->name)));
	if (keep || writer->has_parts)
		keys = column_array(writer, WRITER_KEY);
	if (keep)
		evs_history_keep(projection, keys);
	written = one ? write_one(values, nulls, writer->is_there) :
		evs_query_run_latest(&upsert_many, values, nulls);
	if (parts != NULL && written > 0)
		evs_parts_write(projection->name, DatumGetTextPP(writer->columns[WRITER_KEY][0]), parts);
	else if (parts == NULL && writer->has_parts)
		evs_parts_clear_small(projection->name, keys);
	writer->has_parts = writer->has_parts || parts != NULL;
	if (keep)
		evs_history_trim(projection, keys);
	writer->written += written;

	MemoryContextSwitchTo(caller);
	MemoryContextReset(writer->context);
	memset(writer->columns, 0, sizeof(writer->columns));
	writer->count = 0;
	writer->allocated = 0;
	writer->bytes = 0;
}

pg_uuid_t *
evs_snapshot_last_event_id(const EvsState *state)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	EvsEvent	event = {
		.position = state->position,
		.recorded_at = state->recorded_at,
		.has_id = state->has_id,
		.id = state->id
	};

	evs_event_id(&event, id);
	return id;
}

static Datum
copy_varlena(const void *value)
{
	Size		size = VARSIZE_ANY(value);
	void	   *copy = palloc(size);

	memcpy(copy, value, size);
	return PointerGetDatum(copy);
}

/* Room for one row more. */
static void
enlarge(EvsSnapshotWriter *writer)
{
	if (writer->count < writer->allocated)
		return;
	writer->allocated = Max(writer->allocated * 2, 8);
	for (int i = 0; i < WRITER_COLUMNS; i++)
		writer->columns[i] = writer->columns[i] ?
			repalloc(writer->columns[i], sizeof(Datum) * writer->allocated) :
			palloc(sizeof(Datum) * writer->allocated);
}

void
evs_snapshot_add(EvsSnapshotWriter *writer, text *key, const EvsState *state)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		by_stream = writer->projection->key_kind == EVS_KEY_STREAM;
	bool		saw_more = by_stream && state->seen_position > state->position;
	EvsParts	parts;
	bool		cut;
	int			row;

	Assert(state->event_count > 0);
	cut = writer->cuts &&
		evs_parts_make(state->state, strlen(writer->projection->name) + VARSIZE_ANY_EXHDR(key),
					   &parts);
	if (cut)
		write_rows(writer, NULL);
	MemoryContextSwitchTo(writer->context);
	enlarge(writer);
	row = writer->count++;
	writer->columns[WRITER_KEY][row] = copy_varlena(key);
	writer->columns[WRITER_VERSION][row] = Int64GetDatum(by_stream ? state->version : 0);
	writer->columns[WRITER_POSITION][row] = Int64GetDatum(state->position);
	writer->columns[WRITER_LAST_EVENT_ID][row] = UUIDPGetDatum(evs_snapshot_last_event_id(state));
	writer->columns[WRITER_EVENT_COUNT][row] = Int64GetDatum(state->event_count);
	writer->columns[WRITER_OCCURRED_AT][row] = TimestampTzGetDatum(state->occurred_at);
	writer->columns[WRITER_RESTORES][row] = Int64GetDatum(state->restores);
	writer->columns[WRITER_REJECTIONS][row] = Int64GetDatum(state->rejections);
	writer->columns[WRITER_MIXED][row] = BoolGetDatum(state->mixed);
	writer->columns[WRITER_STATE][row] = cut ? (Datum) 0 : copy_varlena(state->state);
	writer->columns[WRITER_SEEN_VERSION][row] = Int64GetDatum(saw_more ? state->seen_version : 0);
	writer->columns[WRITER_SEEN_POSITION][row] = Int64GetDatum(saw_more ? state->seen_position : 0);
	writer->bytes += VARSIZE(state->state);
	writer->is_there = state->saved_count > 0;
	MemoryContextSwitchTo(caller);
	evs_restore_followed(state->position);

	if (cut)
		write_rows(writer, &parts);
	else if (writer->count == WRITER_ROWS || writer->bytes >= WRITER_BYTES)
		write_rows(writer, NULL);
}

int64
evs_snapshot_finish(EvsSnapshotWriter *writer)
{
	int64		written;

	write_rows(writer, NULL);
	written = writer->written;
	MemoryContextDelete(writer->context);
	pfree(writer);
	return written;
}

/* ---- marking, removing ---- */

static EvsQuery clear_foreign = {
	"with gone as ("
	"  delete from evsource.snapshots"
	"  where projection = $1 and " EVS_SNAPSHOT_FOREIGN " returning key),"
	" gone_parts as ("
	"  delete from evsource.snapshot_parts p using gone g where p.projection = $1 and p.key = g.key)"
	" delete from evsource.snapshot_history"
	" where projection = $1 and " EVS_SNAPSHOT_FOREIGN " and upto is null",
	4, {TEXTOID, INT4OID, INT8OID, BOOLOID}, SPI_OK_DELETE
};

void
evs_snapshots_clear_foreign(const EvsProjection *projection)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name),
		Int32GetDatum(projection->state_version),
		Int64GetDatum(evs_snapshot_definition_before(projection)),
		BoolGetDatum(evs_snapshot_vouches(projection))
	};

	(void) evs_query_run_latest(&clear_foreign, values, NULL);
	evs_snapshots_note_removal(projection->name);
}

static EvsQuery mark_mixed = {
	"update evsource.snapshots set definition = 0 where projection = $1 and definition <> 0",
	1, {TEXTOID}, SPI_OK_UPDATE
};

void
evs_snapshots_mark_mixed(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	(void) evs_query_run_latest(&mark_mixed, values, NULL);
}

static EvsQuery clear = {
	"delete from evsource.snapshots where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

int64
evs_snapshots_clear(const char *projection, bool bases)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	(void) evs_snapshot_lock(projection, NULL, EVS_SNAPSHOT_LOCK_ALL);
	(void) evs_history_clear(projection, bases);
	evs_parts_clear(projection);
	if (bases)
		evs_snapshot_forget_rejections(projection);
	evs_snapshots_note_removal(projection);
	return evs_query_run_latest(&clear, values, NULL);
}
