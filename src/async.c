/*
 * async.c - one transaction of work on an async projection.
 *
 * The read model, the checkpoint, the count of events and the notification
 * commit together.  The commit need not reach the disk: a crash takes all of
 * them back, and the log still has the events.
 *
 * Locks: the projection's name first, and only if nobody else has it: who
 * changes, rebuilds or runs the projection is not waited for.
 */
#include "evsource.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "async.h"
#include "horizon.h"
#include "notify.h"
#include "registry.h"
#include "replay.h"

/* ms to wait when somebody else is at work, and at first when it was nobody's fault */
#define BUSY_DELAY		100

/* and after many such troubles in a row */
#define MAX_DELAY		60000

static EvsAsyncOutcome
retry_after(EvsAsyncPacing *pacing, int milliseconds)
{
	pacing->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
	return EVS_ASYNC_RETRY;
}

static EvsAsyncOutcome
apply(const char *name, EvsAsyncPacing *pacing)
{
	EvsProjection *projection;
	EvsCheckpoint checkpoint;
	int64		before;
	int64		safe;

	if (!evs_registry_try_lock(name))
		return retry_after(pacing, BUSY_DELAY);

	projection = evs_projection_load(name, true);
	if (projection == NULL || projection->mode != EVS_MODE_ASYNC ||
		projection->state != EVS_STATE_ACTIVE)
		return EVS_ASYNC_STOPPED;

	safe = evs_horizon_safe_position();
	evs_checkpoint_read(name, &checkpoint);
	before = checkpoint.position;
	pacing->applied = evs_replay(projection, &checkpoint, safe, 1);
	pacing->position = checkpoint.position;
	if (checkpoint.position > before)
		evs_checkpoint_write(name, &checkpoint);
	if (pacing->applied > 0)
		evs_notify(projection, checkpoint.position);

	return checkpoint.position < safe ? EVS_ASYNC_MORE : EVS_ASYNC_IDLE;
}

static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
}

EvsAsyncOutcome
evs_async_step(const char *name, int partition, EvsAsyncPacing *pacing)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile EvsAsyncOutcome outcome = EVS_ASYNC_IDLE;

	pacing->applied = 0;
	PG_TRY();
	{
		begin();
		outcome = apply(name, pacing);
		commit();
		pacing->troubles = 0;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		outcome = retry_after(pacing,
							  Min(BUSY_DELAY << Min(pacing->troubles, 10), MAX_DELAY));
		pacing->troubles++;
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller);
	return outcome;
}

List *
evs_async_units(void)
{
	List	   *units = NIL;
	ListCell   *cell;

	foreach(cell, evs_registry_names(EVS_MODE_ASYNC))
	{
		EvsProjection *projection = evs_projection_load(lfirst(cell), true);
		EvsAsyncUnit *unit;

		if (projection == NULL || projection->mode != EVS_MODE_ASYNC ||
			projection->state != EVS_STATE_ACTIVE)
			continue;
		unit = palloc(sizeof(EvsAsyncUnit));
		unit->projection = projection->name;
		unit->partition = 0;
		units = lappend(units, unit);
	}
	return units;
}
