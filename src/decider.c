/*
 * decider.c - register functions that decide commands, and call them.
 *
 * A decider is a name for a function and the fold projection whose states it
 * decides on.  The function runs as the decider's owner, with the search_path of
 * when it was registered; since it is shown states, that role must be allowed to
 * read them, which is asked at each call.
 */
#include "decider.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "handlers.h"
#include "identity.h"
#include "parameters.h"
#include "query.h"
#include "resolve.h"
#include "rights.h"
#include "settings.h"
#include "states.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_create_decider);
PG_FUNCTION_INFO_V1(evsource_drop_decider);

/* columns of evsource.deciders */
#define DECIDERS_DECIDER		1
#define DECIDERS_PROJECTION		2
#define DECIDERS_HANDLER		3
#define DECIDERS_OWNER			4
#define DECIDERS_SEARCH_PATH	5

/* columns of evsource.new_event */
#define NEW_EVENT_TYPE			0
#define NEW_EVENT_DATA			1
#define NEW_EVENT_METADATA		2
#define NEW_EVENT_ID			3
#define NEW_EVENT_OCCURRED_AT	4
#define NEW_EVENT_NATTS			5

static char *
text_column(HeapTuple tuple, TupleDesc tupdesc, int column)
{
	bool		isnull;

	return TextDatumGetCString(heap_getattr(tuple, column, tupdesc, &isnull));
}

EvsDecider *
evs_decider_load(const char *name, bool missing_ok)
{
	Relation	relation = evs_catalog_open(evs_catalog()->deciders, AccessShareLock);
	TupleDesc	tupdesc = RelationGetDescr(relation);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsDecider *decider = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, DECIDERS_DECIDER, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	scan = systable_beginscan(relation, InvalidOid, false, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		decider = palloc(sizeof(EvsDecider));
		decider->name = pstrdup(name);
		decider->projection = text_column(tuple, tupdesc, DECIDERS_PROJECTION);
		decider->handler = text_column(tuple, tupdesc, DECIDERS_HANDLER);
		decider->owner = text_column(tuple, tupdesc, DECIDERS_OWNER);
		decider->search_path = text_column(tuple, tupdesc, DECIDERS_SEARCH_PATH);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);

	if (decider == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("decider \"%s\" does not exist", name),
				 errhint("Register it with evsource.create_decider().")));
	return decider;
}

/* ---- calling it ---- */

/* What is being decided, for the context of an error message. */
static void
context_callback(void *arg)
{
	errcontext("decider \"%s\"", ((const EvsDecider *) arg)->name);
}

/* The function, which is still what it must be; the current user is the owner. */
static Oid
find_function(const EvsDecider *decider)
{
	Oid			argtypes[] = {JSONBOID, JSONBOID};
	Oid			function = evs_handler_lookup(decider->handler, 2, argtypes);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s of decider \"%s\" does not exist",
						decider->handler, decider->name),
				 errhint("Create the function again, or drop the decider.")));
	if (get_func_rettype(function) != evs_catalog()->new_event_array_type ||
		get_func_retset(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("handler %s of decider \"%s\" has changed its signature",
						decider->handler, decider->name),
				 errdetail("It must return evsource.new_event[]."),
				 errhint("Create the function as it was, or drop the decider.")));
	if (object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for handler %s of decider \"%s\"",
						decider->handler, decider->name),
				 errdetail("The decider's owner \"%s\" may not execute it.", decider->owner),
				 errhint("Grant EXECUTE on the function to the owner.")));
	evs_resolve_check_trust(function);
	return function;
}

