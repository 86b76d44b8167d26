/*
 * try.c - what would another handler make of the log?
 *
 * The same events go through the projection as it is and through the one that it
 * might become, each into an empty read model of its own (trial.c).  Neither has
 * to be what is stored now: a part of the log is enough to see a difference.
 *
 * What the projection has failed at is a difference as well, for the other one may
 * not.  The projection as it is gets only what it has got past: without the events
 * that are parked, and up to where it is stuck.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compare.h"
#include "horizon.h"
#include "parameters.h"
#include "query.h"
#include "registry.h"
#include "resolve.h"
#include "trial.h"

PG_FUNCTION_INFO_V1(evsource_try_projection);

/* the schemas of the copies, while there are any */
#define SCHEMA_WAS		"evsource_try_was"
#define SCHEMA_BECOMES	"evsource_try_becomes"

/* One call. */
typedef struct Attempt
{
	ReturnSetInfo *result;
	EvsProjection *projection;	/* as it is */
	EvsProjection *changed;
	int64		after;			/* events after this position */
	int64		upto;			/* up to this one */
	int64		limit;
	ArrayType  *ignored;
	int64		was_upto;		/* how far the projection as it is gets */
} Attempt;

static EvsQuery find_troubles = {
	"select t.position, t.is_stuck, t.failed, jsonb_build_object('position', t.position)::text,"
	" jsonb_build_object('sqlstate', t.sqlstate, 'message', t.message)"
	" from (select l.position, false, l.attempts > 0, l.sqlstate, l.message"
	"  from evsource.dead_letters l where l.projection = $1"
	"  union all"
	"  select f.position, true, true, f.sqlstate, f.message"
	"  from evsource.projection_failures f where f.projection = $1 and f.attempts > 0"
	" ) t (position, is_stuck, failed, sqlstate, message)"
	" where t.position > $2 and t.position <= $3 order by 1",
	3, {TEXTOID, INT8OID, INT8OID}, SPI_OK_SELECT
};

static void
report(void *argument, const EvsDifference *difference)
{
	Attempt    *attempt = argument;
	Datum		values[4] = {0};
	bool		nulls[4];

	nulls[0] = difference->relation == NULL;
	nulls[1] = difference->key == NULL;
	nulls[2] = difference->one == NULL;
	nulls[3] = difference->other == NULL;
	if (difference->relation != NULL)
		values[0] = CStringGetTextDatum(difference->relation);
	values[1] = PointerGetDatum(difference->key);
	values[2] = PointerGetDatum(difference->one);
	values[3] = PointerGetDatum(difference->other);
	tuplestore_putvalues(attempt->result->setResult, attempt->result->setDesc, values, nulls);
	attempt->limit--;
}

/*
 * What the projection has failed at: events to be left out, an event not to be
 * reached, and a difference for each of which an error is on record.
 */
static void
find_failed(EvsTrial *trial, Attempt *attempt)
{
	Datum		values[] = {
		CStringGetTextDatum(attempt->projection->name),
		Int64GetDatum(attempt->after), Int64GetDatum(attempt->upto)
	};
	EvsQueryResult result;

	attempt->was_upto = attempt->upto;
	evs_query_begin(&find_troubles, values, NULL, trial->snapshot, &result);
	trial->skipped = MemoryContextAllocHuge(trial->context,
											sizeof(int64) * Max(result.count, 1));
	for (uint64 row = 0; row < result.count; row++)
	{
		Datum		columns[5];
		bool		nulls[5];
		int64		position;

		heap_deform_tuple(result.rows[row], result.tupdesc, columns, nulls);
		position = DatumGetInt64(columns[0]);
		if (DatumGetBool(columns[1]))
			attempt->was_upto = Min(attempt->was_upto, position - 1);
		else
			trial->skipped[trial->nskipped++] = position;
		if (DatumGetBool(columns[2]) && attempt->limit > 0)
		{
			EvsDifference difference = {
				.relation = "evsource.events",
				.key = DatumGetTextPP(columns[3]),
				.one = DatumGetJsonbP(columns[4])
			};

			report(attempt, &difference);
		}
	}
	evs_query_end(&result);
}

/* The events through both.  The standins are NULL for folds. */
static void
replay_both(EvsTrial *trial, Attempt *attempt, EvsProjection *was, const EvsStandin *was_tables,
			EvsProjection *becomes, const EvsStandin *becomes_tables)
{
	evs_trial_look(trial);
	find_failed(trial, attempt);
	evs_trial_replay(trial, was, was_tables, attempt->after, attempt->was_upto);
	trial->nskipped = 0;
	evs_trial_replay(trial, becomes, becomes_tables, attempt->after, attempt->upto);
	evs_trial_compare(trial);
}

