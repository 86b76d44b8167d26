/*
 * snapshot_parts.c - large states, as many short rows.
 *
 * A snapshot is replaced over and over.  A row that is replaced leaves room that
 * the next version of it takes, without a vacuum (HOT).  A value that is too
 * large for a row is not so fortunate: its chunks in the TOAST table get new
 * names each time, and what they leave waits for autovacuum.  A document of 100
 * kB that is saved every 100 keystrokes left 45 MB a minute.
 *
 * So such a state, compressed as TOAST would do it, is cut into parts that are
 * rows of a table of our own, two to a page and room for their next versions:
 * evsource.snapshot_parts.  Its row in evsource.snapshots has no state then.
 * A part that is the same as before is not written.
 *
 * What is cut is jsonb as it is in memory.  A dump may bring it to a machine that
 * orders bytes otherwise, or to a server that cannot undo the compression.  There
 * it cannot be read, and a snapshot that cannot be read is not used.
 */
#include "snapshot_parts.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/toast_internals.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "query.h"

PG_FUNCTION_INFO_V1(evsource__parts_state);

/* columns of evsource.snapshot_parts */
#define PARTS_PROJECTION	1
#define PARTS_KEY			2
#define PARTS_BYTES			4

/* what a row may take without TOAST, and room for its next version: half a page */
#define ROW_BYTES			4000

/* its other columns, but for the names */
#define OTHER_BYTES			200

/* two parts are half a page */
#define PART_BYTES			1800

/* Several times as fast as pglz; the column in the row says the same. */
#ifdef USE_LZ4
#define PARTS_COMPRESSION	TOAST_LZ4_COMPRESSION
#else
#define PARTS_COMPRESSION	TOAST_PGLZ_COMPRESSION
#endif

/* What the first part begins with: read otherwise, it is another number. */
typedef struct PartsHeader
{
	uint32		magic;
	uint32		size;			/* of what follows, in all parts */
} PartsHeader;

#define PARTS_MAGIC			0x45565031

bool
evs_parts_make(const Jsonb *state, Size names, EvsParts *parts)
{
	struct varlena *value = (struct varlena *) state;
	struct varlena *compressed;
	PartsHeader header;
	char	   *bytes;
	Size		size;

	if (VARSIZE(value) + names + OTHER_BYTES <= ROW_BYTES)
		return false;
	compressed = (struct varlena *)
		DatumGetPointer(toast_compress_datum(PointerGetDatum(value), PARTS_COMPRESSION));
	if (compressed != NULL)
		value = compressed;
	if (VARSIZE_ANY(value) + names + OTHER_BYTES <= ROW_BYTES)
		return false;

	header.magic = PARTS_MAGIC;
	header.size = VARSIZE_ANY(value);
	size = sizeof(header) + header.size;
	bytes = MemoryContextAllocHuge(CurrentMemoryContext, size);
	memcpy(bytes, &header, sizeof(header));
	memcpy(bytes + sizeof(header), value, header.size);

	parts->count = (size + PART_BYTES - 1) / PART_BYTES;
	parts->parts = palloc(sizeof(Datum) * parts->count);
	for (int i = 0; i < parts->count; i++)
	{
		Size		offset = (Size) i * PART_BYTES;
		Size		length = Min(size - offset, PART_BYTES);
		bytea	   *part = palloc(VARHDRSZ + length);

		SET_VARSIZE(part, VARHDRSZ + length);
		memcpy(VARDATA(part), bytes + offset, length);
		parts->parts[i] = PointerGetDatum(part);
	}
	pfree(bytes);
	return true;
}

/* ---- writing ---- */

static EvsQuery write_parts = {
	"insert into evsource.snapshot_parts as saved (projection, key, part, bytes)"
	" select $1, $2, n.part, n.bytes from unnest($3) with ordinality n (bytes, part)"
	" on conflict (projection, key, part) do update set bytes = excluded.bytes"
	" where saved.bytes <> excluded.bytes",
	3, {TEXTOID, TEXTOID, BYTEAARRAYOID}, SPI_OK_INSERT
};

static EvsQuery cut_off = {
	"delete from evsource.snapshot_parts where projection = $1 and key = $2 and part > $3",
	3, {TEXTOID, TEXTOID, INT4OID}, SPI_OK_DELETE, .by_index = true
};

