/*
 * intake_runs.c - the positions that an INSERT or COPY drew, and the dispatch of what
 * it stored there.
 *
 * To remember positions and read the rows back is cheaper than a transition table,
 * and rows that ON CONFLICT or another trigger left out are not there.
 */
#include "intake_runs.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "dispatch.h"
#include "event.h"
#include "scan.h"

/* events read back and dispatched at a time */
#define DISPATCH_BATCH 10000

void
evs_runs_add(EvsRuns *runs, int64 first, int64 last)
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
evs_runs_move(EvsRuns *runs, EvsRuns *others)
{
	for (int i = 0; i < others->count; i++)
		evs_runs_add(runs, others->runs[i].first, others->runs[i].last);
	others->count = 0;
}

void
evs_runs_free(EvsRuns *runs)
{
	if (runs->runs != NULL)
		pfree(runs->runs);
	memset(runs, 0, sizeof(EvsRuns));
}

/* Read back what the statement stored, and dispatch it in batches. */
static void
dispatch(const EvsRuns *runs)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "evsource intake dispatch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int64		after = 0;
	int			i = 0;

	while (i < runs->count)
	{
		Snapshot	snapshot;
		EvsScan    *scan;
		EvsBatch   *batch;

		after = Max(after, runs->runs[i].first - 1);
		CHECK_FOR_INTERRUPTS();
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		scan = evs_scan_log(after, runs->runs[i].last, NULL, snapshot);
		batch = evs_scan_batch(scan, DISPATCH_BATCH, work_mem);
		evs_scan_end(scan);
		UnregisterSnapshot(snapshot);

		if (batch->count > 0)
		{
			after = batch->events[batch->count - 1].position;
			evs_dispatch_inline(batch);
		}
		if (batch->count == 0 || after >= runs->runs[i].last)
			i++;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

void
evs_runs_dispatch(const EvsRuns *runs)
{
	if (runs->count == 0)
		return;

	/* the scan must see the rows of this very command */
	CommandCounterIncrement();
	if (evs_dispatch_wanted())
		dispatch(runs);
}
