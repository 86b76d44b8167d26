/*
 * rebuild.c - rebuild_projection: build a read model anew from the log.
 *
 * Each transaction does what evsource.rebuilds says is next, whoever it is: the
 * caller of rebuild_projection, or a worker.  So an interrupted rebuild goes on,
 * and two sessions take turns at the same one.
 *
 * Where possible the new version is built beside the old one: see
 * rebuild_online.c.  Otherwise in place, which is here: the read model is
 * emptied and fills again.  While it is rebuilt in place an inline projection is
 * not in the appenders' hands: the first transaction takes it from them behind
 * the barrier, the last gives it back.  Meanwhile appends go on, and the replay
 * meets what they store.
 *
 * Inside a transaction block all of it happens in that one transaction, in
 * place: readers wait, and see nothing of it before it is whole.
 *
 * Locks: the rebuild's, the projection's name, its snapshots, the barrier, its
 * tables.  A session that saves snapshots may idle in its transaction: nobody
 * who holds the barrier waits for that.
 */
#include "evsource.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"

#include "alter.h"
#include "apply.h"
#include "barrier.h"
#include "definition.h"
#include "failure.h"
#include "handling.h"
#include "hold.h"
#include "horizon.h"
#include "procedure.h"
#include "rebuild.h"
#include "rebuild_online.h"
#include "rebuild_row.h"
#include "registry.h"
#include "replay.h"
#include "snapshot_history.h"
#include "snapshots.h"
#include "state_truncated.h"
#include "table_snapshots.h"
#include "unit.h"

PG_FUNCTION_INFO_V1(evsource_rebuild_projection);

/*
 * How much there is to do; counted before anybody has to wait.  What the old
 * version has applied is known already, unless it is another definition's.
 */
static int64
count_events(const EvsProjection *projection)
{
	if (!projection->stale && projection->state != EVS_PROJECTION_REBUILDING &&
		projection->state != EVS_PROJECTION_CATCHING_UP)
		return evs_units_total(projection);
	return evs_registry_count(&projection->filter, projection->start_after,
							  evs_horizon_safe_position());
}

/* ---- in place ---- */

/* What has been applied is history when it is applied again. */
static void
note_history(EvsProjection *projection)
{
	bool		is_live = projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE;

	projection->replay_until = Max(projection->replay_until, is_live ?
								   evs_horizon_last_position() : evs_units_furthest(projection));
}

/* Readers of the tables come first, and others do not queue behind us for long. */
static bool
lock_tables(EvsProcedure *procedure, const EvsProjection *projection)
{
	List	   *relations = evs_reset_relations(projection);

	if (!evs_procedure_may_try(procedure))
		return false;
	if (evs_locks_within(relations, AccessExclusiveLock, evs_procedure_moment(procedure)))
		return true;
	evs_procedure_gave_way_to_readers(procedure, relations);
	return false;
}

/* What a rebuild begins with: nothing, or what was saved. */
typedef struct Begin
{
	EvsProjection *projection;
	const EvsTableSnapshot *saved;	/* NULL: nothing */
	ErrorData  *misfit;			/* why what was saved does not fit; NULL: it does */
} Begin;

static void
put_back(void *arg)
{
	Begin	   *begin = arg;

	if (begin->saved != NULL)
		begin->misfit = evs_table_snapshot_load(begin->projection, begin->saved);
	else
		evs_reset_read_model(begin->projection);
}

/* An on_reset function may lock what lock_tables() does not know. */
static bool
put_back_in_time(EvsProcedure *procedure, Begin *begin)
{
	if (evs_within(evs_procedure_moment(procedure), put_back, begin))
		return true;
	evs_procedure_gave_way_to_readers(procedure, evs_reset_relations(begin->projection));
	return false;
}

/* Empty the read model; an inline projection's appends are at rest. */
static bool
start_over(EvsProcedure *procedure, EvsProjection *projection, int64 total)
{
	/* the events that streams no longer have are in the states that they begin with */
	EvsCheckpoint start = {projection->start_after, evs_history_base_events(projection->name)};
	Begin		begin = {projection};

	note_history(projection);
	if (!put_back_in_time(procedure, &begin))
		return false;
	projection->state = EVS_PROJECTION_REBUILDING;
	projection->stale = false;
	evs_registry_update(projection);
	evs_checkpoint_write(projection->name, &start);
	evs_checkpoint_start(projection->name, start.event_count + total);
	return true;
}

