/*
 * retry.c - retry_dead_letters: apply the events that a projection has left
 * aside.
 *
 * In the order of the log, a portion at a time.  An event that fails again keeps
 * its place, and those of its keys wait on behind it; the others are applied and
 * their rows go.  All in the caller's transaction, which holds the projection's
 * name: no later event of these keys is looked at meanwhile.  Keys are those under which
 * an event was parked.  Where the projection gives it others by now, later events have not
 * waited for it, and their states have gone past it: it fails.
 *
 * And, for whoever applies a unit, those that have waited behind an event that was
 * truncated: the same, but an event that has failed before is not tried again, and
 * where a batch is bounded in time, so is this.  Of those that are left the first
 * that waits for nothing has a mark then: it is where the next batch begins, and to
 * blame when that does not come to an end.  What is before it waits, and is not looked
 * at again: whether one waits for that its keys say.
 *
 * That mark is all that tells of the others which are ready: without it nobody looks for
 * them, and they are parked for ever.  So whoever takes it away marks the next one in the
 * same transaction, and whoever divides a projection anew marks the first of each part.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "attempt.h"
#include "barrier.h"
#include "dead_letters.h"
#include "dispatch.h"
#include "failure.h"
#include "notify.h"
#include "parameters.h"
#include "query.h"
#include "registry.h"
#include "retry_read.h"
#include "wakeup.h"

/* So many at a time. */
#define PORTION		1000

/* So many between two looks at the time. */
#define FEW			32

PG_FUNCTION_INFO_V1(evsource_retry_dead_letters);

