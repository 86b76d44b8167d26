/*
 * event.c - an event as a row, and the ids that need no storage.
 *
 * An id that the server makes is a UUIDv7 (RFC 9562, section 5.7) whose parts
 * are functions of the stored row: the time is recorded_at, the last 48 bits
 * are the position, and the 26 random bits between them are a hash of both and
 * of this store's origin.  So it is neither stored nor indexed, and a client
 * that sends it again leads us back to the position.
 */
#include "evsource.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "event.h"
#include "relations.h"

/* milliseconds from the epoch of Unix to that of PostgreSQL */
#define EPOCH_SHIFT_MS	(INT64CONST(1000) * SECS_PER_DAY * (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE))

PG_FUNCTION_INFO_V1(evsource_category);
PG_FUNCTION_INFO_V1(evsource_event_id);

/* the two halves of store.origin, read once and again when the row was replaced */
static Oid	origin_of = InvalidOid;
static uint64 origin[2];

static void
read_origin(Oid store_oid)
{
	Relation	store = evs_catalog_open(store_oid, AccessShareLock);
	/* the latest one, which parallel mode allows for a catalog */
	Snapshot	snapshot = RegisterSnapshot(GetCatalogSnapshot(store_oid));
	TableScanDesc scan = table_beginscan(store, snapshot, 0, NULL, SO_NONE);
	TupleTableSlot *slot = table_slot_create(store, NULL);
	bool		isnull;

	if (!table_scan_getnextslot(scan, ForwardScanDirection, slot))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("evsource.store is empty"),
				 errdetail("The row that identifies this event store is missing."),
				 errhint("Restore evsource.store from a dump of this database.")));
	memcpy(origin, DatumGetUUIDP(slot_getattr(slot, 1, &isnull))->data, sizeof(origin));

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(store, AccessShareLock);
	origin_of = store_oid;
}

static void
compute_id(int64 position, TimestampTz recorded_at, pg_uuid_t *id)
{
	const EvsCatalog *catalog = evs_catalog();
	uint64		hash;
	int64		milliseconds = recorded_at / 1000 + EPOCH_SHIFT_MS;

	if (origin_of != catalog->store)
		read_origin(catalog->store);

	hash = evs_mix(evs_get_big_endian((unsigned char *) &origin[0], 8) ^ (uint64) position);
	hash = evs_mix(evs_get_big_endian((unsigned char *) &origin[1], 8) ^ (uint64) recorded_at ^ hash);

	evs_put_big_endian(id->data, (uint64) milliseconds << 16 | 0x7000 | (hash & 0x0FFF), 8);
	evs_put_big_endian(id->data + 8,
					   (0x8000 | ((hash >> 12) & 0x3FFF)) << 48 | (position & EVS_MAX_POSITION), 8);
}

void
evs_event_id(const EvsEvent *event, pg_uuid_t *id)
{
	if (event->has_id)
		*id = event->id;
	else
		compute_id(event->position, event->recorded_at, id);
}

int64
evs_event_id_position(const pg_uuid_t *id)
{
	if ((id->data[6] & 0xF0) != 0x70 || (id->data[8] & 0xC0) != 0x80)
		return 0;
	return (int64) evs_get_big_endian(id->data + 10, 6);
}

int
evs_category_length(const char *stream, int length)
{
	const char *dash = memchr(stream, '-', length);

	return dash ? (int) (dash - stream) : length;
}

void
evs_event_from_slot(EvsEvent *event, TupleTableSlot *slot)
{
	Datum	   *values = slot->tts_values - 1;
	bool	   *nulls = slot->tts_isnull - 1;

	slot_getsomeattrs(slot, EVS_EVENTS_NATTS);

	event->position = DatumGetInt64(values[EVS_EVENTS_POSITION]);
	event->version = DatumGetInt64(values[EVS_EVENTS_VERSION]);
	event->recorded_at = DatumGetTimestampTz(values[EVS_EVENTS_RECORDED_AT]);
	event->stream = DatumGetTextPP(values[EVS_EVENTS_STREAM]);
	event->type = DatumGetTextPP(values[EVS_EVENTS_TYPE]);
	event->data = DatumGetJsonbP(values[EVS_EVENTS_DATA]);
	event->metadata = nulls[EVS_EVENTS_METADATA] ? NULL :
		DatumGetJsonbP(values[EVS_EVENTS_METADATA]);
	event->has_occurred_at = !nulls[EVS_EVENTS_OCCURRED_AT];
	event->occurred_at = event->has_occurred_at ?
		DatumGetTimestampTz(values[EVS_EVENTS_OCCURRED_AT]) : 0;
	event->has_id = !nulls[EVS_EVENTS_ID];
	if (event->has_id)
		event->id = *DatumGetUUIDP(values[EVS_EVENTS_ID]);
	event->schema_version = nulls[EVS_EVENTS_SCHEMA_VERSION] ? 0 :
		DatumGetInt16(values[EVS_EVENTS_SCHEMA_VERSION]);
}

