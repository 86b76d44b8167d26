/*
 * rebuild.c - the procedures that replay the log in transactions of their own.
 *
 *	rebuild_projection		empties the read model, then replays from the start
 *	activate_projection		replays what a projection that was registered or
 *							resumed concurrently has not seen
 *
 * Each transaction applies one batch and moves the checkpoint: what another
 * session sees is a prefix of the log, and an interruption leaves a state from
 * which the next call goes on.  Between two transactions nothing is held, and
 * each of them begins by taking the projection's name and looking at its row
 * again: whoever changed it meanwhile has been heard.
 *
 * An inline projection ends with the barrier.  The last transaction takes it
 * with a lock timeout and, when an appender idles in its transaction, gives up
 * its place in the queue, lets others append, and tries again.
 *
 * Inside a transaction block all of it happens in that one transaction.
 */
#include "evsource.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "alter.h"
#include "barrier.h"
#include "definition.h"
#include "horizon.h"
#include "registry.h"
#include "replay.h"
#include "snapshots.h"

PG_FUNCTION_INFO_V1(evsource_rebuild_projection);
PG_FUNCTION_INFO_V1(evsource_activate_projection);

/* So few events were left to apply that the rest can wait for the barrier. */
#define FEW_EVENTS		1000

/* Rounds that found more, before the barrier is taken all the same. */
#define MAX_ROUNDS		20

/* How often to try for the barrier. */
#define MAX_ATTEMPTS	10

/* A procedure under way. */
typedef struct Procedure
{
	const char *name;			/* of the projection */
	EvsProjectionState state;	/* in which it is meanwhile */
	int			timeout;		/* ms to wait for the barrier, 0 for ever */
	int			attempts;		/* that failed */
	int			rounds;			/* that reached the safe position */
	bool		from_snapshots; /* there are some that can be used */
	bool		complete;		/* and nothing was left to replay */
	MemoryContext context;		/* of one transaction */
} Procedure;

/* What one transaction came to. */
typedef enum Outcome
{
	MORE,						/* go on at once */
	WAIT,						/* the barrier was not to be had */
	DONE
} Outcome;

/*
 * Transactions.
 */
static bool
is_atomic(FunctionCallInfo fcinfo)
{
	return fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		((CallContext *) fcinfo->context)->atomic || IsSubTransaction();
}

/*
 * End the transaction and begin the next.  Commits on the way need not be
 * flushed: a crash takes read model and checkpoint back together, and the last
 * commit flushes them all.
 */
static void
next_transaction(bool on_the_way)
{
	if (on_the_way)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
	SPI_commit();
	SPI_start_transaction();

	/* nothing has been read yet, so the level is still ours to choose */
	XactIsoLevel = XACT_READ_COMMITTED;
}

static int
interval_milliseconds(const Interval *interval)
{
	double		milliseconds = interval->time / 1000.0 +
		(interval->day + interval->month * 30.0) * 86400000.0;

	if (milliseconds < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lock_timeout must not be negative"),
				 errhint("Null or zero waits as long as it takes.")));
	return (int) Min(milliseconds, INT_MAX);
}

static void
pause_between(int milliseconds)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);

	for (;;)
	{
		long		left;

		CHECK_FOR_INTERRUPTS();
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (left <= 0)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/*
 * Take the barrier for this transaction, or say that it was not to be had.
 */
static bool
take_barrier(Procedure *procedure)
{
	if (evs_barrier_within(procedure->timeout))
		return true;

	if (++procedure->attempts >= MAX_ATTEMPTS)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not get a moment without open appends for projection \"%s\"",
						procedure->name),
				 errdetail("%d attempts of %d ms each met transactions that have appended and not ended.",
						   procedure->attempts, procedure->timeout),
				 errhint("See pg_locks for who holds RowExclusiveLock on evsource.events, and call again: it goes on where it stopped.")));
	ereport(DEBUG1,
			(errmsg_internal("projection \"%s\": no barrier within %d ms, trying again",
							 procedure->name, procedure->timeout)));
	return false;
}

/*
 * Catching up.
 */

/*
 * The projection, if it still is what this procedure works on; NULL if another
 * session has completed the work.
 */
