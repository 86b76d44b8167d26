/*
 * read_secured.c - the reading functions for a user to whom row security
 * applies: through SPI, where the policies are, by the same rules.
 *
 * SPI takes the snapshot when the cursor is opened: a new one under READ
 * COMMITTED, so the safe position that the caller has asked for before is
 * covered; the transaction's own where that is fixed.  Policies decide which
 * events are shown, never where the log ends or what must be flushed: these
 * questions are asked of all events, hidden ones too.  A hidden event may so
 * stop a reader too soon, but none is ever passed over.
 *
 * The operators are qualified; the functions that policies call run as the user
 * would run them.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "event.h"
#include "read.h"
#include "scan.h"
#include "text_array.h"

/* the columns of evsource.events in their order */
#define SECURED_SELECT \
	"select e.position, e.version, e.recorded_at, e.stream, e.type, e.data," \
	" e.metadata, e.id, e.occurred_at, e.schema_version from evsource.events e where "

/* How many rows are taken from SPI at a time. */
#define SECURED_ROWS	1000

/*
 * Open a cursor for the user's own query, with a snapshot that is taken now
 * (or the transaction's where that is fixed).
 */
static Portal
secured_open(const char *query, int nargs, Oid *types, Datum *values, const char *nulls)
{
	return SPI_cursor_open_with_args(NULL, query, nargs, types, values, nulls, false, 0);
}

static void
secured_put(EvsRead *read, uint64 row)
{
	Datum		values[EVS_EVENTS_NATTS];
	bool		nulls[EVS_EVENTS_NATTS];

	heap_deform_tuple(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, values, nulls);
	evs_read_put(read, values, nulls);
}

static int64
secured_int64(uint64 row, int column)
{
	bool		is_null;

	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
									   column, &is_null));
}

