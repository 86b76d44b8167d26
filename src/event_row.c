/*
 * event_row.c - form rows of evsource.event.
 *
 * What heap_form_tuple() does for any row type, for the one type whose columns
 * we know and none of which is ever null unless it is left out, into memory that is used again for
 * the next event.  Forming the row is most of what it costs to call a handler.
 *
 * The columns are those of sql/types.sql, in that order: see event.h.  What the
 * server wants to find in the header of a row (minor releases differ: some note
 * the version of the row type there) is copied from a row that it has formed.
 */
#include "event_row.h"

#include "access/htup_details.h"
#include "utils/array.h"

#include "catalog.h"
#include "event.h"

/* a row without nulls begins with this much header */
#define HEADER_SIZE	MAXALIGN(SizeofHeapTupleHeader)

/* and one with nulls with this much */
#define HEADER_SIZE_WITH_NULLS	MAXALIGN(SizeofHeapTupleHeader + BITMAPLEN(EVS_EVENT_NATTS))

/* what a row needs beside its four varlenas, alignment included */
#define FIXED_SIZE	(HEADER_SIZE_WITH_NULLS + 5 * sizeof(int64) + UUID_LEN + 8 * MAXIMUM_ALIGNOF)

/* enough for most events */
#define INITIAL_SIZE	1024

/* the header of every row of this descriptor */
static TupleDesc header_of = NULL;
static char header_template[HEADER_SIZE];

static void
make_header(TupleDesc tupdesc, const EvsEvent *event)
{
	Datum		values[EVS_EVENT_NATTS];
	bool		nulls[EVS_EVENT_NATTS];
	pg_uuid_t	id;
	HeapTuple	tuple;

	evs_event_values(event, values, nulls, &id);
	tuple = heap_form_tuple(tupdesc, values, nulls);
	Assert(tuple->t_data->t_hoff == HEADER_SIZE);
	memcpy(header_template, tuple->t_data, HEADER_SIZE);
	header_of = tupdesc;
}

void
evs_event_row_init(EvsEventRow *row)
{
	row->context = CurrentMemoryContext;
	row->allocated = INITIAL_SIZE;
	row->tail = 0;
	row->columns = EVS_EVENT_ALL;
	row->tuple.t_data = palloc(row->allocated);
	row->tuple.t_tableOid = InvalidOid;
	ItemPointerSetInvalid(&row->tuple.t_self);
}

/* Zeroes up to the next multiple of a power of two, counted from the data. */
static inline char *
align_to(char *start, char *at, int alignment)
{
	while (((at - start) & (alignment - 1)) != 0)
		*at++ = 0;
	return at;
}

static inline char *
put_int64(char *start, char *at, int64 value)
{
	at = align_to(start, at, ALIGNOF_DOUBLE);
	memcpy(at, &value, sizeof(value));
	return at + sizeof(value);
}

/*
 * A text or jsonb value, with a header of one byte if that is enough; one that
 * is compressed or TOASTed stays so.
 */
static inline char *
put_varlena(char *start, char *at, const void *value, uint16 *infomask)
{
	const char *from = value;
	Size		size = VARSIZE_ANY(value);

	if (VARATT_IS_1B(value))
	{
		if (VARATT_IS_EXTERNAL(value))
			*infomask |= HEAP_HASEXTERNAL;
	}
	else if (VARATT_CAN_MAKE_SHORT(value))
	{
		SET_VARSIZE_SHORT(at, VARATT_CONVERTED_SHORT_SIZE(value));
		at += VARHDRSZ_SHORT;
		from = VARDATA(value);
		size -= VARHDRSZ;
	}
	else
		at = align_to(start, at, sizeof(int32));

	/*
	 * One copy for all: where the compiler knows that a size is small it emits
	 * a string instruction, which takes longer than all the rest of the row.
	 */
	memcpy(at, from, size);
	return at + size;
}

