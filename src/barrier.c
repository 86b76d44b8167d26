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
 */
#include "evsource.h"

#include "access/xact.h"
#include "storage/lmgr.h"
#include "utils/guc.h"

#include "attempt.h"
#include "barrier.h"
#include "catalog.h"

void
evs_barrier(void)
{
	LockRelationOid(evs_catalog()->events, ShareRowExclusiveLock);
}

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
 * to the transaction when it succeeds.  Being the victim of a deadlock is worth
 * another attempt, too: what is given up lets the others go on.
 */
bool
evs_within(int timeout, void (*work) (void *), void *arg)
{
	Hurry		hurry = {work, arg, timeout};
	ErrorData  *error;

	if (timeout <= 0)
	{
		work(arg);
		return true;
	}

	error = evs_attempt(work_in_time, &hurry);
	if (error == NULL)
		return true;
	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
		error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
		ReThrowError(error);
	FreeErrorData(error);

	return false;
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
evs_require_writable(const char *function)
{
	PreventCommandDuringRecovery(function);
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}
