/*
 * verify.c - is a read model what the log makes of it?
 *
 * A fold keyed by stream has its snapshots: each of them is compared with the
 * fold of the stream's events up to it, from the first one (or what stands for
 * those that were truncated) on, which reads only the streams that are looked
 * at; and what it has passed over after these must be other projections' events.
 * Everything else is replayed as a whole: see verify_whole.c.
 *
 * What is compared is of one snapshot: the events, the checkpoint and the read
 * model.  No session has to wait, but for those that would empty, alter or drop
 * one of the tables.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "parameters.h"
#include "registry.h"
#include "scan.h"
#include "snapshot_history.h"
#include "state_keys.h"
#include "state_load.h"
#include "states.h"
#include "standin.h"
#include "trial.h"
#include "verify.h"

PG_FUNCTION_INFO_V1(evsource_verify_projection);

/* columns of the result */
enum
{
	COLUMN_RELATION,
	COLUMN_KEY,
	COLUMN_POSITION,
	COLUMN_STREAM,
	COLUMN_VERSION,
	COLUMN_IS_MISSING,
	COLUMN_STORED,
	COLUMN_COMPUTED,
	COLUMNS
};

/* ---- the result ---- */

void
evs_verify_put(EvsVerification *verification, const EvsDifference *difference,
			   const EvsVerifyEvent *event)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS];

	nulls[COLUMN_RELATION] = difference->relation == NULL;
	nulls[COLUMN_KEY] = difference->key == NULL;
	nulls[COLUMN_POSITION] = event->position == 0;
	nulls[COLUMN_STREAM] = event->stream == NULL;
	nulls[COLUMN_VERSION] = event->stream == NULL;
	nulls[COLUMN_IS_MISSING] = event->position == 0;
	nulls[COLUMN_STORED] = difference->one == NULL;
	nulls[COLUMN_COMPUTED] = difference->other == NULL;

	if (difference->relation != NULL)
		values[COLUMN_RELATION] = CStringGetTextDatum(difference->relation);
	values[COLUMN_KEY] = PointerGetDatum(difference->key);
	values[COLUMN_POSITION] = Int64GetDatum(event->position);
	values[COLUMN_STREAM] = PointerGetDatum(event->stream);
	values[COLUMN_VERSION] = Int64GetDatum(event->version);
	values[COLUMN_IS_MISSING] = BoolGetDatum(event->is_missing);
	values[COLUMN_STORED] = PointerGetDatum(difference->one);
	values[COLUMN_COMPUTED] = PointerGetDatum(difference->other);
	tuplestore_putvalues(verification->result->setResult, verification->result->setDesc,
						 values, nulls);
}

/* ---- states ---- */

bool
evs_verify_same_state(const EvsVerification *verification, const EvsSnapshot *stored,
					  const EvsSnapshot *computed)
{
	return stored->event_count == computed->event_count &&
		stored->position == computed->position &&
		evs_same_state(stored->state, computed->state, verification->ignored);
}

/* computed is NULL when it does not exist. */
static void
report_state(EvsVerification *verification, text *stream, const EvsSnapshot *stored,
			 const EvsSnapshot *computed, const EvsVerifyEvent *event)
{
	EvsDifference difference = {.key = stream};

	difference.one = stored->state;
	difference.other = computed ? computed->state : NULL;
	evs_verify_put(verification, &difference, event);
	verification->left--;
}

/* ---- the sample ---- */

static double
random_fraction(void)
{
	uint64		bits;

	if (!pg_strong_random(&bits, sizeof(bits)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values"),
				 errhint("Call again.")));
	return (double) (bits >> 11) / (double) (UINT64CONST(1) << 53);
}

static text *
copy_text(const text *value)
{
	text	   *copy = palloc(VARSIZE_ANY(value));

	memcpy(copy, value, VARSIZE_ANY(value));
	return copy;
}

