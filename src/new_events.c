/*
 * new_events.c - queries over the relation new_events.
 *
 * The events are put into a tuplestore that the query reads under that name, as
 * a trigger function reads a transition table.  A query's plans are kept with
 * the projection; PostgreSQL revalidates them when a table, a function or the
 * search_path changes.  Planned for one event, a query may be hopeless for a
 * million: there is a plan for each order of magnitude.
 *
 * Many events are mostly memory: written, and read when they have left every
 * cache.  So from some number of them on, a column that the query does not read
 * is left out of their rows.  Which columns it reads is a property of the
 * analysed query, and can be another one after a change of the tables that it
 * names (a name that was theirs may be one of ours then).  That is why the plan
 * is revalidated before the first such row is formed: from there to the end of
 * the transaction the tables are locked.
 *
 * Still more of them are not stored at all where the query reads them only
 * once: see new_events_stream.c.
 */
#include "new_events.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "event_row.h"
#include "new_events_stream.h"

/* plans of a query: for 1-9 events, 10-99, ... and everything above */
#define PLAN_CLASSES	6

/* and one for a stream of them */
#define STREAM_CLASS	PLAN_CLASSES

/* after this many events it pays to look what of them is read, and how */
#define MANY_EVENTS		1000

/* and after this many not to store more of them, where that is possible */
#define STREAM_EVENTS	10000

/* What we keep of a query. */
typedef struct QueryPlans
{
	Oid			event_type;		/* evsource.event when they were made */
	SPIPlanPtr	plans[PLAN_CLASSES + 1];	/* NULL: not made yet */
	MemoryContextCallback callback; /* frees the plans with the projection */
} QueryPlans;

static void
free_plans(QueryPlans *plans)
{
	for (int i = 0; i < lengthof(plans->plans); i++)
	{
		SPIPlanPtr	plan = plans->plans[i];

		plans->plans[i] = NULL;
		if (plan != NULL)
			SPI_freeplan(plan);
	}
}

static void
projection_is_going(void *arg)
{
	free_plans(arg);
}

static QueryPlans *
get_plans(EvsProjection *projection)
{
	QueryPlans *plans = projection->runtime;
	Oid			event_type = evs_catalog()->event_type;

	if (plans == NULL)
	{
		plans = MemoryContextAllocZero(projection->context, sizeof(QueryPlans));
		plans->callback.func = projection_is_going;
		plans->callback.arg = plans;
		MemoryContextRegisterResetCallback(projection->context, &plans->callback);
		projection->runtime = plans;
	}
	if (plans->event_type != event_type)
	{
		plans->event_type = event_type;
		free_plans(plans);
	}
	return plans;
}

/* The class of plans for this many events. */
static int
plan_class(int64 count)
{
	int			class = 0;

	while (count >= 10 && class < PLAN_CLASSES - 1)
	{
		count /= 10;
		class++;
	}
	return class;
}

/* The rows that a plan of this class shall expect. */
static double
plan_rows(int class)
{
	double		rows = 1;

	for (int i = 0; i < Min(class, PLAN_CLASSES - 1); i++)
		rows *= 10;
	return class == 0 ? 1 : rows * 3;
}

/* The query's plan of a class; SPI knows the relation. */
static SPIPlanPtr
get_plan(EvsProjection *projection, EphemeralNamedRelation relation, int class)
{
	QueryPlans *plans = get_plans(projection);

	/* it may be analysed anew */
	relation->md.enrtuples = plan_rows(class);

	if (plans->plans[class] == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(projection->query, 0, NULL);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		plans->plans[class] = plan;
	}
	return plans->plans[class];
}

/* ---- which columns a query reads ---- */

typedef struct ColumnsRead
{
	List	   *range_tables;	/* of the queries around a node, innermost first */
	uint32		columns;		/* EVS_EVENT_BIT of those found */
} ColumnsRead;

/* A reference to a column of something in a FROM clause. */
static void
note_reference(const Var *var, ColumnsRead *read)
{
	List	   *range_table = list_nth(read->range_tables, var->varlevelsup);
	RangeTblEntry *entry = rt_fetch(var->varno, range_table);

	if (entry->rtekind == RTE_NAMEDTUPLESTORE && var->varattno > 0)
		read->columns |= EVS_EVENT_BIT(var->varattno);
	else if (entry->rtekind == RTE_NAMEDTUPLESTORE || entry->rtekind == RTE_JOIN)
		read->columns = EVS_EVENT_ALL;	/* a whole row, or a join's, which is rare */
}

