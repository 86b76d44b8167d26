/*
 * verify.c - is a read model what the log makes of it?
 *
 * A fold keyed by stream has its snapshots: each of them is compared with the
 * fold of the stream's events up to it, from the first one (or what stands for
 * those that were truncated) on, which reads only the streams that are looked at.  Everything else is replayed as a whole, beside
 * what is stored (trial.c): a fold with other keys into rows under another name,
 * a projection with tables into copies of them.
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

#include "compare.h"
#include "definition.h"
#include "horizon.h"
#include "query.h"
#include "registry.h"
#include "snapshot_history.h"
#include "snapshots.h"
#include "state_keys.h"
#include "state_load.h"
#include "states.h"
#include "trial.h"

PG_FUNCTION_INFO_V1(evsource_verify_projection);

/* the schema of the copies, while there are any */
#define VERIFY_SCHEMA	"evsource_verify"

/* columns of the result */
enum
{
	COLUMN_RELATION,
	COLUMN_KEY,
	COLUMN_POSITION,
	COLUMN_VERSION,
	COLUMN_STORED,
	COLUMN_COMPUTED,
	COLUMNS
};

/* One call. */
typedef struct Verification
{
	ReturnSetInfo *result;
	EvsProjection *projection;
	double		sample;			/* 0: all; up to 1: a fraction; above: a number */
	ArrayType  *ignored;
	int64		left;			/* differences that may still be reported */
} Verification;

/* ---- the result ---- */

static void
put_row(Verification *verification, const EvsDifference *difference, int64 position, int64 version)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS];

	nulls[COLUMN_RELATION] = difference->relation == NULL;
	nulls[COLUMN_KEY] = difference->key == NULL;
	nulls[COLUMN_POSITION] = position == 0;
	nulls[COLUMN_VERSION] = version == 0;
	nulls[COLUMN_STORED] = difference->one == NULL;
	nulls[COLUMN_COMPUTED] = difference->other == NULL;

	if (difference->relation != NULL)
		values[COLUMN_RELATION] = CStringGetTextDatum(difference->relation);
	values[COLUMN_KEY] = PointerGetDatum(difference->key);
	values[COLUMN_POSITION] = Int64GetDatum(position);
	values[COLUMN_VERSION] = Int64GetDatum(version);
	values[COLUMN_STORED] = PointerGetDatum(difference->one);
	values[COLUMN_COMPUTED] = PointerGetDatum(difference->other);
	tuplestore_putvalues(verification->result->setResult, verification->result->setDesc,
						 values, nulls);
	verification->left--;
}

static void
report_table(void *argument, const EvsDifference *difference)
{
	put_row(argument, difference, 0, 0);
}

/* ---- states ---- */

static bool
same_snapshot(const Verification *verification, const EvsSnapshot *stored,
			  const EvsSnapshot *computed)
{
	return stored->event_count == computed->event_count &&
		stored->position == computed->position &&
		evs_same_state(stored->state, computed->state, verification->ignored);
}

/* One of them is NULL when it does not exist. */
static void
report_state(Verification *verification, text *key, const EvsSnapshot *stored,
			 const EvsSnapshot *computed)
{
	const EvsSnapshot *last = stored ? stored : computed;
	EvsDifference difference = {.key = key};

	difference.one = stored ? stored->state : NULL;
	difference.other = computed ? computed->state : NULL;
	put_row(verification, &difference, last->position,
			verification->projection->key_kind == EVS_KEY_STREAM ? last->version : 0);
}

/* ---- the sample ---- */

