/*
 * barrier.c - ShareRowExclusiveLock on the log.
 *
 * An appender locks the log in RowExclusiveLock first, then looks at the list
 * of projections as it is now, and keeps the lock to its end.  The barrier
 * conflicts with that and with itself.  So whoever holds it sees everything
 * that appenders with the old list stored and applied, and appenders that wait
 * behind it read the list that its transaction commits.
 *
 * A session that has appended in its transaction already may take it too: its
 * own lock is no obstacle.  Two of them at once are a deadlock, which
 * PostgreSQL ends with 40P01.
 *
 * A session that begins to append queues behind one that waits for the barrier.
 * So none waits in the queue for long: it leaves the queue, lets the others append,
 * waits until those that it has met are through, and tries again.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "attempt.h"
#include "barrier.h"
#include "catalog.h"
#include "clock.h"

/* How long is waited for others where lock_timeout does not say it (ms). */
#define PATIENCE		10000

bool
evs_barrier_within(int timeout)
{
	return evs_locks_within(list_make1_oid(evs_catalog()->events), ShareRowExclusiveLock,
							timeout);
}

/* What is to be done, and how long each of its locks may take. */
typedef struct Hurry
{
	void		(*work) (void *);
	void	   *arg;
	int			timeout;
} Hurry;

static void
work_in_time(void *arg)
{
	Hurry	   *hurry = arg;
	int			nest_level = NewGUCNestLevel();
	char		value[16];

	snprintf(value, sizeof(value), "%d", hurry->timeout);
	(void) set_config_option("lock_timeout", value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	hurry->work(hurry->arg);
	AtEOXact_GUC(true, nest_level);
}

/*
 * A timeout is an error, so the attempt is a subtransaction: its locks pass on
 * to the transaction when it succeeds.
 */
static bool
in_time(int timeout, void (*work) (void *), void *arg, bool bears_deadlock)
{
	Hurry		hurry = {work, arg, timeout};
	ErrorData  *error = evs_attempt(work_in_time, &hurry);

	if (error == NULL)
		return true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
		!(bears_deadlock && error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED))
		ReThrowError(error);
	FreeErrorData(error);

	return false;
}

/*
 * Being the victim of a deadlock is worth another attempt, too: what is given up
 * lets the others go on.
 */
bool
evs_within(int timeout, void (*work) (void *), void *arg)
{
	if (timeout > 0)
		return in_time(timeout, work, arg, true);
	work(arg);
	return true;
}

/* What is to be locked. */
typedef struct Wanted
{
	List	   *relations;
	LOCKMODE	mode;
} Wanted;

static void
lock_all(void *arg)
{
	Wanted	   *wanted = arg;
	ListCell   *cell;

	foreach(cell, wanted->relations)
		LockRelationOid(lfirst_oid(cell), wanted->mode);
}

bool
evs_locks_within(List *relations, LOCKMODE mode, int timeout)
{
	Wanted		wanted = {relations, mode};

	return evs_within(timeout, lock_all, &wanted);
}

/* ---- giving way ---- */

int
evs_patience(void)
{
	return LockTimeout > 0 ? LockTimeout : PATIENCE;
}

void
evs_barrier_begin(EvsBarrier *barrier, const char *what, const char *name,
				  const char *others)
{
	memset(barrier, 0, sizeof(EvsBarrier));
	barrier->what = what;
	barrier->name = name;
	barrier->others = others;
	barrier->patience = evs_patience();
	barrier->until = evs_clock_in(barrier->patience);
	barrier->attempt = EVS_FIRST_ATTEMPT;
}

static int
time_left(const EvsBarrier *barrier)
{
	return (int) evs_clock_left(barrier->until);
}

/* What is done behind the barrier, at once. */
typedef struct Moment
{
	const EvsBarrier *barrier;
	void		(*work) (void *);	/* NULL: nothing yet */
	void	   *arg;
	bool		begun;
} Moment;

