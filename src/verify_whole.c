/*
 * verify_whole.c - verify a projection by replaying what it has applied, beside
 * what is stored (trial.c): a fold whose keys are not the streams into rows under
 * another name, a projection with tables into copies of them.
 *
 * Of the first differences it is found out which event explains them (trace.c).
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "horizon.h"
#include "identity.h"
#include "query.h"
#include "state_keys.h"
#include "text_array.h"
#include "trace.h"
#include "trial.h"
#include "verify.h"

/* the schema of the copies, while there are any */
#define VERIFY_SCHEMA	"evsource_verify"

/* of so many differences the event is looked for */
#define MOST_TRACED		100

/* A difference, all of it in the context of the trial. */
typedef struct Found
{
	EvsTraced	traced;			/* first: trace.c knows no more of it */
	EvsDifference difference;
	int			table;			/* its number; -1: a state */
	EvsSnapshot stored;			/* of a state, if it is stored */

	/* what the last look found, in this replay */
	EvsRowFinder *finder;		/* of a row */
	bool		exists;
	ItemPointerData ctid;
	TransactionId xmin;
	int64		position;		/* of a state: its last event's */
} Found;

typedef struct Whole
{
	EvsVerification *verification;
	EvsTrial   *trial;
	EvsTrace	trace;
	List	   *found;			/* the first ones */
	Tuplestorestate *others;	/* as rows of the result, NULL: there are none */
	int			table;			/* that is compared */
	EvsProjection *fold;		/* that a replay writes to */
} Whole;

/* ---- what there is to replay ---- */

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
	char		nulls[] = {filter->ncategories > 0 ? ' ' : 'n'};
	Datum		values[] = {evs_text_array(filter->categories, filter->ncategories)};
	EvsQueryResult result;
	int64		count;
	char	   *first;

	evs_query_begin(&find_truncations, values, nulls, trial->snapshot, &result);
	count = evs_query_bigint(&result, 0, 1);
	first = evs_query_text(&result, 0, 2);
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

	trial->parts = find_positions(trial, &find_parts, original, last, &trial->nparts);
	warn_of_truncations(trial, original);
	trial->skipped = find_positions(trial, &find_letters, original, 0, &trial->nskipped);
	for (int i = 0; i < trial->nparts; i++)
		evs_trial_replay_part(trial, projection, standin, i, 0, trial->parts[i]);
}

/* ---- what differs ---- */

static text *
copy_text(const text *value)
{
	return value == NULL ? NULL : DatumGetTextPCopy(PointerGetDatum(value));
}

static Jsonb *
copy_jsonb(Jsonb *value)
{
	return value == NULL ? NULL : DatumGetJsonbPCopy(JsonbPGetDatum(value));
}

/* One of the first is remembered, to be reported with its event. */
static void
remember(Whole *whole, const EvsDifference *difference, const EvsSnapshot *stored)
{
	MemoryContext caller = MemoryContextSwitchTo(whole->trial->context);
	Found	   *found = palloc0(sizeof(Found));

	found->difference = *difference;
	found->difference.key = copy_text(difference->key);
	found->difference.one = copy_jsonb(difference->one);
	found->difference.other = copy_jsonb(difference->other);
	found->difference.one_text = copy_text(difference->one_text);
	if (difference->key_row != NULL)
	{
		found->difference.key_row = heap_copytuple(difference->key_row);
		found->difference.key_desc = CreateTupleDescCopy(difference->key_desc);
	}
	found->traced.is_stored = difference->one != NULL;
	found->table = whole->table;
	if (stored != NULL)
	{
		found->stored = *stored;
		found->stored.state = found->difference.one;
	}
	whole->found = lappend(whole->found, found);
	/* a row that has no key cannot be followed */
	if (found->table < 0 || difference->key_row != NULL)
		whole->trace.rows = lappend(whole->trace.rows, found);
	MemoryContextSwitchTo(caller);
}