/* One element of what it returned. */
static void
take_event(EvsEvent *event, Datum element, TupleDesc tupdesc)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(element);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};
	Datum		values[NEW_EVENT_NATTS];
	bool		nulls[NEW_EVENT_NATTS];

	heap_deform_tuple(&tuple, tupdesc, values, nulls);
	event->type = nulls[NEW_EVENT_TYPE] ? NULL : DatumGetTextPP(values[NEW_EVENT_TYPE]);
	evs_check_type(event->type);
	evs_check_data(nulls[NEW_EVENT_DATA]);
	event->data = DatumGetJsonbP(values[NEW_EVENT_DATA]);
	event->metadata = nulls[NEW_EVENT_METADATA] ? NULL :
		DatumGetJsonbP(values[NEW_EVENT_METADATA]);
	event->has_id = !nulls[NEW_EVENT_ID];
	if (event->has_id)
		event->id = *DatumGetUUIDP(values[NEW_EVENT_ID]);
	event->has_occurred_at = !nulls[NEW_EVENT_OCCURRED_AT];
	if (event->has_occurred_at)
		event->occurred_at = DatumGetTimestampTz(values[NEW_EVENT_OCCURRED_AT]);
}

static void
take_events(const EvsDecider *decider, ArrayType *array, EvsBatch *batch)
{
	TupleDesc	tupdesc = lookup_rowtype_tupdesc_copy(evs_catalog()->new_event_type, -1);
	Datum	   *elements;
	bool	   *nulls;

	if (tupdesc->natts != NEW_EVENT_NATTS)
		elog(ERROR, "type evsource.new_event has %d attributes", tupdesc->natts);
	deconstruct_array(array, evs_catalog()->new_event_type, -1, false, TYPALIGN_DOUBLE,
					  &elements, &nulls, &batch->count);
	batch->events = palloc0(Max(batch->count, 1) * sizeof(EvsEvent));
	for (int i = 0; i < batch->count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("handler %s returned an array with a null", decider->handler),
					 errdetail("Event %d of %d is null.", i + 1, batch->count),
					 errhint("Return an empty array when nothing is to happen.")));
		take_event(&batch->events[i], elements[i], tupdesc);
	}
}

/* Call the function; its result is in CurrentMemoryContext, or NULL. */
static ArrayType *
call_function(const EvsDecider *decider, const EvsProjection *projection,
			  Jsonb *state, Jsonb *command)
{
	LOCAL_FCINFO(fcinfo, 2);
	FmgrInfo	flinfo;
	EvsIdentity identity;
	PgStat_FunctionCallUsage usage;
	ArrayType  *result;
	Datum		value;

	evs_identity_enter(&identity, decider->owner, decider->search_path);
	if (!evs_state_may(projection, EVS_STATE_READ))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for decider \"%s\"", decider->name),
				 errdetail("Its owner \"%s\" may not read the states of projection \"%s\".",
						   decider->owner, projection->name),
				 errhint("Grant SELECT on evsource.events to the owner.")));
	PushActiveSnapshot(GetTransactionSnapshot());

	fmgr_info(find_function(decider), &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(state);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = JsonbPGetDatum(command);
	fcinfo->args[1].isnull = false;
	pgstat_init_function_usage(fcinfo, &usage);
	value = FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);
	result = fcinfo->isnull ? NULL : DatumGetArrayTypePCopy(value);

	PopActiveSnapshot();
	CommandCounterIncrement();
	evs_identity_leave(&identity);
	return result;
}

/* deciders that are running, one inside the other */
static int	depth = 0;

void
evs_decider_decide(const EvsDecider *decider, const EvsProjection *projection,
				   Jsonb *state, Jsonb *command, EvsBatch *batch)
{
	ErrorContextCallback callback = {error_context_stack, context_callback, (void *) decider};
	ArrayType  *array = NULL;

	if (depth > evs_max_dispatch_depth)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("deciders execute commands too deeply"),
				 errdetail("Decider \"%s\" would run at depth %d; what a client executes is at depth 0.",
						   decider->name, depth),
				 errhint("Break the circle of deciders, or raise evsource.max_dispatch_depth.")));

	error_context_stack = &callback;
	depth++;
	PG_TRY();
	{
		array = call_function(decider, projection, state, command);
	}
	PG_FINALLY();
	{
		depth--;
	}
	PG_END_TRY();

	/* what array_agg() makes of no rows is null */
	batch->count = 0;
	batch->events = NULL;
	if (array != NULL)
		take_events(decider, array, batch);
	error_context_stack = callback.previous;
}

/* ---- registering it ---- */

static void
check_rights(const EvsDecider *decider)
{
	if (!evs_has_rights_of(decider->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of decider \"%s\"", decider->name),
				 evs_errdetail_owner(decider->owner),
				 errhint("Have its owner or a superuser do it.")));
}