void
evs_read_secured_stream(EvsRead *read, text *stream, int64 from_version, int64 to_version,
						bool backward)
{
	Oid			types[] = {TEXTOID, INT8OID, INT8OID, INT8OID};
	Datum		values[4];
	Portal		portal;

	values[0] = PointerGetDatum(stream);
	values[1] = Int64GetDatum(from_version);
	values[2] = Int64GetDatum(to_version);
	values[3] = Int64GetDatum(read->remaining);

	SPI_connect();
	portal = secured_open(backward ?
						  SECURED_SELECT
						  "e.stream operator(pg_catalog.=) $1 and e.version"
						  " operator(pg_catalog.>=) $2 and e.version operator(pg_catalog.<=) $3 order by e.version desc limit $4" :
						  SECURED_SELECT
						  "e.stream operator(pg_catalog.=) $1 and e.version"
						  " operator(pg_catalog.>=) $2 and e.version operator(pg_catalog.<=) $3 order by e.version limit $4",
						  4, types, values, read->remaining < 0 ? "   n" : "    ");
	do
	{
		SPI_cursor_fetch(portal, true, SECURED_ROWS);
		for (uint64 row = 0; row < SPI_processed; row++)
			secured_put(read, row);
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
	SPI_finish();
}

int64
evs_read_secured_version(text *stream, int64 to_version)
{
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[2];
	int64		version;
	Portal		portal;

	values[0] = PointerGetDatum(stream);
	values[1] = Int64GetDatum(to_version);

	SPI_connect();
	portal = secured_open("select e.version from evsource.events e"
						  " where e.stream operator(pg_catalog.=) $1"
						  " and e.version operator(pg_catalog.<=) $2"
						  " order by e.version desc limit 1",
						  2, types, values, NULL);
	SPI_cursor_fetch(portal, true, 1);
	version = SPI_processed == 0 ? 0 : secured_int64(0, 1);
	SPI_cursor_close(portal);
	SPI_finish();
	return version;
}

/*
 * Of the log between two positions, note what must be flushed, and return the
 * position of the first event there that the transaction cannot see, or 0.
 * Policies do not count here: see the top of this file.
 */
static int64
secured_check_log(EvsRead *read, int64 after, int64 upto, const EvsFilter *filter)
{
	EvsScan    *scan = evs_scan_log(after, upto, filter, GetLatestSnapshot());
	TupleTableSlot *slot;
	int64		unseen = 0;

	while (unseen == 0 && (slot = evs_scan_next_slot(scan)) != NULL)
	{
		evs_read_note_commit(read, slot);
		if (!evs_read_snapshot_sees(read->own, evs_scan_relation(scan), slot))
		{
			slot_getsomeattrs(slot, EVS_EVENTS_POSITION);
			unseen = DatumGetInt64(slot->tts_values[EVS_EVENTS_POSITION - 1]);
		}
	}
	evs_scan_end(scan);
	return unseen;
}

void
evs_read_secured_log(EvsRead *read, int64 after, int64 upto, const EvsFilter *filter)
{
	Oid			types[] = {INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID, INT8OID};
	Datum		values[5];
	char		nulls[] = "     ";
	Portal		portal;
	int64		unseen = 0;

	values[0] = Int64GetDatum(after);
	values[1] = Int64GetDatum(upto);
	values[2] = evs_text_array(filter->categories, filter->ncategories);
	values[3] = evs_text_array(filter->types, filter->ntypes);
	values[4] = Int64GetDatum(read->remaining);
	if (filter->ncategories == 0)
		nulls[2] = 'n';
	if (filter->ntypes == 0)
		nulls[3] = 'n';
	if (read->remaining < 0)
		nulls[4] = 'n';

	SPI_connect();
	portal = secured_open(SECURED_SELECT
						  "e.position operator(pg_catalog.>) $1"
						  " and e.position operator(pg_catalog.<=) $2"
						  " and ($3 is null or evsource.category(e.stream) operator(pg_catalog.=) any ($3))"
						  " and ($4 is null or e.type operator(pg_catalog.=) any ($4))"
						  " order by e.position limit $5",
						  5, types, values, nulls);
	do
	{
		int64		last;

		SPI_cursor_fetch(portal, true, SECURED_ROWS);
		if (SPI_processed == 0)
			break;

		last = secured_int64(SPI_processed - 1, EVS_EVENTS_POSITION);
		unseen = secured_check_log(read, after, last, filter);
		after = last;

		for (uint64 row = 0; row < SPI_processed; row++)
		{
			if (unseen == 0 || secured_int64(row, EVS_EVENTS_POSITION) < unseen)
				secured_put(read, row);
		}
		SPI_freetuptable(SPI_tuptable);
	} while (unseen == 0);
	SPI_cursor_close(portal);
	SPI_finish();

	/* as read.c does: what is behind is looked at, not returned */
	if (IsolationIsSerializable() && unseen == 0 && read->remaining != 0)
		(void) secured_check_log(read, after, PG_INT64_MAX, filter);
}

void
evs_read_secured_event(EvsRead *read, pg_uuid_t *id, int64 position)
{
	Oid			types[] = {UUIDOID, INT8OID};
	Datum		values[2];
	Portal		portal;

	values[0] = UUIDPGetDatum(id);
	values[1] = Int64GetDatum(position);

	SPI_connect();
	portal = secured_open(SECURED_SELECT
						  "e.id operator(pg_catalog.=) $1"
						  " or (e.id is null and e.position operator(pg_catalog.=) $2)",
						  2, types, values, NULL);
	SPI_cursor_fetch(portal, true, 2);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		Datum		stored[EVS_EVENTS_NATTS];
		bool		nulls[EVS_EVENTS_NATTS];

		heap_deform_tuple(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, stored, nulls);
		if (evs_read_has_id(stored, nulls, id))
			evs_read_put(read, stored, nulls);
	}
	SPI_cursor_close(portal);
	SPI_finish();
}

