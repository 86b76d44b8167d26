/*
 * async.h - one transaction of work on an async projection, or on an inline one
 * that catches up with the log.
 *
 * A worker calls this over and over:
 *
 *	EvsAsyncPacing pacing = {0};
 *	for (;;)
 *	{
 *		ResetLatch(MyLatch);
 *		switch (evs_async_step("orders", 0, &pacing))
 *		{
 *			case EVS_ASYNC_MORE:	continue;
 *			case EVS_ASYNC_IDLE:	wait for the latch; break;
 *			case EVS_ASYNC_RETRY:	wait for it, until pacing.retry_at; break;
 *			case EVS_ASYNC_STOPPED:	leave it alone until it changes; break;
 *			case EVS_ASYNC_WORN:	end, and let another process go on; break;
 *		}
 *	}
 *
 * All that must survive (how far it is, failed attempts, dead letters) is in
 * tables: another worker, or this one after a crash, goes on with a pacing of
 * zeros.
 */
#ifndef EVS_ASYNC_H
#define EVS_ASYNC_H

#include "evsource.h"

#include "clock.h"
#include "crash_mark.h"
#include "nodes/pg_list.h"
#include "price.h"
#include "projection.h"

typedef enum EvsAsyncOutcome
{
	EVS_ASYNC_IDLE,				/* nothing to do before the next append */
	EVS_ASYNC_MORE,				/* call again at once */
	EVS_ASYNC_RETRY,			/* call again at pacing->retry_at: it failed, or
								 * another session works on it or changes it */
	EVS_ASYNC_STOPPED,			/* there is nothing (more) to do for it */
	EVS_ASYNC_WORN				/* it failed at what a new process may not fail at */
} EvsAsyncOutcome;

/* What a worker remembers about a unit from one call to the next; begin with zeros. */
typedef struct EvsAsyncPacing
{
	int			batch;			/* events that the next transaction may take */
	int			steady;			/* so many more must end well before it grows again */
	EvsPrice	price;			/* of a statement */
	int			troubles;		/* transactions in a row that failed for no
								 * fault of the handler's */
	int			busy;			/* times in a row that another session had it */
	EvsTime		retry_at;		/* of EVS_ASYNC_RETRY */
	int64		position;		/* the log is applied up to here */
	int64		applied;		/* events, by the last call */
	bool		started;		/* catching up: how much there is to do is noted */
	int			rounds;			/* and so often the end was reached, with much applied */
	bool		trusted;		/* no mark is left before a batch: see crash_mark.h */
	int			marks;			/* so many batches had one */
	EvsCaution	caution;
} EvsAsyncPacing;

/* What one worker works on: a partition of a projection, 0 if it has only one. */
typedef struct EvsAsyncUnit
{
	char	   *projection;
	int			partition;
	EvsFilter	filter;			/* which events are its business */
} EvsAsyncUnit;

/*
 * The units of all async projections that are active, and of all inline ones that
 * are catching up, in CurrentMemoryContext, in an order that is the same for all.  Call in a transaction.
 */
extern List *evs_async_units(void);

/*
 * Apply the next events to a unit.  Call outside a transaction: begins and
 * commits its own, which is bounded in time.  Never waits for another session
 * that works on the projection.
 *
 * An error of the handler's is dealt with and logged; so is everything else that
 * goes wrong with the transaction.  Only FATAL errors get out.
 */
extern EvsAsyncOutcome evs_async_step(const char *projection, int partition,
									  EvsAsyncPacing *pacing);

/*
 * The projection, with the lock of its part until the end of the transaction.
 * NULL: it is somebody else's, or there is nothing to apply to it any more.
 */
extern EvsProjection *evs_async_try_claim(const char *name, int partition);

typedef enum EvsAsyncPassed
{
	EVS_ASYNC_PASSED,			/* it is at the end of the log */
	EVS_ASYNC_NOT_PASSED,		/* there is something to do for it: see evs_async_step() */
	EVS_ASYNC_HELD,				/* another session has it */
	EVS_ASYNC_LOCKED			/* only its row: evs_async_step() would wait for that */
} EvsAsyncPassed;

/* A unit that has nothing to apply, as far as we know. */
typedef struct EvsAsyncPass
{
	const char *projection;
	int			partition;
	EvsAsyncPassed outcome;
	int64		position;		/* of EVS_ASYNC_PASSED: where it is now */
} EvsAsyncPass;

/*
 * Write down, in one transaction for all of these units, that the log up to its
 * end has nothing for them.  Call outside a transaction: begins and commits its
 * own.  No handler is called, and no other session waited for.  An error is
 * logged, and none of them has passed then.
 */
extern void evs_async_pass(EvsAsyncPass *passes, int count);

#endif							/* EVS_ASYNC_H */
