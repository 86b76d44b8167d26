/*
 * async_record.c - put on record what a transaction on an async projection has failed with
 * as a whole (async.c).
 *
 * It is rolled back: this is another one.  Another session may have done to the projection
 * what it likes in between, and then nothing is recorded: the next attempt sees.
 */
#include "evsource.h"

#include "apply.h"
#include "async_record.h"
#include "crash_mark.h"
#include "failure.h"
#include "horizon.h"
#include "settings.h"

/* The one event that was applied is to blame for how the commit ended. */
static EvsAsyncOutcome
blame_event(EvsProjection *projection, int partition, EvsAsyncPacing *pacing, ErrorData *error)
{
	EvsApply	apply;
	EvsApplied	result;

	evs_apply_begin(&apply, projection, partition);
	if (apply.unit.checkpoint.position != pacing->position)
		return EVS_ASYNC_MORE;
	result = evs_apply_blame(&apply, evs_horizon_safe_position(), error);
	evs_apply_end(&apply);
	if (result == EVS_APPLY_FAILED)
		return EVS_ASYNC_STOPPED;
	if (result == EVS_APPLY_RETRY)
		pacing->retry_at = evs_clock_at(apply.unit.failure.retry_at);
	return result == EVS_APPLY_MORE ? EVS_ASYNC_MORE : EVS_ASYNC_RETRY;
}

/* The transaction failed as a whole, for no event's fault: say so where people look. */
static EvsAsyncOutcome
count_attempt(EvsProjection *projection, int partition, EvsAsyncPacing *pacing,
			  const ErrorData *error)
{
	EvsUnit		unit;

	evs_unit_read(projection, partition, &unit);
	unit.failure.attempts = unit.failure.exists ? unit.failure.attempts + 1 : 1;
	if (unit.failure.attempts < evs_async_attempts)
	{
		unit.failure.retry_at = evs_failure_retry_at(unit.failure.attempts);
		pacing->retry_at = evs_clock_at(unit.failure.retry_at);
	}
	else
	{
		unit.failure.retry_at = 0;
		evs_failure_stop(projection->name);
	}
	evs_failure_write(projection->name, partition, &unit.failure, error);
	return unit.failure.retry_at != 0 ? EVS_ASYNC_RETRY : EVS_ASYNC_STOPPED;
}

EvsAsyncOutcome
evs_async_record(const char *name, int partition, EvsAsyncPacing *pacing, ErrorData *error,
				 int suspects)
{
	EvsProjection *projection = evs_async_try_claim(name, partition);

	if (projection == NULL)
		return EVS_ASYNC_RETRY;

	/* an error is no crash */
	evs_caution_withdraw(name, partition);
	if (evs_failure_is_transient_at_commit(error))
	{
		evs_failure_note(name, partition, error);
		return EVS_ASYNC_RETRY;
	}
	if (suspects > 1)
		return EVS_ASYNC_MORE;
	return suspects == 1 ? blame_event(projection, partition, pacing, error) :
		count_attempt(projection, partition, pacing, error);
}
