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
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "dispatch.h"
#include "event.h"
#include "scan.h"

/* no more are copied to be handed to all projections */
#define MOST_COPIED 10000

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

/* Dispatch copies of what is stored there, all at once or, if told to, part by part. */
static bool
dispatch_copies(const EvsRuns *runs, bool in_parts)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "evsource intake dispatch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = CurrentMemoryContext;
	EvsScan    *scan = begin_scan(NULL, runs);
	bool		done;

	do
	{
		EvsBatch   *batch;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		batch = evs_scan_batch(scan, MOST_COPIED + 1, work_mem);
		done = evs_scan_is_done(scan);
		if (done || in_parts)
			evs_dispatch_inline(batch);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	} while (!done && in_parts);
	evs_scan_end(scan);
	MemoryContextDelete(context);
	return done || in_parts;
}

/* Are there no more positions than can be copied? */
static bool
are_few(const EvsRuns *runs)
{
	int64		positions = 0;

	for (int i = 0; i < runs->count && positions <= MOST_COPIED; i++)
		positions += runs->runs[i].last - runs->runs[i].first + 1;
	return positions <= MOST_COPIED;
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

	/* what a handler stores waits, and becomes one batch there */
	if (evs_dispatch_is_running())
		dispatch_copies(runs, true);
	else if (!are_few(runs) || !dispatch_copies(runs, false))
		evs_dispatch_inline_scans(begin_scan, runs, runs->runs[runs->count - 1].last);
}
