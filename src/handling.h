/*
 * handling.h - while a projection's handler runs.
 */
#ifndef EVS_HANDLING_H
#define EVS_HANDLING_H

#include "evsource.h"
#include "identity.h"
#include "projection.h"

/*
 * Between these two the projection's handler is called.  Errors: 42704 when its owner does not
 * exist, 42501 when that role may not read the log.
 */
extern void evs_handling_begin(const EvsProjection *projection, EvsIdentity *identity);
extern void evs_handling_end(const EvsProjection *projection, EvsIdentity *identity);

/* Does it get events that are history (see EvsProjection's replaying)? */
extern bool evs_handling_is_replaying(void);

/* How many batches handlers have got in this process. */
extern uint64 evs_handling_calls(void);

/*
 * While a handler runs that works on copies of its tables, and its search_path holds: the one
 * that it has without them.  NULL: not now.
 */
extern const char *evs_handling_live_path(void);

/* What a subtransaction has begun is over with it; so is all with the transaction. */
extern void evs_handling_aborted(SubTransactionId subid);
extern void evs_handling_forget(void);

#endif							/* EVS_HANDLING_H */
