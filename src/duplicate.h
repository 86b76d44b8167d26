/*
 * duplicate.h - recognise events that are stored already.
 */
#ifndef EVS_DUPLICATE_H
#define EVS_DUPLICATE_H

#include "evsource.h"

#include "append.h"
#include "utils/relcache.h"

/*
 * Is the whole batch stored already in this stream, in this order?  Then fill
 * in what its first append returned, and return true.  If none of its ids is
 * known, return false.  Anything between raises VE002.  The stream is locked.
 */
extern bool evs_find_duplicates(Relation events, text *stream,
								const EvsBatch *batch, EvsAppended *appended);

#endif							/* EVS_DUPLICATE_H */