static double
random_fraction(void)
{
	uint64		bits;

	if (!pg_strong_random(&bits, sizeof(bits)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
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
	const text *left = *(text *const *) a;
	const text *right = *(text *const *) b;
	int			left_length = VARSIZE_ANY_EXHDR(left);
	int			right_length = VARSIZE_ANY_EXHDR(right);
	int			order = memcmp(VARDATA_ANY(left), VARDATA_ANY(right),
							   Min(left_length, right_length));

	return order != 0 ? order : left_length - right_length;
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
 * Compare a stream's snapshots, the newest and those that are kept before it,
 * with the folds of the events that they stand for.  The first of them that
 * differs is the one to tell of.
 */
static void
check_stream(Verification *verification, EvsStateCall *call, text *stream)
{
	EvsProjection *projection = verification->projection;
	EvsSnapshot stored;
	EvsSnapshot computed;
	EvsSnapshot first;
	bool		found = evs_snapshot_read(projection->name, stream, call->snapshot, &stored);

	first.version = 0;
	while (found)
	{
		/* what is rejected is not used, and so it is no state */
		if (evs_snapshot_accept(projection, stream, &stored))
		{
			compute(call, stream, stored.version, &computed);
			if (!same_snapshot(verification, &stored, &computed))
				first = stored;
		}
		found = evs_history_read(projection->name, stream, stored.version, DT_NOEND,
								 call->snapshot, &stored);
	}
	if (first.version > 0)
	{
		compute(call, stream, first.version, &computed);
		report_state(verification, stream, &first, computed.event_count > 0 ? &computed : NULL);
	}
}

static void
verify_streams(Verification *verification)
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

/* ---- everything else ---- */

static EvsQuery find_parts = {
	"select case when p.mode = 'inline' and p.state = 'active' then null"
	"  else coalesce(s.position, c.position) end"
	" from evsource.projections p join evsource.checkpoints c using (projection)"
	" left join evsource.partitions s on s.projection = p.projection"
	" where p.projection = $1 order by s.partition",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery find_letters = {
	"select position from evsource.dead_letters where projection = $1 order by 1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery find_truncations = {
	"select count(*), min(t.stream) from evsource.truncations t"
	" where t.version > 1 and t.truncated_at is not null and ($1 is null or evsource.category(t.stream) = any ($1))",
	1, {TEXTARRAYOID}, SPI_OK_SELECT
};

/* The first column of a query about the projection; null is "after". */
static int64 *
find_positions(const EvsTrial *trial, EvsQuery *query, const EvsProjection *projection,
			   int64 after, int *count)
{
	Datum		values[] = {CStringGetTextDatum(projection->name)};
	EvsQueryResult result;
	int64	   *positions;

	evs_query_begin(query, values, NULL, trial->snapshot, &result);
	*count = (int) result.count;
	positions = MemoryContextAllocHuge(trial->context, sizeof(int64) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		bool		isnull;
		Datum		position = SPI_getbinval(result.rows[i], result.tupdesc, 1, &isnull);

		positions[i] = isnull ? after : DatumGetInt64(position);
	}
	evs_query_end(&result);
	return positions;
}

/* What truncate_stream has taken away cannot be replayed: then say so. */
static void
warn_of_truncations(const EvsTrial *trial, const EvsProjection *projection)
{
	const EvsFilter *filter = &projection->filter;
	Datum	   *categories = palloc(sizeof(Datum) * Max(filter->ncategories, 1));
	char		nulls[] = {filter->ncategories > 0 ? ' ' : 'n'};
	Datum		values[1];
	EvsQueryResult result;
	int64		count;
	char	   *first = NULL;
	bool		isnull;

	for (int i = 0; i < filter->ncategories; i++)
		categories[i] = PointerGetDatum(filter->categories[i]);
	values[0] = PointerGetDatum(construct_array(categories, filter->ncategories, TEXTOID,
												-1, false, TYPALIGN_INT));
	evs_query_begin(&find_truncations, values, nulls, trial->snapshot, &result);
	count = DatumGetInt64(SPI_getbinval(result.rows[0], result.tupdesc, 1, &isnull));
	if (count > 0)
		first = MemoryContextStrdup(trial->context,
									SPI_getvalue(result.rows[0], result.tupdesc, 2));
	evs_query_end(&result);
	if (count > 0)
		ereport(WARNING,
				(errmsg("projection \"%s\" cannot be verified as a whole", projection->name),
				 errdetail("Streams that were truncated: %lld, among them \"%s\". What their lost events did to the read model shows as a difference.",
						   (long long) count, first)));
}

/*
 * Replay what the read model that the snapshot sees has applied: up to where it
 * is, each of its partitions up to where that is, and without what was parked.
 */
static void
replay_applied(EvsTrial *trial, const EvsProjection *original, EvsProjection *projection,
			   const EvsStandin *standin)
{
	/* of an active inline one every event that is visible, in its own transaction */
	int64		last = evs_horizon_last_position();
	int			count;
	int64	   *parts = find_positions(trial, &find_parts, original, last, &count);

	warn_of_truncations(trial, original);
	trial->skipped = find_positions(trial, &find_letters, original, 0, &trial->nskipped);
	for (int i = 0; i < count; i++)
	{
		projection->filter.partitions = count;
		projection->filter.partition = i;
		evs_trial_replay(trial, projection, standin, 0, parts[i]);
	}
}

static void
verify_tables(EvsTrial *trial, void *argument)
{
	Verification *verification = argument;
	EvsProjection *projection = verification->projection;
	EvsStandin *standin = evs_trial_tables(projection, VERIFY_SCHEMA);
	ListCell   *cell;

	evs_trial_look(trial);
	replay_applied(trial, projection, standin->projection, standin);
	evs_trial_compare(trial);
	foreach(cell, standin->tables)
	{
		EvsStandinTable *table = lfirst(cell);

		(void) evs_compare_tables(projection->owner, table->relid, table->name,
								  table->name, table->copy, verification->ignored,
								  verification->left, report_table, verification);
	}
}

/*
 * Compare the stored rows with those that the replay has left under the name of
 * the trial: two walks in the same order.
 */
static void
compare_rows(Verification *verification, EvsProjection *trial_fold)
{
	EvsProjection *projection = verification->projection;
	Snapshot	snapshot = GetActiveSnapshot();
	EvsKeyWalk *stored_walk = evs_key_walk(projection, snapshot);
	EvsKeyWalk *computed_walk = evs_key_walk(trial_fold, snapshot);
	text	   *stored_key = evs_key_walk_next(stored_walk);
	text	   *computed_key = evs_key_walk_next(computed_walk);
	MemoryContext per_key = AllocSetContextCreate(CurrentMemoryContext, "evsource verify key",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(per_key);
	EvsIdentity identity;

	evs_identity_enter(&identity, projection->owner, projection->search_path);
	while (verification->left > 0 && (stored_key != NULL || computed_key != NULL))
	{
		int			order = stored_key == NULL ? 1 : computed_key == NULL ? -1 :
			compare_keys(&stored_key, &computed_key);
		EvsSnapshot stored;
		EvsSnapshot computed;
		bool		counts = true;

		/* a row that is rejected is not used: the state comes from the log then */
		if (order <= 0 &&
			evs_snapshot_read(projection->name, stored_key, snapshot, &stored))
			counts = evs_snapshot_accept(projection, stored_key, &stored);
		if (order >= 0)
			(void) evs_snapshot_read(trial_fold->name, computed_key, snapshot, &computed);
		if (counts && (order != 0 || !same_snapshot(verification, &stored, &computed)))
			report_state(verification, order <= 0 ? stored_key : computed_key,
						 order <= 0 ? &stored : NULL, order >= 0 ? &computed : NULL);

		if (order <= 0)
			stored_key = evs_key_walk_next(stored_walk);
		if (order >= 0)
			computed_key = evs_key_walk_next(computed_walk);
		MemoryContextReset(per_key);
	}
	evs_identity_leave(&identity);
	MemoryContextSwitchTo(caller);
	evs_key_walk_end(stored_walk);
	evs_key_walk_end(computed_walk);
}

static void
verify_rows(EvsTrial *trial, void *argument)
{
	Verification *verification = argument;
	EvsProjection *projection = verification->projection;
	EvsProjection *fold = evs_trial_fold(projection, psprintf("%s (verify)", projection->name));

	evs_trial_look(trial);
	replay_applied(trial, projection, fold, NULL);
	evs_trial_compare(trial);
	compare_rows(verification, fold);
}

/* ---- the call ---- */

static void
read_arguments(Verification *verification, FunctionCallInfo fcinfo)
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
					 errhint("Up to 1 it is a fraction of the keys, above a number of keys; null is all.")));
	}
	verification->left = PG_INT64_MAX;
	if (!PG_ARGISNULL(2))
	{
		verification->left = PG_GETARG_INT32(2);
		if (verification->left < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("max_differences must be positive"),
					 errdetail("It is %lld.", (long long) verification->left),
					 errhint("Null is: all of them.")));
	}
	if (!PG_ARGISNULL(3))
		verification->ignored = PG_GETARG_ARRAYTYPE_P(3);
}

/*
 * evsource.verify_projection(projection, sample, max_differences, ignore)
 * returns setof (relation, key, position, version, stored, computed)
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
	Verification verification = {0};
	EvsProjection *projection;

	read_arguments(&verification, fcinfo);
	projection = verification.projection;
	evs_registry_check_rights(projection);
	InitMaterializedSRF(fcinfo, 0);
	verification.result = (ReturnSetInfo *) fcinfo->resultinfo;

	if (projection->kind == EVS_KIND_FOLD && projection->key_kind == EVS_KEY_STREAM)
		verify_streams(&verification);
	else
		evs_trial_run("evsource.verify_projection()",
					  projection->kind == EVS_KIND_FOLD ? verify_rows : verify_tables,
					  &verification);
	return (Datum) 0;
}
