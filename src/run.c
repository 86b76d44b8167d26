/*
 * run.c - apply the log to async projections in the caller's session.
 *
 * Strictly in the order of the log and up to the safe position, so that nothing
 * can appear below the checkpoint any more.  The read model, the checkpoint and
 * the count of events commit together, in the caller's transaction.  The lock
 * on the projection's name lets one session at a time do it.  What a worker of
 * the daemon does is the same (async.c), and so is what happens to an event that
 * the handler cannot take (apply.c).
 *
 * A test that rolls back cannot wait for the safe position to pass its own
 * events.  It may apply them nevertheless; but others may be about to commit
 * events below them, so such a transaction must not commit.
 */
#include "evsource.h"

#include "access/xact.h"
#include "fmgr.h"

#include "apply.h"
#include "barrier.h"
#include "horizon.h"
#include "parameters.h"
#include "registry.h"
#include "replay.h"
#include "run.h"
#include "settings.h"
#include "unit.h"

PG_FUNCTION_INFO_V1(evsource_run_projection);
PG_FUNCTION_INFO_V1(evsource_event_count);

/*
 * The nesting level of the transaction that has applied its own events, 0 if
 * none has: it must roll back, at that level or above.
 */
static int	must_roll_back = 0;

/* What a call is to apply. */
typedef struct Extent
{
	int64		upto;			/* no event after this position */
	int64		max_batches;	/* 0: as many as it takes */
	bool		include_own;
} Extent;

/* What is above the safe position and visible to us, our own events among it. */
static void
apply_own(EvsApply *apply, int64 upto)
{
	EvsUnit		before = apply->unit;
	int64		applied = apply->applied;
	int			level = GetCurrentTransactionNestLevel();
	int64		last = Min(evs_horizon_last_position(), upto);

	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;

	while (evs_apply_batch(apply, last, evs_apply_limit(apply->projection), EVS_NO_TIME) == EVS_APPLY_MORE)
		;
	if (apply->applied == applied)
		apply->unit = before;
	else
		must_roll_back = must_roll_back == 0 ? level : Min(must_roll_back, level);
}

/* Apply the log to a projection or to a partition of it; returns how many events. */
static int64
run_unit(EvsProjection *projection, int partition, int64 safe, const Extent *extent)
{
	EvsApply	apply;
	EvsApplied	result = EVS_APPLY_MORE;
	EvsTime		until = EVS_NO_TIME;

	evs_apply_begin(&apply, projection, partition);
	/* it will roll back: an error on record would be lost */
	apply.raise = extent->include_own;

	for (int64 batches = 0;
		 result == EVS_APPLY_MORE &&
		 (extent->max_batches == 0 || batches < extent->max_batches);
		 batches++)
	{
		/* who counts batches wants short ones, as a worker's are */
		if (extent->max_batches > 0)
			until = evs_clock_in(evs_async_batch_time);
		result = evs_apply_batch(&apply, Min(safe, extent->upto),
								 evs_apply_limit(projection), until);
	}
	if (extent->include_own && result == EVS_APPLY_END)
		apply_own(&apply, extent->upto);

	evs_apply_end(&apply);
	return apply.applied;
}

static int64
run(EvsProjection *projection, const Extent *extent)
{
	int64		safe = evs_horizon_safe_position();
	int64		applied = 0;

	for (int i = 0; i < projection->partitions; i++)
		applied += run_unit(projection, i, safe, extent);
	/* whoever goes on with it means all of it */
	projection->filter.partitions = 1;
	return applied;
}

/* Nothing is taken back: a projection that is further on does not stop there. */
static void
check_before(const EvsProjection *projection, int64 upto)
{
	for (int i = 0; i < projection->partitions; i++)
	{
		EvsUnit		unit;

		evs_unit_read(projection, i, &unit);
		if (unit.checkpoint.position > upto)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("projection \"%s\" is already past position %lld",
							projection->name, (long long) upto),
					 errdetail("It has applied the log up to position %lld.",
							   (long long) unit.checkpoint.position),
					 errhint("To start from the beginning, call evsource.reset_projection() first.")));
	}
}

