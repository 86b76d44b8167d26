/*
 * snapshot_admin.c - snapshots at somebody's request: save, look, clear,
 * restore.
 *
 * To look takes the rights to read states, the rest those of the projection's
 * owner.  Without a projection's name a function does what the caller may do,
 * and leaves the other projections alone.
 */
#include "states.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "attempt.h"
#include "barrier.h"
#include "catalog.h"
#include "failure.h"
#include "parameters.h"
#include "query.h"
#include "rebuild.h"
#include "registry.h"
#include "run.h"
#include "snapshots.h"
#include "state_keys.h"
#include "table_snapshots.h"

PG_FUNCTION_INFO_V1(evsource_save_snapshot);
PG_FUNCTION_INFO_V1(evsource_load_snapshot);
PG_FUNCTION_INFO_V1(evsource_has_snapshot);
PG_FUNCTION_INFO_V1(evsource_clear_snapshots);
PG_FUNCTION_INFO_V1(evsource_restore_projection);

static char *
projection_argument(FunctionCallInfo fcinfo)
{
	evs_argument_require(fcinfo, 0, "projection");
	return evs_argument_text(fcinfo, 0);
}

/* The names of all fold projections. */
static List *
fold_names(void)
{
	static EvsQuery query = {
		"select projection from evsource.projections where kind = 'fold' order by 1",
		0, {0}, SPI_OK_SELECT
	};

	return evs_query_texts(&query, NULL, NULL);
}

static bool
is_manageable(const EvsProjection *projection)
{
	return projection != NULL && projection->kind == EVS_KIND_FOLD &&
		evs_state_may(projection, EVS_STATE_MANAGE);
}

/*
 * A fold that the caller may manage, or NULL.  Unless appends write its snapshots,
 * nobody else does from now on: whoever runs it has the lock on its name.
 */
static EvsProjection *
lock_fold(const char *name)
{
	EvsProjection *projection = evs_projection_load(name, true);

	if (is_manageable(projection) && projection->mode != EVS_MODE_INLINE)
	{
		evs_registry_lock(name);
		projection = evs_projection_load(name, true);
	}
	return is_manageable(projection) ? projection : NULL;
}

/* The same for one that was named: an error says why it cannot be had. */
static EvsProjection *
lock_named_fold(const char *name)
{
	EvsProjection *projection;

	(void) evs_state_projection(name, EVS_STATE_MANAGE);
	projection = lock_fold(name);
	return projection ? projection : evs_state_projection(name, EVS_STATE_MANAGE);
}

/*
 * The fold once its snapshots are locked.  Without the lock on its name we may have
 * waited for who altered it: event types are as that one left them, too, and what
 * the old definition makes of these nobody could tell from what it made before.
 */
static EvsProjection *
fold_behind_lock(EvsProjection *projection)
{
	const char *name = projection->name;

	if (projection->mode != EVS_MODE_INLINE)
		return projection;
	projection = evs_state_projection(name, EVS_STATE_MANAGE);
	if (projection->mode != EVS_MODE_INLINE)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not save snapshots of projection \"%s\"", name),
				 errdetail("It was inline when this began, and another session has made it \"%s\".",
						   evs_mode_name(projection->mode)),
				 errhint("Try again.")));
	return projection;
}

/* ---- save ---- */

/* Does the newest row of the key say anything else than the state? */
static bool
differs_from_row(const EvsState *state)
{
	return state->event_count > 0 &&
		(state->event_count != state->saved_count || state->seen_version > state->saved_version ||
		 state->rejections > 0);
}

static int64
save_key(EvsProjection *projection, text *key)
{
	EvsStateCall call;
	EvsSnapshotWriter *writer;
	EvsState	state;
	int64		saved;

	(void) evs_snapshot_lock(projection->name, key, EVS_SNAPSHOT_LOCK_KEY);
	projection = fold_behind_lock(projection);
	key = evs_state_key(projection, key);
	evs_state_begin(&call, projection, 0);
	writer = evs_snapshot_writer(projection, call.definition);
	evs_state_of_key(&call, key, &state);
	if (differs_from_row(&state))
		evs_snapshot_add(writer, key, &state);
	saved = evs_snapshot_finish(writer);
	evs_state_end(&call);
	return saved;
}

/*
 * Save the states of all keys that have at least this many events more than
 * their snapshot, and of those whose snapshot cannot be used.  Counts the keys
 * that have a state in *keys.  Without what is parked, a stream's state ends before
 * that.
 */