static void
take_moment(void *arg)
{
	Moment	   *moment = arg;
	ListCell   *cell;

	if (!moment->barrier->appends_go_on)
		LockRelationOid(evs_catalog()->events, ShareRowExclusiveLock);
	moment->begun = true;
	foreach(cell, moment->barrier->tables)
		LockRelationOid(lfirst_oid(cell), AccessExclusiveLock);
	if (moment->work != NULL)
		moment->work(moment->arg);
}

static void
wait_for_one(void *arg)
{
	(void) VirtualXactLock(*(VirtualTransactionId *) arg, true);
}

/*
 * Until those are through who are in the way now.  Nobody queues behind us; but if
 * one of them waits for us, that is a deadlock which no other attempt ends.
 */
static void
wait_for_holders(const EvsBarrier *barrier, Oid relation, LOCKMODE mode)
{
	LOCKTAG		tag;
	VirtualTransactionId *holders;
	int			count;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
	holders = GetLockConflicts(&tag, mode, &count);
	for (int i = 0; i < count; i++)
	{
		int			left = time_left(barrier);

		if (left <= 0 || !in_time(left, wait_for_one, &holders[i], false))
			return;
	}
}

static void
give_up(const EvsBarrier *barrier, bool begun)
{
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not %s \"%s\"", barrier->what, barrier->name),
			 errdetail("Open transactions that have %s were in the way for %d ms.",
					   begun ? barrier->others : "appended", barrier->patience),
			 errhint("See %s for these transactions. Try again when they have ended; lock_timeout says how long to wait for them.",
					 begun ? "pg_locks" : "evsource.blockers, and the locks on evsource.events in pg_locks,")));
}

bool
evs_barrier_attempt(EvsBarrier *barrier, void (*work) (void *), void *arg)
{
	Moment		moment = {barrier, work, arg};
	ListCell   *cell;
	int			left;

	/* mostly nobody is in the way */
	if (work == NULL && barrier->tables == NIL && !barrier->appends_go_on &&
		ConditionalLockRelationOid(evs_catalog()->events, ShareRowExclusiveLock))
		return true;
	/* who uses the tables is no reason to keep anybody waiting */
	foreach(cell, barrier->tables)
		wait_for_holders(barrier, lfirst_oid(cell), AccessExclusiveLock);
	if (in_time(Max(Min(barrier->attempt, time_left(barrier)), 1), take_moment, &moment, true))
		return true;

	if (!moment.begun)
		wait_for_holders(barrier, evs_catalog()->events, ShareRowExclusiveLock);
	left = time_left(barrier);
	if (left <= 0)
		give_up(barrier, moment.begun);

	/* others have as much time as they have lost */
	evs_attempt_pause(Min(barrier->attempt, left));
	barrier->attempt *= 2;
	return false;
}

void
evs_barrier(const char *what, const char *name)
{
	EvsBarrier	barrier;

	evs_barrier_begin(&barrier, what, name, NULL);
	while (!evs_barrier_attempt(&barrier, NULL, NULL))
		;
}

/* ---- what is needed besides ---- */

void
evs_require_read_committed(const char *what)
{
	if (!IsolationUsesXactSnapshot())
		return;

	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
			 errmsg("cannot %s in a transaction of isolation level %s", what,
					IsolationIsSerializable() ? "SERIALIZABLE" : "REPEATABLE READ"),
			 errdetail("Its snapshot does not show the events that other transactions stored since it was taken."),
			 errhint("Use a transaction of isolation level READ COMMITTED.")));
}

void
evs_require_seen(const char *what, bool seen)
{
	if (seen || !IsolationUsesXactSnapshot())
		return;

	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access because a %s was created, changed or dropped", what),
			 errdetail("Another transaction has done so since this one began to read."),
			 errhint("Run the whole transaction again.")));
}

void
evs_require_writable(const char *function)
{
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

void
evs_require_not_parallel(FunctionCallInfo fcinfo)
{
	const char *function;

	if (!IsInParallelMode())
		return;
	function = get_func_name(fcinfo->flinfo->fn_oid);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
			 errmsg("cannot execute evsource.%s() during a parallel operation", function),
			 errdetail("It takes a snapshot of its own, but the processes of a parallel query share one."),
			 errhint("Label the function that calls it PARALLEL UNSAFE, as evsource.%s() is itself.", function)));
}
