/*
 * hold.h - keep locks from one transaction to the next.
 *
 *	evs_hold(&tag, ExclusiveLock);		the last thing in a transaction that has it
 *	commit, begin
 *	evs_hold_end();						the first thing in the next one, which has it then
 */
#ifndef EVS_HOLD_H
#define EVS_HOLD_H

#include "evsource.h"

#include "storage/lock.h"

extern void evs_hold_init(void);

/* Keep a lock that this transaction has over its commit.  Aborted, it keeps none. */
extern void evs_hold(const LOCKTAG *tag, LOCKMODE mode);

/* Is anything kept? */
extern bool evs_hold_is_held(void);

/* What is kept is this transaction's, and ends with it.  False: nothing was. */
extern bool evs_hold_end(void);

/* Let go of it: for a caller that has ended no transaction with its error. */
extern void evs_hold_drop(void);

#endif							/* EVS_HOLD_H */
