/*
 * trial.c - replay the log through a projection and leave nothing behind.
 *
 * All of it happens in a subtransaction that is rolled back.  A projection with
 * tables works on copies of them (standin.c); a fold saves its states under a
 * name of its own.  What a handler appends, writes elsewhere or notifies goes
 * with the subtransaction; sequences that it has drawn from stay ahead, and an
 * append withholds the positions after it from the readers of the log until the
 * transaction ends, as any append does.
 *
 * One snapshot serves for events, checkpoint and read model: a transaction's
 * events and what an inline projection made of them become visible at once, so
 * do a run's checkpoint and what it wrote.  Nobody has to stop for the trial.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "dispatch.h"
#include "failure.h"
#include "handling.h"
#include "scan.h"
#include "snapshots.h"
#include "trial.h"

/* so many events at a time; folds and batch handlers take what fits into memory */
#define EVENTS_PER_BATCH	100000

/* ---- triggers of the copies ---- */

/* Was it in a trigger that the last error of a replay was raised? */
static bool failed_in_trigger = false;

static int
trigger_depth(void)
{
	return DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
}

/*
 * Called for every report.  The one that ends the trial is the last of them; when it
 * is caught, the triggers have been left.
 */
static void
look_for_trigger(void *arg)
{
	failed_in_trigger = trigger_depth() > *(const int *) arg;
}

/* A trigger may use its table in ways that a copy of another name does not allow. */
static char *
trigger_hint(const ErrorData *error)
{
	static const char way_out[] = "If the trigger fills none of the projection's tables, give it WHEN (not evsource.replaying()): a replay leaves it out then.";

	return error->hint == NULL ? pstrdup(way_out) : psprintf("%s %s", error->hint, way_out);
}

/* ---- the trial ---- */

/* In the subtransaction. */
static void
run(EvsTrialWork work, void *argument, MemoryContext context)
{
	EvsTrial	trial = {.context = context};

	MemoryContextSwitchTo(context);
	/* what is computed now is not to outlive the subtransaction: it must have an id */
	(void) GetCurrentTransactionId();
	evs_dispatch_mute();
	CommandCounterIncrement();
	trial.begin = GetCurrentCommandId(false);

	work(&trial, argument);

	if (trial.compares)
		PopActiveSnapshot();
	if (trial.snapshot != NULL)
		UnregisterSnapshot(trial.snapshot);
}

int64
evs_trial_max_differences(FunctionCallInfo fcinfo, int argument)
{
	int64		most = PG_ARGISNULL(argument) ? PG_INT64_MAX : PG_GETARG_INT32(argument);

	if (most < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_differences must be positive"),
				 errdetail("It is %lld.", (long long) most),
				 errhint("Pass null for all of them.")));
	return most;
}

void
evs_trial_run(const char *function, EvsTrialWork work, void *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext context;
	ErrorData  *volatile error = NULL;
	bool		worn = evs_handling_calls() > 0;

	PreventCommandIfReadOnly(function);
	PreventCommandDuringRecovery(function);

	failed_in_trigger = false;
	context = AllocSetContextCreate(caller, "evsource trial", ALLOCSET_DEFAULT_SIZES);
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		run(work, argument, context);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	if (error == NULL)
		return;
	if (failed_in_trigger)
		error->hint = trigger_hint(error);
	if (worn)
		error->hint = evs_failure_stale_hint(error);
	ReThrowError(error);
}

EvsStandin *
evs_trial_tables(const EvsProjection *projection, const char *schema)
{
	EvsStandin *standin = evs_standin_create(projection, schema);

	CommandCounterIncrement();
	return standin;
}

EvsProjection *
evs_trial_fold(const EvsProjection *projection, const char *name)
{
	EvsProjection *fold = evs_standin_projection(projection);

	fold->name = pstrdup(name);
	fold->mode = EVS_MODE_MANUAL;
	fold->policy.snapshot_every = 1;
	fold->policy.snapshot_after_batch = true;
	fold->policy.restore_from_snapshot = true;
	fold->policy.keep_snapshots = 1;
	(void) evs_snapshots_clear(name, true);
	CommandCounterIncrement();
	return fold;
}

/*
 * Event triggers of the user's hear of the tables that the trial makes.  What they
 * append goes with it, and is no part of the log.
 */
void
evs_trial_look(EvsTrial *trial)
{
	PushCopiedSnapshot(IsolationUsesXactSnapshot() ?
					   GetTransactionSnapshot() : GetLatestSnapshot());
	GetActiveSnapshot()->curcid = trial->begin;
	trial->snapshot = RegisterSnapshot(GetActiveSnapshot());
	PopActiveSnapshot();
}

void
evs_trial_look_as(EvsTrial *trial, const EvsTrial *other)
{
	trial->snapshot = RegisterSnapshot(other->snapshot);
	trial->skipped = other->skipped;
	trial->nskipped = other->nskipped;
	trial->parts = other->parts;
	trial->nparts = other->nparts;
}

void
evs_trial_replay(EvsTrial *trial, EvsProjection *projection, const EvsStandin *standin,
				 int64 after, int64 upto)
{
	int64		batch = trial->batch > 0 ? trial->batch : EVENTS_PER_BATCH;
	EvsScanLimit limit = {batch};
	int64		position = Max(after, projection->start_after);
	int			skipped = 0;
	MemoryContext batch_context = AllocSetContextCreate(trial->context, "evsource trial batch",
														ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(batch_context);
	int			depth = trigger_depth();
	ErrorContextCallback callback = {error_context_stack, look_for_trigger, &depth};

	if (standin != NULL)
		evs_standin_enter(standin);
	if (standin != NULL && standin->fires)
		error_context_stack = &callback;
	projection->replaying = true;
	while (position < upto)
	{
		EvsScan    *scan;
		EvsScanned	scanned;
		int64		end = upto;

		CHECK_FOR_INTERRUPTS();
		while (skipped < trial->nskipped && trial->skipped[skipped] <= position)
			skipped++;
		if (skipped < trial->nskipped && trial->skipped[skipped] <= upto)
			end = trial->skipped[skipped] - 1;
		if (end == position)
		{
			position++;
			continue;
		}
		scan = evs_scan_log(position, end, &projection->filter, trial->snapshot);
		evs_dispatch_scan(projection, scan, &limit, &scanned);
		evs_scan_end(scan);
		CommandCounterIncrement();
		trial->events += scanned.applied;
		if (trial->applied != NULL && scanned.applied > 0)
			trial->applied(trial->argument, position, scanned.position);
		position = scanned.at_end ? end : scanned.position;
		MemoryContextReset(batch_context);
	}
	projection->replaying = false;
	error_context_stack = callback.previous;
	failed_in_trigger = false;
	if (standin != NULL)
		evs_standin_leave();

	MemoryContextSwitchTo(old);
	MemoryContextDelete(batch_context);
}

void
evs_trial_replay_part(EvsTrial *trial, EvsProjection *projection, const EvsStandin *standin,
					  int part, int64 after, int64 upto)
{
	projection->filter.partitions = trial->nparts;
	projection->filter.partition = part;
	evs_trial_replay(trial, projection, standin, after, upto);
}

void
evs_trial_compare(EvsTrial *trial)
{
	PushCopiedSnapshot(trial->snapshot);
	UpdateActiveSnapshotCommandId();
	trial->compares = true;
}
