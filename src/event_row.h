/*
 * event_row.h - events as rows of evsource.event, formed one after the other in
 * the same piece of memory.
 */
#ifndef EVS_EVENT_ROW_H
#define EVS_EVENT_ROW_H

#include "evsource.h"

#include "access/htup.h"

#include "event.h"

typedef struct EvsEventRow
{
	MemoryContext context;		/* holds the row */
	HeapTupleData tuple;		/* the row formed last */
	Size		allocated;
	Size		tail;			/* room behind a row, for what the caller adds to it */
	uint32		columns;		/* EVS_EVENT_BIT of each that a row has; else null */
} EvsEventRow;

/* A column of evsource.event in such a set. */
#define EVS_EVENT_BIT(column)	(1 << ((column) - 1))
#define EVS_EVENT_ALL			((1 << EVS_EVENT_NATTS) - 1)

/* A former of rows with all columns, in CurrentMemoryContext. */
extern void evs_event_row_init(EvsEventRow *row);

/*
 * The event as a row; it is the same memory at each call.  Here, and only here,
 * the event's varlenas may be as they are stored: not yet detoasted.
 */
extern HeapTuple evs_event_row_form(EvsEventRow *row, const EvsEvent *event);

/* The same as a Datum of type evsource.event. */
extern Datum evs_event_row_datum(EvsEventRow *row, const EvsEvent *event);

/* The events as a Datum of type evsource.event[], in CurrentMemoryContext. */
extern Datum evs_event_row_array(EvsEventRow *row, EvsEvent *const *events, int count);

#endif							/* EVS_EVENT_ROW_H */
