/*
 * duplicate.h - recognise events that are stored already.
 */
#ifndef EVS_DUPLICATE_H
#define EVS_DUPLICATE_H

#include "evsource.h"

#include "append.h"
#include "utils/relcache.h"

/* Has any event of the batch an id of the client's? */
extern bool evs_any_id(const EvsBatch *batch);

/*
 * Where policies say which events are whose: may the user store these, or read what
 * is stored with their ids?  Else nothing shall tell what is.
 */
extern bool evs_may_ask_for_duplicates(Relation events, text *stream, const EvsBatch *batch);

/*
 * Is the whole batch stored already in this stream, in this order?  Then fill
 * in what its first append returned, and return true.  If none of its ids is
 * known, return false.  Anything between raises VE002.  The stream is locked.
 */
extern bool evs_find_duplicates(Relation events, text *stream,
								const EvsBatch *batch, EvsAppended *appended);

#endif							/* EVS_DUPLICATE_H */