static void
begin_building(EvsRebuild *rebuild, const EvsProjection *projection)
{
	rebuild->state = EVS_REBUILD_BUILDING;
	evs_rebuild_start(rebuild, projection);
}

/* Take the projection out of the appenders' hands and empty it. */
static EvsOutcome
start_in_place(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection,
			   int64 total)
{
	/* an interrupted one goes on, unless it was of another definition or not of all */
	if (projection->state == EVS_PROJECTION_REBUILDING && !projection->stale &&
		!evs_rebuild_has_snapshot(projection->name))
	{
		evs_checkpoint_resume(projection->name);
		begin_building(rebuild, projection);
		return EVS_MORE;
	}

	evs_reset_check(projection);
	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	if (projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE &&
		!evs_procedure_barrier(procedure))
		return EVS_WAIT;
	if (!lock_tables(procedure, projection) || !start_over(procedure, projection, total))
		return EVS_WAIT;
	begin_building(rebuild, projection);
	procedure->attempts = 0;
	return EVS_MORE;
}

/* The projection is what it should be: the request is fulfilled, a pause goes on. */
static EvsOutcome
complete(EvsProcedure *procedure, const EvsRebuild *rebuild, EvsProjection *projection)
{
	if (rebuild->paused)
		evs_alter_pause(projection);
	evs_rebuild_delete(procedure->name);
	procedure->complete = true;
	return EVS_DONE;
}

static EvsOutcome
step_in_place(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	EvsProjection *projection = evs_procedure_open(procedure);
	EvsOutcome	outcome;

	/* somebody else has made it active */
	if (projection == NULL)
	{
		rebuild->paused = false;
		return complete(procedure, rebuild, projection);
	}

	/* altered meanwhile */
	if (projection->stale)
	{
		if (!lock_tables(procedure, projection) ||
			!start_over(procedure, projection, count_events(projection)))
			return EVS_WAIT;
		return EVS_MORE;
	}
	outcome = evs_procedure_catch_up(procedure, projection);
	return outcome == EVS_DONE ? complete(procedure, rebuild, projection) : outcome;
}

/* No snapshot can be used (NULL), or this is what came of using those that there are. */
static void
tell_of_replay(const EvsProjection *projection, const ErrorData *error)
{
	evs_truncated_check_replay(projection);
	if (error == NULL)
		ereport(NOTICE,
				(errmsg("projection \"%s\" has no snapshots to start from, replaying the whole log",
						projection->name)));
	else
		ereport(NOTICE,
				(errmsg(projection->kind == EVS_KIND_FOLD ?
						"the snapshots of projection \"%s\" cannot be brought up to date, replaying the whole log" :
						"the saved tables of projection \"%s\" cannot be put back, replaying the whole log",
						projection->name),
				 errdetail("SQLSTATE %s: %s", unpack_sql_state(error->sqlerrcode), error->message)));
}

/*
 * From snapshots.
 *
 * The state of a fold per stream is its snapshot and the events after it: once
 * every snapshot can be used there is nothing to replay.  Another fold has its
 * states in the snapshots, as of the checkpoint: brought up to the definition
 * they go on from there, unless another definition made them.  Tables that were
 * saved are what they were at that position, and go on from there.
 */
static bool
can_use_snapshots(EvsProjection *projection)
{
	EvsTableSnapshot saved;

	if (projection->kind == EVS_KIND_FOLD &&
		(projection->key_kind == EVS_KEY_STREAM || evs_registry_snapshots_fit(projection)))
		return true;
	if (projection->kind != EVS_KIND_FOLD && evs_table_snapshot_find(projection, &saved))
		return true;
	tell_of_replay(projection, NULL);
	return false;
}

