/*
 * async.c - one transaction of work on an async projection, or on an inline one
 * that catches up with the log.
 *
 * The read model, the checkpoint, the count of events and the notification
 * commit together.  The commit need not reach the disk: a crash takes all of
 * them back, and the log still has the events.
 *
 * A batch runs in the transaction as it is.  When it fails, the transaction is
 * rolled back and done again with subtransactions, in which apply.c finds the
 * event that is at fault: that costs a transaction id more and more than a single
 * event does, so only who has to pays for it.  What fails all the same fails with
 * the whole transaction.  If it is nobody's fault it is tried
 * again.  If it was the commit that failed, because of a constraint of another server's, say,
 * it is tried again with half as many events, until one is left, which is to blame.  If it is
 * something else, which an event cannot be blamed for, the attempts count.
 *
 * Locks: the unit first, and only if nobody else has it: who changes, rebuilds
 * or runs the projection is not waited for.
 */
#include "evsource.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "async.h"
#include "async_record.h"
#include "attempt.h"
#include "barrier.h"
#include "clock.h"
#include "horizon.h"
#include "known.h"
#include "own_transaction.h"
#include "registry.h"
#include "replay.h"
#include "settings.h"

/* ms to wait at first when somebody else is at work, or when it was nobody's fault */
#define BUSY_DELAY		50

/* and at most: twice as long after each time in a row */
#define MAX_BUSY_DELAY	1600
#define MAX_DELAY		60000

/* the events of the first batch, and of the next one when there is little to do */
#define FIRST_BATCH		128

/* so many times as many while a batch takes less than a tenth of its time */
#define FAST_GROWTH		8

/* So many must end well before they grow again, once others have ended one. */
#define STEADY			32

/* So few events in a round: the rest can wait for the barrier. */
#define FEW_EVENTS		1000

/* Rounds that found more, before the barrier is taken all the same. */
#define MAX_ROUNDS		20

/* ms to wait for the barrier, and until the next attempt */
#define BARRIER_TIMEOUT	1000

/* ---- which units are ours ---- */

/* An inline projection that appends do not reach yet: see activate.c. */
static bool
is_catching_up(const EvsProjection *projection)
{
	return projection->mode == EVS_MODE_INLINE &&
		projection->state == EVS_PROJECTION_CATCHING_UP;
}

static bool
is_ours(const EvsProjection *projection, int partition)
{
	if (projection == NULL || partition >= projection->partitions)
		return false;
	return is_catching_up(projection) ||
		(projection->mode == EVS_MODE_ASYNC && projection->state == EVS_PROJECTION_ACTIVE);
}

/* ---- pacing ---- */

static EvsAsyncOutcome
retry_after(EvsAsyncPacing *pacing, int milliseconds)
{
	pacing->retry_at = evs_clock_in(milliseconds);
	return EVS_ASYNC_RETRY;
}

/* After so many times in a row. */
static EvsAsyncOutcome
back_off(EvsAsyncPacing *pacing, int *times, int longest)
{
	int			delay = Min(BUSY_DELAY << Min(*times, 11), longest);

	(*times)++;
	return retry_after(pacing, delay);
}

/*
 * How many events the first transaction may take.  One event after the other ends when the
 * time is over; of what gets many at once nobody knows yet how long each will take.
 */
static int
first_batch(const EvsProjection *projection)
{
	return projection->kind == EVS_KIND_EVENT ? FIRST_BATCH : 1;
}

/*
 * What took too long: with as many as there was time for.  Of a single event nobody knows
 * whether it is slow or the statement is, which takes as long with more: two tell (price.h).
 */
static int
fewer(const EvsAsyncPacing *pacing, double took, double wanted)
{
	double		events = pacing->applied > 0 ? Min(pacing->batch, pacing->applied) : pacing->batch;

	return Max(pacing->applied == 1 ? 2 : 1, (int) (events * Min(wanted / took, 0.5)));
}

/*
 * How many events the next transaction may take: several times as many while there are more
 * and it is quick, half as many or fewer when it took too long.
 */
static void
pace(EvsAsyncPacing *pacing, EvsApplied result, EvsTime began)
{
	double		took = evs_price_without(&pacing->price, pacing->applied,
										 evs_clock_since(began));
	double		wanted = evs_async_batch_time;

	if (took > wanted)
		pacing->batch = fewer(pacing, took, wanted);
	else if (pacing->steady > 0)
		pacing->steady--;
	else if (result == EVS_APPLY_MORE && took * 2 < wanted)
		pacing->batch = (int) Min((int64) pacing->batch * (took * 10 < wanted ? FAST_GROWTH : 2),
								  evs_async_batch_events);
	else if (result == EVS_APPLY_END && pacing->batch > FIRST_BATCH)
		pacing->batch = Max(FIRST_BATCH, pacing->batch / 2);
}

