/*
 * stored_row.c - the tuples of evsource.events.
 *
 * A row ends with its last value that is not null, as if the columns behind it
 * had been added later: with none to mark as null, most rows need no bitmap, and
 * are 8 bytes shorter.
 *
 * Most rows of a batch differ from the row before in position, version and data
 * only.  Such a row is made by copying that one as far as its data: that takes a
 * fifth of the time that heap_form_tuple takes.
 */
#include "evsource.h"

#include "access/htup_details.h"

#include "event.h"
#include "stored_row.h"

/* The columns that every row begins with. */
typedef struct Numbers
{
	int64		position;
	int64		version;
} Numbers;

/* Is it stored as it is?  Values that are shorter than this lose their long header. */
static bool
keeps_its_header(Datum value)
{
	Pointer		varlena = DatumGetPointer(value);

	return VARATT_IS_4B_U(varlena) && !VARATT_CAN_MAKE_SHORT(varlena);
}

/*
 * Would these values, which end with the data, make the tuple before, but for
 * position, version and data?
 */
static bool
is_like(HeapTuple before, const Datum *values, const Datum *last)
{
	return HeapTupleHeaderGetNatts(before->t_data) == EVS_EVENTS_DATA &&
		values[EVS_EVENTS_RECORDED_AT - 1] == last[EVS_EVENTS_RECORDED_AT - 1] &&
		values[EVS_EVENTS_STREAM - 1] == last[EVS_EVENTS_STREAM - 1] &&
		evs_same_text((const text *) DatumGetPointer(values[EVS_EVENTS_TYPE - 1]),
					  (const text *) DatumGetPointer(last[EVS_EVENTS_TYPE - 1])) &&
		keeps_its_header(values[EVS_EVENTS_DATA - 1]) &&
		keeps_its_header(last[EVS_EVENTS_DATA - 1]);
}

/* The tuple before with other numbers, and other data at the same place. */
static HeapTuple
form_like(HeapTuple before, const Datum *values, const Datum *last)
{
	Pointer		data = DatumGetPointer(values[EVS_EVENTS_DATA - 1]);
	uint32		place = before->t_len - VARSIZE(DatumGetPointer(last[EVS_EVENTS_DATA - 1]));
	uint32		length = place + VARSIZE(data);
	HeapTuple	tuple = palloc(HEAPTUPLESIZE + length);
	Numbers    *numbers;

	/* a tuple's data stands right behind what describes it */
	memcpy(tuple, before, HEAPTUPLESIZE + place);
	tuple->t_len = length;
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	HeapTupleHeaderSetDatumLength(tuple->t_data, length);
	numbers = (Numbers *) GETSTRUCT(tuple);
	numbers->position = DatumGetInt64(values[EVS_EVENTS_POSITION - 1]);
	numbers->version = DatumGetInt64(values[EVS_EVENTS_VERSION - 1]);
	memcpy((char *) tuple->t_data + place, data, VARSIZE(data));
	return tuple;
}

HeapTuple
evs_stored_row(const TupleDesc *shorter, const Datum *values, const bool *nulls,
			   HeapTuple before, const Datum *last)
{
	int			natts = EVS_EVENTS_NATTS;

	while (nulls[natts - 1])
		natts--;
	if (natts == EVS_EVENTS_DATA && before != NULL && is_like(before, values, last))
		return form_like(before, values, last);
	return heap_form_tuple(shorter[natts], (Datum *) values, (bool *) nulls);
}