HeapTuple
evs_event_row_form(EvsEventRow *row, const EvsEvent *event)
{
	TupleDesc	tupdesc = evs_event_tupdesc();
	const void *metadata = event->metadata ? (const void *) event->metadata :
		DatumGetPointer(evs_event_no_metadata());
	Size		needed = FIXED_SIZE + VARSIZE_ANY(event->stream) + VARSIZE_ANY(event->type) +
		VARSIZE_ANY(event->data) + VARSIZE_ANY(metadata) + row->tail;
	HeapTupleHeader header = row->tuple.t_data;
	uint16		infomask = 0;
	char	   *start;
	char	   *at;

	if (needed > row->allocated)
	{
		pfree(header);
		row->allocated = Max(needed, Min(row->allocated * 2, MaxAllocSize));
		row->tuple.t_data = header = MemoryContextAlloc(row->context, row->allocated);
	}

	if (header_of != tupdesc)
		make_header(tupdesc, event);
	memcpy(header, header_template, HEADER_SIZE);
	if (row->columns != EVS_EVENT_ALL)
	{
		infomask = HEAP_HASNULL;
		header->t_hoff = HEADER_SIZE_WITH_NULLS;
		header->t_bits[0] = row->columns & 0xFF;
		header->t_bits[1] = row->columns >> 8;
	}

#define HAS(column)	(row->columns & EVS_EVENT_BIT(EVS_EVENT_##column))
	start = at = (char *) header + header->t_hoff;
	if (HAS(POSITION))
		at = put_int64(start, at, event->position);
	if (HAS(STREAM))
		at = put_varlena(start, at, event->stream, &infomask);
	if (HAS(VERSION))
		at = put_int64(start, at, event->version);
	if (HAS(TYPE))
		at = put_varlena(start, at, event->type, &infomask);
	if (HAS(DATA))
		at = put_varlena(start, at, event->data, &infomask);
	if (HAS(METADATA))
		at = put_varlena(start, at, metadata, &infomask);
	if (HAS(ID))
	{
		evs_event_id(event, (pg_uuid_t *) at);
		at += sizeof(pg_uuid_t);
	}
	if (HAS(OCCURRED_AT))
		at = put_int64(start, at, event->has_occurred_at ? event->occurred_at : event->recorded_at);
	if (HAS(RECORDED_AT))
		at = put_int64(start, at, event->recorded_at);
#undef HAS

	header->t_infomask |= infomask;
	HeapTupleHeaderSetDatumLength(header, at - (char *) header);
	row->tuple.t_len = at - (char *) header;
	return &row->tuple;
}

Datum
evs_event_row_datum(EvsEventRow *row, const EvsEvent *event)
{
	return HeapTupleHeaderGetDatum(evs_event_row_form(row, event)->t_data);
}

Datum
evs_event_row_array(EvsEventRow *row, EvsEvent *const *events, int count)
{
	Size		allocated = ARR_OVERHEAD_NONULLS(1) + (Size) count * INITIAL_SIZE / 2;
	Size		size = ARR_OVERHEAD_NONULLS(1);
	ArrayType  *array = palloc(allocated);

	for (int i = 0; i < count; i++)
	{
		HeapTuple	tuple = evs_event_row_form(row, events[i]);
		Size		end = size + DOUBLEALIGN(tuple->t_len);

		if (end > allocated)
		{
			allocated = Max(end, Min(allocated * 2, MaxAllocSize));
			array = repalloc(array, allocated);
		}
		memcpy((char *) array + size, tuple->t_data, tuple->t_len);
		memset((char *) array + size + tuple->t_len, 0, end - size - tuple->t_len);
		size = end;
	}

	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->dataoffset = 0;
	array->elemtype = evs_catalog()->event_type;
	ARR_DIMS(array)[0] = count;
	ARR_LBOUND(array)[0] = 1;
	return PointerGetDatum(array);
}