static EvsProjection *
open_projection(const Procedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);

	if (projection->state == EVS_STATE_ACTIVE)
		return NULL;
	if (projection->state != procedure->state)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" was changed meanwhile", procedure->name),
				 errdetail("Its state is \"%s\".", evs_state_name(projection->state))));
	return projection;
}

/* An async projection is active as soon as it has seen what there was. */
static void
finish_async(EvsProjection *projection)
{
	projection->state = EVS_STATE_ACTIVE;
	evs_registry_update(projection);
	evs_checkpoint_finish(projection->name);
}

/*
 * One batch; or the last, behind the barrier, when a round without it has
 * reached the end.
 */
static Outcome
catch_up(Procedure *procedure, EvsProjection *projection)
{
	EvsCheckpoint checkpoint;
	int64		safe = evs_horizon_safe_position();
	int64		applied;

	evs_checkpoint_read(projection->name, &checkpoint);
	applied = evs_replay(projection, &checkpoint, safe, 1);

	if (checkpoint.position < safe ||
		(applied > FEW_EVENTS && ++procedure->rounds < MAX_ROUNDS))
	{
		evs_checkpoint_write(projection->name, &checkpoint);
		return MORE;
	}
	evs_checkpoint_write(projection->name, &checkpoint);

	if (projection->mode == EVS_MODE_INLINE)
	{
		if (!take_barrier(procedure))
			return WAIT;
		evs_replay_finish(projection, &checkpoint);
		return DONE;
	}

	finish_async(projection);
	return DONE;
}

/* Run a step until it is done, each time in a transaction of its own. */
static void
repeat(Procedure *procedure, Outcome (*step) (Procedure *))
{
	Outcome		outcome;

	do
	{
		MemoryContext caller = MemoryContextSwitchTo(procedure->context);

		PushActiveSnapshot(GetTransactionSnapshot());
		outcome = step(procedure);
		PopActiveSnapshot();

		MemoryContextSwitchTo(caller);
		MemoryContextReset(procedure->context);

		if (outcome != DONE)
			next_transaction(true);
		if (outcome == WAIT)
			pause_between(procedure->timeout);
	} while (outcome != DONE);
}

static void
begin_procedure(Procedure *procedure, FunctionCallInfo fcinfo, EvsProjectionState state,
				int timeout_argument)
{
	memset(procedure, 0, sizeof(Procedure));
	procedure->name = evs_argument_name(fcinfo, 0);
	procedure->state = state;
	if (!PG_ARGISNULL(timeout_argument))
		procedure->timeout = interval_milliseconds(PG_GETARG_INTERVAL_P(timeout_argument));
	procedure->context = AllocSetContextCreate(CurrentMemoryContext,
											   "evsource replay step",
											   ALLOCSET_DEFAULT_SIZES);
}

/*
 * Activation.
 */

/* Is there anything to do?  Errors say what to do instead. */
static bool
check_activation(const EvsProjection *projection)
{
	const char *hint = "";

	switch (projection->state)
	{
		case EVS_STATE_CATCHING_UP:
			return true;
		case EVS_STATE_ACTIVE:
			ereport(NOTICE,
					(errmsg("projection \"%s\" is already active", projection->name)));
			return false;
		case EVS_STATE_PAUSED:
		case EVS_STATE_FAILED:
			hint = "Call evsource.resume_projection() first.";
			break;
		case EVS_STATE_REBUILDING:
			hint = "Call evsource.rebuild_projection() to complete the rebuild.";
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot activate projection \"%s\"", projection->name),
			 errdetail("Its state is \"%s\".", evs_state_name(projection->state)),
			 errhint("%s", hint)));
	return false;
}

/* Note what there is to do, for those who watch. */
static Outcome
start_activation(Procedure *procedure)
{
	EvsProjection *projection = open_projection(procedure);
	EvsCheckpoint checkpoint;
	int64		rest;

	if (projection == NULL)
		return DONE;
	evs_checkpoint_read(projection->name, &checkpoint);
	rest = evs_registry_count(&projection->filter, checkpoint.position,
							  evs_horizon_safe_position());
	evs_checkpoint_start(projection->name, checkpoint.event_count + rest);
	return DONE;
}

static Outcome
activation_step(Procedure *procedure)
{
	EvsProjection *projection = open_projection(procedure);

	return projection == NULL ? DONE : catch_up(procedure, projection);
}