/* Others ended it: with fewer events it holds and meets fewer locks. */
static void
shorten(EvsAsyncPacing *pacing)
{
	pacing->batch = Max(Min(pacing->batch, evs_async_batch_events) / 2, 1);
	pacing->steady = STEADY;
}

/* ---- inline projections that catch up ---- */

/* Note what there is to do, for those who watch. */
static void
start_catching_up(const EvsUnit *unit, const EvsProjection *projection, int64 safe)
{
	int64		rest = evs_registry_count(&projection->filter, unit->checkpoint.position, safe);

	evs_checkpoint_start(unit->projection, unit->checkpoint.event_count + rest);
}

/* What is left, behind the barrier. */
typedef struct Rest
{
	EvsProjection *projection;
	EvsCheckpoint checkpoint;
} Rest;

static void
apply_rest(void *arg)
{
	Rest	   *rest = arg;

	evs_replay_finish(rest->projection, &rest->checkpoint);
}

/*
 * It has reached the safe position.  When a round has found little, take the
 * barrier, apply the last events and give the projection to the appenders; when
 * one of them idles in its transaction, or somebody holds a lock that the handler
 * needs, let the others go on, and come back.
 */
static EvsAsyncOutcome
finish_catching_up(EvsApply *apply, EvsAsyncPacing *pacing, int *suspects)
{
	EvsProjection active = *apply->projection;
	Rest		rest = {&active, apply->unit.checkpoint};

	if (apply->applied > FEW_EVENTS && ++pacing->rounds < MAX_ROUNDS)
		return EVS_ASYNC_MORE;
	if (!evs_barrier_within(BARRIER_TIMEOUT))
	{
		ereport(DEBUG1,
				(errmsg_internal("projection \"%s\": no moment without open appends within %d ms, trying again",
								 active.name, BARRIER_TIMEOUT)));
		return retry_after(pacing, BARRIER_TIMEOUT);
	}
	if (!evs_within(BARRIER_TIMEOUT, apply_rest, &rest))
	{
		ereport(DEBUG1,
				(errmsg_internal("projection \"%s\": its handler waited for a lock for %d ms, trying again",
								 active.name, BARRIER_TIMEOUT)));
		evs_known_forget(active.name);
		return retry_after(pacing, BARRIER_TIMEOUT);
	}
	/* nor is it one of the batch's that is to blame, perhaps: they are part of one the next time */
	if (rest.checkpoint.event_count > apply->unit.checkpoint.event_count)
		*suspects = 0;
	pacing->started = false;
	return EVS_ASYNC_STOPPED;
}

/* ---- handlers that end the server ---- */

/* After so many batches the worker is trusted with the unit. */
#define MARKS			20

static int
next_batch(const EvsProjection *projection, const EvsAsyncPacing *pacing)
{
	int			batch = pacing->batch > 0 ? pacing->batch : first_batch(projection);

	batch = Min(Min(batch, evs_async_batch_events), evs_apply_limit(projection));
	return (int) evs_caution_batch(&pacing->caution, batch);
}

/* How many events the next transaction takes, at most. */
static int
taken_at_most(const EvsApply *apply, const EvsAsyncPacing *pacing)
{
	const EvsUnit *unit = &apply->unit;

	/* what has failed is tried alone: see apply.c */
	if (!unit->has_released && unit->failure.exists &&
		unit->failure.position > unit->checkpoint.position)
		return 1;
	return next_batch(apply->projection, pacing);
}

EvsProjection *
evs_async_try_claim(const char *name, int partition)
{
	EvsProjection *projection = evs_known_get(name);

	if (!is_ours(projection, partition) || !evs_unit_try_lock(projection, partition))
		return NULL;
	/* nobody changes it now */
	projection = evs_known_get(name);
	return is_ours(projection, partition) ? projection : NULL;
}

/*
 * Before a batch: look for a mark that a crash has left, and leave one.  In a
 * transaction of its own; whether there is anything to do the next one finds
 * out.  False: it is somebody else's turn.
 */
static bool
leave_mark(const char *name, int partition, EvsAsyncPacing *pacing)
{
	EvsProjection *projection = evs_async_try_claim(name, partition);
	EvsUnit		unit;

	if (projection == NULL)
		return true;
	evs_unit_read(projection, partition, &unit);
	if (unit.checkpoint.position >= evs_horizon_safe_position() ||
		evs_failure_waits(&unit.failure))
		return true;

	return evs_caution_begin(&pacing->caution, name, partition, unit.checkpoint.position,
							 next_batch(projection, pacing));
}