static void
forget(const char *name)
{
	static EvsQuery query = {
		"delete from evsource.deciders where decider = $1", 1, {TEXTOID}, SPI_OK_DELETE
	};

	(void) evs_query_run_by_name(&query, name);
}

static void
store(const EvsDecider *decider)
{
	static EvsQuery query = {
		"insert into evsource.deciders (decider, projection, handler, owner, search_path)"
		" values ($1, $2, $3, $4, $5)",
		5, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}, SPI_OK_INSERT
	};
	Datum		values[5];

	values[0] = CStringGetTextDatum(decider->name);
	values[1] = CStringGetTextDatum(decider->projection);
	values[2] = CStringGetTextDatum(decider->handler);
	values[3] = CStringGetTextDatum(decider->owner);
	values[4] = CStringGetTextDatum(decider->search_path);
	evs_query_run(&query, values, NULL);
}

/* Its states have the versions of streams: that is what is compared at append. */
static void
check_projection(const char *name)
{
	EvsProjection *projection;

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("projection must not be null"),
				 errhint("Name the fold projection on whose states the decider decides.")));
	projection = evs_state_projection(name, EVS_STATE_READ);
	if (projection->key_kind != EVS_KEY_STREAM)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("projection \"%s\" is not keyed by stream", name),
				 errdetail("A decider decides on the state of the stream that its events are appended to."),
				 errhint("Create a fold projection with key => 'stream'.")));
}

/*
 * evsource.create_decider(decider text, handler text, projection text, if_exists
 *		text) returns text
 *
 * Errors: 22004, 22023, 42710 when it exists, 42704 for the projection, 42809
 * when that is no fold per stream, 42883, 42P13 and 42725 for the handler, 42501.
 */
Datum
evsource_create_decider(PG_FUNCTION_ARGS)
{
	static const char *const words[] = {"error", "keep", "alter"};
	char	   *handler = evs_argument_text(fcinfo, 1);
	char	   *word = evs_argument_text(fcinfo, 3);
	int			if_exists = word == NULL ? 0 :
		evs_parameter_word("if_exists", word, words, lengthof(words));
	EvsDecider	decider;
	EvsDecider *old;

	decider.name = evs_argument_name_of(fcinfo, 0, "decider");
	evs_argument_require(fcinfo, 1, "handler");

	LockRelationOid(evs_catalog()->deciders, ShareRowExclusiveLock);
	old = evs_decider_load(decider.name, true);
	if (old != NULL && if_exists == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("decider \"%s\" already exists", decider.name),
				 errhint("Pass if_exists => 'alter' to change it, or 'keep' to leave it as it is.")));
	if (old != NULL && if_exists == 1)
	{
		ereport(NOTICE,
				(errmsg("decider \"%s\" already exists, keeping it", decider.name)));
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	if (old != NULL)
		check_rights(old);

	decider.projection = evs_argument_text(fcinfo, 2);
	check_projection(decider.projection);
	decider.handler = evs_resolve_function(handler, EVS_USE_DECIDER);
	decider.owner = GetUserNameFromId(GetUserId(), false);
	decider.search_path = evs_resolve_search_path();
	evs_resolve_check_function(decider.handler, decider.owner, "a decider");
	if (old != NULL)
		forget(decider.name);
	store(&decider);
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/*
 * evsource.drop_decider(decider, if_exists) returns void
 *
 * Errors: 42704 unless if_exists, 42501, 22004.
 */
Datum
evsource_drop_decider(PG_FUNCTION_ARGS)
{
	char	   *name = evs_argument_name_of(fcinfo, 0, "decider");
	bool		if_exists = evs_argument_bool(fcinfo, 1, false);
	EvsDecider *decider;

	LockRelationOid(evs_catalog()->deciders, ShareRowExclusiveLock);
	decider = evs_decider_load(name, if_exists);
	if (decider == NULL)
	{
		ereport(NOTICE,
				(errmsg("decider \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	check_rights(decider);
	forget(decider->name);
	PG_RETURN_VOID();
}
