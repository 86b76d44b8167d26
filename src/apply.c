/*
 * apply.c - apply the log to an async projection, and deal with the events that
 * its handler cannot take.
 *
 * A batch is applied in one subtransaction, unless the caller can do without
 * (raise): a worker has a transaction that is its own to roll back, and comes
 * again when that failed (async.c).  run_projection() has not: what its caller has
 * done before in the transaction is not ours to undo.  Nor has a rebuild, whose
 * batches are large.  Only when the subtransaction fails are the events
 * read into memory (apply_read.c), and halved until the one that fails is found:
 * what comes before it is applied, it is not, and so nothing after it.  The
 * failure goes on record in the same transaction.  The next time that event is
 * tried alone.  When it has failed often enough the projection stops, or the
 * event is parked (apply_park.c).
 *
 * The checkpoint moves past an event in two ways only: the event was applied, or
 * it has a row in evsource.dead_letters that commits with the checkpoint.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "apply_park.h"
#include "apply_read.h"
#include "attempt.h"
#include "dead_letters.h"
#include "dispatch.h"
#include "handlers.h"
#include "notify.h"
#include "retry_read.h"
#include "scan.h"
#include "settings.h"
#include "types.h"

/*
 * How many events one batch may have.  A statement or a fold writes each row
 * once a batch: the more events, the fewer writes.  A handler called per event
 * updates its rows over and over, which long transactions are bad at.
 */
int
evs_apply_limit(const EvsProjection *projection)
{
	switch (projection->kind)
	{
		case EVS_KIND_EVENT:
			return 1000;
		case EVS_KIND_BATCH:
			return 10000;
		case EVS_KIND_QUERY:
		case EVS_KIND_FOLD:
			break;
	}
	return 1000000;
}

void
evs_apply_begin(EvsApply *apply, EvsProjection *projection, int partition)
{
	memset(apply, 0, sizeof(EvsApply));
	projection->filter.partitions = projection->partitions;
	projection->filter.partition = partition;
	apply->projection = projection;
	evs_unit_read(projection, partition, &apply->unit);
	apply->began_at = apply->unit.checkpoint.position;
}

void
evs_apply_begin_rebuild(EvsApply *apply, EvsProjection *projection, const char *name,
						const EvsCheckpoint *checkpoint)
{
	memset(apply, 0, sizeof(EvsApply));
	projection->filter.partitions = 1;
	apply->projection = projection;
	apply->rebuilds = true;
	apply->raise = !projection->dead_letter;
	evs_unit_read_troubles(name, &apply->unit);
	apply->unit.checkpoint = *checkpoint;
	apply->began_at = checkpoint->position;
}

EvsTime
evs_apply_due(const EvsApply *apply)
{
	const EvsFailure *failure = &apply->unit.failure;

	if (apply->raise || !evs_failure_waits(failure))
		return EVS_NO_TIME;
	return evs_clock_at(failure->retry_at);
}

/* So many events are applied, and all is done up to the position. */
static void
advance(EvsApply *apply, int64 applied, int64 position)
{
	apply->unit.checkpoint.position = position;
	apply->unit.checkpoint.event_count += applied;
	apply->applied += applied;
	ereport(DEBUG1,
			(errmsg_internal("projection \"%s\": applied " INT64_FORMAT " events up to position " INT64_FORMAT,
							 apply->projection->name, applied, position)));
}

/* Is the unit past where it was stuck? */
static bool
got_past(const EvsUnit *unit)
{
	return unit->failure.exists && unit->failure.retry_at != 0 &&
		unit->checkpoint.position >= unit->failure.position;
}

/* ---- attempts ---- */

typedef struct Watched
{
	EvsProjection *projection;
	void		(*work) (void *arg);
	void	   *arg;
} Watched;