/* Replace the snapshots that cannot be used; note whether there are any. */
static void
restore_snapshots(EvsProcedure *procedure, EvsProjection *projection)
{
	ErrorData  *error;

	procedure->restored = true;
	procedure->from_snapshots = can_use_snapshots(projection);
	if (!procedure->from_snapshots || projection->kind != EVS_KIND_FOLD)
		return;

	/* the states have all that there is by now; they may lack what comes meanwhile */
	procedure->restored_upto = evs_horizon_safe_position();
	error = evs_snapshots_try_restore(projection);
	if (error == NULL)
		return;
	/* nothing was parked: a replay has a place for what cannot be taken */
	if (!projection->dead_letter || evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	procedure->from_snapshots = false;
	tell_of_replay(projection, error);
}

/* The states are right: now the checkpoint and the count of events. */
static void
finish_streams(const EvsProcedure *procedure, EvsProjection *projection)
{
	EvsCheckpoint checkpoint;
	int64		upto = projection->mode == EVS_MODE_INLINE ? evs_horizon_end() : procedure->restored_upto;

	checkpoint.position = Max(upto, projection->start_after);
	checkpoint.event_count = evs_registry_count(&projection->filter,
												projection->start_after, upto) +
		evs_history_base_events(projection->name);
	projection->state = EVS_PROJECTION_ACTIVE;
	projection->stale = false;
	evs_registry_update(projection);
	evs_troubles_clear(projection->name);
	evs_checkpoint_write(projection->name, &checkpoint);
	evs_checkpoint_finish(projection->name);
}

/* Put the tables back to what was saved; what came after is replayed. */
static EvsOutcome
load_tables(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection)
{
	EvsTableSnapshot saved;
	Begin		begin = {projection, &saved};
	int64		total = count_events(projection);

	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	if (projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE &&
		!evs_procedure_barrier(procedure))
		return EVS_WAIT;
	if (!evs_table_snapshot_find(projection, &saved))
		return start_in_place(procedure, rebuild, projection, total);
	if (!lock_tables(procedure, projection))
		return EVS_WAIT;

	note_history(projection);
	if (!put_back_in_time(procedure, &begin))
		return EVS_WAIT;
	if (begin.misfit != NULL)
	{
		tell_of_replay(projection, begin.misfit);
		procedure->from_snapshots = false;
		return EVS_MORE;
	}
	projection->state = EVS_PROJECTION_REBUILDING;
	projection->stale = false;
	evs_registry_update(projection);
	evs_checkpoint_write(projection->name, &saved.checkpoint);
	evs_checkpoint_start(projection->name, total);
	evs_rebuild_note_snapshot(projection->name);
	begin_building(rebuild, projection);
	procedure->attempts = 0;
	return EVS_MORE;
}

static EvsOutcome
finish_from_snapshots(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection)
{
	if (projection->kind != EVS_KIND_FOLD)
		return load_tables(procedure, rebuild, projection);
	if (projection->key_kind != EVS_KEY_STREAM)
	{
		projection->state = EVS_PROJECTION_REBUILDING;
		projection->stale = false;
		evs_registry_update(projection);
		evs_checkpoint_start(projection->name, count_events(projection));
		evs_rebuild_note_snapshot(projection->name);
		begin_building(rebuild, projection);
		return EVS_MORE;
	}

	if (projection->mode == EVS_MODE_INLINE && !evs_procedure_barrier(procedure))
		return EVS_WAIT;
	finish_streams(procedure, projection);
	return complete(procedure, rebuild, projection);
}

/* ---- any rebuild ---- */

static EvsOutcome
start(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	EvsProjection *projection = evs_projection_load(rebuild->name, false);
	bool		in_place = rebuild->is_chosen && !rebuild->online;
	int64		total = count_events(projection);
	EvsOutcome	outcome;

	projection = evs_registry_open(rebuild->name);
	if (projection->state != EVS_PROJECTION_REBUILDING)
		rebuild->paused = projection->state == EVS_PROJECTION_PAUSED;
	if (rebuild->from_snapshot && !procedure->restored)
	{
		restore_snapshots(procedure, projection);
		return EVS_MORE;
	}
	if (procedure->from_snapshots)
		return finish_from_snapshots(procedure, rebuild, projection);
	rebuild->from_snapshot = false;
	(void) evs_table_snapshots_clear(rebuild->name);
	if (!in_place && evs_online_start(procedure, rebuild, projection, total, &outcome))
		return outcome;
	return start_in_place(procedure, rebuild, projection, total);
}

EvsOutcome
evs_rebuild_advance(EvsProcedure *procedure)
{
	EvsRebuild	rebuild;

	procedure->still = evs_hold_end();
	if (!procedure->background)
		evs_rebuild_lock(procedure->name);
	else if (!evs_rebuild_try_lock(procedure->name))
	{
		procedure->pause = procedure->timeout;
		return EVS_WAIT;
	}

	if (!evs_rebuild_read(procedure->name, &rebuild))
		return EVS_DONE;
	if (rebuild.request != procedure->request)
	{
		/* a call that has completed its own leaves another one to whoever asked for it */
		if (procedure->complete && !procedure->background)
			return EVS_DONE;
		evs_procedure_begin_anew(procedure, rebuild.request);
	}
	if (!evs_exchange_takes_over(procedure, &rebuild))
		return EVS_WAIT;
	if (rebuild.pid != MyProcPid)
		evs_rebuild_resume(procedure->name);
	switch (rebuild.state)
	{
		case EVS_REBUILD_REQUESTED:
			return start(procedure, &rebuild);
		case EVS_REBUILD_BUILDING:
			if (!evs_rebuild_has_begun(&rebuild))
			{
				rebuild.state = EVS_REBUILD_REQUESTED;
				evs_rebuild_write(&rebuild);
				return EVS_MORE;
			}
			return evs_rebuild_is_online(&rebuild) ? evs_online_step(procedure, &rebuild) :
				step_in_place(procedure, &rebuild);
		case EVS_REBUILD_KEPT:
			return rebuild.keep_old ? EVS_DONE : evs_exchange_drop_old(procedure, &rebuild);
		case EVS_REBUILD_FAILED:
			break;
	}
	return EVS_DONE;
}

/* What failed is tried again at once: nobody can mend it meanwhile. */
static void
apply_all(const EvsProcedure *procedure, EvsProjection *projection)
{
	EvsCheckpoint checkpoint;
	EvsApply	apply;
	EvsApplied	result;
	int64		safe = evs_horizon_safe_position();

	evs_checkpoint_read(projection->name, &checkpoint);
	evs_apply_begin_rebuild(&apply, projection, projection->name, &checkpoint);
	apply.worn = procedure->worn;
	do
		result = evs_apply_batch(&apply, safe, evs_apply_limit(projection), EVS_NO_TIME);
	while (result == EVS_APPLY_MORE || result == EVS_APPLY_RETRY);
	evs_apply_end(&apply);
	evs_checkpoint_write(projection->name, &apply.unit.checkpoint);
}

/* All of it in the caller's transaction; appenders wait from here on. */
static void
rebuild_at_once(EvsProcedure *procedure, bool from_snapshot)
{
	const char *name = procedure->name;
	EvsProjection *projection;
	EvsRebuild	rebuild = {.name = name};
	EvsRebuild	before;
	EvsBarrier	barrier;

	evs_require_read_committed("rebuild a projection");
	evs_rebuild_lock(name);
	projection = evs_registry_open(name);
	if (projection->state == EVS_PROJECTION_PAUSED)
		rebuild.paused = true;
	else if (projection->state == EVS_PROJECTION_REBUILDING && evs_rebuild_read(name, &before))
		rebuild.paused = before.paused;
	evs_reset_check(projection);
	(void) evs_snapshot_lock(name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	evs_barrier_begin(&barrier, "rebuild projection", name, "used its tables");
	barrier.appends_go_on = projection->mode != EVS_MODE_INLINE;
	barrier.tables = list_concat(evs_rebuild_dropped(name), evs_reset_relations(projection));
	while (!evs_barrier_attempt(&barrier, NULL, NULL))
		;
	evs_rebuild_forget(name);

	/* there is no other transaction in which to try again */
	procedure->at_once = true;
	if (from_snapshot)
		restore_snapshots(procedure, projection);
	if (procedure->from_snapshots &&
		finish_from_snapshots(procedure, &rebuild, projection) == EVS_DONE)
		return;
	if (procedure->from_snapshots)
		evs_rebuild_delete(name);
	else
		(void) start_over(procedure, projection, 0);

	if (projection->mode == EVS_MODE_INLINE)
		evs_replay_activate(projection);
	else
	{
		apply_all(procedure, projection);
		evs_procedure_finish_async(projection);
	}
	if (rebuild.paused)
		evs_alter_pause(projection);
}

bool
evs_rebuild_from_snapshot(const char *name)
{
	EvsProcedure procedure = {.name = name, .worn = evs_handling_calls() > 0};

	rebuild_at_once(&procedure, true);
	return procedure.from_snapshots;
}

/*
 * A version that it replaces.  To drop it locks the tables that it refers to: the name
 * comes first, for a worker that has it may want these, and who needs them does not wait
 * until the rebuild has begun.  But a demand may be refused when the handler is tried, and
 * has dropped nothing then.
 */
static EvsOutcome
drop_former(EvsProcedure *procedure)
{
	const EvsRebuild *wanted = procedure->wanted;
	EvsRebuild	former;

	if (!evs_rebuild_replaces(wanted, &former) || former.shadow == NULL)
		return EVS_DONE;
	evs_registry_lock(former.name);
	if (!evs_online_lock_dropped(procedure, &former))
		return EVS_WAIT;
	procedure->attempts = 0;
	/* a way back is given up by the transaction that begins: that may be refused */
	if (former.state == EVS_REBUILD_KEPT || (wanted->is_chosen && wanted->online))
		return EVS_DONE;
	evs_rebuild_forget(former.name);
	return EVS_MORE;
}

/* The request is made by the transaction that begins with it: or there is none. */
static EvsOutcome
step(EvsProcedure *procedure)
{
	if (procedure->wanted != NULL)
	{
		EvsOutcome	outcome = drop_former(procedure);

		if (outcome != EVS_DONE)
			return outcome;
		evs_rebuild_register(procedure->wanted);
	}
	procedure->wanted = NULL;
	return evs_rebuild_advance(procedure);
}

static void
rebuild_in_steps(EvsProcedure *procedure, EvsRebuild *wanted)
{
	evs_procedure_next_transaction(false);
	procedure->wanted = wanted;
	evs_procedure_repeat(procedure, step);
	if (!procedure->complete)
		ereport(NOTICE,
				(errmsg("the rebuild of projection \"%s\" is no longer under way", wanted->name),
				 errdetail("Another session has completed or cancelled it.")));
}

/*
 * evsource.rebuild_projection(projection, from_snapshot, lock_timeout, online, keep_old)
 *
 * Builds the read model anew from the log.  Appends go on meanwhile.  A call for
 * a projection whose rebuild was interrupted completes it.
 *
 * Errors: 42704, 42501, 55000 when there is no way to empty it or, for online =>
 * true, to build it beside itself, 55P03 as in activate_projection, whatever the
 * handler raises.
 */
Datum
evsource_rebuild_projection(PG_FUNCTION_ARGS)
{
	EvsProcedure procedure;
	EvsRebuild	wanted = {0};

	evs_require_writable("evsource.rebuild_projection()");
	SPI_connect_ext(evs_procedure_is_atomic(fcinfo) ? 0 : SPI_OPT_NONATOMIC);
	evs_procedure_begin(&procedure, fcinfo, EVS_PROJECTION_REBUILDING, 2);
	wanted.name = procedure.name;
	wanted.from_snapshot = evs_argument_bool(fcinfo, 1, false);
	wanted.is_chosen = !PG_ARGISNULL(3);
	wanted.online = evs_argument_bool(fcinfo, 3, false);
	wanted.keep_old = evs_argument_bool(fcinfo, 4, false);
	evs_rebuild_check(&wanted);

	if (!evs_procedure_is_atomic(fcinfo))
		rebuild_in_steps(&procedure, &wanted);
	else if (wanted.keep_old)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("keep_old needs transactions of its own"),
				 errhint("CALL evsource.rebuild_projection() outside of a transaction block.")));
	else
		rebuild_at_once(&procedure, wanted.from_snapshot);

	SPI_finish();
	PG_RETURN_VOID();
}
