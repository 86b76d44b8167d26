/*
 * states.c - the states of fold projections, for those who ask.
 *
 * A state is computed as the projection's owner computes it, whoever asks; to
 * ask takes the right to read the events themselves (or the owner's own).  Row
 * security on events would let a state show what a role may not see: roles that
 * it applies to are refused.
 *
 * Under READ COMMITTED a state is as new as can be: each call takes a snapshot
 * of its own.  Where the transaction's snapshot is fixed, so is the state.
 *
 * Asking may save: when many events had to be folded, the next one shall not
 * have to.  Not in a transaction that may not write, not where the snapshot is
 * fixed (a mere question could then fail to serialize), and never waiting for
 * somebody else who saves.  Nor in a transaction block: what we save is ours, with
 * its locks, until the block ends, and who has only asked may idle there for hours.
 * The session's next append to the stream does it in our place.
 */
#include "states.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "barrier.h"
#include "dead_letters.h"
#include "fold_key.h"
#include "parameters.h"
#include "positions.h"
#include "query.h"
#include "registry.h"
#include "rights.h"
#include "snapshots.h"
#include "state_keys.h"
#include "state_load.h"
#include "state_missing.h"
#include "state_past.h"

PG_FUNCTION_INFO_V1(evsource_state);
PG_FUNCTION_INFO_V1(evsource_load_state);
PG_FUNCTION_INFO_V1(evsource_load_states);
PG_FUNCTION_INFO_V1(evsource_state_at_version);
PG_FUNCTION_INFO_V1(evsource_state_at_time);

/* ---- arguments and rights ---- */

bool
evs_state_may(const EvsProjection *projection, EvsStateAccess access)
{
	return evs_has_rights_of(projection->owner) ||
		(access == EVS_STATE_READ && evs_may_read_all());
}

EvsProjection *
evs_state_projection(const char *name, EvsStateAccess access)
{
	EvsProjection *projection = evs_projection_load(name, false);

	if (access == EVS_STATE_MANAGE)
		evs_registry_check_rights(projection);
	else if (!evs_state_may(projection, access))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for states of projection \"%s\"", name),
				 errdetail("To read a state takes SELECT on evsource.events without row security, or the rights of the projection's owner \"%s\".",
						   projection->owner),
				 errhint("Grant SELECT on evsource.events, or membership in the owner's role.")));
	if (projection->kind != EVS_KIND_FOLD)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("projection \"%s\" is not a fold", name),
				 errdetail("Only the handler of a fold, f(state jsonb, event evsource.event) returns jsonb, makes states."),
				 access == EVS_STATE_MANAGE ?
				 errhint("To save the tables that its handler maintains, name them: evsource.alter_projection('%s', tables => ...).",
						 name) :
				 errhint("Query the tables that its handler maintains; those that were saved show in evsource.table_snapshots.")));
	return projection;
}

text *
evs_state_key(const EvsProjection *projection, text *key)
{
	text	   *global = evs_global_key();

	if (projection->key_kind != EVS_KEY_GLOBAL)
	{
		if (key == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("key must not be null"),
					 errdetail("Projection \"%s\" has a state for each %s.", projection->name,
							   projection->key_kind == EVS_KEY_STREAM ? "stream" : "key"),
					 errhint(projection->key_kind == EVS_KEY_STREAM ?
							 "Pass the stream's whole name." :
							 "Pass a key as its key function returns it.")));
		return key;
	}
	if (key != NULL && !evs_same_text(key, global))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("projection \"%s\" has one state and no keys", projection->name),
				 errhint("Leave the key out.")));
	return global;
}

static char *
projection_argument(FunctionCallInfo fcinfo)
{
	evs_require_not_parallel(fcinfo);
	evs_argument_require(fcinfo, 0, "projection");
	return evs_argument_text(fcinfo, 0);
}

/* ---- one call ---- */

