/*
 * dispatch.c - run batches of events through projections.
 *
 * Inline dispatch happens inside the append, after its events are stored: all
 * active inline projections, by name, each with the whole batch.  What handlers
 * append meanwhile is stored at once, but waits to be dispatched until every
 * projection is through with the batch; together it makes the next batch, one
 * level deeper.  So every projection sees the events in the order of the log,
 * and a chain of appends that feeds itself ends at evsource.max_dispatch_depth.
 *
 * What waits has been stored by a subtransaction that may yet roll back (a
 * handler with an exception block).  Each waiting event therefore knows its
 * subtransaction.  Subtransactions nest, so those of the innermost one are
 * always at the end.
 *
 * Locks: the appender holds RowExclusiveLock on events, which keeps the list of
 * inline projections from changing under it.
 */
#include "dispatch.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "alarm.h"
#include "alter.h"
#include "catalog.h"
#include "event.h"
#include "fold_key.h"
#include "handlers.h"
#include "handling.h"
#include "identity.h"
#include "notify.h"
#include "resolve.h"
#include "run_batch.h"
#include "scan.h"
#include "settings.h"

/* copies of events never take more than this, whatever maintenance_work_mem is */
#define MAX_BATCH_KB	(256 * 1024)

/* Events that handlers have appended and that wait for their turn. */
typedef struct Waiting
{
	MemoryContext context;		/* holds the arrays and events; NULL: none */
	EvsEvent   *events;
	SubTransactionId *subids;	/* who stored each of them */
	int			count;
	int			capacity;
} Waiting;

/* The dispatch that is running; there is one at most. */
static struct
{
	bool		running;
	SubTransactionId subid;		/* in which it started */
	MemoryContext context;		/* lives as long as it does */
	int			depth;			/* of the batch in hand; 0: the client's */
	Waiting		waiting;
} dispatch;

/* The subtransaction whose appends are not dispatched, 0 if there is none. */
static SubTransactionId muted_in = InvalidSubTransactionId;

void
evs_dispatch_mute(void)
{
	if (muted_in == InvalidSubTransactionId)
		muted_in = GetCurrentSubTransactionId();
}

static void
start_dispatch(void)
{
	Assert(!dispatch.running);
	memset(&dispatch, 0, sizeof(dispatch));
	dispatch.running = true;
	dispatch.subid = GetCurrentSubTransactionId();
	dispatch.context = CurrentMemoryContext;
}

static void
run_inline(const EvsBatch *batch)
{
	List	   *projections = evs_projections_inline();
	ListCell   *cell;

	foreach(cell, projections)
	{
		if (evs_run_batch(lfirst(cell), batch, NULL) > 0)
			evs_notify(lfirst(cell), batch->events[batch->count - 1].position);
	}
	evs_projections_release(projections);
}

/* Dispatch what handlers have appended, level by level, until they stop. */
static void
finish_dispatch(void)
{
	while (dispatch.waiting.count > 0)
	{
		Waiting		level = dispatch.waiting;
		EvsBatch	batch = {level.events, level.count};

		memset(&dispatch.waiting, 0, sizeof(dispatch.waiting));
		dispatch.depth++;
		run_inline(&batch);
		MemoryContextDelete(level.context);
	}
	if (dispatch.waiting.context != NULL)
		MemoryContextDelete(dispatch.waiting.context);
	memset(&dispatch, 0, sizeof(dispatch));
}

/* Does any projection want any of these events? */
static bool
is_anyone_interested(const EvsBatch *batch)
{
	List	   *projections = evs_projections_inline();
	bool		found = false;
	ListCell   *cell;

	foreach(cell, projections)
	{
		EvsProjection *projection = lfirst(cell);

		for (int i = 0; i < batch->count && !found; i++)
			found = evs_run_accepts(projection, &batch->events[i]);
	}
	evs_projections_release(projections);
	return found;
}

