/*
 * async_pass.c - move units past events that they do not want, many in one
 * transaction.
 *
 * A thousand projections that want nothing of what is appended would otherwise
 * take a thousand transaction ids each time they write down how far they are.
 *
 * What a worker has kept in mind of the log does not count here, since
 * definitions and checkpoints may have changed: with the locks held the log is
 * read again, once for all of them.
 *
 * Locks: as for a batch, each unit's if nobody else has it, until the end of the
 * transaction.  Only their holders write the rows; but an administrator may lock one by
 * hand, and whoever needs one of the other units would wait with us.  So such a row is
 * left out, and nothing is waited for.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "async.h"
#include "horizon.h"
#include "own_transaction.h"
#include "scan.h"
#include "unit.h"

/* more events than so many (positions) are looked at by each unit itself */
#define MANY_EVENTS		10000

/* A unit that we hold, or not. */
typedef struct Candidate
{
	EvsUnit		unit;
	EvsFilter	filter;
	bool		passes;			/* it wants none of the events so far */
} Candidate;

/* Hold it, and see where it is.  What is stuck is for evs_async_step(). */
static EvsAsyncPassed
take(const EvsAsyncPass *pass, int64 safe, Candidate *candidate)
{
	EvsProjection *projection = evs_async_try_claim(pass->projection, pass->partition);
	EvsUnit    *unit = &candidate->unit;

	if (projection == NULL)
		return EVS_ASYNC_HELD;
	if (projection->mode != EVS_MODE_ASYNC)
		return EVS_ASYNC_NOT_PASSED;
	evs_unit_read(projection, pass->partition, unit);
	if (unit->failure.exists || unit->has_released || safe - unit->checkpoint.position > MANY_EVENTS)
		return EVS_ASYNC_NOT_PASSED;

	/* the projection is gone when the next one is asked for */
	unit->projection = pass->projection;
	candidate->filter = evs_filter_copy(CurrentMemoryContext, &projection->filter);
	candidate->filter.partitions = projection->partitions;
	candidate->filter.partition = pass->partition;
	candidate->passes = true;
	return EVS_ASYNC_PASSED;
}

/* Of those that would pass, find those that want one of the next events. */
static void
look_at_log(Candidate *candidates, int count, int64 safe)
{
	Snapshot	snapshot;
	EvsScan    *scan;
	EvsEvent	event;
	int64		after = safe;

	for (int i = 0; i < count; i++)
		if (candidates[i].passes)
			after = Min(after, candidates[i].unit.checkpoint.position);
	if (after == safe)
		return;

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = evs_scan_log(after, safe, NULL, snapshot);
	evs_scan_as_stored(scan);
	while (evs_scan_next(scan, &event))
	{
		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < count; i++)
		{
			Candidate  *candidate = &candidates[i];

			if (candidate->passes && candidate->unit.checkpoint.position < event.position &&
				evs_filter_accepts(&candidate->filter, &event))
				candidate->passes = false;
		}
	}
	evs_scan_end(scan);
	UnregisterSnapshot(snapshot);
}

static void
pass_all(EvsAsyncPass *passes, int count)
{
	Candidate  *candidates = palloc0(sizeof(Candidate) * count);
	int64		safe = evs_horizon_safe_position();

	for (int i = 0; i < count; i++)
		passes[i].outcome = take(&passes[i], safe, &candidates[i]);
	look_at_log(candidates, count, safe);
	for (int i = 0; i < count; i++)
	{
		EvsUnit    *unit = &candidates[i].unit;

		if (passes[i].outcome != EVS_ASYNC_PASSED)
			continue;
		if (!candidates[i].passes)
		{
			passes[i].outcome = EVS_ASYNC_NOT_PASSED;
			continue;
		}
		if (unit->checkpoint.position < safe)
		{
			if (!evs_unit_try_lock_row(unit))
			{
				passes[i].outcome = EVS_ASYNC_LOCKED;
				continue;
			}
			unit->checkpoint.position = safe;
			evs_unit_write(unit);
		}
		passes[i].position = unit->checkpoint.position;
	}
}

void
evs_async_pass(EvsAsyncPass *passes, int count)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource async pass",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);

	PG_TRY();
	{
		evs_own_transaction_begin();
		MemoryContextSwitchTo(context);
		pass_all(passes, count);
		evs_own_transaction_commit();
	}
	PG_CATCH();
	{
		/* each by itself will find out whose fault it is */
		evs_own_transaction_give_up(context);
		for (int i = 0; i < count; i++)
			passes[i].outcome = EVS_ASYNC_NOT_PASSED;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}
