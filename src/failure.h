/*
 * failure.h - what async projections fail at: the rows of
 * evsource.projection_failures.
 */
#ifndef EVS_FAILURE_H
#define EVS_FAILURE_H

#include "evsource.h"

/* Where a unit is stuck. */
typedef struct EvsFailure
{
	bool		exists;
	int64		position;		/* of the event; 0: no event's fault */
	int			attempts;		/* that failed there, and count */
	TimestampTz retry_at;		/* not before; 0: it has stopped */
} EvsFailure;

/*
 * An error that is nobody's fault, and that another attempt may not meet:
 * serialization, deadlock, lock timeout, cancellation, shutdown, want of
 * memory, disk or connections, another server that cannot be reached.
 */
extern bool evs_failure_is_transient(int sqlerrcode);

/*
 * The same of an error that may have come from a commit: a queue of notifications that is
 * full, because a session listens and idles, is nobody's fault either.
 */
extern bool evs_failure_is_transient_at_commit(const ErrorData *error);

/* An error that a new process may not meet: what this one remembers is out of date. */
extern bool evs_failure_may_be_stale(int sqlerrcode);

/* An error that a handler may meet only because rows of a copy of its table are of another type. */
extern bool evs_failure_may_be_of_copy(int sqlerrcode);

/* The hint of an error; if it is a stale one, to try again in a new session, too. */
extern char *evs_failure_stale_hint(const ErrorData *error);

/* Give it to the error that was caught; context: not that of the error. */
extern void evs_failure_hint_stale(MemoryContext context);

/* When to try again after so many attempts. */
extern TimestampTz evs_failure_retry_at(int attempts);

/*
 * Has it to wait for its next attempt?  Not for longer than after so many: then the clock was
 * set back.
 */
extern bool evs_failure_waits(const EvsFailure *failure);

/* An error as the columns of a table hold it. */
typedef struct EvsErrorText
{
	Datum		values[5];		/* sqlstate, message, detail, hint, context */
	char		nulls[5];
} EvsErrorText;

extern void evs_error_text(const ErrorData *error, EvsErrorText *text);

extern void evs_failure_write(const char *projection, int partition,
							  const EvsFailure *failure, const ErrorData *error);

/*
 * Show an error that is no attempt, and count it if it is a conflict.  What is on
 * record keeps its position, attempts and time.
 */
extern void evs_failure_note(const char *projection, int partition, const ErrorData *error);

extern void evs_failure_clear(const char *projection, int partition);

/* Stop the projection: state failed. */
extern void evs_failure_stop(const char *projection);

/* Forget all that a projection failed at, and its dead letters. */
extern void evs_troubles_clear(const char *projection);

/*
 * What is on record under one name is under the other from now on, and the other
 * way round.
 */
extern void evs_troubles_exchange(const char *one, const char *other);

/* Forget what it failed at, and keep the dead letters. */
extern void evs_failures_clear(const char *projection);

#endif							/* EVS_FAILURE_H */