void
evs_state_begin(EvsStateCall *call, EvsProjection *projection, uint64 generation)
{
	call->projection = projection;
	call->snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ?
									  GetTransactionSnapshot() : GetLatestSnapshot());
	PushActiveSnapshot(call->snapshot);
	evs_identity_enter(&call->identity, projection->owner, projection->search_path);
	evs_identity_pin_settings();
	call->folder = evs_folder_open(projection);
	call->folder->generation = generation;
	/* event types may change while we fold: before any event is read */
	call->definition = evs_snapshot_definition(projection);
	call->applied_only = false;
}

void
evs_state_ask_for_all(EvsStateCall *call)
{
	/* the rows of another fold hold only what was applied */
	call->applied_only = call->projection->key_kind == EVS_KEY_STREAM &&
		evs_dead_letters_exist(call->projection->name);
}

void
evs_state_end(EvsStateCall *call)
{
	evs_folder_close(call->folder);
	evs_identity_leave(&call->identity);
	PopActiveSnapshot();
	UnregisterSnapshot(call->snapshot);
}

/* The position up to which a projection with rows has applied the log. */
static int64
checkpoint_position(const EvsStateCall *call)
{
	static EvsQuery query = {
		"select position from evsource.checkpoints where projection = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {CStringGetTextDatum(call->projection->name)};

	return DatumGetInt64(evs_query_value(&query, values, NULL, call->snapshot, Int64GetDatum(0)));
}

/* Up to which version a stream's events are to make its state. */
static int64
last_version(const EvsStateCall *call, text *stream)
{
	if (!call->applied_only)
		return PG_INT64_MAX;
	return evs_dead_letters_first_version(call->projection->name, stream) - 1;
}

void
evs_state_of_key(EvsStateCall *call, text *key, EvsState *state)
{
	EvsStateAt	now = {.version = last_version(call, key)};

	memset(state, 0, sizeof(EvsState));
	if (call->projection->key_kind == EVS_KEY_STREAM)
		evs_state_load_stream(call->folder, key, &now, call->snapshot, state);
	else
		evs_state_load_row(call->folder, key, checkpoint_position(call), call->snapshot, state);
	evs_state_finish(call->folder, state);
}

/*
 * Save the state that was asked for, if it is worth it and can be done.  As long as we
 * have the lock of the key nobody alters the state version or removes snapshots.  Who
 * did before that, since we began, has put away what must not come back.
 */
static void
save_by_the_way(const EvsStateCall *call, text *key, EvsState *state)
{
	const EvsProjection *projection = call->projection;
	EvsSnapshotWriter *writer;

	/* where every state is saved, or one worker saves, it is not for us to do */
	if (projection->mode != EVS_MODE_INLINE || projection->policy.snapshot_every == 1)
		return;
	if (IsTransactionBlock() || XactReadOnly || RecoveryInProgress() || IsInParallelMode() ||
		IsolationUsesXactSnapshot())
	{
		state->wanted = evs_snapshot_distance(state) >= projection->policy.snapshot_every;
		return;
	}
	/* events may come in behind it, and a mere question opens no log: see restore.c */
	if (!evs_positions_log_is_open())
		return;
	if (!evs_snapshot_is_due(projection, key, state) ||
		!evs_snapshots_unchanged_since(call->folder->generation))
		return;

	writer = evs_snapshot_writer(projection, call->definition);
	evs_snapshot_add(writer, key, state);
	(void) evs_snapshot_finish(writer);
	evs_state_saved(state);
}

/*
 * The state of a stream now, by way of the cache.  The entry goes back into the
 * cache at the end of the call: until then its jsonb stays where it is.
 */
static EvsCachedState *
load_cached(EvsStateCall *call, text *stream, EvsState *state)
{
	EvsStateAt	now = {.version = PG_INT64_MAX};
	EvsCachedState *entry;

	memset(state, 0, sizeof(EvsState));
	entry = evs_state_cache_take(call->projection->name, stream, call->folder->generation);
	if (entry != NULL)
		*state = *evs_state_cached(entry);
	evs_state_load_stream(call->folder, stream, &now, call->snapshot, state);
	evs_state_finish(call->folder, state);
	save_by_the_way(call, stream, state);
	return entry;
}

/* The jsonb in the caller's memory: the folder and the cache let go of theirs. */
static void
copy_state(EvsState *state)
{
	Jsonb	   *copy = palloc(VARSIZE(state->state));

	memcpy(copy, state->state, VARSIZE(state->state));
	state->state = copy;
}

/* The state of a key now, by way of the cache if it is a stream. */
static void
state_now(EvsProjection *projection, uint64 generation, text *key, EvsState *state)
{
	EvsCachedState *entry = NULL;
	EvsState	loaded;
	EvsStateCall call;

	evs_state_begin(&call, projection, generation);
	call.folder->asked = true;
	if (projection->key_kind == EVS_KEY_STREAM)
		entry = load_cached(&call, key, state);
	else
		evs_state_of_key(&call, key, state);
	loaded = *state;
	copy_state(state);
	if (entry != NULL)
		evs_state_cache_put(entry, &loaded);
	evs_state_end(&call);
}

void
evs_state_now(EvsProjection *projection, uint64 generation, text *stream, EvsState *state)
{
	Assert(projection->key_kind == EVS_KEY_STREAM);
	state_now(projection, generation, stream, state);
}

/* The current state of a key, for a function whose first arguments are these. */
static EvsProjection *
current_state(FunctionCallInfo fcinfo, EvsState *state)
{
	char	   *name = projection_argument(fcinfo);
	uint64		generation = evs_state_cache_generation();
	EvsProjection *projection = evs_state_projection(name, EVS_STATE_READ);
	text	   *key = evs_state_key(projection, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));

	state_now(projection, generation, key, state);
	return projection;
}

