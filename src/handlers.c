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
 * Queries are no functions: see new_events.c.
 */
#include "handlers.h"

#include "catalog/objectaccess.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "alarm.h"
#include "catalog.h"
#include "deferred.h"
#include "event.h"
#include "event_row.h"
#include "fold.h"
#include "new_events.h"
#include "resolve.h"

/* a batch handler gets at most this many events, of this many bytes, at once */
#define EVENTS_PER_CALL	1000
#define BYTES_PER_CALL	((Size) 64 * 1024 * 1024)

/* What we have found out about a projection's handler. */
typedef struct Handler
{
	uint64		changes;		/* function_changes when it was found */
	Oid			event_type;		/* evsource.event then */
	Oid			function;		/* InvalidOid: not looked for yet */
	bool		is_c;			/* or built in */
} Handler;

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

uint64
evs_handler_changes(void)
{
	return function_changes;
}

/* The projection's runtime, empty unless what it knows is still true. */
static Handler *
get_handler(EvsProjection *projection)
{
	Handler    *handler = projection->runtime;
	Oid			event_type = evs_catalog()->event_type;

	if (handler == NULL)
	{
		handler = MemoryContextAllocZero(projection->context, sizeof(Handler));
		projection->runtime = handler;
	}
	if (handler->changes != function_changes || handler->event_type != event_type)
	{
		handler->changes = function_changes;
		handler->event_type = event_type;
		handler->function = InvalidOid;
	}
	return handler;
}

/* ---- errors ---- */

int64		evs_handler_blamed = 0;

/* The outermost comes last: of handlers that append, the one whose event all began with. */
static void
context_callback(void *arg)
{
	EvsHandlerContext *context = arg;
	const EvsEvent *event = context->event;

	evs_deferred_hint();
	evs_handler_blamed = event != NULL ? event->position :
		context->count == 1 ? context->first_position : 0;
	if (event != NULL)
		errcontext("projection \"%s\", event at position %lld of stream \"%.*s\"",
				   context->projection->name, (long long) event->position,
				   (int) VARSIZE_ANY_EXHDR(event->stream), VARDATA_ANY(event->stream));
	else if (context->count == 1)
		errcontext("projection \"%s\", event at position %lld",
				   context->projection->name, (long long) context->first_position);
	else if (context->count == 0)
		errcontext("projection \"%s\"", context->projection->name);
	else
		errcontext("projection \"%s\", %lld events from position %lld to %lld",
				   context->projection->name, (long long) context->count,
				   (long long) context->first_position,
				   (long long) context->last_position);
}

/* What the context says about these events. */
static void
set_context(EvsHandlerContext *context, EvsEvent *const *events, int count)
{
	context->event = count == 1 ? events[0] : NULL;
	context->count = count;
	if (count > 0)
	{
		context->first_position = events[0]->position;
		context->last_position = events[count - 1]->position;
	}
}

void
evs_handler_context_push(EvsHandlerContext *context, const EvsProjection *projection,
						 EvsEvent *const *events, int count)
{
	set_context(context, events, count);
	context->projection = projection;
	context->callback.callback = context_callback;
	context->callback.arg = context;
	context->callback.previous = error_context_stack;
	error_context_stack = &context->callback;
}

void
evs_handler_context_add(EvsHandlerContext *context, const EvsEvent *event)
{
	if (context->count++ == 0)
		context->first_position = event->position;
	context->last_position = event->position;
}

void
evs_handler_context_pop(EvsHandlerContext *context)
{
	Assert(error_context_stack == &context->callback);
	evs_handler_blamed = 0;
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

bool
evs_handler_takes_path(const char *signature)
{
	static const char last[] = ",pg_catalog.text[])";
	size_t		length = strlen(signature);

	return length >= strlen(last) && strcmp(signature + length - strlen(last), last) == 0;
}

/* Look the handler up, and see that it is still what its kind says. */
static Oid
find_function(const EvsProjection *projection, bool *is_c)
{
	const EvsCatalog *catalog = evs_catalog();
	Oid			argtypes[3];
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
			nargs = evs_handler_takes_path(projection->handler) ? 3 : 2;
			argtypes[0] = JSONBOID;
			argtypes[1] = catalog->event_type;
			argtypes[2] = TEXTARRAYOID;
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
	*is_c = proc->prolang == ClanguageId || proc->prolang == INTERNALlanguageId;
	ReleaseSysCache(tuple);

	if (!fits)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("handler %s of projection \"%s\" has changed its signature",
						projection->handler, projection->name),
				 errdetail("It must be a function that returns %s.",
						   rettype == VOIDOID ? "void" : "jsonb"),
				 errhint("Create the function as it was, give the projection another handler, or drop the projection.")));
	evs_resolve_check_trust(function);
	return function;
}

