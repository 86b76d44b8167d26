/*
 * truncate_letters.h - what it is to the failures and dead letters of projections
 * that the beginning of a stream goes.
 */
#ifndef EVS_TRUNCATE_LETTERS_H
#define EVS_TRUNCATE_LETTERS_H

#include "evsource.h"

/* Has a projection parked any event of the stream? */
extern bool evs_letters_of_stream(const char *projection, text *stream);

/*
 * Are events before a version to go that a projection has parked?  That is refused
 * (55000), or with force a warning says so.
 */
extern void evs_letters_check_truncation(const char *projection, text *stream, int64 before,
										 bool force);

/*
 * The dead letters of these events go, and so do the texts of errors at them; what was
 * parked behind them is released.  The events are still there.  Whoever calls this has
 * the name of the projection, and that of its rebuild.
 */
extern void evs_letters_truncated(const char *projection, text *stream, int64 before);

#endif							/* EVS_TRUNCATE_LETTERS_H */
