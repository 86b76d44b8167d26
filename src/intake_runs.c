/*
 * intake_runs.c - the positions that an INSERT or COPY drew, and the dispatch of what
 * it stored there.
 *
 * To remember positions and read the rows back is cheaper than a transition table,
 * and rows that ON CONFLICT or another trigger left out are not there.
 *
 * What a statement stored is one batch, whoever draws positions between its own.  A
 * small one is read once for all projections; of a big one each reads for itself, so
 * that it need not fit into memory.
 */
#include "intake_runs.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "dispatch.h"
#include "event.h"
#include "scan.h"

/* no more are copied to be handed to all projections */
#define MOST_COPIED 10000

/* Add positions first to last, which are above those that are there. */
static void
add_run(EvsRuns *runs, int64 first, int64 last)
{
	EvsRun	   *newest = runs->count > 0 ? &runs->runs[runs->count - 1] : NULL;

	if (newest != NULL && newest->last + 1 == first)
	{
		newest->last = last;
		return;
	}
	if (runs->count == runs->capacity)
	{
		runs->capacity = Max(16, runs->capacity * 2);
		if (runs->runs == NULL)
			runs->runs = MemoryContextAlloc(TopTransactionContext,
											runs->capacity * sizeof(EvsRun));
		else
			runs->runs = repalloc_huge(runs->runs, runs->capacity * sizeof(EvsRun));
	}
	runs->runs[runs->count].first = first;
	runs->runs[runs->count].last = last;
	runs->count++;
}

void
evs_runs_add(EvsRuns *runs, const EvsEvent *event)
{
	add_run(runs, event->position, event->position);
	runs->events++;
	runs->size += evs_event_size(event);
}

void
evs_runs_move(EvsRuns *runs, EvsRuns *others)
{
	for (int i = 0; i < others->count; i++)
		add_run(runs, others->runs[i].first, others->runs[i].last);
	runs->events += others->events;
	runs->size += others->size;
	others->count = 0;
	others->events = 0;
	others->size = 0;
}

void
evs_runs_free(EvsRuns *runs)
{
	if (runs->runs != NULL)
		pfree(runs->runs);
	memset(runs, 0, sizeof(EvsRuns));
}

/* Begin to read what is stored there. */
static EvsScan *
begin_scan(const EvsFilter *filter, const void *arg)
{
	const EvsRuns *runs = arg;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsScan    *scan = evs_scan_own(runs->runs, runs->count, filter, snapshot);

	UnregisterSnapshot(snapshot);
	return scan;
}

/* One copy of it all, for all projections. */
static void
dispatch_copy(const EvsRuns *runs)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource intake dispatch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EvsScan    *scan = begin_scan(NULL, runs);
	EvsBatch   *batch = evs_scan_batch(scan, PG_INT32_MAX, MAX_KILOBYTES, false);

	evs_scan_end(scan);
	evs_dispatch_inline(batch);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/*
 * A handler has stored it: what any projection wants of it waits for its turn, and is one
 * batch then.  Here is no more than a part of it at a time.
 */
static void
dispatch_parts(const EvsRuns *runs)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource intake part",
												  ALLOCSET_DEFAULT_SIZES);
	EvsScan    *scan = begin_scan(NULL, runs);

	while (!evs_scan_is_done(scan))
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		evs_dispatch_inline(evs_scan_batch(scan, MOST_COPIED, work_mem, false));
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	evs_scan_end(scan);
	MemoryContextDelete(context);
}

/* Does a copy fit into memory? */
static bool
is_small(const EvsRuns *runs)
{
	return runs->events <= MOST_COPIED && runs->size <= (Size) work_mem * 1024;
}

void
evs_runs_dispatch(const EvsRuns *runs)
{
	if (runs->count == 0)
		return;

	/* the scan must see the rows of this very command */
	CommandCounterIncrement();
	if (!evs_dispatch_wanted())
		return;

	if (evs_dispatch_is_running())
		dispatch_parts(runs);
	else if (is_small(runs))
		dispatch_copy(runs);
	else
		evs_dispatch_inline_scans(begin_scan, runs, runs->runs[runs->count - 1].last);
}