/* All the others come after them, as they are. */
static void
set_aside(Whole *whole, const EvsDifference *difference)
{
	ReturnSetInfo *result = whole->verification->result;
	Tuplestorestate *reported = result->setResult;
	EvsVerifyEvent none = {0};

	if (whole->others == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(whole->trial->context);

		whole->others = tuplestore_begin_heap(false, false, work_mem);
		MemoryContextSwitchTo(caller);
	}
	result->setResult = whole->others;
	evs_verify_put(whole->verification, difference, &none);
	result->setResult = reported;
}

static void
report(Whole *whole, const EvsDifference *difference, const EvsSnapshot *stored)
{
	if (list_length(whole->found) < MOST_TRACED)
		remember(whole, difference, stored);
	else
		set_aside(whole, difference);
	whole->verification->left--;
}

static void
report_row(void *argument, const EvsDifference *difference)
{
	report(argument, difference, NULL);
}

/* One of them is NULL when it does not exist. */
static void
report_state(Whole *whole, text *key, const EvsSnapshot *stored, const EvsSnapshot *computed)
{
	EvsDifference difference = {.key = key};

	difference.one = stored ? stored->state : NULL;
	difference.other = computed ? computed->state : NULL;
	report(whole, &difference, stored);
}

/* ---- the events ---- */

static EvsQuery find_event = {
	"select stream, version from evsource.events where position = $1",
	1, {INT8OID}, SPI_OK_SELECT
};

static void
read_event(const EvsTrial *trial, EvsVerifyEvent *event)
{
	Datum		values[] = {Int64GetDatum(event->position)};
	EvsQueryResult result;

	evs_query_begin(&find_event, values, NULL, trial->snapshot, &result);
	if (result.count == 1)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);
		bool		isnull;

		event->stream = DatumGetTextPCopy(SPI_getbinval(result.rows[0], result.tupdesc, 1, &isnull));
		event->version = evs_query_bigint(&result, 0, 2);
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);
}

static void
put_others(Whole *whole)
{
	ReturnSetInfo *result = whole->verification->result;
	TupleTableSlot *slot;

	if (whole->others == NULL)
		return;
	slot = MakeSingleTupleTableSlot(result->setDesc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(whole->others, true, false, slot))
		tuplestore_puttupleslot(result->setResult, slot);
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(whole->others);
}

/* Find out about the first ones, and put them all into the result. */
static void
put_all(Whole *whole)
{
	ListCell   *cell;

	whole->trace.trial = whole->trial;
	whole->trace.argument = whole;
	evs_trace(&whole->trace);
	foreach(cell, whole->found)
	{
		Found	   *found = lfirst(cell);
		EvsVerifyEvent event = {found->traced.position, NULL, 0, found->traced.is_missing};

		/* a state says itself with which event it ends */
		if (event.position == 0 && found->table < 0 && found->traced.is_stored)
			event = (EvsVerifyEvent) {found->stored.position, NULL, 0, false};
		if (event.position > 0)
			read_event(whole->trial, &event);
		evs_verify_put(whole->verification, &found->difference, &event);
	}
	put_others(whole);
}

/* ---- tables ---- */

static EvsProjection *
prepare_tables(EvsTrace *trace, EvsStandin **standin)
{
	Whole	   *whole = trace->argument;
	EvsProjection *projection = whole->verification->projection;
	ListCell   *cell;

	*standin = evs_trial_tables(projection, VERIFY_SCHEMA);
	foreach(cell, trace->rows)
	{
		Found	   *found = lfirst(cell);
		EvsStandinTable *table = list_nth((*standin)->tables, found->table);

		found->exists = false;
		found->finder = evs_row_finder(projection->owner, table->relid, table->copy,
									   whole->verification->ignored, &found->difference);
	}
	return (*standin)->projection;
}

static bool
look_at_row(EvsTrace *trace, EvsTraced *row, bool *as_stored)
{
	Found	   *found = (Found *) row;
	EvsRowFound now;
	bool		existed = found->exists;
	bool		written;

	found->exists = evs_row_find(found->finder, &now);
	if (!found->exists)
	{
		*as_stored = !row->is_stored;
		return existed;
	}
	written = !existed || found->xmin != now.xmin || !ItemPointerEquals(&found->ctid, &now.ctid);
	found->xmin = now.xmin;
	found->ctid = now.ctid;
	*as_stored = row->is_stored &&
		evs_same_state(found->difference.one, now.content, NULL) &&
		evs_compare_text(found->difference.one_text, now.text) == 0;
	return written;
}