/*
 * evsource.activate_projection(projection, lock_timeout)
 *
 * Lets an inline projection that is catching up do so, and makes it active.
 *
 * Errors: 42704, 42501, 55000 when its state is another, 55P03 when appenders
 * never left the log alone for a moment, whatever the handler raises.
 */
Datum
evsource_activate_projection(PG_FUNCTION_ARGS)
{
	Procedure	procedure;
	EvsProjection *projection;

	SPI_connect_ext(is_atomic(fcinfo) ? 0 : SPI_OPT_NONATOMIC);
	begin_procedure(&procedure, fcinfo, EVS_STATE_CATCHING_UP, 1);

	projection = evs_registry_open(procedure.name);
	if (!check_activation(projection))
		 /* nothing to do */ ;
	else if (is_atomic(fcinfo))
		evs_replay_activate(projection);
	else
	{
		next_transaction(false);
		repeat(&procedure, start_activation);
		next_transaction(true);
		repeat(&procedure, activation_step);
	}

	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * Rebuild.
 */

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
static Outcome
start_rebuild(Procedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);
	int64		total;

	/* an interrupted rebuild goes on, unless the definition has changed */
	if (projection->state == EVS_STATE_REBUILDING && !projection->stale)
		return DONE;

	evs_reset_check(projection);
	total = count_events(projection);
	if (projection->mode == EVS_MODE_INLINE && projection->state == EVS_STATE_ACTIVE &&
		!take_barrier(procedure))
		return WAIT;
	start_over(projection, total);
	procedure->attempts = 0;
	return DONE;
}

static Outcome
rebuild_step(Procedure *procedure)
{
	EvsProjection *projection = open_projection(procedure);

	if (projection == NULL)
		return DONE;

	/* altered meanwhile */
	if (projection->stale)
	{
		start_over(projection, count_events(projection));
		return MORE;
	}
	return catch_up(procedure, projection);
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
static Outcome
restore_snapshots(Procedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);

	procedure->from_snapshots = can_use_snapshots(projection);
	if (procedure->from_snapshots)
		(void) evs_snapshots_restore(projection);
	return DONE;
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
	evs_checkpoint_write(projection->name, &checkpoint);
	evs_checkpoint_finish(projection->name);
}

static Outcome
finish_from_snapshots(Procedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);

	if (projection->key_kind != EVS_KEY_STREAM)
	{
		projection->state = EVS_STATE_REBUILDING;
		projection->stale = false;
		evs_registry_update(projection);
		evs_checkpoint_start(projection->name, count_events(projection));
		return DONE;
	}

	if (projection->mode == EVS_MODE_INLINE && !take_barrier(procedure))
		return WAIT;
	finish_streams(projection, projection->mode == EVS_MODE_INLINE ?
				   evs_horizon_last_position() : evs_horizon_safe_position());
	procedure->complete = true;
	return DONE;
}

/* All of it in the caller's transaction; appenders wait from here on. */
static void
rebuild_at_once(Procedure *procedure, bool from_snapshot)
{
	const char *name = procedure->name;
	EvsProjection *projection = evs_registry_open(name);
	EvsCheckpoint checkpoint;

	evs_require_read_committed("rebuild a projection");
	evs_reset_check(projection);
	if (projection->mode == EVS_MODE_INLINE)
		evs_barrier();

	if (from_snapshot && restore_snapshots(procedure) == DONE && procedure->from_snapshots)
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
	finish_async(projection);
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
	Procedure	procedure;
	bool		from_snapshot = evs_argument_bool(fcinfo, 1, false);

	SPI_connect_ext(is_atomic(fcinfo) ? 0 : SPI_OPT_NONATOMIC);
	begin_procedure(&procedure, fcinfo, EVS_STATE_REBUILDING, 2);

	if (is_atomic(fcinfo))
		rebuild_at_once(&procedure, from_snapshot);
	else
	{
		next_transaction(false);
		if (from_snapshot)
		{
			repeat(&procedure, restore_snapshots);
			next_transaction(true);
		}
		repeat(&procedure, procedure.from_snapshots ? finish_from_snapshots : start_rebuild);
		if (!procedure.complete)
		{
			next_transaction(true);
			repeat(&procedure, rebuild_step);
		}
	}

	SPI_finish();
	PG_RETURN_VOID();
}