/*
 * evsource.state(projection text, key text) returns jsonb: the state now.  The
 * one state of a global fold is null before its first event.
 *
 * Errors: P0002 for a key of which no event is the projection's, 22004 for a
 * null, 22023 for a key where there are none, 42704 for an unknown projection,
 * 42809 for one that is no fold, 42501.
 */
Datum
evsource_state(PG_FUNCTION_ARGS)
{
	EvsState	state;
	EvsProjection *projection = current_state(fcinfo, &state);

	if (state.event_count == 0 && projection->key_kind == EVS_KEY_GLOBAL)
		PG_RETURN_NULL();
	if (state.event_count == 0)
		evs_state_unknown(projection, PG_GETARG_TEXT_PP(1), state.seen_version);
	PG_RETURN_JSONB_P(state.state);
}

/* The columns (state, version, position, event_count), from values[0] on. */
static void
state_values(const EvsProjection *projection, const EvsState *state,
			 Datum *values, bool *nulls)
{
	bool		by_stream = projection->key_kind == EVS_KEY_STREAM;

	values[0] = JsonbPGetDatum(state->state);
	values[1] = Int64GetDatum(state->seen_version);
	values[2] = Int64GetDatum(state->position);
	values[3] = Int64GetDatum(state->event_count);
	nulls[0] = nulls[2] = nulls[3] = false;
	nulls[1] = !by_stream;
}

/*
 * evsource.load_state(projection text, key text) returns one row (state,
 * version, position, event_count).  version is the stream's: what append takes
 * as expected_version.  Without events the state is {} and the rest 0: who is
 * about to append the first one may ask.
 *
 * Errors as evsource.state, but for P0002.
 */
