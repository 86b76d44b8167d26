/*
 * apply_read.h - read the next events of the log for a projection, whatever
 * their upcasters do.
 */
#ifndef EVS_APPLY_READ_H
#define EVS_APPLY_READ_H

#include "evsource.h"
#include "clock.h"
#include "projection.h"

/* What there is after a position and up to another. */
typedef struct EvsReading
{
	EvsBatch   *batch;			/* copied */
	bool		at_end;			/* there is no more, nor an event that cannot be read */
	EvsEvent   *unreadable;		/* the next one, as it is stored; NULL: none in the way */
	ErrorData  *error;			/* why it cannot be read */
} EvsReading;

/*
 * The next events that the projection wants, at most so many, what fits into
 * memory and what there is time for (EVS_NO_TIME: all), in CurrentMemoryContext.  Ends before the first one that cannot be
 * brought to its newest version.  Errors that are nobody's fault get out.
 */
extern void evs_apply_read(const EvsProjection *projection, int64 after, int64 upto,
						   int64 max_events, EvsTime until, EvsReading *reading);

/* The next one alone, as it is stored: no code of the user's is called for it. */
extern void evs_apply_read_stored(const EvsProjection *projection, int64 after, int64 upto,
								  EvsReading *reading);

#endif							/* EVS_APPLY_READ_H */