static bool
find_columns(Node *node, ColumnsRead *read)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		note_reference((Var *) node, read);
		return false;
	}
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		/* a join's list of all its columns refers to none of them */
		read->range_tables = lcons(query->rtable, read->range_tables);
		query_tree_walker(query, find_columns, read, QTW_IGNORE_JOINALIASES);
		read->range_tables = list_delete_first(read->range_tables);
		return false;
	}
	return expression_tree_walker(node, find_columns, read);
}

/*
 * How the plan's query reads new_events, from now on to the end of the
 * transaction: which columns, and whether it can have them as a stream.
 */
static uint32
look_at_query(SPIPlanPtr plan, bool *can_stream)
{
	CachedPlan *cached = SPI_plan_get_cached_plan(plan);
	ColumnsRead read = {NIL, 0};
	CachedPlanSource *source;

	*can_stream = false;
	if (cached == NULL)
		return EVS_EVENT_ALL;	/* more than one statement */

	source = linitial(SPI_plan_get_plan_sources(plan));
	find_columns((Node *) source->query_list, &read);
	*can_stream = evs_new_events_can_stream(source->query_list);
	ReleaseCachedPlan(cached, CurrentResourceOwner);
	return read.columns;
}

/* ---- running a query ---- */

/* new_events is the stream, or the relation's tuplestore if that is NULL. */
static void
execute(EvsProjection *projection, EphemeralNamedRelation relation, int class,
		EvsEventStream *stream)
{
	EvsEventStream *previous = evs_new_events_set_stream(stream);
	int			result;

	PG_TRY();
	{
		result = SPI_execute_plan(get_plan(projection, relation, class), NULL, NULL, false, 0);
		if (result < 0)
			elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	}
	PG_FINALLY();
	{
		evs_new_events_set_stream(previous);
	}
	PG_END_TRY();
}

void
evs_new_events_run(EvsProjection *projection, EvsNextEvent next, void *source)
{
	EvsHandlerContext errors;
	EvsEventRow row;
	EphemeralNamedRelationData relation;
	MemoryContext context;
	MemoryContext caller = CurrentMemoryContext;
	const EvsEvent *event = NULL;
	bool		can_stream = false;
	int			result;

	evs_handler_context_push(&errors, projection, NULL, 0);
	evs_event_row_init(&row);

	/* rows come one after the other and go all at once */
	context = GenerationContextCreate(caller, "evsource new events", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	relation.md.name = EVS_NEW_EVENTS;
	relation.md.reliddesc = InvalidOid;
	relation.md.tupdesc = evs_event_tupdesc();
	relation.md.enrtype = ENR_NAMED_TUPLESTORE;
	relation.md.enrtuples = 0;
	relation.reldata = tuplestore_begin_heap(false, false, maintenance_work_mem);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	result = SPI_register_relation(&relation);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s", SPI_result_code_string(result));

	while (!(can_stream && errors.count >= STREAM_EVENTS) && (event = next(source)) != NULL)
	{
		if (errors.count == MANY_EVENTS)
			row.columns = look_at_query(get_plan(projection, &relation, plan_class(MANY_EVENTS)),
										&can_stream);
		tuplestore_puttuple(relation.reldata, evs_event_row_form(&row, event));
		evs_handler_context_add(&errors, event);
	}

	if (event == NULL)
		execute(projection, &relation, plan_class(errors.count), NULL);
	else
	{
		EvsEventStream stream = {relation.reldata, next, source, &errors,
			(row.columns & EVS_EVENT_BIT(EVS_EVENT_ID)) != 0};

		execute(projection, &relation, STREAM_CLASS, &stream);

		/* it need not have read to the end */
		while ((event = next(source)) != NULL)
			evs_handler_context_add(&errors, event);
	}
	SPI_finish();

	/* tuplestore_end would free row by row what goes at once with the context */
	if (!tuplestore_in_memory(relation.reldata))
		tuplestore_end(relation.reldata);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	evs_handler_context_pop(&errors);
}