Datum
evsource_load_state(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	EvsProjection *projection;
	EvsState	state;
	Datum		values[4];
	bool		nulls[4];

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	projection = current_state(fcinfo, &state);
	state_values(projection, &state, values, nulls);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/*
 * The state of a stream before a time, unless it is lost; its version is that of its
 * last event.
 */
static void
state_before(EvsStateCall *call, text *stream, EvsStateAt at, EvsState *state)
{
	at.version = last_version(call, stream);
	memset(state, 0, sizeof(EvsState));
	evs_state_load_stream(call->folder, stream, &at, call->snapshot, state);
	evs_state_finish(call->folder, state);
	state->seen_version = state->version;
}

/* Nobody shall take the states that there are for all that there were. */
static void
warn_of_lost(const EvsProjection *projection, int64 lost, const char *first)
{
	if (lost == 0)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg_plural(INT64_FORMAT " state of projection \"%s\" as of that time is not known",
						   INT64_FORMAT " states of projection \"%s\" as of that time are not known",
						   lost, lost, projection->name),
			 errdetail("Events that make them were truncated; the first of these %s is \"%s\".",
					   projection->key_kind == EVS_KEY_STREAM ? "streams" : "keys", first),
			 projection->key_kind == EVS_KEY_STREAM ?
			 errhint("See evsource.snapshot_history for the versions from which states of truncated streams are known.") :
			 errhint("See occurred_at in evsource.snapshots for the times after which they are known.")));
}

/* States being returned. */
typedef struct AllStates
{
	const EvsProjection *projection;
	ReturnSetInfo *result;
	MemoryContext context;		/* lives as long as the call */
	int64		lost;
	char	   *first_lost;
} AllStates;

static void
return_state(void *arg, text *key, EvsState *state)
{
	AllStates  *all = arg;
	Datum		values[5];
	bool		nulls[5];

	if (state->event_count > 0)
	{
		values[0] = PointerGetDatum(key);
		nulls[0] = false;
		state_values(all->projection, state, values + 1, nulls + 1);
		tuplestore_putvalues(all->result->setResult, all->result->setDesc, values, nulls);
	}
	if (state->is_lost && all->lost++ == 0)
		all->first_lost = MemoryContextStrdup(all->context, text_to_cstring(key));
}

/* Those of all keys of the walk, now or at a time. */
static void
return_states(AllStates *all, EvsStateCall *call, EvsKeyWalk *walk, const EvsStateAt *at)
{
	MemoryContext per_key;
	MemoryContext caller;
	text	   *key;

	if (at->has_time && all->projection->key_kind != EVS_KEY_STREAM)
	{
		evs_state_load_keys_at(call->folder, walk, at, call->snapshot, return_state, all);
		return;
	}
	per_key = AllocSetContextCreate(CurrentMemoryContext, "evsource state",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(per_key);
	while ((key = evs_key_walk_next(walk)) != NULL)
	{
		EvsState	state;

		if (at->has_time)
			state_before(call, key, *at, &state);
		else
			evs_state_of_key(call, key, &state);
		return_state(all, key, &state);
		MemoryContextReset(per_key);
	}
	MemoryContextSwitchTo(caller);
}

/*
 * evsource.load_states(projection text, as_of timestamptz) returns setof (key,
 * state, version, position, event_count): all states that have events, of one
 * snapshot; with as_of those that had some before that time, but for those whose
 * events were truncated: a warning tells of them.
 *
 * Errors as evsource.load_state.
 */
Datum
evsource_load_states(PG_FUNCTION_ARGS)
{
	char	   *name = projection_argument(fcinfo);
	uint64		generation = evs_state_cache_generation();
	EvsProjection *projection = evs_state_projection(name, EVS_STATE_READ);
	AllStates	all = {.projection = projection, .context = CurrentMemoryContext};
	EvsStateAt	at = {.version = PG_INT64_MAX};
	EvsStateCall call;
	EvsKeyWalk *walk;

	if (!PG_ARGISNULL(1))
		at = (EvsStateAt) {
			.version = PG_INT64_MAX, .has_time = true, .before = PG_GETARG_TIMESTAMPTZ(1), .leave_out = true
		};
	InitMaterializedSRF(fcinfo, 0);
	all.result = (ReturnSetInfo *) fcinfo->resultinfo;

	evs_state_begin(&call, projection, generation);
	evs_state_ask_for_all(&call);
	walk = evs_key_walk(projection, call.snapshot);
	return_states(&all, &call, walk, &at);
	evs_key_walk_end(walk);
	evs_state_end(&call);
	warn_of_lost(projection, all.lost, all.first_lost);
	return (Datum) 0;
}

/* ---- states of the past ---- */

/*
 * The state of a key at some point; null if that is a version up to which no
 * event is the projection's.
 */
static Datum
past_state(FunctionCallInfo fcinfo, EvsProjection *projection, uint64 generation,
		   text *key, const EvsStateAt *at)
{
	EvsStateCall call;
	EvsState	state = {0};
	EvsCachedState *entry = NULL;

	evs_state_begin(&call, projection, generation);
	call.folder->asked = true;
	if (projection->key_kind != EVS_KEY_STREAM)
		evs_state_load_key_at(call.folder, key, at, call.snapshot, &state);
	else
	{
		if (!at->has_time)
			entry = evs_state_cache_take(projection->name, key, generation);
		if (entry != NULL && evs_state_cached(entry)->seen_version <= at->version)
			state = *evs_state_cached(entry);
		evs_state_load_stream(call.folder, key, at, call.snapshot, &state);
	}
	evs_state_finish(call.folder, &state);
	copy_state(&state);
	if (entry != NULL)
		evs_state_cache_put(entry, NULL);
	if (at->has_time && state.event_count == 0)
		evs_state_too_early(&call, key, at->before, state.seen_version);
	if (!at->has_time && state.seen_version == 0)
		evs_state_no_version(&call, key);
	evs_state_end(&call);

	if (!at->has_time && state.seen_version < at->version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" has no version " INT64_FORMAT,
						text_to_cstring(key), at->version),
				 errdetail("Its last version is " INT64_FORMAT ".", state.seen_version),
				 errhint("Ask for that version or an earlier one.")));
	if (state.event_count == 0)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(state.state);
}