/* Whoever watches what the handler does wants to look before that is undone. */
static void
work_watched(void *arg)
{
	Watched    *watched = arg;

	PG_TRY();
	{
		watched->work(watched->arg);
	}
	PG_CATCH();
	{
		if (watched->projection->applied != NULL)
			watched->projection->applied(watched->projection->applied_argument);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* NULL, or the error. */
static ErrorData *
attempt_watched(EvsProjection *projection, void (*work) (void *arg), void *arg)
{
	Watched		watched = {projection, work, arg};

	return evs_attempt(work_watched, &watched);
}

/* ---- events that are applied as they come from the log ---- */

typedef struct ScanWork
{
	EvsApply   *apply;
	int64		upto;
	EvsScanLimit limit;
	EvsScanned	scanned;
} ScanWork;

static void
apply_scan(void *arg)
{
	ScanWork   *work = arg;
	EvsProjection *projection = work->apply->projection;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsScan    *scan;

	scan = evs_scan_log(work->apply->unit.checkpoint.position, work->upto,
						&projection->filter, snapshot);
	evs_dispatch_scan(projection, scan, &work->limit, &work->scanned);
	evs_scan_end(scan);
	UnregisterSnapshot(snapshot);
}

/* ---- events that are looked at one by one ---- */

typedef struct BatchWork
{
	EvsProjection *projection;
	EvsBatch	batch;
	EvsTime		until;
	int			done;			/* of the batch */
} BatchWork;

static void
apply_events(void *arg)
{
	BatchWork  *work = arg;

	work->done = evs_dispatch_some(work->projection, &work->batch, work->until);
}

/*
 * Apply events, as many from the first on as the handler can take and there is time
 * for; returns how many that were.  known: that all of them together fail is known
 * already.
 */
static int
apply_what_works(EvsApply *apply, EvsEvent *events, int count, EvsTime until, ErrorData *known,
				 ErrorData **error)
{
	BatchWork	work = {apply->projection, {events, count}, until};
	int			half;
	int			done;

	if (count == 0)
		return 0;
	CHECK_FOR_INTERRUPTS();
	if (apply->raise)
	{
		apply_events(&work);
		return work.done;
	}

	if (known == NULL)
		known = attempt_watched(apply->projection, apply_events, &work);
	if (known == NULL)
		return work.done;
	if (evs_failure_is_transient(known->sqlerrcode))
		ReThrowError(known);
	if (count == 1)
	{
		*error = known;
		return 0;
	}

	half = count / 2;
	done = apply_what_works(apply, events, half, until, NULL, error);
	if (done < half || (evs_clock_is_set(until) && evs_clock_is_over(until)))
		return done;
	return half + apply_what_works(apply, events + half, count - half, until, NULL, error);
}

static void
report(const EvsApply *apply, int64 position, int attempt, const ErrorData *error,
	   const char *hint)
{
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("projection \"%s\" failed at position %lld", apply->projection->name,
					(long long) position),
			 errdetail("Attempt %d of %d: %s", attempt, Max(attempt, evs_async_attempts),
					   error->message ? error->message : ""),
			 hint ? errhint("%s", hint) : 0));
}

/* So often, at this position: nothing more is applied.  obstacle: why it is not parked, if known. */
static EvsApplied
stop_at(EvsApply *apply, int64 position, int attempt, ErrorData *error, const char *obstacle)
{
	EvsUnit    *unit = &apply->unit;
	EvsFailure	failure = {.exists = true, .position = position, .attempts = attempt};

	/* a rebuild begins with that event when it is called again */
	if (apply->rebuilds)
	{
		if (obstacle != NULL)
			error->hint = psprintf("It %s.", obstacle);
		evs_handler_blamed = position;
		ReThrowError(error);
	}

	unit->failure = failure;
	evs_failure_write(unit->projection, unit->partition, &failure, error);
	evs_failure_stop(unit->projection);
	report(apply, position, attempt, error,
		   psprintf("It is stopped%s%s. Put right what is wrong, then call evsource.resume_projection('%s').",
					obstacle ? ": it " : "", obstacle ? obstacle : "", apply->projection->name));
	return EVS_APPLY_FAILED;
}

/*
 * The tables themselves may take the event: it is the rebuild that fails, before it exchanges
 * them for copies that lack it.
 */
static void
refuse_copy(const EvsProjection *projection, const EvsEvent *event, ErrorData *error)
{
	error->detail = psprintf("Its handler failed at position %lld, perhaps because a copy's rows are of another type than the table's: %s",
							 (long long) event->position, error->message ? error->message : "");
	error->message = psprintf("cannot rebuild projection \"%s\" in copies of its tables", projection->name);
	error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	error->hint = pstrdup("Rebuild it in place with online => false, or keep row variables and rows of tables out of one expression in the handler.");
	evs_handler_blamed = event->position;
	ReThrowError(error);
}