static void
verify_tables(EvsTrial *trial, void *argument)
{
	Whole	   *whole = argument;
	EvsVerification *verification = whole->verification;
	EvsProjection *projection = verification->projection;
	EvsStandin *standin = evs_trial_tables(projection, VERIFY_SCHEMA);
	ListCell   *cell;

	whole->trial = trial;
	evs_trial_look(trial);
	replay_applied(trial, projection, standin->projection, standin);
	evs_trial_compare(trial);
	foreach(cell, standin->tables)
	{
		EvsStandinTable *table = lfirst(cell);

		(void) evs_compare_tables(projection->owner, table->relid, table->name,
								  table->name, table->copy, verification->ignored,
								  verification->left, report_row, whole);
		whole->table++;
	}
	whole->trace.prepare = prepare_tables;
	whole->trace.look = look_at_row;
	put_all(whole);
}

/* ---- states ---- */

static EvsProjection *
trial_fold(const EvsProjection *projection)
{
	return evs_trial_fold(projection, psprintf("%s (verify)", projection->name));
}

static EvsProjection *
prepare_states(EvsTrace *trace, EvsStandin **standin)
{
	Whole	   *whole = trace->argument;
	ListCell   *cell;

	foreach(cell, trace->rows)
		((Found *) lfirst(cell))->exists = false;
	*standin = NULL;
	whole->fold = trial_fold(whole->verification->projection);
	return whole->fold;
}

static bool
look_at_state(EvsTrace *trace, EvsTraced *row, bool *as_stored)
{
	Whole	   *whole = trace->argument;
	Found	   *found = (Found *) row;
	EvsSnapshot now;
	bool		existed = found->exists;
	bool		written;

	PushCopiedSnapshot(whole->trial->snapshot);
	UpdateActiveSnapshotCommandId();
	found->exists = evs_snapshot_read(whole->fold->name, found->difference.key,
									  GetActiveSnapshot(), &now);
	PopActiveSnapshot();
	if (!found->exists)
	{
		*as_stored = !row->is_stored;
		return existed;
	}
	written = !existed || found->position != now.position;
	found->position = now.position;
	*as_stored = row->is_stored &&
		evs_verify_same_state(whole->verification, &found->stored, &now);
	return written;
}

/*
 * Compare the stored rows with those that the replay has left under the name of
 * the trial: two walks in the same order.
 */
static void
compare_states(Whole *whole, EvsProjection *trial_fold)
{
	EvsVerification *verification = whole->verification;
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
			evs_compare_text(stored_key, computed_key);
		EvsSnapshot stored;
		EvsSnapshot computed;
		bool		counts = true;

		/* a row that is rejected is not used: the state comes from the log then */
		if (order <= 0 &&
			evs_snapshot_read(projection->name, stored_key, snapshot, &stored))
			counts = evs_snapshot_accept(projection, stored_key, &stored);
		if (order >= 0)
			(void) evs_snapshot_read(trial_fold->name, computed_key, snapshot, &computed);
		if (counts && (order != 0 || !evs_verify_same_state(verification, &stored, &computed)))
			report_state(whole, order <= 0 ? stored_key : computed_key,
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
verify_states(EvsTrial *trial, void *argument)
{
	Whole	   *whole = argument;
	EvsProjection *fold = trial_fold(whole->verification->projection);

	whole->trial = trial;
	whole->table = -1;
	evs_trial_look(trial);
	replay_applied(trial, whole->verification->projection, fold, NULL);
	evs_trial_compare(trial);
	compare_states(whole, fold);
	whole->trace.prepare = prepare_states;
	whole->trace.look = look_at_state;
	put_all(whole);
}

void
evs_verify_whole(EvsVerification *verification)
{
	Whole		whole = {verification};

	evs_trial_run("evsource.verify_projection()",
				  verification->projection->kind == EVS_KIND_FOLD ? verify_states : verify_tables,
				  &whole);
}
