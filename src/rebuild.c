/*
 * rebuild.c - rebuild_projection: empty the read model, and replay the log from
 * the start.
 *
 * While it is rebuilt an inline projection is not in the appenders' hands: the
 * first transaction takes it from them behind the barrier, the last gives it
 * back.  Meanwhile appends go on, and the replay meets what they store.
 *
 * Inside a transaction block all of it happens in that one transaction.
 */
#include "evsource.h"

#include "executor/spi.h"
#include "fmgr.h"

#include "alter.h"
#include "barrier.h"
#include "definition.h"
#include "failure.h"
#include "horizon.h"
#include "procedure.h"
#include "registry.h"
#include "replay.h"
#include "snapshots.h"

PG_FUNCTION_INFO_V1(evsource_rebuild_projection);

/* Empty the read model; the projection is not, or no longer, live. */
static void
start_over(EvsProjection *projection, int64 total)
{
	EvsCheckpoint start = {projection->start_after, 0};

	evs_reset_read_model(projection);
	projection->state = EVS_STATE_REBUILDING;
	projection->stale = false;
	evs_registry_update(projection);
	evs_checkpoint_write(projection->name, &start);
	evs_checkpoint_start(projection->name, total);
}

/* How much there is to do; counted before anybody has to wait. */
static int64
count_events(const EvsProjection *projection)
{
	return evs_registry_count(&projection->filter, projection->start_after,
							  evs_horizon_safe_position());
}

/* Take the projection out of the appenders' hands and empty it. */
static EvsOutcome
start_rebuild(EvsProcedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);
	int64		total;

	/* an interrupted rebuild goes on, unless the definition has changed */
	if (projection->state == EVS_STATE_REBUILDING && !projection->stale)
		return EVS_DONE;

	evs_reset_check(projection);
	total = count_events(projection);
	if (projection->mode == EVS_MODE_INLINE && projection->state == EVS_STATE_ACTIVE &&
		!evs_procedure_barrier(procedure))
		return EVS_WAIT;
	start_over(projection, total);
	procedure->attempts = 0;
	return EVS_DONE;
}

static EvsOutcome
rebuild_step(EvsProcedure *procedure)
{
	EvsProjection *projection = evs_procedure_open(procedure);

	if (projection == NULL)
		return EVS_DONE;

	/* altered meanwhile */
	if (projection->stale)
	{
		start_over(projection, count_events(projection));
		return EVS_MORE;
	}
	return evs_procedure_catch_up(procedure, projection);
}

/*
 * From snapshots.
 *
 * The state of a fold per stream is its snapshot and the events after it: once
 * every snapshot can be used there is nothing to replay.  Another fold has its
 * states in the snapshots, as of the checkpoint: brought up to the definition
 * they go on from there, unless another definition made them.
 */
static bool
can_use_snapshots(const EvsProjection *projection)
{
	if (projection->kind == EVS_KIND_FOLD &&
		(projection->key_kind == EVS_KEY_STREAM || evs_registry_snapshots_fit(projection)))
		return true;

	ereport(NOTICE,
			(errmsg("projection \"%s\" has no snapshots to start from, replaying the whole log",
					projection->name)));
	return false;
}

/* Replace the snapshots that cannot be used; note whether there are any. */
static EvsOutcome
restore_snapshots(EvsProcedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);

	procedure->from_snapshots = can_use_snapshots(projection);
	if (procedure->from_snapshots)
		(void) evs_snapshots_restore(projection);
	return EVS_DONE;
}

/* The states are right: now the checkpoint and the count of events. */
static void
finish_streams(EvsProjection *projection, int64 upto)
{
	EvsCheckpoint checkpoint;

	checkpoint.position = Max(upto, projection->start_after);
	checkpoint.event_count = evs_registry_count(&projection->filter,
												projection->start_after, upto);
	projection->state = EVS_STATE_ACTIVE;
	projection->stale = false;
	evs_registry_update(projection);
	evs_troubles_clear(projection->name);
	evs_checkpoint_write(projection->name, &checkpoint);
	evs_checkpoint_finish(projection->name);
}

static EvsOutcome
finish_from_snapshots(EvsProcedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);

	if (projection->key_kind != EVS_KEY_STREAM)
	{
		projection->state = EVS_STATE_REBUILDING;
		projection->stale = false;
		evs_registry_update(projection);
		evs_checkpoint_start(projection->name, count_events(projection));
		return EVS_DONE;
	}

	if (projection->mode == EVS_MODE_INLINE && !evs_procedure_barrier(procedure))
		return EVS_WAIT;
	finish_streams(projection, projection->mode == EVS_MODE_INLINE ?
				   evs_horizon_last_position() : evs_horizon_safe_position());
	procedure->complete = true;
	return EVS_DONE;
}

/* All of it in the caller's transaction; appenders wait from here on. */
static void
rebuild_at_once(EvsProcedure *procedure, bool from_snapshot)
{
	const char *name = procedure->name;
	EvsProjection *projection = evs_registry_open(name);
	EvsCheckpoint checkpoint;

	evs_require_read_committed("rebuild a projection");
	evs_reset_check(projection);
	if (projection->mode == EVS_MODE_INLINE)
		evs_barrier();

	if (from_snapshot && restore_snapshots(procedure) == EVS_DONE && procedure->from_snapshots)
	{
		procedure->timeout = 0;
		(void) finish_from_snapshots(procedure);
		if (procedure->complete)
			return;
		projection = evs_registry_open(name);
	}
	else
		start_over(projection, 0);

	if (projection->mode == EVS_MODE_INLINE)
	{
		evs_replay_activate(projection);
		return;
	}
	evs_checkpoint_read(name, &checkpoint);
	evs_replay(projection, &checkpoint, evs_horizon_safe_position(), 0);
	evs_checkpoint_write(name, &checkpoint);
	evs_procedure_finish_async(projection);
}

/*
 * evsource.rebuild_projection(projection, from_snapshot, lock_timeout)
 *
 * Empties the read model and replays the log.  Appends go on meanwhile; an
 * inline projection gets them when the replay reaches them.  A call for a
 * projection whose rebuild was interrupted completes it.
 *
 * Errors: 42704, 42501, 55000 when there is no way to empty it, 55P03 as in
 * activate_projection, whatever the handler raises.
 */
Datum
evsource_rebuild_projection(PG_FUNCTION_ARGS)
{
	EvsProcedure procedure;
	bool		from_snapshot = evs_argument_bool(fcinfo, 1, false);

	SPI_connect_ext(evs_procedure_is_atomic(fcinfo) ? 0 : SPI_OPT_NONATOMIC);
	evs_procedure_begin(&procedure, fcinfo, EVS_STATE_REBUILDING, 2);

	if (evs_procedure_is_atomic(fcinfo))
		rebuild_at_once(&procedure, from_snapshot);
	else
	{
		evs_procedure_next_transaction(false);
		if (from_snapshot)
		{
			evs_procedure_repeat(&procedure, restore_snapshots);
			evs_procedure_next_transaction(true);
		}
		evs_procedure_repeat(&procedure, procedure.from_snapshots ? finish_from_snapshots : start_rebuild);
		if (!procedure.complete)
		{
			evs_procedure_next_transaction(true);
			evs_procedure_repeat(&procedure, rebuild_step);
		}
	}

	SPI_finish();
	PG_RETURN_VOID();
}