/* A handler has appended these: keep them for later. */
static void
wait_for_turn(const EvsBatch *batch)
{
	Waiting    *waiting = &dispatch.waiting;
	MemoryContext caller;

	/* an event that nobody waits for does no harm at any depth */
	if (!is_anyone_interested(batch))
		return;
	if (dispatch.depth >= evs_max_dispatch_depth)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("dispatch depth limit exceeded"),
				 errdetail("An event at depth %d makes a handler append; what a client appends is at depth 0.",
						   dispatch.depth),
				 errhint("Break the circle of handlers, or raise evsource.max_dispatch_depth.")));

	if (waiting->context == NULL)
		waiting->context = AllocSetContextCreate(dispatch.context, "evsource waiting events",
												 ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(waiting->context);

	if (waiting->events == NULL)
	{
		waiting->capacity = Max(batch->count, 16);
		waiting->events = MemoryContextAllocHuge(waiting->context,
												 sizeof(EvsEvent) * waiting->capacity);
		waiting->subids = MemoryContextAllocHuge(waiting->context,
												 sizeof(SubTransactionId) * waiting->capacity);
	}
	else if (waiting->count + batch->count > waiting->capacity)
	{
		waiting->capacity = Max(waiting->capacity * 2, waiting->count + batch->count);
		waiting->events = repalloc_huge(waiting->events,
										sizeof(EvsEvent) * waiting->capacity);
		waiting->subids = repalloc_huge(waiting->subids,
										sizeof(SubTransactionId) * waiting->capacity);
	}

	for (int i = 0; i < batch->count; i++)
	{
		evs_event_copy(&waiting->events[waiting->count], &batch->events[i]);
		waiting->subids[waiting->count++] = GetCurrentSubTransactionId();
	}
	MemoryContextSwitchTo(caller);
}

bool
evs_dispatch_wanted(void)
{
	return muted_in == InvalidSubTransactionId && evs_projections_have_inline();
}

bool
evs_dispatch_is_running(void)
{
	return dispatch.running;
}

/*
 * What of the user's is running that cannot wait for the daemon; NULL: nothing.  All that a
 * process of the daemon runs is: upcasters, key functions, triggers and policies, say.
 */
static const char *
guest(void)
{
	if (dispatch.running)
		return "a handler";
	if (evs_reset_is_calling())
		return "an on_reset function";
	if (MyBgworkerEntry != NULL && strcmp(MyBgworkerEntry->bgw_library_name, "evsource") == 0)
		return "a function that evsource's daemon calls";
	return NULL;
}

void
evs_dispatch_refuse(const char *action, const char *detail, const char *hint)
{
	const char *who = guest();

	if (who != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot %s", who, action),
				 errdetail("%s", detail),
				 errhint("%s", hint)));
}

void
evs_dispatch_inline(const EvsBatch *batch)
{
	if (batch->count == 0 || !evs_dispatch_wanted())
		return;
	if (dispatch.running)
		wait_for_turn(batch);
	else
	{
		start_dispatch();
		run_inline(batch);
		finish_dispatch();
	}
}

int64
evs_dispatch_batch(EvsProjection *projection, const EvsBatch *batch)
{
	int			applied;

	if (dispatch.running)
		return evs_run_batch(projection, batch, NULL);

	start_dispatch();
	applied = evs_run_batch(projection, batch, NULL);
	finish_dispatch();
	return applied;
}

int
evs_dispatch_some(EvsProjection *projection, const EvsBatch *batch, EvsTime until)
{
	int			taken = batch->count;

	if (dispatch.running || !evs_clock_is_set(until))
	{
		(void) evs_dispatch_batch(projection, batch);
		return taken;
	}
	start_dispatch();
	evs_alarm_set(until);
	(void) evs_run_batch(projection, batch, &taken);
	evs_alarm_off();
	finish_dispatch();
	return taken;
}

/* The next events of a scan that the projection wants, as many as were asked for. */
typedef struct ScanSource
{
	const EvsProjection *projection;
	EvsScan    *scan;
	const EvsScanLimit *limit;
	EvsScanned *result;
	EvsEvent	event;			/* the current one */
	bool		is_ahead;		/* it has been fetched and is still to come */
} ScanSource;

static bool
time_is_up(const ScanSource *source)
{
	return evs_clock_is_set(source->limit->until) && source->result->applied > 0 &&
		evs_alarm_rang();
}

/*
 * The next one, or NULL at the end.  What is then still to be done may take long: a query
 * sorts, and inserts.
 */
static const EvsEvent *
next_of_scan(void *arg)
{
	ScanSource *source = arg;
	EvsScanned *result = source->result;

	if (source->is_ahead)
	{
		source->is_ahead = false;
		return &source->event;
	}
	if (!time_is_up(source))
	{
		while (result->taken < source->limit->max_events && evs_scan_next(source->scan, &source->event))
		{
			result->taken++;
			result->position = source->event.position;
			if (evs_run_accepts(source->projection, &source->event))
			{
				result->applied++;
				return &source->event;
			}
		}
	}
	evs_scan_let_go(source->scan);
	return NULL;
}

