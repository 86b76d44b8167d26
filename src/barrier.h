/*
 * barrier.h - the moment between two appends: whoever holds the barrier knows
 * that no transaction with appends is open and that none begins before he ends.
 */
#ifndef EVS_BARRIER_H
#define EVS_BARRIER_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/* Wait for the barrier and hold it until the end of the transaction. */
extern void evs_barrier(void);

/*
 * The same, waiting no longer than the timeout (in ms; 0 is for ever).  False:
 * it was not to be had in that time, nothing is held, no appender queues.
 */
extern bool evs_barrier_within(int timeout);

/*
 * Do something in the same way: none of the locks that it waits for may take
 * longer.  False: nothing of it is done.
 */
extern bool evs_within(int timeout, void (*work) (void *), void *arg);

/*
 * Lock tables in the same way: all of them, in this order, or none.
 */
extern bool evs_locks_within(List *relations, LOCKMODE mode, int timeout);

/*
 * 25000 under REPEATABLE READ and above, where what other transactions did
 * meanwhile cannot be seen.
 */
extern void evs_require_read_committed(const char *what);

/* 25006 on a standby and in a read-only transaction, 25000 in a parallel one. */
extern void evs_require_writable(const char *function);

#endif							/* EVS_BARRIER_H */