/* Everything before the event is applied.  It is not.  unread: it is as stored. */
static EvsApplied
fail_at(EvsApply *apply, EvsEvent *event, bool unread, bool may_park, ErrorData *error)
{
	EvsProjection *projection = apply->projection;
	EvsUnit    *unit = &apply->unit;
	EvsFailure *failure = &unit->failure;
	int			attempt = 1;
	const char *obstacle = NULL;

	if (apply->worn && evs_failure_may_be_stale(error->sqlerrcode))
	{
		evs_handler_blamed = event->position;
		error->hint = evs_failure_stale_hint(error);
		ReThrowError(error);
	}
	if (apply->rebuilds && projection->live_path != NULL && !unread &&
		evs_failure_may_be_of_copy(error->sqlerrcode))
		refuse_copy(projection, event, error);

	if (failure->exists && failure->position == event->position)
		attempt += failure->attempts;

	if (attempt >= evs_async_attempts && projection->dead_letter && may_park &&
		evs_apply_park(apply, event, unread, attempt, &error, &obstacle))
	{
		report(apply, event->position, attempt, error,
			   psprintf("It is parked: see evsource.dead_letters, and evsource.retry_dead_letters('%s').",
						projection->name));
		if (failure->exists)
			evs_failure_clear(unit->projection, unit->partition);
		failure->exists = false;
		advance(apply, 0, event->position);
		return EVS_APPLY_MORE;
	}
	if (attempt >= evs_async_attempts)
		return stop_at(apply, event->position, attempt, error, obstacle);

	failure->exists = true;
	failure->position = event->position;
	failure->attempts = attempt;
	failure->retry_at = evs_failure_retry_at(attempt);
	evs_failure_write(unit->projection, unit->partition, failure, error);
	report(apply, event->position, attempt, error, NULL);
	return EVS_APPLY_RETRY;
}

/* known: what the next so many events, together, failed with. */
static EvsApplied
apply_carefully(EvsApply *apply, int64 upto, int64 max_events, EvsTime until,
				ErrorData *known, int64 nknown)
{
	EvsReading	reading;
	EvsBatch   *batch;
	EvsSorted	sorted;
	bool		unread = false;
	EvsEvent   *failed = NULL;
	EvsEvent   *late = NULL;	/* there is no time left for it */
	ErrorData  *error = NULL;
	int64		position;
	int			done;

	evs_apply_read(apply->projection, apply->unit.checkpoint.position, upto, max_events,
				   until, &reading);
	batch = reading.batch;
	evs_apply_sort_out(apply, batch, &sorted);
	if (sorted.count != nknown)
		known = NULL;
	done = apply_what_works(apply, sorted.events, sorted.count, until, known, &error);

	if (done < sorted.count && error == NULL)
		late = &sorted.events[done];
	else if (done < sorted.count)
		failed = &sorted.events[done];
	else if (sorted.looked_at < batch->count)
	{
		failed = &batch->events[sorted.looked_at];
		error = sorted.error;
	}
	else if (reading.unreadable != NULL)
	{
		failed = reading.unreadable;
		error = reading.error;
		unread = true;
	}
	if (failed != NULL && apply->raise)
		ReThrowError(error);

	if (failed != NULL || late != NULL)
		position = (failed ? failed : late)->position - 1;
	else if (reading.at_end)
		position = upto;
	else
		position = batch->events[batch->count - 1].position;

	for (int i = 0; i < sorted.nparked && sorted.parked[i].position <= position; i++)
		evs_dead_letter_park(apply->unit.projection, &sorted.parked[i],
							 &sorted.parked_keys[i], 0, NULL);
	advance(apply, done, position);

	if (unread && evs_apply_wait_behind(apply, failed))
	{
		advance(apply, 0, failed->position);
		return EVS_APPLY_MORE;
	}
	if (failed != NULL)
		return fail_at(apply, failed, unread, true, error);
	return position < upto ? EVS_APPLY_MORE : EVS_APPLY_END;
}

/* ---- both ---- */

static EvsApplied
apply_batch(EvsApply *apply, int64 upto, int64 max_events, EvsTime until)
{
	EvsUnit    *unit = &apply->unit;
	ScanWork	work = {apply, upto, {max_events, until}};
	ErrorData  *error = NULL;

	/* a batch of their own: so they are not blamed for how an event of the log ends */
	if (unit->has_released)
	{
		advance(apply,
				evs_dead_letters_apply_released(apply->projection, unit, &work.limit,
												apply->raise, &unit->has_released),
				unit->checkpoint.position);
		return EVS_APPLY_MORE;
	}

	/* what has failed is tried alone, before anything comes after it */
	if (unit->failure.exists && unit->failure.position > unit->checkpoint.position)
		return apply_carefully(apply, upto, 1, until, NULL, 0);
	if (unit->has_dead_letters)
		return apply_carefully(apply, upto, max_events, until, NULL, 0);

	if (apply->raise)
		apply_scan(&work);
	else
		error = attempt_watched(apply->projection, apply_scan, &work);
	if (error == NULL)
	{
		advance(apply, work.scanned.applied,
				work.scanned.at_end ? upto : work.scanned.position);
		return unit->checkpoint.position < upto ? EVS_APPLY_MORE : EVS_APPLY_END;
	}
	if (evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);

	/* a handler that takes them one by one has not seen those after it */
	if (apply->projection->kind == EVS_KIND_EVENT && work.scanned.taken > 0)
		max_events = work.scanned.taken;

	/* it may have been the next one that could not be read */
	if (evs_types_any_now())
		return apply_carefully(apply, upto, Min(max_events, PG_INT32_MAX - 1) + 1, until, NULL, 0);
	return apply_carefully(apply, upto, max_events, until, error, work.scanned.taken);
}