static EvsQuery any_part = {
	"select from evsource.snapshot_parts where projection = $1 limit 1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery clear_small = {
	"delete from evsource.snapshot_parts where ctid = any (array("
	" select old.place from unnest($2) n (key)"
	"  cross join lateral ("
	"   select p.ctid from evsource.snapshot_parts p where p.projection = $1 and p.key = n.key"
	"    and (select state is not null from evsource.snapshots where projection = $1 and key = n.key)"
	"   offset 0) old (place)))",
	2, {TEXTOID, TEXTARRAYOID}, SPI_OK_DELETE, .by_index = true
};

static EvsQuery clear = {
	"delete from evsource.snapshot_parts where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

void
evs_parts_write(const char *projection, text *key, const EvsParts *parts)
{
	Datum		values[] = {
		CStringGetTextDatum(projection), PointerGetDatum(key),
		PointerGetDatum(construct_array(parts->parts, parts->count, BYTEAOID, -1,
										false, TYPALIGN_INT))
	};

	(void) evs_query_run_latest(&write_parts, values, NULL);
	values[2] = Int32GetDatum(parts->count);
	(void) evs_query_run_latest(&cut_off, values, NULL);
}

bool
evs_parts_exist(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	return evs_query_run_latest(&any_part, values, NULL) > 0;
}

void
evs_parts_clear_small(const char *projection, Datum keys)
{
	Datum		values[] = {CStringGetTextDatum(projection), keys};

	(void) evs_query_run_latest(&clear_small, values, NULL);
}

void
evs_parts_clear(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	(void) evs_query_run_latest(&clear, values, NULL);
}

/* ---- reading ---- */

/* The parts of a key one after the other, as the snapshot sees them. */
static void
collect(StringInfo bytes, const char *projection, text *key, Snapshot snapshot)
{
	Relation	parts = evs_catalog_open(evs_catalog()->snapshot_parts, AccessShareLock);
	Relation	index = index_open(evs_catalog()->snapshot_parts_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(parts, NULL);
	IndexScanDesc scan;
	ScanKeyData keys[2];

	/* ScanKeyInit compares by the C collation: that of the columns */
	ScanKeyInit(&keys[0], PARTS_PROJECTION, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(projection));
	ScanKeyInit(&keys[1], PARTS_KEY, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(key));
	scan = index_beginscan(parts, index, snapshot, NULL, 2, 0, SO_NONE);
	index_rescan(scan, keys, 2, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		bytea	   *part = DatumGetByteaPP(slot_getattr(slot, PARTS_BYTES, &isnull));

		appendBinaryStringInfo(bytes, VARDATA_ANY(part), VARSIZE_ANY_EXHDR(part));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(parts, NoLock);
}

/* Is it a value that this server can make jsonb of? */
static bool
is_readable(const struct varlena *value, Size size)
{
	if (size < VARHDRSZ || VARATT_IS_EXTERNAL(value) || VARATT_IS_SHORT(value) ||
		VARSIZE(value) != size)
		return false;
#ifndef USE_LZ4
	if (VARATT_IS_COMPRESSED(value) &&
		toast_get_compression_id(unconstify(struct varlena *, value)) > TOAST_PGLZ_COMPRESSION_ID)
		return false;
#endif
	return true;
}

Jsonb *
evs_parts_read(const char *projection, text *key, Snapshot snapshot)
{
	StringInfoData bytes;
	PartsHeader header;
	struct varlena *value;

	initStringInfo(&bytes);
	collect(&bytes, projection, key, snapshot);
	if (bytes.len <= sizeof(header))
		return NULL;
	memcpy(&header, bytes.data, sizeof(header));
	if (header.magic != PARTS_MAGIC || header.size != bytes.len - sizeof(header))
		return NULL;

	/* the header is as long as the alignment of what follows it */
	value = (struct varlena *) (bytes.data + sizeof(header));
	return is_readable(value, header.size) ? (Jsonb *) detoast_attr(value) : NULL;
}

/*
 * evsource._parts_state(projection text, key text) returns jsonb: the state of a
 * key whose row in evsource.snapshots has none; null when there is none, or it
 * cannot be read here.
 */
Datum
evsource__parts_state(PG_FUNCTION_ARGS)
{
	Jsonb	   *state = evs_parts_read(text_to_cstring(PG_GETARG_TEXT_PP(0)),
									   PG_GETARG_TEXT_PP(1), GetActiveSnapshot());

	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(state);
}