static void
try_tables(EvsTrial *trial, void *argument)
{
	Attempt    *attempt = argument;
	EvsProjection *projection = attempt->projection;
	EvsStandin *was = evs_trial_tables(projection, SCHEMA_WAS);
	EvsStandin *becomes = evs_trial_tables(attempt->changed, SCHEMA_BECOMES);
	ListCell   *one;
	ListCell   *other;

	replay_both(trial, attempt, was->projection, was, becomes->projection, becomes);
	forboth(one, was->tables, other, becomes->tables)
	{
		EvsStandinTable *table = lfirst(one);

		(void) evs_compare_tables(projection->owner, table->relid, table->name, table->copy,
								  ((EvsStandinTable *) lfirst(other))->copy,
								  attempt->ignored, attempt->limit, report, attempt);
	}
}

static void
try_states(EvsTrial *trial, void *argument)
{
	Attempt    *attempt = argument;
	const char *name = attempt->projection->name;
	EvsProjection *was = evs_trial_fold(attempt->projection, psprintf("%s (was)", name));
	EvsProjection *becomes = evs_trial_fold(attempt->changed, psprintf("%s (becomes)", name));

	/* a state begins with the first of the events that are replayed */
	was->start_after = Max(was->start_after, attempt->after);
	becomes->start_after = was->start_after;

	replay_both(trial, attempt, was, NULL, becomes, NULL);
	(void) evs_compare_states(was->name, becomes->name, attempt->ignored, attempt->limit,
							  report, attempt);
}

/* ---- the call ---- */

/* The projection with the handler or query that is to be tried. */
static EvsProjection *
changed_projection(const EvsProjection *projection, const char *handler, const char *query)
{
	EvsProjection *changed = evs_standin_projection(projection);

	if ((handler == NULL) == (query == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("either handler or query must be given"),
				 errhint("Pass what the projection might be changed to.")));

	changed->handler = NULL;
	changed->query = NULL;
	if (handler != NULL)
		changed->handler = evs_resolve_handler(handler, &changed->kind);
	else
	{
		changed->query = pstrdup(query);
		changed->kind = EVS_KIND_QUERY;
	}
	if ((changed->kind == EVS_KIND_FOLD) != (projection->kind == EVS_KIND_FOLD))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a fold and a projection with tables cannot be compared"),
				 errdetail("Projection \"%s\" is of kind \"%s\", the handler to be tried of kind \"%s\".",
						   projection->name, evs_kind_name(projection->kind),
						   evs_kind_name(changed->kind)),
				 errhint("Create another projection with the new handler, and compare the two yourself.")));
	evs_resolve_check_owner(changed);
	if (query != NULL)
		evs_check_query(changed);
	return changed;
}

static int64
position_argument(FunctionCallInfo fcinfo, int argument, const char *name, int64 if_null)
{
	int64		position = PG_ARGISNULL(argument) ? if_null : PG_GETARG_INT64(argument);

	if (position < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", name),
				 errdetail("It is %lld.", (long long) position),
				 errhint("Pass 0 for the beginning of the log.")));
	return position;
}

/*
 * evsource.try_projection(projection, handler, from_position, to_position,
 * query, max_differences, ignore) returns setof (relation, key, was, becomes)
 *
 * The events from one position to another, both inclusive, go through the
 * projection with its handler and with the one that is given; what comes out
 * differently is returned, and so is each event that the projection has failed at.
 *
 * Errors: 42704 unknown, 42501, 22023 for an argument, 42883 and so on for the
 * handler as in create_projection, 55000 and 0A000 as in verify_projection,
 * 25006 where nothing can be written, whatever a handler raises.
 */
Datum
evsource_try_projection(PG_FUNCTION_ARGS)
{
	Attempt		attempt = {0};
	EvsProjection *projection = evs_projection_load(evs_argument_name(fcinfo, 0), false);

	evs_registry_check_rights(projection);
	attempt.projection = projection;
	attempt.changed = changed_projection(projection, evs_argument_text(fcinfo, 1),
										 evs_argument_text(fcinfo, 4));
	attempt.after = Max(position_argument(fcinfo, 2, "from_position", 0) - 1, 0);
	attempt.upto = Min(position_argument(fcinfo, 3, "to_position", PG_INT64_MAX),
					   evs_horizon_safe_position());
	attempt.limit = evs_trial_max_differences(fcinfo, 5);
	if (!PG_ARGISNULL(6))
		attempt.ignored = PG_GETARG_ARRAYTYPE_P(6);

	InitMaterializedSRF(fcinfo, 0);
	attempt.result = (ReturnSetInfo *) fcinfo->resultinfo;
	evs_trial_run("evsource.try_projection()",
				  projection->kind == EVS_KIND_FOLD ? try_states : try_tables, &attempt);
	return (Datum) 0;
}