/* The projection's runtime, with its function. */
static Handler *
find_handler(EvsProjection *projection)
{
	Handler    *handler = get_handler(projection);

	if (!OidIsValid(handler->function))
		handler->function = find_function(projection, &handler->is_c);
	return handler;
}

bool
evs_handler_may_tarry(EvsProjection *projection)
{
	return !find_handler(projection)->is_c;
}

Oid
evs_handler_function(EvsProjection *projection)
{
	Handler    *handler = find_handler(projection);

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
run_event_handler(EvsProjection *projection, EvsNextEvent next, void *source)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo;
	EvsHandlerContext errors;
	EvsEventRow row;
	MemoryContext per_event;
	MemoryContext caller;

	evs_handler_context_push(&errors, projection, NULL, 0);
	errors.event = next(source);
	fmgr_info(evs_handler_function(projection), &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);

	evs_event_row_init(&row);
	per_event = AllocSetContextCreate(CurrentMemoryContext, "evsource event",
									  ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(per_event);
	for (; errors.event != NULL; errors.event = next(source))
	{
		CHECK_FOR_INTERRUPTS();
		call_function(fcinfo, evs_event_row_datum(&row, errors.event));
		MemoryContextReset(per_event);
	}
	MemoryContextSwitchTo(caller);
	evs_handler_context_pop(&errors);
}

/* How many of these events make a good array. */
static int
size_of_call(EvsEvent *const *events, int count)
{
	Size		bytes = 0;
	int			size = 0;

	while (size < count && size < EVENTS_PER_CALL && bytes < BYTES_PER_CALL)
	{
		const EvsEvent *event = events[size++];

		bytes += VARSIZE_ANY(event->data) +
			(event->metadata ? VARSIZE_ANY(event->metadata) : 0);
	}
	return size;
}

/* f(evsource.event[]), as many events at a time as make a good array; returns how many in all */
static int
run_batch_handler(EvsProjection *projection, EvsEvent *const *events, int count, bool bounded)
{
	int			done = 0;
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo;
	EvsHandlerContext errors;
	EvsEventRow row;
	MemoryContext per_call;
	MemoryContext caller;

	evs_handler_context_push(&errors, projection, events, count);
	fmgr_info(evs_handler_function(projection), &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);

	evs_event_row_init(&row);
	per_call = AllocSetContextCreate(CurrentMemoryContext, "evsource events",
									 ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(per_call);
	while (done < count && !(bounded && done > 0 && evs_alarm_rang()))
	{
		int			size = size_of_call(events + done, count - done);

		CHECK_FOR_INTERRUPTS();
		set_context(&errors, events + done, size);
		call_function(fcinfo, evs_event_row_array(&row, events + done, size));
		MemoryContextReset(per_call);
		done += size;
	}
	MemoryContextSwitchTo(caller);
	evs_handler_context_pop(&errors);
	return done;
}

/* ---- all of them ---- */

void
evs_handler_run_stream(EvsProjection *projection, EvsNextEvent next, void *source)
{
	if (projection->kind == EVS_KIND_EVENT)
		run_event_handler(projection, next, source);
	else if (projection->kind == EVS_KIND_QUERY)
		evs_new_events_run(projection, next, source);
	else
		elog(ERROR, "projection \"%s\" does not take a stream of events", projection->name);
}

/* Events in an array, one after the other. */
typedef struct ArraySource
{
	EvsEvent   *const *events;
	int			count;
	int			given;
	bool		bounded;
} ArraySource;

static const EvsEvent *
next_of_array(void *source)
{
	ArraySource *array = source;

	if (array->given == array->count ||
		(array->bounded && array->given > 0 && evs_alarm_rang()))
		return NULL;
	return array->events[array->given++];
}

int
evs_handler_run(EvsProjection *projection, EvsEvent *const *events, int count, bool bounded)
{
	ArraySource array = {events, count, 0, bounded && projection->kind == EVS_KIND_EVENT};

	switch (projection->kind)
	{
		case EVS_KIND_EVENT:
		case EVS_KIND_QUERY:
			break;
		case EVS_KIND_BATCH:
			return run_batch_handler(projection, events, count, bounded);
		case EVS_KIND_FOLD:
			return evs_fold_apply(projection, events, count, bounded);
	}
	evs_handler_run_stream(projection, next_of_array, &array);
	return array.given;
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