/* The batch has come to an end. */
static void
remove_mark(const char *name, int partition, EvsAsyncPacing *pacing, int64 position,
			EvsApplied result)
{
	if (pacing->trusted)
		return;
	evs_caution_end(&pacing->caution, name, partition, position, result == EVS_APPLY_END);
	if (pacing->caution.careful == 0 && (result == EVS_APPLY_END || ++pacing->marks >= MARKS))
		pacing->trusted = true;
}

/* ---- a transaction ---- */

/* What is to be done, and how it went. */
typedef struct Step
{
	const char *name;
	int			partition;
	EvsAsyncPacing *pacing;
	bool		guarded;		/* let no error of an event's out */
	bool		may_guard;		/* an error that gets out now may be one of an event's */
	bool		ran;			/* the handler has been called */
	bool		settled;		/* the mark that was left is taken back */
	bool		committing;		/* all is done, and is to last */
	int			suspects;		/* of so many events one may be why it does not; 0: none */
	int64		began_at;		/* position */
	EvsAsyncOutcome outcome;
} Step;

static EvsAsyncOutcome
apply_next(Step *step)
{
	const char *name = step->name;
	int			partition = step->partition;
	EvsAsyncPacing *pacing = step->pacing;
	EvsProjection *projection = evs_known_get(name);
	int			partitions;
	EvsApply	apply;
	EvsApplied	result;
	EvsFailure *failure = &apply.unit.failure;
	EvsTime		began = evs_clock_now();
	int64		safe;

	/* look again with the lock held */
	if (!is_ours(projection, partition))
		return EVS_ASYNC_STOPPED;
	partitions = projection->partitions;
	if (!evs_unit_try_lock(projection, partition))
		return back_off(pacing, &pacing->busy, MAX_BUSY_DELAY);
	pacing->busy = 0;
	projection = evs_known_get(name);
	if (!is_ours(projection, partition))
		return EVS_ASYNC_STOPPED;
	if (projection->partitions != partitions)
		return retry_after(pacing, 0);

	safe = evs_horizon_safe_position();
	evs_apply_begin(&apply, projection, partition);
	pacing->position = step->began_at = apply.unit.checkpoint.position;
	if (evs_failure_waits(failure))
	{
		pacing->retry_at = evs_clock_at(failure->retry_at);
		return EVS_ASYNC_RETRY;
	}

	if (!is_catching_up(projection))
		pacing->started = false;
	else if (!pacing->started)
	{
		start_catching_up(&apply.unit, projection, safe);
		pacing->started = true;
		pacing->rounds = 0;
		return EVS_ASYNC_MORE;
	}

	pacing->batch = Min(pacing->batch > 0 ? pacing->batch : first_batch(projection),
						evs_apply_limit(projection));
	if (evs_caution_blames(&pacing->caution) > 0)
		result = evs_apply_crashed(&apply, safe, &pacing->caution);
	else
	{
		/* an event that has failed before is most likely to do so again, if we are new */
		apply.raise = step->may_guard = !step->guarded &&
			(evs_known_used(name) ||
			 !(failure->exists && failure->position > pacing->position));
		step->ran = true;
		step->suspects = taken_at_most(&apply, pacing);
		result = evs_apply_batch(&apply, safe, next_batch(projection, pacing),
								 evs_clock_after(began, evs_async_batch_time));
		step->may_guard = false;
		/* it may be one more, where they are read again */
		step->suspects = apply.applied > 0 ? Max(step->suspects, apply.applied) : 0;
	}
	evs_apply_end(&apply);
	remove_mark(name, partition, pacing, apply.unit.checkpoint.position, result);
	step->settled = true;

	pacing->applied = apply.applied;
	pacing->position = apply.unit.checkpoint.position;
	pace(pacing, result, began);

	switch (result)
	{
		case EVS_APPLY_MORE:
			return EVS_ASYNC_MORE;
		case EVS_APPLY_END:
			return is_catching_up(projection) ?
				finish_catching_up(&apply, pacing, &step->suspects) : EVS_ASYNC_IDLE;
		case EVS_APPLY_RETRY:
			pacing->retry_at = evs_clock_at(failure->retry_at);
			return EVS_ASYNC_RETRY;
		case EVS_APPLY_FAILED:
			break;
	}
	return EVS_ASYNC_STOPPED;
}

/* Has the commit failed because of an event?  Which one it is still to be found. */
static int
count_suspects(const Step *step, const ErrorData *error)
{
	return step->committing && !evs_failure_is_transient_at_commit(error) ? step->suspects : 0;
}

