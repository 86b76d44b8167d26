/*
 * handlers.c - the kinds of handlers, and how each of them is called.
 *
 * Functions are called through the function manager, without an SQL statement
 * around them; what they are called with is forgotten after each call.  The
 * FmgrInfo is made for each batch: procedural languages hang things on it that
 * live as long as it does, and an SQL function forgets there what it has left
 * behind at the end of the transaction.  What is worth keeping is the search
 * for the function by its signature; any change to a function or schema makes
 * us search again.
 *
 * A query's plans are kept with the projection.  PostgreSQL revalidates them
 * when a table, a function or the search_path changes.  Planned for one event,
 * a query may be hopeless for a million: there is a plan for each order of
 * magnitude.
 */
#include "handlers.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "event.h"
#include "fold.h"

/* the relation that a query reads */
#define NEW_EVENTS	"new_events"

/* a batch handler gets at most this many events at once */
#define EVENTS_PER_CALL	1000

/* plans of a query: for 1-9 events, 10-99, ... and everything above */
#define PLAN_CLASSES	6

/* What we have found out about a projection's handler. */
typedef struct EvsHandler
{
	uint64		changes;		/* function_changes when it was found */
	Oid			event_type;		/* evsource.event then */
	Oid			function;		/* InvalidOid: not looked for yet */
	SPIPlanPtr	plans[PLAN_CLASSES];	/* NULL: not made yet */
	MemoryContextCallback callback; /* frees the plans with the projection */
} EvsHandler;

/* counts changes of functions and schemas, from 1 */
static uint64 function_changes = 1;

static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	function_changes++;
}

void
evs_handlers_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_callback, (Datum) 0);
}

static void
free_plans(EvsHandler *handler)
{
	for (int i = 0; i < PLAN_CLASSES; i++)
	{
		SPIPlanPtr	plan = handler->plans[i];

		handler->plans[i] = NULL;
		if (plan != NULL)
			SPI_freeplan(plan);
	}
}

static void
projection_is_going(void *arg)
{
	free_plans(arg);
}

/* The projection's runtime, empty unless what it knows is still true. */
static EvsHandler *
get_handler(EvsProjection *projection)
{
	EvsHandler *handler = projection->runtime;
	Oid			event_type = evs_catalog()->event_type;

	if (handler == NULL)
	{
		handler = MemoryContextAllocZero(projection->context, sizeof(EvsHandler));
		handler->callback.func = projection_is_going;
		handler->callback.arg = handler;
		MemoryContextRegisterResetCallback(projection->context, &handler->callback);
		projection->runtime = handler;
	}
	if (handler->changes != function_changes)
	{
		handler->changes = function_changes;
		handler->function = InvalidOid;
	}
	if (handler->event_type != event_type)
	{
		handler->event_type = event_type;
		handler->function = InvalidOid;
		free_plans(handler);
	}
	return handler;
}

/* ---- errors ---- */

static void
context_callback(void *arg)
{
	EvsHandlerContext *context = arg;
	const EvsEvent *event = context->events[Max(context->at, 0)];

	if (context->at >= 0 || context->count == 1)
		errcontext("projection \"%s\", event at position %lld of stream \"%.*s\"",
				   context->projection->name, (long long) event->position,
				   (int) VARSIZE_ANY_EXHDR(event->stream), VARDATA_ANY(event->stream));
	else
		errcontext("projection \"%s\", %d events from position %lld to %lld",
				   context->projection->name, context->count,
				   (long long) event->position,
				   (long long) context->events[context->count - 1]->position);
}

void
evs_handler_context_push(EvsHandlerContext *context, const EvsProjection *projection,
						 EvsEvent *const *events, int count)
{
	context->projection = projection;
	context->events = events;
	context->count = count;
	context->at = -1;
	context->callback.callback = context_callback;
	context->callback.arg = context;
	context->callback.previous = error_context_stack;
	error_context_stack = &context->callback;
}

void
evs_handler_context_pop(EvsHandlerContext *context)
{
	Assert(error_context_stack == &context->callback);
	error_context_stack = context->callback.previous;
}

/* ---- finding the function ---- */

Oid
evs_handler_lookup(const char *signature, int nargs, const Oid *argtypes)
{
	const char *arguments = strrchr(signature, '(');
	size_t		length = arguments ? arguments - signature : strlen(signature);
	List	   *name = stringToQualifiedNameList(pnstrdup(signature, length), NULL);

	return LookupFuncName(name, nargs, argtypes, true);
}

/* Look the handler up, and see that it is still what its kind says. */
static Oid
find_function(const EvsProjection *projection)
{
	const EvsCatalog *catalog = evs_catalog();
	Oid			argtypes[2];
	int			nargs = 1;
	Oid			rettype = VOIDOID;
	Oid			function;
	HeapTuple	tuple;
	Form_pg_proc proc;
	bool		fits;

	switch (projection->kind)
	{
		case EVS_KIND_EVENT:
			argtypes[0] = catalog->event_type;
			break;
		case EVS_KIND_BATCH:
			argtypes[0] = catalog->event_array_type;
			break;
		case EVS_KIND_FOLD:
			nargs = 2;
			argtypes[0] = JSONBOID;
			argtypes[1] = catalog->event_type;
			rettype = JSONBOID;
			break;
		case EVS_KIND_QUERY:
			elog(ERROR, "a query has no handler");
	}

	function = evs_handler_lookup(projection->handler, nargs, argtypes);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s of projection \"%s\" does not exist",
						projection->handler, projection->name),
				 errhint("Create the function again, give the projection another handler, or drop the projection.")));

	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	fits = proc->prokind == PROKIND_FUNCTION && !proc->proretset &&
		proc->prorettype == rettype;
	ReleaseSysCache(tuple);

	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("handler %s of projection \"%s\" has changed its signature",
						projection->handler, projection->name),
				 errdetail("It must be a function that returns %s.",
						   rettype == VOIDOID ? "void" : "jsonb"),
				 errhint("Create the function as it was, give the projection another handler, or drop the projection.")));
	return function;
}