static int
compare_keys(const void *a, const void *b)
{
	return evs_compare_text(*(text *const *) a, *(text *const *) b);
}

/* So many of the walk's keys, each as likely as any other, in order. */
static text **
sample_keys(EvsKeyWalk *walk, int64 wanted, int *count)
{
	int64		allocated = Min(wanted, 1024);
	text	  **keys = palloc(sizeof(text *) * allocated);
	int64		seen = 0;
	text	   *key;

	*count = 0;
	while ((key = evs_key_walk_next(walk)) != NULL)
	{
		int64		place = seen < wanted ? seen : (int64) (random_fraction() * (seen + 1));

		seen++;
		if (place >= wanted)
			continue;
		if (place < *count)
			pfree(keys[place]);
		else if ((*count)++ == allocated)
		{
			allocated *= 2;
			keys = repalloc_huge(keys, sizeof(text *) * allocated);
		}
		keys[place] = copy_text(key);
	}
	qsort(keys, *count, sizeof(text *), compare_keys);
	return keys;
}

/* ---- folds by stream ---- */

/* The fold of the stream's events up to a snapshot's last; its jsonb is the folder's. */
static void
compute(EvsStateCall *call, text *stream, int64 version, EvsSnapshot *computed)
{
	EvsState	state = {0};
	EvsStateAt	at = {.version = version};

	evs_state_load_stream(call->folder, stream, &at, call->snapshot, &state);
	evs_state_finish(call->folder, &state);
	memset(computed, 0, sizeof(EvsSnapshot));
	computed->state = state.state;
	computed->event_count = state.event_count;
	computed->position = state.position;
	computed->version = state.version;
}

/*
 * Has a snapshot passed over an event that the projection takes, after the last one
 * in its state?  Whoever goes on from there never comes to it.  Not so if the stream
 * does not have what the snapshot says that it has seen last: then it is not used.
 */
static bool
has_passed_over(const EvsStateCall *call, text *stream, const EvsSnapshot *row,
				EvsVerifyEvent *missing)
{
	const EvsProjection *projection = call->projection;
	EvsEvent	event = {.version = row->version};
	EvsScan    *scan;
	bool		passed;

	missing->position = 0;
	if (row->seen_version <= row->version)
		return false;
	scan = evs_scan_stream(stream, row->version + 1, row->seen_version, false, call->snapshot);
	evs_scan_as_stored(scan);
	while (evs_scan_next_or_pass(scan, &projection->filter, projection->start_after,
								 &event, &passed))
	{
		if (!passed && missing->position == 0)
			*missing = (EvsVerifyEvent) {event.position, stream, event.version, true};
	}
	evs_scan_end(scan);
	return missing->position > 0 && event.version == row->seen_version &&
		event.position == row->seen_position;
}

/*
 * Compare a stream's snapshots, the newest and those that are kept before it,
 * with the folds of the events that they stand for.  The first of them that
 * differs is the one to tell of.
 */
static void
check_stream(EvsVerification *verification, EvsStateCall *call, text *stream)
{
	EvsProjection *projection = verification->projection;
	EvsSnapshot stored;
	EvsSnapshot computed;
	EvsSnapshot first = {0};
	EvsVerifyEvent event = {0};
	EvsVerifyEvent missing;
	bool		found = evs_snapshot_read(projection->name, stream, call->snapshot, &stored);

	while (found)
	{
		/* what is rejected is not used, and so it is no state */
		if (evs_snapshot_accept(projection, stream, &stored))
		{
			compute(call, stream, stored.version, &computed);
			if (!evs_verify_same_state(verification, &stored, &computed))
			{
				first = stored;
				event = (EvsVerifyEvent) {stored.position, stream, stored.version, false};
			}
			else if (has_passed_over(call, stream, &stored, &missing))
			{
				first = stored;
				event = missing;
			}
		}
		found = evs_history_read(projection->name, stream, stored.version, DT_NOEND,
								 call->snapshot, &stored);
	}
	if (event.position > 0)
	{
		compute(call, stream, event.is_missing ? first.seen_version : first.version, &computed);
		report_state(verification, stream, &first, computed.event_count > 0 ? &computed : NULL,
					 &event);
	}
}