/* Event handlers and queries take the events straight from the scan. */
static void
scan_stream(EvsProjection *projection, EvsScan *scan, const EvsScanLimit *limit,
			EvsScanned *result)
{
	ScanSource	source = {projection, scan, limit, result};
	EvsEvent   *first = &source.event;
	EvsIdentity identity;
	EvsHandlerContext errors;

	if (next_of_scan(&source) == NULL)
	{
		result->at_end = evs_scan_is_done(scan);
		return;
	}
	source.is_ahead = true;

	evs_handler_context_push(&errors, projection, &first, 1);
	evs_handling_begin(projection, &identity);
	if (projection->kind == EVS_KIND_EVENT && evs_handler_may_tarry(projection))
	{
		evs_event_copy(&source.event, &source.event);
		evs_scan_keep_no_page(scan);
	}
	evs_handler_context_pop(&errors);

	evs_handler_run_stream(projection, next_of_scan, &source);
	evs_handling_end(projection, &identity);
	result->at_end = evs_scan_is_done(scan);
}

/* Everything else gets copies of them. */
static void
scan_batch(EvsProjection *projection, EvsScan *scan, const EvsScanLimit *limit, EvsScanned *result)
{
	int			memory_kb = limit->memory_kb > 0 ? limit->memory_kb : Min(maintenance_work_mem, MAX_BATCH_KB);
	bool		bounded = evs_clock_is_set(limit->until);
	EvsBatch   *batch = evs_scan_batch(scan, Min(limit->max_events, PG_INT32_MAX), memory_kb, bounded);
	int			taken = batch->count;

	evs_scan_let_go(scan);
	result->taken = taken;
	result->at_end = evs_scan_is_done(scan);
	if (taken == 0)
		return;
	result->applied = evs_run_batch(projection, batch, bounded ? &taken : NULL);
	result->at_end &= taken == result->taken;
	result->taken = taken;
	result->position = batch->events[taken - 1].position;
}

/* The next events of a scan, to one projection. */
static void
run_scan(EvsProjection *projection, EvsScan *scan, const EvsScanLimit *limit, EvsScanned *result)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource dispatch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);

	memset(result, 0, sizeof(EvsScanned));
	if (evs_clock_is_set(limit->until))
		evs_alarm_set(limit->until);
	if (projection->kind == EVS_KIND_EVENT || projection->kind == EVS_KIND_QUERY)
		scan_stream(projection, scan, limit, result);
	else
		scan_batch(projection, scan, limit, result);
	if (evs_clock_is_set(limit->until))
		evs_alarm_off();

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

void
evs_dispatch_scan(EvsProjection *projection, EvsScan *scan, const EvsScanLimit *limit,
				  EvsScanned *result)
{
	bool		outermost = !dispatch.running;

	if (outermost)
		start_dispatch();
	run_scan(projection, scan, limit, result);
	if (outermost)
		finish_dispatch();
}

void
evs_dispatch_inline_scans(EvsBeginScan begin, const void *arg, int64 last)
{
	/* any session may be at it, where a replay is one of few */
	EvsScanLimit limit = {PG_INT64_MAX, .memory_kb = work_mem};
	List	   *projections = evs_projections_inline();
	ListCell   *cell;

	start_dispatch();
	foreach(cell, projections)
	{
		EvsProjection *projection = lfirst(cell);
		EvsScan    *scan;
		EvsScanned	some = {0};
		bool		applied = false;

		evs_run_check_serializable(projection);
		for (scan = begin(&projection->filter, arg); !some.at_end; applied |= some.applied > 0)
			run_scan(projection, scan, &limit, &some);
		evs_scan_end(scan);
		if (applied)
			evs_notify(projection, last);
	}
	evs_projections_release(projections);
	finish_dispatch();
}

void
evs_dispatch_check(EvsProjection *projection)
{
	EvsIdentity identity;

	if (projection->kind == EVS_KIND_QUERY)
		evs_check_query(projection);

	evs_handling_begin(projection, &identity);
	if (projection->kind != EVS_KIND_QUERY)
		(void) evs_handler_function(projection);
	evs_keyer_close(evs_keyer_open(projection));
	evs_handling_end(projection, &identity);
}

static void
xact_callback(XactEvent event, void *arg)
{
	memset(&dispatch, 0, sizeof(dispatch));
	evs_handling_forget();
	muted_in = InvalidSubTransactionId;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid,
				 SubTransactionId parent, void *arg)
{
	Waiting    *waiting = &dispatch.waiting;

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		if (muted_in == subid)
			muted_in = InvalidSubTransactionId;
		evs_handling_aborted(subid);
	}
	if (!dispatch.running)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		if (dispatch.subid == subid)
			memset(&dispatch, 0, sizeof(dispatch));
		while (waiting->count > 0 && waiting->subids[waiting->count - 1] == subid)
			waiting->count--;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = waiting->count; i > 0 && waiting->subids[i - 1] == subid; i--)
			waiting->subids[i - 1] = parent;
	}
}

void
evs_dispatch_init(void)
{
	evs_handlers_init();
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