/* A projection that was named must be one that can be run. */
static void
check_runnable(const EvsProjection *projection)
{
	const char *hint = "";

	if (projection->mode == EVS_MODE_INLINE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is inline", projection->name),
				 errdetail("Every append keeps it up to date."),
				 errhint("There is nothing to run: only async and manual projections are run.")));

	switch (projection->state)
	{
		case EVS_PROJECTION_ACTIVE:
			return;
		case EVS_PROJECTION_PAUSED:
		case EVS_PROJECTION_FAILED:
			hint = "Call evsource.resume_projection() first.";
			break;
		case EVS_PROJECTION_CATCHING_UP:
			hint = "Call evsource.activate_projection() first.";
			break;
		case EVS_PROJECTION_REBUILDING:
			hint = "Call evsource.rebuild_projection() to complete the rebuild.";
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" is not active", projection->name),
			 errdetail("Its state is \"%s\".", evs_projection_state_name(projection->state)),
			 errhint("%s", hint)));
}

/* The arguments that say how far to go. */
static void
extent_arguments(FunctionCallInfo fcinfo, Extent *extent)
{
	extent->max_batches = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	extent->include_own = evs_argument_bool(fcinfo, 2, false);
	extent->upto = PG_ARGISNULL(3) ? PG_INT64_MAX : PG_GETARG_INT64(3);

	if (!PG_ARGISNULL(1) && extent->max_batches < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_batches must be positive"),
				 errdetail("It is %lld.", (long long) extent->max_batches),
				 errhint("Pass null for as many as it takes.")));
	if (extent->upto < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("up_to must not be negative"),
				 errdetail("It is %lld.", (long long) extent->upto),
				 errhint("Pass the position of the last event to apply, or null to apply all.")));
	if (PG_ARGISNULL(0) && !PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("projection must not be null when up_to is given"),
				 errhint("Name the projection that is to stop there.")));
}

/*
 * evsource.run_projection(projection, max_batches, include_own, up_to) returns
 * bigint
 *
 * Applies what the log has, or what it has up to a position, to an async or
 * manual projection, or to all async ones when it is null.  Returns how many
 * events were applied.
 *
 * An error of the handler's is isolated to its event, recorded, and reported by
 * a WARNING; what comes before that event is applied.
 *
 * Errors: 42704 when unknown, 55000 when it is inline, not active or past the
 * position, 25000 under REPEATABLE READ, 22023 and 22004 for arguments; with
 * include_own whatever the handler raises.
 */
Datum
evsource_run_projection(PG_FUNCTION_ARGS)
{
	bool		all = PG_ARGISNULL(0);
	Extent		extent;
	List	   *names;
	ListCell   *cell;
	int64		applied = 0;

	extent_arguments(fcinfo, &extent);
	evs_require_writable("evsource.run_projection()");
	evs_require_read_committed("run a projection");

	names = all ? evs_registry_names(EVS_MODE_ASYNC) :
		list_make1(evs_argument_name(fcinfo, 0));
	foreach(cell, names)
	{
		EvsProjection *projection;

		evs_registry_lock(lfirst(cell));
		projection = evs_projection_load(lfirst(cell), all);

		/* of all, those that can be run; they may have changed meanwhile */
		if (!all)
			check_runnable(projection);
		else if (projection == NULL || projection->mode != EVS_MODE_ASYNC ||
				 projection->state != EVS_PROJECTION_ACTIVE)
			continue;
		check_before(projection, extent.upto);
		applied += run(projection, &extent);
	}
	if (all)
		evs_replay_note_counts();

	PG_RETURN_INT64(applied);
}

int64
evs_run(EvsProjection *projection)
{
	Extent		all = {.upto = PG_INT64_MAX};

	return run(projection, &all);
}

/*
 * evsource.event_count(projection) returns bigint
 *
 * How many events the projection has applied, exactly.
 *
 * Errors: 42704 when unknown.
 */
Datum
evsource_event_count(PG_FUNCTION_ARGS)
{
	char	   *name = evs_argument_name(fcinfo, 0);

	(void) evs_projection_load(name, false);
	PG_RETURN_INT64(evs_registry_event_count(name));
}

static void
transaction_ends(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (must_roll_back == 0)
				break;
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
					 errmsg("cannot commit a transaction that applied its own events to an async projection"),
					 errdetail("Other transactions may commit events that come before them."),
					 errhint("include_own => true is for tests that roll back. Without it, run the projection after the commit.")));
			break;
		default:
			must_roll_back = 0;
			break;
	}
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine,
					SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (must_roll_back < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		must_roll_back = 0;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		must_roll_back = level - 1;
}

void
evs_run_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
