/*
 * apply_read.c - read the next events of the log for a projection, whatever
 * their upcasters do.
 *
 * An event is brought to the newest version of its type when it is read, and
 * that is code of the user's, which may fail as a handler may.  Events are read
 * in a subtransaction then; when that fails, half as many, and so on until it is
 * known which event is the first that cannot be read.
 */
#include "evsource.h"

#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "alarm.h"
#include "apply_read.h"
#include "attempt.h"
#include "event.h"
#include "failure.h"
#include "scan.h"
#include "types.h"

/* Memory for the events. */
#define MAX_BATCH_KB	(64 * 1024)

typedef struct Read
{
	const EvsProjection *projection;
	int64		after;
	int64		upto;
	int			max_events;
	bool		as_stored;
	bool		bounded;		/* by the alarm */
	EvsBatch   *batch;
	bool		at_end;
} Read;

static void
read_events(void *arg)
{
	Read	   *read = arg;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsScan    *scan;

	scan = evs_scan_log(Max(read->after, read->projection->start_after), read->upto,
						&read->projection->filter, snapshot);
	if (read->as_stored)
		evs_scan_as_stored(scan);
	read->batch = evs_scan_batch(scan, read->max_events,
								 Min(maintenance_work_mem, MAX_BATCH_KB), read->bounded);
	read->at_end = evs_scan_is_done(scan);
	evs_scan_end(scan);
	UnregisterSnapshot(snapshot);
}

/* NULL, or why one of so many events cannot be read. */
static ErrorData *
try_to_read(Read *read, int max_events)
{
	ErrorData  *error;

	CHECK_FOR_INTERRUPTS();
	read->max_events = max_events;
	error = evs_attempt(read_events, read);
	if (error != NULL && evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* The event after these, as it is stored. */
static EvsEvent *
read_stored(const Read *read)
{
	Read		next = *read;

	if (read->batch->count > 0)
		next.after = read->batch->events[read->batch->count - 1].position;
	next.as_stored = true;
	next.max_events = 1;
	read_events(&next);
	if (next.batch->count != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the log was truncated while it was read"),
				 errdetail("An event after position %lld is gone.", (long long) next.after),
				 errhint("Run the command again.")));
	return &next.batch->events[0];
}

/*
 * So many events cannot be read: read those before the first that is at fault.
 * Returns why it is, or NULL if memory is full before it, or the time is over.
 *
 * An upcaster may fail now and then: what could be read a moment ago counts only
 * when it is read once more, at the end; else the search begins again, with less.
 */
static ErrorData *
read_up_to_failure(Read *read, int fails, ErrorData *error)
{
	int			works = 0;

	for (;;)
	{
		int			middle = works + (fails - works) / 2;
		ErrorData  *again = try_to_read(read, middle);

		if (again != NULL && middle == 0)
			ReThrowError(again);
		else if (again != NULL)
		{
			error = again;
			fails = middle;
			if (middle == works)
				works = 0;
		}
		else if (read->batch->count < middle)
			return NULL;
		else if (middle == works)
			return error;
		else
			works = middle;
	}
}

void
evs_apply_read(const EvsProjection *projection, int64 after, int64 upto, int64 max_events,
			   EvsTime until, EvsReading *reading)
{
	Read		read = {projection, after, upto, .bounded = evs_clock_is_set(until)};
	int			count = (int) Min(max_events, PG_INT32_MAX);
	ErrorData  *error = NULL;

	memset(reading, 0, sizeof(EvsReading));
	evs_alarm_set(until);
	if (evs_types_any_now())
		error = try_to_read(&read, count);
	else
	{
		read.max_events = count;
		read_events(&read);
	}

	if (error != NULL)
		reading->error = read_up_to_failure(&read, count, error);
	evs_alarm_off();
	if (reading->error != NULL)
		reading->unreadable = read_stored(&read);
	reading->batch = read.batch;
	reading->at_end = read.at_end && reading->error == NULL;
}

void
evs_apply_read_stored(const EvsProjection *projection, int64 after, int64 upto,
					  EvsReading *reading)
{
	Read		read = {projection, after, upto, .max_events = 1, .as_stored = true};

	memset(reading, 0, sizeof(EvsReading));
	read_events(&read);
	reading->batch = read.batch;
	reading->at_end = read.batch->count == 0;
	if (read.batch->count > 0)
		reading->unreadable = &read.batch->events[0];
}