/*
 * evsource.state_at_version(projection text, key text, stream_version bigint)
 * returns jsonb: the state after the stream's event of that version; null when
 * none up to it is the projection's.
 *
 * Errors: 22004 for a null; 22023 for a version that the stream does not have,
 * or when states are not those of streams; P0002 when there is no such stream;
 * the others as evsource.state.
 */
Datum
evsource_state_at_version(PG_FUNCTION_ARGS)
{
	char	   *name = projection_argument(fcinfo);
	uint64		generation = evs_state_cache_generation();
	EvsProjection *projection = evs_state_projection(name, EVS_STATE_READ);
	EvsStateAt	at = {0};
	text	   *key;

	if (projection->key_kind != EVS_KEY_STREAM)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("states of projection \"%s\" have no versions", name),
				 errdetail("Only a state that is keyed by stream has the versions of its stream."),
				 errhint("Ask for the state at a time: evsource.state_at_time().")));
	key = evs_state_key(projection, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	evs_argument_require(fcinfo, 2, "stream_version");
	at.version = PG_GETARG_INT64(2);
	if (at.version < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream_version must not be negative"),
				 errdetail("It is " INT64_FORMAT ".", at.version),
				 errhint("Pass 0 for the state before the first event.")));
	if (at.version == 0)
		PG_RETURN_NULL();
	return past_state(fcinfo, projection, generation, key, &at);
}

/*
 * evsource.state_at_time(projection text, key text, as_of timestamptz) returns
 * jsonb: the fold of the key's events that occurred before that time, in the
 * order of the log.
 *
 * Errors: 22004 for a null; P0002 when there is none; the others as
 * evsource.state.
 */
Datum
evsource_state_at_time(PG_FUNCTION_ARGS)
{
	char	   *name = projection_argument(fcinfo);
	uint64		generation = evs_state_cache_generation();
	EvsProjection *projection = evs_state_projection(name, EVS_STATE_READ);
	EvsStateAt	at = {.version = PG_INT64_MAX, .has_time = true};
	text	   *key = evs_state_key(projection, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));

	evs_argument_require(fcinfo, 2, "as_of");
	at.before = PG_GETARG_TIMESTAMPTZ(2);
	return past_state(fcinfo, projection, generation, key, &at);
}