static EvsQuery note_attempt = {
	"update evsource.dead_letters"
	" set attempts = attempts + 1, retry = false, failed_at = clock_timestamp(),"
	" sqlstate = $3, message = $4, detail = $5, hint = $6, context = $7"
	" where projection = $1 and position = $2",
	7, {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_UPDATE,
	.by_index = true
};

static EvsQuery release_rest = {
	"update evsource.dead_letters set retry = true"
	" where projection = $1 and position = $2 and not retry",
	2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery blame = {
	"update evsource.dead_letters"
	" set attempts = $3, retry = false, failed_at = clock_timestamp(),"
	" sqlstate = $4, message = $5, detail = $6, hint = $7, context = $8"
	" where projection = $1 and position = $2",
	8, {TEXTOID, INT8OID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_UPDATE,
	.by_index = true
};

static EvsQuery count_remaining = {
	"select count(*) from evsource.dead_letters where projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery add_to_count = {
	"update evsource.checkpoints set event_count = event_count + $2 where projection = $1",
	2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
};

typedef struct Retry
{
	EvsProjection *projection;
	const EvsUnit *unit;		/* under whose name the letters are, and which of them */
	int64		from;			/* the position of the first */
	bool		untried_only;	/* not those that have failed themselves, nor before the first */
	bool		not_crashed;	/* nor those at which the process died */
	int64		crashed;		/* so many of these there were */
	EvsKeySet  *waiting;		/* keys with an event that has failed, or waits */
	int64		applied;
	EvsScanLimit limit;			/* no time: none at all */
	int64		tries;			/* so many have been applied, or have failed */
	bool		raise;			/* an error that a new process may not meet */
	bool		look_only;		/* nothing is applied */
	bool		more;			/* some are left for another batch */
} Retry;

/* So many of these are applied, the others are not wanted any more. */
static void
remove_dealt_with(Retry *retry, const EvsLetter *letters, int count, int64 applied)
{
	if (count == 0)
		return;
	evs_letters_remove(retry->unit->projection, letters, count);
	retry->applied += applied;
}

/*
 * It stays where it is, and those of its keys wait.  One that was released is tried once:
 * with another attempt to come it would hold up all else, and it is parked already.
 */
static void
failed_again(Retry *retry, const EvsLetter *letter, const ErrorData *error)
{
	EvsErrorText text;
	Datum		values[7];
	char		nulls[7];

	evs_error_text(error, &text);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(retry->unit->projection);
	values[1] = Int64GetDatum(letter->position);
	memcpy(&values[2], text.values, sizeof(text.values));
	memcpy(&nulls[2], text.nulls, sizeof(text.nulls));
	(void) evs_query_run(&note_attempt, values, nulls);
	evs_key_set_add(retry->waiting, &letter->keys, letter->position);

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 retry->untried_only ?
			 errmsg("projection \"%s\" failed at position %lld",
					retry->projection->name, (long long) letter->position) :
			 errmsg("projection \"%s\" failed again at position %lld",
					retry->projection->name, (long long) letter->position),
			 errdetail("%s", error->message ? error->message : ""),
			 retry->untried_only ?
			 errhint("It stays parked: see evsource.dead_letters, and evsource.retry_dead_letters('%s').",
					 retry->projection->name) :
			 error->hint ? errhint("%s", error->hint) : 0));
}

typedef struct Work
{
	EvsProjection *projection;
	EvsBatch	batch;
	int64		applied;
} Work;

static void
apply_events(void *arg)
{
	Work	   *work = arg;

	work->applied = evs_dispatch_batch(work->projection, &work->batch);
}

/* Of one that has been tried: nothing up to it keeps its keys waiting if it was applied. */
static bool
has_failed(const Retry *retry, const EvsLetter *letter)
{
	return evs_key_set_has_before(retry->waiting, &letter->keys, letter->position + 1);
}

/*
 * Apply letters, which do not share a key with one that has failed before them.
 * Returns how many were dealt with: up to and including the first that fails,
 * for those after it may be of its keys.
 */
static int
apply_letters(Retry *retry, EvsLetter *letters, int count)
{
	EvsEvent   *events = palloc(sizeof(EvsEvent) * count);
	Work		work = {retry->projection, {events, count}};
	ErrorData  *error;
	int			done;

	CHECK_FOR_INTERRUPTS();
	if (letters[0].error != NULL)
	{
		failed_again(retry, letters, letters[0].error);
		return 1;
	}
	for (int i = 0; i < count; i++)
	{
		if (letters[i].error != NULL)
			return apply_letters(retry, letters, i);
		events[i] = letters[i].event;
	}
	error = evs_attempt(apply_events, &work);
	if (error == NULL)
	{
		remove_dealt_with(retry, letters, count, work.applied);
		return count;
	}
	if (evs_failure_is_transient(error->sqlerrcode) ||
		(retry->raise && evs_failure_may_be_stale(error->sqlerrcode)))
		ReThrowError(error);
	if (count == 1)
	{
		failed_again(retry, letters, error);
		return 1;
	}

	done = apply_letters(retry, letters, count / 2);
	if (done < count / 2 || has_failed(retry, &letters[done - 1]))
		return done;
	return done + apply_letters(retry, letters + done, count - done);
}

/* Not before something is done: else no batch would get past those that wait. */
static bool
is_over(const Retry *retry)
{
	if (retry->look_only)
		return true;
	return evs_clock_is_set(retry->limit.until) && retry->tries > 0 &&
		(retry->tries >= retry->limit.max_events ||
		 evs_clock_is_over(retry->limit.until));
}

static int
next_portion(const Retry *retry)
{
	if (!evs_clock_is_set(retry->limit.until))
		return PORTION;
	return (int) Min(Max(retry->limit.max_events, FEW), PORTION);
}

static int
next_few(const Retry *retry, int ready)
{
	if (!evs_clock_is_set(retry->limit.until))
		return ready;
	return (int) Min(Min(ready, FEW), Max(retry->limit.max_events - retry->tries, 1));
}

/* The first that is ready is released, so that the next batch goes on with it. */
static void
leave_rest(Retry *retry, const EvsLetter *first)
{
	Datum		values[] = {
		CStringGetTextDatum(retry->unit->projection), Int64GetDatum(first->position)
	};

	(void) evs_query_run(&release_rest, values, NULL);
	retry->more = true;
}

/* Those that wait behind one that has failed, or that waits, do so on; returns how many do not. */
static int
sort_out(Retry *retry, EvsLetter *letters, int count)
{
	int			ready = 0;

	for (int i = 0; i < count; i++)
	{
		bool		is_left = retry->not_crashed && letters[i].crashed;

		retry->crashed += is_left;
		if (is_left || (retry->untried_only && letters[i].tried) ||
			evs_key_set_has_before(retry->waiting, &letters[i].keys, letters[i].position))
			evs_key_set_add(retry->waiting, &letters[i].keys, letters[i].position);
		else
			letters[ready++] = letters[i];
	}
	return ready;
}

/* Events that are gone from the log have nothing to be applied; returns how many are left. */
static int
drop_gone(Retry *retry, EvsLetter *letters, int count)
{
	EvsLetter  *gone = palloc(sizeof(EvsLetter) * count);
	int			ngone = 0;

	for (int i = 0; i < count; i++)
	{
		if (letters[i].gone)
			gone[ngone++] = letters[i];
		else
			letters[i - ngone] = letters[i];
	}
	remove_dealt_with(retry, gone, ngone, 0);
	return count - ngone;
}

/* False: the batch is over, and there are more. */
static bool
apply_portion(Retry *retry, EvsLetter *letters, int count)
{
	while ((count = sort_out(retry, letters, count)) > 0)
	{
		int			few = next_few(retry, count);
		int			done;

		if (is_over(retry))
		{
			leave_rest(retry, &letters[0]);
			return false;
		}
		if (!evs_letters_read_events(letters, few))
		{
			count = drop_gone(retry, letters, count);
			continue;
		}
		few = evs_letters_check_keys(retry->projection, letters, few);
		done = apply_letters(retry, letters, few);
		retry->tries += done;
		letters += done;
		count -= done;
	}
	return true;
}

/* What is before the first keeps those of its keys waiting. */
static void
find_waiting(Retry *retry, const EvsLetter *letters, int count)
{
	EvsKeys    *keys = palloc(sizeof(EvsKeys) * count);

	for (int i = 0; i < count; i++)
		keys[i] = letters[i].keys;
	evs_dead_letters_find(retry->waiting, retry->unit->projection, retry->from, keys, count);
}

static int64
remaining(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	return DatumGetInt64(evs_query_value(&count_remaining, values, NULL, InvalidSnapshot,
										 Int64GetDatum(0)));
}

static void
retry_all(Retry *retry)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource dead letters",
												  ALLOCSET_DEFAULT_SIZES);
	int64		next = retry->from;
	bool		found = true;

	while (found)
	{
		MemoryContext caller = MemoryContextSwitchTo(context);
		int			count;
		int			portion = next_portion(retry);
		EvsLetter  *letters = evs_letters_read(retry->unit, next, portion, &count);

		found = count == portion;
		if (count > 0)
		{
			next = letters[count - 1].position + 1;
			if (retry->untried_only)
				find_waiting(retry, letters, count);
			found &= apply_portion(retry, letters, count);
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

int64
evs_dead_letters_apply_released(EvsProjection *projection, const EvsUnit *unit,
								const EvsScanLimit *limit, bool raise, bool *more)
{
	Retry		retry = {
		.projection = projection, .unit = unit, .from = evs_letters_first_released(unit),
		.untried_only = true, .waiting = evs_key_set_create(), .limit = *limit, .raise = raise
	};

	retry_all(&retry);
	*more = retry.more;
	return retry.applied;
}

/* Of the unit's letters from a position on, before which none is ready, mark the first that is. */
static void
mark_first(const EvsUnit *unit, int64 from)
{
	Retry		retry = {
		.unit = unit, .from = from, .untried_only = true, .look_only = true,
		.waiting = evs_key_set_create()
	};

	retry_all(&retry);
}

void
evs_dead_letters_blame_released(const EvsUnit *unit, int64 position, int attempts,
								const ErrorData *error)
{
	EvsErrorText text;
	Datum		values[8];
	char		nulls[8];

	evs_error_text(error, &text);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(unit->projection);
	values[1] = Int64GetDatum(position);
	values[2] = Int32GetDatum(attempts);
	memcpy(&values[3], text.values, sizeof(text.values));
	memcpy(&nulls[3], text.nulls, sizeof(text.nulls));
	(void) evs_query_run(&blame, values, nulls);
	mark_first(unit, position);
}

void
evs_dead_letters_divided(const EvsProjection *projection)
{
	EvsUnit		unit = {.projection = projection->name, .partitions = 1};
	int64		first;

	if (projection->partitions == 1 ||
		(first = evs_letters_first_released(&unit)) == PG_INT64_MAX)
		return;
	unit.partitions = projection->partitions;
	for (unit.partition = 0; unit.partition < unit.partitions; unit.partition++)
		mark_first(&unit, first);
}

/*
 * evsource.retry_dead_letters(projection, crashed) returns (applied, remaining)
 *
 * One at which the process died would end it again, and with that the whole server, and
 * take back what the others have come to: such ones are tried only when asked for.
 *
 * Errors: 42704 when unknown, 42501, 55000 while it is rebuilt or catches up,
 * 25000 under REPEATABLE READ.
 */
Datum
evsource_retry_dead_letters(PG_FUNCTION_ARGS)
{
	EvsUnit		whole = {.partitions = 1};
	Retry		retry = {.unit = &whole, .not_crashed = !evs_argument_bool(fcinfo, 1, false)};
	TupleDesc	tupdesc;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	EvsCheckpoint checkpoint;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	evs_require_writable("evsource.retry_dead_letters()");
	evs_require_read_committed("retry dead letters");

	retry.projection = evs_registry_open(evs_argument_name(fcinfo, 0));
	if (retry.projection->state == EVS_PROJECTION_REBUILDING ||
		retry.projection->state == EVS_PROJECTION_CATCHING_UP)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot retry the dead letters of projection \"%s\"",
						retry.projection->name),
				 errdetail("Its state is \"%s\".", evs_projection_state_name(retry.projection->state)),
				 errhint("Wait until that is complete.")));

	whole.projection = retry.projection->name;
	retry.waiting = evs_key_set_create();
	retry_all(&retry);
	if (retry.crashed > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld dead letter of projection \"%s\" at which the process died is left as it is",
							   "%lld dead letters of projection \"%s\" at which the process died are left as they are",
							   retry.crashed, (long long) retry.crashed, retry.projection->name),
				 errhint("When the handler is mended: evsource.retry_dead_letters('%s', crashed => true).",
						 retry.projection->name)));

	if (retry.applied > 0)
	{
		Datum		arguments[] = {
			CStringGetTextDatum(retry.projection->name), Int64GetDatum(retry.applied)
		};

		(void) evs_query_run(&add_to_count, arguments, NULL);
		evs_wakeup_projection(retry.projection->name);
		evs_checkpoint_read(retry.projection->name, &checkpoint);
		evs_notify(retry.projection, checkpoint.position);
	}

	values[0] = Int64GetDatum(retry.applied);
	values[1] = Int64GetDatum(remaining(retry.projection->name));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
