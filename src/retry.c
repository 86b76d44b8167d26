/*
 * retry.c - retry_dead_letters: apply the events that a projection has left
 * aside.
 *
 * In the order of the log, a portion at a time.  An event that fails again keeps
 * its place, and those of its keys wait on behind it; the others are applied and
 * their rows go.  All in the caller's transaction, which holds the projection's
 * name: no later event of these keys is looked at meanwhile.
 *
 * And, for whoever applies a unit, those that have waited behind an event that was
 * truncated: the same, but an event that has failed before is not tried again, and
 * where a batch is bounded in time, so is this.  Of those that are left the first
 * that waits for nothing has a mark then: it is where the next batch begins, and to
 * blame when that does not come to an end.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "attempt.h"
#include "barrier.h"
#include "dead_letters.h"
#include "dispatch.h"
#include "event.h"
#include "failure.h"
#include "notify.h"
#include "parameters.h"
#include "query.h"
#include "registry.h"
#include "scan.h"
#include "text_array.h"
#include "types.h"
#include "wakeup.h"

/* So many at a time. */
#define PORTION		1000

/* So many between two looks at the time. */
#define FEW			32

PG_FUNCTION_INFO_V1(evsource_retry_dead_letters);

static EvsQuery read_letters = {
	"select position, keys, attempts from evsource.dead_letters"
	" where projection = $1 and position > $2"
	"  and ($4 = 1 or evsource._partition(stream, $4) = $5)"
	" order by position limit $3",
	5, {TEXTOID, INT8OID, INT4OID, INT4OID, INT4OID}, SPI_OK_SELECT
};

static EvsQuery remove_letters = {
	"delete from evsource.dead_letters where projection = $1 and position = any ($2)",
	2, {TEXTOID, INT8ARRAYOID}, SPI_OK_DELETE
};

static EvsQuery remove_keys = {
	"delete from evsource.parked_keys where projection = $1 and position = any ($2)",
	2, {TEXTOID, INT8ARRAYOID}, SPI_OK_DELETE
};

