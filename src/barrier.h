/*
 * barrier.h - the moment between two appends: a transaction that holds the barrier
 * knows that none with appends is open and that none begins before it ends itself.
 */
#ifndef EVS_BARRIER_H
#define EVS_BARRIER_H

#include "evsource.h"

#include "fmgr.h"

#include "clock.h"

#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/*
 * Wait for the barrier and hold it until the end of the transaction; others append
 * meanwhile.  What the caller wants to do, and to what, is for the error: 55P03 when
 * it was not to be had for as long as evs_patience() says.
 */
extern void evs_barrier(const char *what, const char *name);

/* How long to wait for others (ms): lock_timeout, or ten seconds where that is not set. */
extern int	evs_patience(void);

/* The same step by step, for a caller who has something to do before each attempt. */
typedef struct EvsBarrier
{
	const char *what;			/* the caller wants to do ... */
	const char *name;			/* ... to this */
	const char *others;			/* who has ... is in the way of the work */
	bool		appends_go_on;	/* there is only the rest, no need of the barrier */
	List	   *tables;			/* to be locked behind it, against readers, too */
	int			patience;		/* ms in all */
	EvsTime		until;			/* then it is over */
	int			attempt;		/* ms for the next one */
} EvsBarrier;

extern void evs_barrier_begin(EvsBarrier *barrier, const char *what, const char *name,
							  const char *others);

/*
 * True: it is held, with the tables, and the work, if there is any, is done behind it;
 * no lock that the work waited for took longer than the attempt.  False: nothing of it
 * is done or held, and those who were in the way are through, or others have had time
 * to append.
 */
extern bool evs_barrier_attempt(EvsBarrier *barrier, void (*work) (void *), void *arg);

/* How long the first attempt may keep others waiting (ms); the next ones twice as long each. */
#define EVS_FIRST_ATTEMPT	100

/* And where who is in the way may wait for us: then it would be in vain (ms). */
#define EVS_GLANCE			20

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

/*
 * 40001 under REPEATABLE READ and above for a projection, say, that is there, as others know,
 * but has no row in the transaction's snapshot; or is gone, and has one.
 */
extern void evs_require_seen(const char *what, bool seen);

/* 25006 on a standby and in a read-only transaction, 25000 in a parallel one. */
extern void evs_require_writable(const char *function);

/*
 * For an SQL function that reads with a snapshot of its own: 25000 in a parallel query, where
 * it is called only by one that is labelled as what it is not.
 */
extern void evs_require_not_parallel(FunctionCallInfo fcinfo);

#endif							/* EVS_BARRIER_H */
