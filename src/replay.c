/*
 * replay.c - walk the log through one projection, up to a position or up to
 * the point from which appends dispatch to it.
 *
 * An inline projection that is not active has a checkpoint like an async one:
 * everything up to it is applied, nothing after it.  To make it active:
 *
 *	1. apply the log up to the safe position, without a lock, as long as that
 *	   takes; below the safe position nothing can appear any more
 *	2. take the barrier: all appenders are through, none begins
 *	3. apply the rest, the transaction's own events included, and write the row
 *	   that says "active"; from our commit on every append reads it
 *
 * A handler that appends while it is replayed adds to the log: the projection
 * meets these events in the next round of step 3.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "barrier.h"
#include "clock.h"
#include "dispatch.h"
#include "failure.h"
#include "horizon.h"
#include "positions.h"
#include "replay.h"
#include "scan.h"
#include "settings.h"
#include "unit.h"

/* So many positions ago was an inline projection's count written down. */
#define MANY_UNCOUNTED		10000

/* So little is left that it can be applied behind the barrier. */
#define FEW_EVENTS			1000

/*
 * A round without lock leaves what was appended meanwhile; that shrinks from
 * round to round unless appenders are faster than the handler.
 */
#define MAX_ROUNDS			10

/*
 * One batch.  History ends with a batch: a handler that gets many events at once
 * can be told whether they are.
 */
static int64
replay_batch(EvsProjection *projection, EvsCheckpoint *checkpoint, int64 upto,
			 const EvsScanLimit *limit)
{
	Snapshot	snapshot;
	EvsScan    *scan;
	EvsScanned	scanned;

	projection->replaying = checkpoint->position < projection->replay_until;
	if (projection->replaying)
		upto = Min(upto, projection->replay_until);

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = evs_scan_log(checkpoint->position, upto, &projection->filter, snapshot);
	evs_dispatch_scan(projection, scan, limit, &scanned);
	evs_scan_end(scan);
	UnregisterSnapshot(snapshot);
	projection->replaying = false;

	checkpoint->position = scanned.at_end ? upto : scanned.position;
	checkpoint->event_count += scanned.applied;

	ereport(DEBUG1,
			(errmsg_internal("projection \"%s\": applied " INT64_FORMAT " events up to position " INT64_FORMAT,
							 projection->name, scanned.applied, checkpoint->position)));
	return scanned.applied;
}

int64
evs_replay_some(EvsProjection *projection, EvsCheckpoint *checkpoint, int64 upto,
				const EvsScanLimit *limit)
{
	int64		applied = 0;

	if (checkpoint->position < upto)
	{
		applied = replay_batch(projection, checkpoint, upto, limit);
		CommandCounterIncrement();
	}
	return applied;
}

/* All of them, in as many batches as it takes. */
static void
replay(EvsProjection *projection, EvsCheckpoint *checkpoint, int64 upto)
{
	MemoryContext batch_context;
	MemoryContext old_context;
	int			most = evs_apply_limit(projection);
	EvsScanLimit limit = {most};

	batch_context = AllocSetContextCreate(CurrentMemoryContext, "evsource replay batch",
										  ALLOCSET_DEFAULT_SIZES);
	old_context = MemoryContextSwitchTo(batch_context);

	while (checkpoint->position < upto)
	{
		(void) replay_batch(projection, checkpoint, upto, &limit);
		MemoryContextReset(batch_context);
		CommandCounterIncrement();
	}

	MemoryContextSwitchTo(old_context);
	MemoryContextDelete(batch_context);
}

void
evs_replay_finish(EvsProjection *projection, EvsCheckpoint *checkpoint)
{
	int64		last;

	for (int round = 0;; round++)
	{
		last = evs_horizon_end();
		if (last <= checkpoint->position)
			break;

		evs_require_read_committed("replay history");
		if (round > evs_max_dispatch_depth)
			ereport(ERROR,
					(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
					 errmsg("projection \"%s\" does not come to an end", projection->name),
					 errdetail("Its handler appends events which make it append events, to a depth of %d.",
							   evs_max_dispatch_depth),
					 errhint("Let the handler append only for events that it does not make itself, or raise evsource.max_dispatch_depth.")));
		replay(projection, checkpoint, last);
	}

	projection->state = EVS_PROJECTION_ACTIVE;
	evs_registry_update(projection);
	evs_checkpoint_write(projection->name, checkpoint);
	evs_checkpoint_finish(projection->name);
	evs_failures_clear(projection->name);

	/* what is restored would not be dispatched: from now on it has to be imported */
	if (projection->kind != EVS_KIND_FOLD)
		evs_positions_open_log();
}

