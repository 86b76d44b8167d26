/*
 * stored_row.h - the tuples of evsource.events.
 */
#ifndef EVS_STORED_ROW_H
#define EVS_STORED_ROW_H

#include "evsource.h"

#include "access/htup.h"
#include "access/tupdesc.h"

/*
 * A tuple of the columns' values, in CurrentMemoryContext.  shorter[n] describes
 * the first n columns of the table.  "before" is the tuple that was formed before,
 * of the values last, or NULL: what they have in common is not formed again.
 */
extern HeapTuple evs_stored_row(const TupleDesc *shorter, const Datum *values, const bool *nulls,
								HeapTuple before, const Datum *last);

#endif							/* EVS_STORED_ROW_H */