static void
verify_streams(EvsVerification *verification)
{
	EvsProjection *walked = evs_standin_projection(verification->projection);
	EvsProjection *fold = evs_standin_projection(verification->projection);
	double		sample = verification->sample;
	MemoryContext per_key;
	MemoryContext caller;
	EvsStateCall call;
	EvsKeyWalk *walk;

	/* walk the rows, and use none of them */
	walked->key_kind = EVS_KEY_FUNCTION;
	fold->policy.restore_from_snapshot = false;
	fold->policy.snapshot_every = 0;

	evs_state_begin(&call, fold, 0);
	walk = evs_key_walk(walked, call.snapshot);
	per_key = AllocSetContextCreate(CurrentMemoryContext, "evsource verify key",
									ALLOCSET_DEFAULT_SIZES);
	if (sample > 1)
	{
		int			count;
		text	  **keys = sample_keys(walk, (int64) sample, &count);

		caller = MemoryContextSwitchTo(per_key);
		for (int i = 0; i < count && verification->left > 0; i++)
		{
			CHECK_FOR_INTERRUPTS();
			check_stream(verification, &call, keys[i]);
			MemoryContextReset(per_key);
		}
	}
	else
	{
		text	   *key;

		caller = MemoryContextSwitchTo(per_key);
		while (verification->left > 0 && (key = evs_key_walk_next(walk)) != NULL)
		{
			if (sample == 0 || sample == 1 || random_fraction() < sample)
				check_stream(verification, &call, key);
			MemoryContextReset(per_key);
		}
	}
	MemoryContextSwitchTo(caller);
	evs_key_walk_end(walk);
	evs_state_end(&call);
}

/* ---- the call ---- */

static void
read_arguments(EvsVerification *verification, FunctionCallInfo fcinfo)
{
	verification->projection = evs_projection_load(evs_argument_name(fcinfo, 0), false);

	if (!PG_ARGISNULL(1))
	{
		verification->sample = PG_GETARG_FLOAT8(1);
		if (!(verification->sample > 0 && verification->sample <= PG_INT32_MAX))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("sample must be positive"),
					 errdetail("It is %g.", verification->sample),
					 errhint("A value up to 1 is a fraction of the keys, a greater one is a number of keys. Pass null for all keys.")));
	}
	verification->left = evs_trial_max_differences(fcinfo, 2);
	if (!PG_ARGISNULL(3))
		verification->ignored = PG_GETARG_ARRAYTYPE_P(3);
}

/*
 * evsource.verify_projection(projection, sample, max_differences, ignore)
 * returns setof (relation, key, position, stream, version, is_missing, stored, computed)
 *
 * Replays the log and compares with what is stored; no rows mean that it is the
 * same.
 *
 * Errors: 42704 unknown, 42501, 22023 for an argument, 55000 when the projection
 * does not name its tables, 0A000 when its handler cannot be sent to copies of
 * them, 25006 where nothing can be written, whatever the handler raises.
 */
Datum
evsource_verify_projection(PG_FUNCTION_ARGS)
{
	EvsVerification verification = {0};
	EvsProjection *projection;

	read_arguments(&verification, fcinfo);
	projection = verification.projection;
	evs_registry_check_rights(projection);
	InitMaterializedSRF(fcinfo, 0);
	verification.result = (ReturnSetInfo *) fcinfo->resultinfo;

	if (projection->kind == EVS_KIND_FOLD && projection->key_kind == EVS_KEY_STREAM)
		verify_streams(&verification);
	else
		evs_verify_whole(&verification);
	return (Datum) 0;
}