static EvsQuery note_attempt = {
	"update evsource.dead_letters"
	" set attempts = attempts + 1, retry = false, failed_at = clock_timestamp(),"
	" sqlstate = $3, message = $4, detail = $5, hint = $6, context = $7"
	" where projection = $1 and position = $2",
	7, {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery release_rest = {
	"update evsource.dead_letters set retry = true"
	" where projection = $1 and position = $2 and not retry",
	2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery blame_released = {
	"update evsource.dead_letters"
	" set attempts = $4, retry = false, failed_at = clock_timestamp(),"
	" sqlstate = $5, message = $6, detail = $7, hint = $8, context = $9"
	" where projection = $1 and position = (select min(l.position) from evsource.dead_letters l"
	"  where l.projection = $1 and l.retry and ($2 = 1 or evsource._partition(l.stream, $2) = $3))",
	9, {TEXTOID, INT4OID, INT4OID, INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID},
	SPI_OK_UPDATE
};

static EvsQuery count_remaining = {
	"select count(*) from evsource.dead_letters where projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery add_to_count = {
	"update evsource.checkpoints set event_count = event_count + $2 where projection = $1",
	2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
};

/* Dead letters, read again. */
typedef struct Letter
{
	EvsEvent	event;
	EvsKeys		keys;
	bool		tried;			/* it has failed itself */
	ErrorData  *error;			/* why the event cannot be read; then it is as stored */
} Letter;

typedef struct Retry
{
	EvsProjection *projection;
	const char *name;			/* under which the letters are */
	int			partition;		/* of so many; 0 of 1: all of them */
	int			partitions;
	bool		untried_only;	/* not those that have failed themselves */
	EvsKeySet  *waiting;		/* keys with an event that has failed again */
	int64		applied;
	EvsScanLimit limit;			/* no time: none at all */
	int64		tries;			/* so many have been applied, or have failed */
	bool		raise;			/* an error that a new process may not meet */
	bool		more;			/* some are left for another batch */
} Retry;

/* The event at a position. */
typedef struct Search
{
	int64		position;
	Snapshot	snapshot;
	bool		as_stored;
	EvsEvent   *event;
	bool		exists;			/* it is not gone from the log */
} Search;

static void
search_event(void *arg)
{
	Search	   *search = arg;
	EvsScan    *scan = evs_scan_log(search->position - 1, search->position, NULL,
									search->snapshot);
	EvsEvent	found;

	if (search->as_stored)
		evs_scan_as_stored(scan);
	search->exists = evs_scan_next(scan, &found);
	if (search->exists)
		evs_event_copy(search->event, &found);
	evs_scan_end(scan);
}

/* False when it is gone from the log. */
static bool
read_event(int64 position, Letter *letter, Snapshot snapshot)
{
	Search		search = {position, snapshot, false, &letter->event};

	letter->error = NULL;
	if (evs_types_any_now())
		letter->error = evs_attempt(search_event, &search);
	else
		search_event(&search);
	if (letter->error != NULL)
	{
		if (evs_failure_is_transient(letter->error->sqlerrcode))
			ReThrowError(letter->error);
		search.as_stored = true;
		search_event(&search);
	}
	return search.exists;
}

/*
 * The next letters after a position.  What is gone from the log has nothing to
 * be applied: its position is among those to remove.
 */
static Letter *
read_portion(const Retry *retry, int64 after, int *count, int64 *last, List **gone)
{
	Datum		values[] = {
		CStringGetTextDatum(retry->name), Int64GetDatum(after), Int32GetDatum(PORTION),
		Int32GetDatum(retry->partitions), Int32GetDatum(retry->partition)
	};
	Letter	   *letters = palloc0(sizeof(Letter) * PORTION);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsQueryResult result;

	*count = 0;
	*gone = NIL;
	evs_query_begin(&read_letters, values, NULL, InvalidSnapshot, &result);
	for (uint64 row = 0; row < result.count; row++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);
		Letter	   *letter = &letters[*count];
		bool		is_null;

		*last = evs_query_bigint(&result, row, 1);
		if (read_event(*last, letter, snapshot))
		{
			evs_text_array_read(SPI_getbinval(result.rows[row], result.tupdesc, 2, &is_null),
								&letter->keys.keys, &letter->keys.count);
			letter->tried = evs_query_integer(&result, row, 3) > 0;
			(*count)++;
		}
		else
		{
			int64	   *position = palloc(sizeof(int64));

			*position = *last;
			*gone = lappend(*gone, position);
		}
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);
	UnregisterSnapshot(snapshot);
	return letters;
}

static void
remove_positions(const char *projection, Datum *positions, int count)
{
	Datum		values[2];

	if (count == 0)
		return;
	values[0] = CStringGetTextDatum(projection);
	values[1] = PointerGetDatum(construct_array(positions, count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) evs_query_run(&remove_letters, values, NULL);
	(void) evs_query_run(&remove_keys, values, NULL);
}

/* These have been dealt with: so many are applied, the others are not wanted any more. */
static void
remove_applied(Retry *retry, const EvsEvent *events, int count, int64 applied)
{
	Datum	   *positions = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		positions[i] = Int64GetDatum(events[i].position);
	remove_positions(retry->name, positions, count);
	retry->applied += applied;
}

static void
failed_again(Retry *retry, const Letter *letter, const ErrorData *error)
{
	EvsErrorText text;
	Datum		values[7];
	char		nulls[7];

	evs_error_text(error, &text);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(retry->name);
	values[1] = Int64GetDatum(letter->event.position);
	memcpy(&values[2], text.values, sizeof(text.values));
	memcpy(&nulls[2], text.nulls, sizeof(text.nulls));
	(void) evs_query_run(&note_attempt, values, nulls);
	evs_key_set_add(retry->waiting, &letter->keys);

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 retry->untried_only ?
			 errmsg("projection \"%s\" failed at position %lld",
					retry->projection->name, (long long) letter->event.position) :
			 errmsg("projection \"%s\" failed again at position %lld",
					retry->projection->name, (long long) letter->event.position),
			 errdetail("%s", error->message ? error->message : "")));
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

/*
 * Apply letters, which do not share a key with one that has failed before them.
 * Returns how many were dealt with: up to and including the first that fails,
 * for those after it may be of its keys.
 */
static int
apply_letters(Retry *retry, Letter *letters, int count)
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
		remove_applied(retry, events, count, work.applied);
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
	if (done < count / 2 || evs_key_set_has_any(retry->waiting, &letters[done - 1].keys))
		return done;
	return done + apply_letters(retry, letters + done, count - done);
}

/* Not before something is done: else no batch would get past those that wait. */
static bool
is_over(const Retry *retry)
{
	return retry->limit.until != 0 && retry->tries > 0 &&
		(retry->tries >= retry->limit.max_events ||
		 GetCurrentTimestamp() >= retry->limit.until);
}

static int
next_few(const Retry *retry, int ready)
{
	if (retry->limit.until == 0)
		return ready;
	return (int) Min(Min(ready, FEW), Max(retry->limit.max_events - retry->tries, 1));
}

/* The first that is ready is released, so that the next batch goes on with it. */
static void
leave_rest(Retry *retry, const Letter *first)
{
	Datum		values[] = {
		CStringGetTextDatum(retry->name), Int64GetDatum(first->event.position)
	};

	(void) evs_query_run(&release_rest, values, NULL);
	retry->more = true;
}

/* False: the batch is over, and there are more. */
static bool
apply_portion(Retry *retry, Letter *letters, int count)
{
	while (count > 0)
	{
		int			ready = 0;
		int			done;

		/* those that wait behind one that has failed do so on */
		for (int i = 0; i < count; i++)
		{
			if ((retry->untried_only && letters[i].tried) ||
				evs_key_set_has_any(retry->waiting, &letters[i].keys))
				evs_key_set_add(retry->waiting, &letters[i].keys);
			else
				letters[ready++] = letters[i];
		}
		if (ready == 0)
			return true;
		if (is_over(retry))
		{
			leave_rest(retry, &letters[0]);
			return false;
		}
		done = apply_letters(retry, letters, next_few(retry, ready));
		retry->tries += done;
		letters += done;
		count = ready - done;
	}
	return true;
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
	int64		last = 0;
	bool		found;
	int			count;
	List	   *gone;

	do
	{
		MemoryContext caller = MemoryContextSwitchTo(context);
		int64		before = last;
		Letter	   *letters = read_portion(retry, last, &count, &last, &gone);
		ListCell   *cell;

		foreach(cell, gone)
		{
			Datum		position = Int64GetDatum(*(int64 *) lfirst(cell));

			remove_positions(retry->name, &position, 1);
		}
		found = apply_portion(retry, letters, count) && last > before;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	} while (found);
	MemoryContextDelete(context);
}

int64
evs_dead_letters_apply_released(EvsProjection *projection, const EvsUnit *unit,
								const EvsScanLimit *limit, bool raise, bool *more)
{
	Retry		retry = {
		.projection = projection, .name = unit->projection,
		.partition = unit->partition, .partitions = unit->partitions,
		.untried_only = true, .waiting = evs_key_set_create(),
		.limit = *limit, .raise = raise
	};

	retry_all(&retry);
	*more = retry.more;
	return retry.applied;
}

void
evs_dead_letters_blame_released(const EvsUnit *unit, int attempts, const ErrorData *error)
{
	EvsErrorText text;
	Datum		values[9];
	char		nulls[9];

	evs_error_text(error, &text);
	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(unit->projection);
	values[1] = Int32GetDatum(unit->partitions);
	values[2] = Int32GetDatum(unit->partition);
	values[3] = Int32GetDatum(attempts);
	memcpy(&values[4], text.values, sizeof(text.values));
	memcpy(&nulls[4], text.nulls, sizeof(text.nulls));
	(void) evs_query_run(&blame_released, values, nulls);
}

/*
 * evsource.retry_dead_letters(projection) returns (applied, remaining)
 *
 * Errors: 42704 when unknown, 42501, 55000 while it is rebuilt or catches up,
 * 25000 under REPEATABLE READ.
 */
Datum
evsource_retry_dead_letters(PG_FUNCTION_ARGS)
{
	Retry		retry = {.partitions = 1};
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

	retry.name = retry.projection->name;
	retry.waiting = evs_key_set_create();
	retry_all(&retry);

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