Oid
evs_handler_function(EvsProjection *projection)
{
	EvsHandler *handler = get_handler(projection);

	if (!OidIsValid(handler->function))
		handler->function = find_function(projection);

	if (object_aclcheck(ProcedureRelationId, handler->function, GetUserId(),
						ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for handler %s of projection \"%s\"",
						projection->handler, projection->name),
				 errdetail("The projection's owner \"%s\" may not execute it.",
						   projection->owner),
				 errhint("Grant EXECUTE on the function to the owner, or give the projection another owner.")));
	InvokeFunctionExecuteHook(handler->function);
	return handler->function;
}

/* ---- functions ---- */

/* Call a function of one argument for what it does. */
static inline void
call_function(FunctionCallInfo fcinfo, Datum argument)
{
	PgStat_FunctionCallUsage usage;

	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;
	fcinfo->isnull = false;
	pgstat_init_function_usage(fcinfo, &usage);
	(void) FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);
}

/* f(evsource.event), an event at a time */
static void
run_event_handler(EvsProjection *projection, EvsEvent *const *events, int count)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo;
	EvsHandlerContext errors;
	MemoryContext per_event;
	MemoryContext caller;

	evs_handler_context_push(&errors, projection, events, count);
	fmgr_info(evs_handler_function(projection), &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);

	per_event = AllocSetContextCreate(CurrentMemoryContext, "evsource event",
									  ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(per_event);
	for (errors.at = 0; errors.at < count; errors.at++)
	{
		CHECK_FOR_INTERRUPTS();
		call_function(fcinfo, evs_event_datum(events[errors.at]));
		MemoryContextReset(per_event);
	}
	evs_handler_context_pop(&errors);
	MemoryContextSwitchTo(caller);
}

/* f(evsource.event[]), as many events at a time as make a good array */
static void
run_batch_handler(EvsProjection *projection, EvsEvent *const *events, int count)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo;
	EvsHandlerContext errors;
	Oid			event_type = evs_catalog()->event_type;
	MemoryContext per_call;
	MemoryContext caller;
	int			size;

	evs_handler_context_push(&errors, projection, events, count);
	fmgr_info(evs_handler_function(projection), &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);

	per_call = AllocSetContextCreate(CurrentMemoryContext, "evsource events",
									 ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(per_call);
	for (int first = 0; first < count; first += size)
	{
		Datum	   *elements;

		size = Min(count - first, EVENTS_PER_CALL);
		elements = palloc(sizeof(Datum) * size);
		for (int i = 0; i < size; i++)
			elements[i] = evs_event_datum(events[first + i]);

		CHECK_FOR_INTERRUPTS();
		errors.events = events + first;
		errors.count = size;
		call_function(fcinfo,
					  PointerGetDatum(construct_array(elements, size, event_type,
													  -1, false, TYPALIGN_DOUBLE)));
		MemoryContextReset(per_call);
	}
	evs_handler_context_pop(&errors);
	MemoryContextSwitchTo(caller);
}

/* ---- queries ---- */

/* The events as rows that a query can read. */
static Tuplestorestate *
make_new_events(EvsEvent *const *events, int count)
{
	Tuplestorestate *store = tuplestore_begin_heap(false, false, work_mem);
	TupleDesc	tupdesc = evs_event_tupdesc();
	Datum		values[EVS_EVENT_NATTS];
	bool		nulls[EVS_EVENT_NATTS];
	pg_uuid_t	id;

	for (int i = 0; i < count; i++)
	{
		evs_event_values(events[i], values, nulls, &id);
		tuplestore_putvalues(store, tupdesc, values, nulls);
	}
	return store;
}

/* The class of plans for this many events. */
static int
plan_class(int count)
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

	for (int i = 0; i < class; i++)
		rows *= 10;
	return class == 0 ? 1 : rows * 3;
}

/* One statement, which sees all events at once as the relation new_events. */
static void
run_query(EvsProjection *projection, EvsEvent *const *events, int count)
{
	EvsHandler *handler = get_handler(projection);
	Tuplestorestate *store = make_new_events(events, count);
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	int			class = plan_class(count);
	EvsHandlerContext errors;
	int			result;

	evs_handler_context_push(&errors, projection, events, count);
	relation->md.name = NEW_EVENTS;
	relation->md.tupdesc = evs_event_tupdesc();
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = plan_rows(class);
	relation->reldata = store;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	result = SPI_register_relation(relation);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s", SPI_result_code_string(result));

	if (handler->plans[class] == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(projection->query, 0, NULL);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		handler->plans[class] = plan;
	}
	result = SPI_execute_plan(handler->plans[class], NULL, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));

	SPI_finish();
	tuplestore_end(store);
	evs_handler_context_pop(&errors);
}

void
evs_handler_run(EvsProjection *projection, EvsEvent *const *events, int count)
{
	switch (projection->kind)
	{
		case EVS_KIND_EVENT:
			run_event_handler(projection, events, count);
			break;
		case EVS_KIND_BATCH:
			run_batch_handler(projection, events, count);
			break;
		case EVS_KIND_QUERY:
			run_query(projection, events, count);
			break;
		case EVS_KIND_FOLD:
			evs_fold_apply(projection, events, count);
			break;
	}
}

/*
 * evsource._noop(event evsource.event) returns void
 *
 * Does nothing, to measure what the dispatch of an event costs.
 */
PG_FUNCTION_INFO_V1(evsource_noop);
Datum
evsource_noop(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}