void
evs_event_stored_values(const EvsEvent *event, Datum *values, bool *nulls)
{
	memset(nulls, false, EVS_EVENTS_NATTS * sizeof(bool));
	values[EVS_EVENTS_POSITION - 1] = Int64GetDatum(event->position);
	values[EVS_EVENTS_VERSION - 1] = Int64GetDatum(event->version);
	values[EVS_EVENTS_RECORDED_AT - 1] = TimestampTzGetDatum(event->recorded_at);
	values[EVS_EVENTS_STREAM - 1] = PointerGetDatum(event->stream);
	values[EVS_EVENTS_TYPE - 1] = PointerGetDatum(event->type);
	values[EVS_EVENTS_DATA - 1] = PointerGetDatum(event->data);
	values[EVS_EVENTS_METADATA - 1] = PointerGetDatum(event->metadata);
	nulls[EVS_EVENTS_METADATA - 1] = event->metadata == NULL;
	values[EVS_EVENTS_OCCURRED_AT - 1] = TimestampTzGetDatum(event->occurred_at);
	nulls[EVS_EVENTS_OCCURRED_AT - 1] = !event->has_occurred_at;
	values[EVS_EVENTS_ID - 1] = UUIDPGetDatum(&event->id);
	nulls[EVS_EVENTS_ID - 1] = !event->has_id;
	values[EVS_EVENTS_SCHEMA_VERSION - 1] = Int16GetDatum(event->schema_version);
	nulls[EVS_EVENTS_SCHEMA_VERSION - 1] = event->schema_version == 0;
}

Datum
evs_event_no_metadata(void)
{
	/* a varlena header and a container header that says "object, 0 pairs" */
	static union
	{
		char		bytes[VARHDRSZ + sizeof(uint32)];
		int32		align;
	}			empty;
	static bool made = false;

	if (!made)
	{
		Jsonb	   *jsonb = (Jsonb *) empty.bytes;

		SET_VARSIZE(jsonb, sizeof(empty.bytes));
		jsonb->root.header = JB_FOBJECT;
		made = true;
	}
	return PointerGetDatum(empty.bytes);
}

void
evs_event_values(const EvsEvent *event, Datum *values, bool *nulls, pg_uuid_t *id)
{
	if (id != NULL)
		evs_event_id(event, id);

	memset(nulls, false, EVS_EVENT_NATTS * sizeof(bool));
	nulls[EVS_EVENT_ID - 1] = id == NULL;
	values[EVS_EVENT_POSITION - 1] = Int64GetDatum(event->position);
	values[EVS_EVENT_STREAM - 1] = PointerGetDatum(event->stream);
	values[EVS_EVENT_VERSION - 1] = Int64GetDatum(event->version);
	values[EVS_EVENT_TYPE - 1] = PointerGetDatum(event->type);
	values[EVS_EVENT_DATA - 1] = PointerGetDatum(event->data);
	values[EVS_EVENT_METADATA - 1] = event->metadata ?
		PointerGetDatum(event->metadata) : evs_event_no_metadata();
	values[EVS_EVENT_ID - 1] = UUIDPGetDatum(id);
	values[EVS_EVENT_OCCURRED_AT - 1] = TimestampTzGetDatum(event->has_occurred_at ?
															event->occurred_at :
															event->recorded_at);
	values[EVS_EVENT_RECORDED_AT - 1] = TimestampTzGetDatum(event->recorded_at);
}

Datum
evs_event_datum(const EvsEvent *event)
{
	Datum		values[EVS_EVENT_NATTS];
	bool		nulls[EVS_EVENT_NATTS];
	pg_uuid_t	id;

	evs_event_values(event, values, nulls, &id);
	return HeapTupleGetDatum(heap_form_tuple(evs_event_tupdesc(), values, nulls));
}

static void *
copy_varlena(const void *from)
{
	void	   *to;

	if (from == NULL)
		return NULL;
	to = palloc(VARSIZE_ANY(from));
	memcpy(to, from, VARSIZE_ANY(from));
	return to;
}

void
evs_event_copy(EvsEvent *to, const EvsEvent *from)
{
	*to = *from;
	to->stream = copy_varlena(from->stream);
	to->type = copy_varlena(from->type);
	to->data = copy_varlena(from->data);
	to->metadata = copy_varlena(from->metadata);
}

Size
evs_event_size(const EvsEvent *event)
{
	Size		size = sizeof(EvsEvent);

	size += VARSIZE_ANY(event->stream) + VARSIZE_ANY(event->type);
	size += toast_raw_datum_size(PointerGetDatum(event->data));
	if (event->metadata != NULL)
		size += VARSIZE_ANY(event->metadata);
	return size;
}

/*
 * evsource.category(stream text) returns text: what is before the first '-'.
 */
Datum
evsource_category(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_GETARG_TEXT_PP(0);
	int			length = VARSIZE_ANY_EXHDR(stream);
	int			category = evs_category_length(VARDATA_ANY(stream), length);

	if (category == length)
		PG_RETURN_TEXT_P(stream);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(VARDATA_ANY(stream), category));
}

/*
 * evsource._event_id(position bigint, recorded_at timestamptz) returns uuid: the
 * id that the server makes for an event of this store.
 */
Datum
evsource_event_id(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	compute_id(PG_GETARG_INT64(0), PG_GETARG_TIMESTAMPTZ(1), id);
	PG_RETURN_UUID_P(id);
}

/* A restore has put another row into evsource.store, or the table is a new one. */
static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == origin_of)
		origin_of = InvalidOid;
}

void
evs_event_init(void)
{
	evs_relations_watch(relation_changed);
}