static int64
save_keys(EvsProjection *projection, int64 at_least, bool with_parked, int64 *keys)
{
	MemoryContext per_key = AllocSetContextCreate(CurrentMemoryContext, "evsource state",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;
	EvsStateCall call;
	EvsSnapshotWriter *writer;
	EvsKeyWalk *walk;
	text	   *key;
	int64		saved;

	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	projection = fold_behind_lock(projection);
	evs_state_begin(&call, projection, 0);
	if (!with_parked)
		evs_state_ask_for_all(&call);
	writer = evs_snapshot_writer(projection, call.definition);
	walk = evs_key_walk(projection, call.snapshot);

	caller = MemoryContextSwitchTo(per_key);
	while ((key = evs_key_walk_next(walk)) != NULL)
	{
		EvsState	state;

		evs_state_of_key(&call, key, &state);
		if (differs_from_row(&state) &&
			(state.rejections > 0 || evs_snapshot_distance(&state) >= at_least))
		{
			/* appends that save each state have not had to wait until now */
			(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_OUT);
			evs_snapshot_add(writer, key, &state);
		}
		if (state.event_count > 0)
			(*keys)++;
		MemoryContextReset(per_key);
	}
	MemoryContextSwitchTo(caller);

	evs_key_walk_end(walk);
	saved = evs_snapshot_finish(writer);
	evs_state_end(&call);
	MemoryContextDelete(per_key);
	return saved;
}

/* The states of all keys of a fold, if the caller may manage it. */
typedef struct SaveFold
{
	const char *name;
	int64		saved;			/* snapshots */
} SaveFold;

static void
save_fold(void *arg)
{
	SaveFold   *fold = arg;
	EvsProjection *projection = lock_fold(fold->name);
	int64		keys = 0;

	if (projection != NULL)
		fold->saved = save_keys(projection, 1, false, &keys);
}

/* The same of all folds: where one raises an error, the others are saved. */
static int64
save_all_folds(void)
{
	int64		saved = 0;
	ListCell   *cell;

	foreach(cell, fold_names())
	{
		SaveFold	fold = {.name = lfirst(cell)};
		ErrorData  *error = evs_attempt(save_fold, &fold);

		if (error == NULL)
			saved += fold.saved;
		else if (evs_failure_is_transient(error->sqlerrcode))
			ReThrowError(error);
		else
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not save snapshots of projection \"%s\"", fold.name),
					 errdetail_internal("%s", error->message),
					 errhint("To save what can be saved of it, name its keys.")));
	}
	return saved;
}

/* Is it a projection that has no states but tables?  42704 when unknown. */
static bool
owns_tables(const char *name)
{
	const EvsProjection *projection = evs_projection_load(name, false);

	return projection->kind != EVS_KIND_FOLD && projection->tables != NIL;
}

/*
 * evsource.save_snapshot(projection text, key text) returns bigint: how many
 * snapshots were written.  What is saved already as it is, is not written, and
 * neither is the state of a key that has no events.  Of all projections those are
 * saved that can be; a warning tells of others.
 *
 * Errors: 22004 for a key without a projection, 22023 for a key where there are
 * none, 42704, 42809, 42501.
 */
Datum
evsource_save_snapshot(PG_FUNCTION_ARGS)
{
	char	   *name = evs_argument_text(fcinfo, 0);
	EvsProjection *projection;
	int64		keys = 0;

	PreventCommandIfReadOnly("evsource.save_snapshot()");
	if (name == NULL)
	{
		if (!PG_ARGISNULL(1))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("projection must not be null when a key is given"),
					 errhint("Name the projection whose key it is.")));
		PG_RETURN_INT64(save_all_folds());
	}

	if (owns_tables(name))
	{
		if (!PG_ARGISNULL(1))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("projection \"%s\" has tables and no keys", name),
					 errhint("Leave the key out.")));
		evs_require_read_committed("save the tables of a projection");
		PG_RETURN_INT64(evs_table_snapshot_save(evs_registry_open(name)) ? 1 : 0);
	}
	projection = lock_named_fold(name);
	if (PG_ARGISNULL(1))
		PG_RETURN_INT64(save_keys(projection, 1, false, &keys));
	PG_RETURN_INT64(save_key(projection, PG_GETARG_TEXT_PP(1)));
}

static int64
restore_keys(EvsProjection *projection, bool with_parked)
{
	int64		every = projection->policy.snapshot_every;
	int64		keys = 0;

	(void) save_keys(projection, every > 0 ? every : PG_INT64_MAX, with_parked, &keys);
	/* what could not be used has been replaced */
	evs_snapshot_forget_rejections(projection->name);
	return keys;
}

/*
 * Compute all states from snapshots and the events after them, and replace the
 * snapshots that cannot be used; returns the number of states.  A stream's state
 * ends before what is parked.
 */
static int64
restore_up_to_parked(EvsProjection *projection)
{
	return restore_keys(projection, false);
}

static void
restore_all(void *arg)
{
	(void) restore_keys(arg, true);
}

ErrorData *
evs_snapshots_try_restore(EvsProjection *projection)
{
	return evs_attempt(restore_all, projection);
}

/*
 * evsource.restore_projection(projection text) returns bigint: check the
 * snapshots against the log, replace those that cannot be used by what the
 * events say, save what the policy wants saved; then apply the events after
 * them, where appends do not.  Returns how many states there are.
 *
 * Errors: 22004, 42704, 42809, 42501, 25000 under REPEATABLE READ; 55000 when tables
 * stand for truncated events that are in no snapshot of use.
 */