/* What is left to apply, behind the barrier. */
typedef struct Rest
{
	const EvsProjection *projection;
	const EvsCheckpoint *checkpoint;
	EvsProjection *activated;
} Rest;

/* On copies: of an attempt that failed nothing remains. */
static void
apply_rest(void *arg)
{
	Rest	   *rest = arg;
	EvsCheckpoint checkpoint = *rest->checkpoint;

	*rest->activated = *rest->projection;
	rest->activated->runtime = NULL;
	evs_replay_finish(rest->activated, &checkpoint);
}

/*
 * Where the handler had to wait behind the barrier, it has given way to who appends;
 * then it waits for that without the barrier, if it can.
 */
void
evs_replay_activate(EvsProjection *projection)
{
	EvsProjection activated;
	EvsCheckpoint checkpoint;
	Rest		rest = {projection, &checkpoint, &activated};
	EvsBarrier	barrier;
	int64		few = FEW_EVENTS;

	Assert(projection->mode == EVS_MODE_INLINE);
	evs_checkpoint_read(projection->name, &checkpoint);
	do
	{
		EvsTime		began = evs_clock_now();

		for (int round = 0; round < MAX_ROUNDS && !IsolationUsesXactSnapshot(); round++)
		{
			int64		safe = evs_horizon_safe_position();

			if (safe - checkpoint.position <= few)
				break;
			replay(projection, &checkpoint, safe);
		}
		if (few > 0)
			evs_barrier_begin(&barrier, "activate projection", projection->name,
							  "locked what its handler needs");
		else
			/* nobody who appends was in the way of that */
			barrier.until = evs_clock_after(barrier.until, (int64) evs_clock_since(began));
		few = 0;
	} while (!evs_barrier_attempt(&barrier, apply_rest, &rest));
	*projection = activated;
}

/* Count what an active inline projection has applied of what nobody can add to. */
static bool
count_up_to(const EvsProjection *projection, int64 safe, EvsCheckpoint *checkpoint)
{
	if (safe <= checkpoint->position)
		return false;
	checkpoint->event_count += evs_registry_count(&projection->filter,
												  checkpoint->position, safe);
	checkpoint->position = safe;
	return true;
}

void
evs_replay_note_count(const EvsProjection *projection)
{
	EvsCheckpoint checkpoint;

	evs_checkpoint_read(projection->name, &checkpoint);
	if (count_up_to(projection, evs_horizon_safe_position(), &checkpoint))
		evs_checkpoint_write(projection->name, &checkpoint);
}

void
evs_replay_settle(EvsProjection *projection)
{
	EvsCheckpoint checkpoint;
	int64		last;

	Assert(projection->mode == EVS_MODE_INLINE &&
		   projection->state == EVS_PROJECTION_ACTIVE);
	evs_checkpoint_read(projection->name, &checkpoint);

	/* Count most of it before anybody has to wait. */
	(void) count_up_to(projection, evs_horizon_safe_position(), &checkpoint);

	evs_barrier("change projection", projection->name);
	last = evs_horizon_end();
	checkpoint.event_count += evs_registry_count(&projection->filter,
												 checkpoint.position, last);
	checkpoint.position = Max(checkpoint.position, last);
	evs_checkpoint_write(projection->name, &checkpoint);

	/* an import that we waited for may have said so (missed.c) */
	projection->stale = evs_projection_load(projection->name, false)->stale;
}

void
evs_replay_note_counts(void)
{
	int64		safe = evs_horizon_safe_position();
	ListCell   *cell;

	foreach(cell, evs_registry_counted_before(safe - MANY_UNCOUNTED))
	{
		char	   *name = lfirst(cell);
		EvsUnit		whole = {.projection = name, .partitions = 1};
		EvsProjection *projection;

		/* whoever needs one of the others is not to wait for who has locked its row by hand */
		if (!evs_registry_try_lock(name) || !evs_unit_try_lock_row(&whole))
			continue;

		/* it may have been changed while we did not hold it */
		projection = evs_projection_load(name, true);
		if (projection == NULL || projection->mode != EVS_MODE_INLINE ||
			projection->state != EVS_PROJECTION_ACTIVE)
			continue;
		evs_replay_note_count(projection);
	}
}