/* Nothing of it has happened. */
static void
take_back(Step *step, const ErrorData *error, int suspects)
{
	EvsAsyncPacing *pacing = step->pacing;

	if (step->committing)
		pacing->position = step->began_at;
	if (suspects > 1)
	{
		ereport(LOG,
				(errmsg("projection \"%s\" failed at the commit, and takes fewer events at once",
						step->name),
				 errdetail("It has applied %lld: %s", (long long) pacing->applied, error->message)));
		pacing->batch = (int) Max(Min(suspects, pacing->applied) / 2, 1);
		/* not so many again before it is passed, or found */
		pacing->steady = STEADY;
	}
	else if (pacing->batch > 0 && evs_failure_is_transient_at_commit(error))
		shorten(pacing);
	pacing->applied = 0;
}

/* What evs_async_record() itself fails with is logged. */
static EvsAsyncOutcome
deal_with_error(Step *step, ErrorData *error)
{
	MemoryContext caller = CurrentMemoryContext;
	int			suspects = count_suspects(step, error);
	volatile EvsAsyncOutcome outcome = EVS_ASYNC_RETRY;

	(void) back_off(step->pacing, &step->pacing->troubles, MAX_DELAY);
	take_back(step, error, suspects);
	evs_known_forget(step->name);
	PG_TRY();
	{
		evs_own_transaction_begin();
		outcome = evs_async_record(step->name, step->partition, step->pacing, error, suspects);
		evs_own_transaction_commit();
	}
	PG_CATCH();
	{
		evs_own_transaction_give_up(caller);
		outcome = EVS_ASYNC_RETRY;
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller);
	return outcome;
}

/* NULL, or what it failed with, which is in the log unless it is found out what to say of it. */
static ErrorData *
run(Step *step)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	step->may_guard = step->settled = step->committing = false;
	step->suspects = 0;
	PG_TRY();
	{
		bool		my_turn = true;

		/* the mark of a batch that is done again is there */
		if (!step->pacing->trusted && !step->guarded)
		{
			evs_own_transaction_begin();
			my_turn = leave_mark(step->name, step->partition, step->pacing);
			evs_own_transaction_commit();
		}
		evs_own_transaction_begin();
		evs_caution_keep_turn();
		step->outcome = my_turn ? apply_next(step) : EVS_ASYNC_MORE;
		step->committing = true;
		evs_own_transaction_commit();
		if (step->settled)
			evs_caution_settled();
		step->pacing->troubles = 0;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (evs_failure_is_transient(error->sqlerrcode))
			step->may_guard = false;
		if (!step->may_guard && count_suspects(step, error) == 0)
			EmitErrorReport();
		evs_attempt_flush();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return error;
}

/*
 * Nobody else would fail at it, perhaps: it does not count.  A process in which the
 * handler has not run before counts it, so this comes to an end.
 */
static EvsAsyncOutcome
let_a_new_one_try(const char *name, EvsAsyncPacing *pacing, const ErrorData *error)
{
	ereport(LOG,
			(errmsg("projection \"%s\" failed, and is applied again by a new process", name),
			 errdetail("What its handler remembers may be out of date: %s", error->message)));
	pacing->retry_at = evs_clock_now();
	return EVS_ASYNC_WORN;
}

EvsAsyncOutcome
evs_async_step(const char *name, int partition, EvsAsyncPacing *pacing)
{
	Step		step = {name, partition, pacing};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource async step",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	ErrorData  *error;
	int			rest;

	pacing->applied = 0;
	error = run(&step);
	if (error != NULL && step.may_guard && evs_known_used(name) &&
		evs_failure_may_be_stale(error->sqlerrcode))
	{
		step.outcome = let_a_new_one_try(name, pacing, error);
		error = NULL;
	}
	else if (error != NULL && step.may_guard)
	{
		evs_known_forget(name);
		step.guarded = true;
		error = run(&step);
	}
	if (error != NULL)
		step.outcome = deal_with_error(&step, error);
	if (step.ran && (pacing->applied > 0 || step.outcome == EVS_ASYNC_RETRY ||
					 step.outcome == EVS_ASYNC_STOPPED))
		evs_known_set_used(name);
	rest = evs_caution_rest();
	if (rest > 0 && step.outcome == EVS_ASYNC_MORE)
		step.outcome = retry_after(pacing, rest);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return step.outcome;
}

List *
evs_async_units(void)
{
	List	   *units = NIL;
	List	   *names = list_concat(evs_registry_names(EVS_MODE_ASYNC),
									evs_registry_names(EVS_MODE_INLINE));
	ListCell   *cell;

	foreach(cell, names)
	{
		EvsProjection *projection = evs_projection_load(lfirst(cell), true);

		for (int i = 0; is_ours(projection, i); i++)
		{
			EvsAsyncUnit *unit = palloc(sizeof(EvsAsyncUnit));

			unit->projection = projection->name;
			unit->partition = i;
			unit->filter = projection->filter;
			unit->filter.partitions = projection->partitions;
			unit->filter.partition = i;
			units = lappend(units, unit);
		}
	}
	return units;
}