Datum
evsource_restore_projection(PG_FUNCTION_ARGS)
{
	char	   *name = projection_argument(fcinfo);
	EvsProjection *projection;
	int64		keys;

	PreventCommandIfReadOnly("evsource.restore_projection()");
	evs_require_read_committed("restore a projection");
	if (owns_tables(name))
	{
		EvsTableSnapshot saved;

		projection = evs_registry_open(name);
		keys = evs_table_snapshot_find(projection, &saved) ? saved.rows : 0;
		if (!evs_rebuild_from_snapshot(name))
			keys = 0;
		PG_RETURN_INT64(keys);
	}
	(void) evs_state_projection(name, EVS_STATE_MANAGE);

	/* as it is once nobody else works on it */
	evs_registry_lock(name);
	projection = evs_state_projection(name, EVS_STATE_MANAGE);
	keys = restore_up_to_parked(projection);
	if (projection->mode != EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE &&
		evs_run(projection) > 0)
		keys = restore_up_to_parked(projection);
	PG_RETURN_INT64(keys);
}

/* ---- look ---- */

static EvsQuery find_row = {
	"select s.projection, s.key, s.version, s.position, s.last_event_id, s.event_count,"
	" s.state_version, s.definition, s.saved_at, s.occurred_at, s.restores, s.rejections,"
	" coalesce(s.state, evsource._parts_state(s.projection, s.key)), s.seen_version, s.seen_position"
	" from evsource.snapshots s where s.projection = $1 and s.key = $2",
	2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
};

/*
 * evsource.load_snapshot(projection text, key text) returns setof
 * evsource.snapshots: the row as it is saved, or nothing.
 *
 * Errors as evsource.load_state.
 */
Datum
evsource_load_snapshot(PG_FUNCTION_ARGS)
{
	char	   *name = projection_argument(fcinfo);
	EvsProjection *projection = evs_state_projection(name, EVS_STATE_READ);
	text	   *key = evs_state_key(projection, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	Datum		values[] = {CStringGetTextDatum(name), PointerGetDatum(key)};
	ReturnSetInfo *set;
	EvsQueryResult result;

	InitMaterializedSRF(fcinfo, 0);
	set = (ReturnSetInfo *) fcinfo->resultinfo;
	evs_query_begin(&find_row, values, NULL, InvalidSnapshot, &result);
	if (result.count > 0)
		tuplestore_puttuple(set->setResult, result.rows[0]);
	evs_query_end(&result);
	return (Datum) 0;
}

/*
 * evsource.has_snapshot(projection text, key text) returns boolean
 *
 * Errors as evsource.load_state.
 */
Datum
evsource_has_snapshot(PG_FUNCTION_ARGS)
{
	char	   *name = projection_argument(fcinfo);
	EvsProjection *projection = evs_state_projection(name, EVS_STATE_READ);
	text	   *key = evs_state_key(projection, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	Datum		values[] = {CStringGetTextDatum(name), PointerGetDatum(key)};

	PG_RETURN_BOOL(evs_query_run(&find_row, values, NULL) > 0);
}

/* ---- clear ---- */

/* What can be computed again can be cleared. */
static bool
can_be_cleared(const EvsProjection *projection)
{
	return projection->key_kind == EVS_KEY_STREAM;
}

/* No session that notes a rejection waits for us while we wait for it. */
static int64
clear(const char *name)
{
	(void) evs_snapshot_lock(name, NULL, EVS_SNAPSHOT_LOCK_OUT);
	evs_snapshot_forget_rejections(name);
	return evs_snapshots_clear(name, false);
}

/*
 * evsource.clear_snapshots(projection text) returns bigint: how many there
 * were.
 *
 * Errors: 55000 for a fold that is not keyed by stream, whose snapshots are its
 * states; 42704, 42809, 42501.
 */
Datum
evsource_clear_snapshots(PG_FUNCTION_ARGS)
{
	char	   *name = evs_argument_text(fcinfo, 0);
	EvsProjection *projection;
	int64		cleared = 0;
	ListCell   *cell;

	PreventCommandIfReadOnly("evsource.clear_snapshots()");

	/* what sessions have computed goes as well */
	CacheInvalidateRelcacheByRelid(evs_catalog()->projections);
	if (name == NULL)
	{
		foreach(cell, fold_names())
		{
			projection = lock_fold(lfirst(cell));
			if (projection != NULL && can_be_cleared(projection))
				cleared += clear(projection->name);
		}
		PG_RETURN_INT64(cleared);
	}

	if (owns_tables(name))
	{
		(void) evs_registry_open(name);
		evs_snapshot_forget_rejections(name);
		PG_RETURN_INT64(evs_table_snapshots_clear(name));
	}
	projection = lock_named_fold(name);
	if (!can_be_cleared(projection))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("snapshots of projection \"%s\" are its states", name),
				 errdetail("A fold that is not keyed by stream keeps its states in evsource.snapshots and nowhere else."),
				 errhint("To compute them again: CALL evsource.rebuild_projection().")));
	PG_RETURN_INT64(clear(name));
}