EvsApplied
evs_apply_batch(EvsApply *apply, int64 upto, int64 max_events, EvsTime until)
{
	MemoryContext context;
	MemoryContext caller;
	EvsApplied	result;
	EvsProjection *projection = apply->projection;
	int64		end = upto;

	if (apply->unit.checkpoint.position >= upto)
		return EVS_APPLY_END;

	/* history ends with a batch: see evsource.replaying() */
	projection->replaying = apply->unit.checkpoint.position < projection->replay_until;
	if (projection->replaying)
		end = Min(upto, projection->replay_until);

	context = AllocSetContextCreate(CurrentMemoryContext, "evsource apply batch",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	result = apply_batch(apply, end, max_events, until);
	projection->replaying = false;
	if (result == EVS_APPLY_END && end < upto)
		result = EVS_APPLY_MORE;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);

	CommandCounterIncrement();
	return result;
}

/* Nor do those that are parked already, and tried again, end the server one after the other. */
static EvsApplied
blame_released(EvsApply *apply, int crashes, ErrorData *error)
{
	int64		position = evs_letters_first_released(&apply->unit);
	const char *obstacle = evs_apply_obstacle(apply->unit.projection, error);

	error->message = pstrdup("the process died while this event was applied");
	if (obstacle != NULL)
		return stop_at(apply, position, crashes, error, obstacle);
	evs_dead_letters_blame_released(&apply->unit, position, crashes, error);
	return EVS_APPLY_MORE;
}

EvsApplied
evs_apply_crashed(EvsApply *apply, int64 upto, const EvsCaution *caution)
{
	EvsProjection *projection = apply->projection;
	int64		after = apply->unit.checkpoint.position;
	EvsReading	reading;
	EvsEvent   *event;
	EvsFailure *failure = &apply->unit.failure;
	ErrorData  *error = palloc0(sizeof(ErrorData));
	int			blames = evs_caution_blames(caution);
	EvsApplied	result;

	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_CRASH_SHUTDOWN;
	error->hint = pstrdup("See the server log for what ended the process.");

	/* they are applied before any event of the log is */
	if (apply->unit.has_released)
	{
		result = blame_released(apply, caution->crashes, error);
		CommandCounterIncrement();
		return result;
	}

	/* if it dies of this, too, the upcaster or the function of keys is at fault */
	if (blames == 1)
		evs_apply_read(projection, after, upto, 1, EVS_NO_TIME, &reading);
	else
		evs_apply_read_stored(projection, after, upto, &reading);
	if (reading.batch->count == 0 && reading.unreadable == NULL)
		return EVS_APPLY_END;
	event = reading.unreadable ? reading.unreadable : reading.batch->events;

	error->message = apply->raise ?
		psprintf("the process died while the event at position %lld was applied",
				 (long long) event->position) :
		pstrdup("the process died while this event was applied");
	error->detail = psprintf("It did so %d times when this event was applied alone.", caution->crashes);
	failure->exists = true;
	failure->position = event->position;
	failure->attempts = Max(caution->crashes, evs_async_attempts) - 1;
	result = fail_at(apply, event, reading.unreadable != NULL, blames <= 2, error);
	CommandCounterIncrement();
	return result;
}

EvsApplied
evs_apply_blame(EvsApply *apply, int64 upto, ErrorData *error)
{
	EvsUnit    *unit = &apply->unit;
	EvsReading	reading;
	EvsApplied	result = EVS_APPLY_END;

	if (unit->has_released)
	{
		int64		position = evs_letters_first_released(unit);

		evs_dead_letters_blame_released(unit, position, 1, error);
		report(apply, position, 1, error, "It stays parked: see evsource.dead_letters.");
		result = EVS_APPLY_MORE;
	}
	else
	{
		evs_apply_read(apply->projection, unit->checkpoint.position, upto, 1, EVS_NO_TIME, &reading);
		if (reading.batch->count > 0)
			result = fail_at(apply, reading.batch->events, false, true, error);
	}
	CommandCounterIncrement();
	return result;
}

void
evs_apply_end(EvsApply *apply)
{
	EvsUnit    *unit = &apply->unit;

	if (got_past(unit))
		evs_failure_clear(unit->projection, unit->partition);
	if (apply->rebuilds)
		return;
	if (unit->checkpoint.position > apply->began_at || apply->applied > 0)
		evs_unit_write(unit);
	if (apply->applied > 0)
		evs_notify(apply->projection, evs_unit_whole_position(unit));
}
