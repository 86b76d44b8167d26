/*
 * type_run.c - validate and upcast the data of events.
 *
 * Validators and upcasters run as whoever defined the version, with the
 * search_path of then: see identity.c.  What they are shown is events' data, so
 * that role must be allowed to read events, and this is asked at each call.
 *
 * They are functions of data and nothing else, so appending is refused while one
 * is running; an upcaster that reads events makes upcasters run, which ends at
 * some depth.
 */
#include "types.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonpath.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"
#include "handlers.h"
#include "identity.h"
#include "pure_call.h"
#include "resolve.h"
#include "rights.h"

/* upcasters that read events, whose upcasters read events, ... */
#define MAX_DEPTH	8

/* A validator or upcaster, ready to be called. */
typedef struct TypeFunction
{
	bool		found;			/* the rest has been filled in */
	bool		takes_event;	/* evsource.event, not jsonb */
	bool		says_why;		/* a validator that returns text */
	bool		busy;			/* it is being called */
	FmgrInfo	flinfo;
} TypeFunction;

/* A type that a run has met. */
typedef struct RunType
{
	EvsEventType *type;
	TypeFunction *validators;	/* [1 .. newest] */
	TypeFunction *upcasters;
} RunType;

struct EvsTypeRun
{
	MemoryContext context;
	List	   *types;			/* of RunType, the one met last first */
};

/* validators and upcasters that are running, one inside the other */
static int	depth = 0;

EvsTypeRun *
evs_type_run(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource event types run",
												  ALLOCSET_SMALL_SIZES);
	EvsTypeRun *run = MemoryContextAllocZero(context, sizeof(EvsTypeRun));

	run->context = context;
	return run;
}

/* The type as this run knows it, or NULL when it is not defined. */
static RunType *
find_type(EvsTypeRun *run, const text *name)
{
	MemoryContext caller;
	ListCell   *cell;
	RunType    *found = NULL;
	EvsEventType *type;

	foreach(cell, run->types)
	{
		found = lfirst(cell);
		if (evs_same_text(found->type->type, name))
			return found;
	}

	caller = MemoryContextSwitchTo(run->context);
	type = evs_types_find(name);
	if (type != NULL)
	{
		found = palloc(sizeof(RunType));
		found->type = type;
		found->validators = palloc0((type->newest + 1) * sizeof(TypeFunction));
		found->upcasters = palloc0((type->newest + 1) * sizeof(TypeFunction));
		run->types = lcons(found, run->types);
	}
	MemoryContextSwitchTo(caller);
	return type == NULL ? NULL : found;
}

/* ---- calling a function ---- */

/* Whose function it is must be allowed to read what it is shown. */
static void
check_owner(const EvsTypeVersion *version, const char *signature)
{
	if (!evs_may_read_all())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s of an event type", signature),
				 errdetail("It runs as role \"%s\", which may not select all rows of evsource.events.",
						   version->owner),
				 errhint("Grant SELECT on evsource.events to that role; under row security, give it BYPASSRLS.")));
}

/*
 * Look the function up by its stored signature.  The current user is the
 * version's owner.
 */
static void
find_function(EvsTypeRun *run, TypeFunction *function, const EvsTypeVersion *version,
			  const char *signature)
{
	static const char event_argument[] = "(evsource.event)";
	size_t		length = strlen(signature);
	size_t		tail = strlen(event_argument);
	Oid			argtype;
	Oid			oid;

	function->takes_event = length >= tail &&
		strcmp(signature + length - tail, event_argument) == 0;
	argtype = function->takes_event ? evs_catalog()->event_type : JSONBOID;
	oid = evs_handler_lookup(signature, 1, &argtype);
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s of an event type does not exist", signature),
				 errhint("Create the function again.")));
	if (object_aclcheck(ProcedureRelationId, oid, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s of an event type", signature),
				 errdetail("It runs as role \"%s\", which may not execute it.", version->owner),
				 errhint("Grant EXECUTE on the function to that role.")));
	evs_resolve_check_trust(oid);
	function->says_why = get_func_rettype(oid) == TEXTOID;
	fmgr_info_cxt(oid, &function->flinfo, run->context);
	function->found = true;
}

/* The call proper, as the version's owner. */
static Datum
invoke(EvsTypeRun *run, TypeFunction *function, const EvsTypeVersion *version,
	   const char *signature, const EvsEvent *event, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	TypeFunction fresh = {0};
	PgStat_FunctionCallUsage usage;
	Datum		result;

	check_owner(version, signature);

	/* called by itself: what it hangs on its FmgrInfo is not to be shared */
	if (function->busy)
		function = &fresh;
	if (!function->found)
		find_function(run, function, version, signature);

	InitFunctionCallInfoData(*fcinfo, &function->flinfo, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = function->takes_event ?
		evs_event_datum(event) : JsonbPGetDatum(event->data);
	fcinfo->args[0].isnull = false;
	function->busy = true;
	pgstat_init_function_usage(fcinfo, &usage);
	result = evs_pure_call(fcinfo, EVS_PURE_TYPE);
	pgstat_end_function_usage(&usage, true);
	function->busy = false;
	*isnull = fcinfo->isnull;
	return result;
}

static Datum
call(EvsTypeRun *run, TypeFunction *function, const EvsTypeVersion *version,
	 const char *signature, const EvsEvent *event, bool *isnull)
{
	EvsIdentity identity;
	bool		push = !ActiveSnapshotSet();
	Datum		result = (Datum) 0;

	if (depth >= MAX_DEPTH)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("upcasters make each other run too deeply"),
				 errdetail("Function %s would run at depth %d.", signature, depth + 1),
				 errhint("Let an upcaster look at the data that it is given, not at other events.")));

	if (push)
		PushActiveSnapshot(GetTransactionSnapshot());
	evs_identity_enter(&identity, version->owner, version->search_path);
	evs_identity_pin_settings();
	depth++;
	PG_TRY();
	{
		result = invoke(run, function, version, signature, event, isnull);
	}
	PG_FINALLY();
	{
		depth--;
	}
	PG_END_TRY();
	evs_identity_leave(&identity);
	if (push)
		PopActiveSnapshot();
	return result;
}

/* ---- errors ---- */

/* What is being done, for the context of an error message. */
typedef struct TypeContext
{
	ErrorContextCallback callback;
	const EvsEvent *event;
	const char *doing;			/* "validator" or "upcaster" */
	const char *signature;
	int			version;
} TypeContext;

static void
context_callback(void *arg)
{
	TypeContext *context = arg;
	const text *type = context->event->type;

	if (context->event->position > 0)
		errcontext("%s %s, version %d of event type \"%.*s\", event at position %lld",
				   context->doing, context->signature, context->version,
				   (int) VARSIZE_ANY_EXHDR(type), VARDATA_ANY(type),
				   (long long) context->event->position);
	else
		errcontext("%s %s, version %d of event type \"%.*s\"",
				   context->doing, context->signature, context->version,
				   (int) VARSIZE_ANY_EXHDR(type), VARDATA_ANY(type));
}

static void
push_context(TypeContext *context, const EvsEvent *event, const char *doing,
			 const char *signature, int version)
{
	context->event = event;
	context->doing = doing;
	context->signature = signature;
	context->version = version;
	context->callback.callback = context_callback;
	context->callback.arg = context;
	context->callback.previous = error_context_stack;
	error_context_stack = &context->callback;
}

static void
pop_context(TypeContext *context)
{
	error_context_stack = context->callback.previous;
}

/* ---- validating ---- */

/*
 * Is the path a question that is answered by true or false, such as
 * '$.amount > 0'?  Others ask whether there is anything, such as '$.amount'.
 */
static bool
is_predicate(JsonPath *path)
{
	JsonPathItem item;

	jspInit(&item, path);
	if (jspHasNext(&item))
		return false;
	switch (item.type)
	{
		case jpiAnd:
		case jpiOr:
		case jpiNot:
		case jpiIsUnknown:
		case jpiEqual:
		case jpiNotEqual:
		case jpiLess:
		case jpiGreater:
		case jpiLessOrEqual:
		case jpiGreaterOrEqual:
		case jpiExists:
		case jpiStartsWith:
		case jpiLikeRegex:
			return true;
		default:
			return false;
	}
}

/*
 * Does the path hold?  What makes the path itself fail, such as a key that a
 * strict path does not find, means that it does not.
 */
static bool
path_holds(const EvsTypeVersion *version, Jsonb *data)
{
	JsonPath   *path = version->schema_path;
	LOCAL_FCINFO(fcinfo, 4);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(data);
	fcinfo->args[1].value = PointerGetDatum(path);
	fcinfo->args[2].value = evs_event_no_metadata();	/* no variables: {} */
	fcinfo->args[3].value = BoolGetDatum(true); /* silent */
	for (int i = 0; i < 4; i++)
		fcinfo->args[i].isnull = false;
	if (version->path_has_times)
	{
		/* a date is that of the one zone, whoever appends: as handlers see it */
		int			nest_level = NewGUCNestLevel();

		evs_identity_pin_settings();
		result = is_predicate(path) ? jsonb_path_match_tz(fcinfo) : jsonb_path_exists_tz(fcinfo);
		AtEOXact_GUC(false, nest_level);
	}
	else
		result = is_predicate(path) ? jsonb_path_match(fcinfo) : jsonb_path_exists(fcinfo);
	return !fcinfo->isnull && DatumGetBool(result);
}

/* As text only a variable has a quote right after a dollar; what is in quotes is a string or a key. */
char *
evs_type_path_variable(const void *path)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(jsonpath_out, PointerGetDatum(path)));
	char	   *start = NULL;		/* of what is in quotes */

	for (char *c = text; *c != '\0'; c++)
	{
		if (start == NULL)
			start = *c == '"' ? c : NULL;
		else if (*c == '\\' && c[1] != '\0')
			c++;
		else if (*c == '"')
		{
			if (start > text && start[-1] == '$')
				return pnstrdup(start - 1, c - start + 2);
			start = NULL;
		}
	}
	return NULL;
}

bool
evs_type_path_has_times(const void *path)
{
	static const char *const methods[] = {".datetime(", ".date(", ".time(", ".time_tz(", ".timestamp(", ".timestamp_tz("};
	char	   *text = DatumGetCString(DirectFunctionCall1(jsonpath_out, PointerGetDatum(path)));

	for (int i = 0; i < lengthof(methods); i++)
		if (strstr(text, methods[i]) != NULL)
			return true;
	return false;
}

/* VE004, with a detail that has been put together and is a whole sentence. */
static void
refuse(const EvsEvent *event, char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_EVS_INVALID_EVENT_DATA),
			 errmsg("data of event type \"%s\" is not valid", text_to_cstring(event->type)),
			 errdetail_internal("%s", detail),
			 errhint("Correct the data, or, if it is of an earlier version of the type, append it with its schema_version.")));
}

static void
check_path(const EvsTypeVersion *version, EvsEvent *event)
{
	char	   *path;

	if (path_holds(version, event->data))
		return;
	path = DatumGetCString(DirectFunctionCall1(jsonpath_out,
											   PointerGetDatum(version->schema_path)));
	refuse(event, psprintf("Path %s of version %d does not hold.", path, version->version));
}

static void
check_function(EvsTypeRun *run, TypeFunction *function, const EvsTypeVersion *version,
			   EvsEvent *event)
{
	TypeContext context;
	bool		isnull;
	Datum		result;

	push_context(&context, event, "validator", version->validator, version->version);
	result = call(run, function, version, version->validator, event, &isnull);
	pop_context(&context);

	/* a text says what is wrong: null is good; a boolean says that all is right: null is not */
	if (function->says_why)
	{
		if (!isnull)
			refuse(event, psprintf("Validator %s of version %d says: %s",
								   version->validator, version->version,
								   TextDatumGetCString(result)));
	}
	else if (isnull || !DatumGetBool(result))
		refuse(event, psprintf("Validator %s of version %d returned %s.", version->validator,
							   version->version, isnull ? "null" : "false"));
}

static void
refuse_version(const EvsEvent *event, char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("event type \"%s\" has no schema version %d",
					text_to_cstring(event->type), event->schema_version),
			 errdetail_internal("%s", detail),
			 errhint("Leave schema_version out for the newest, or define the version with evsource.define_event_type().")));
}

void
evs_type_check_undefined(EvsEvent *event)
{
	if (event->schema_version > 1 || event->schema_version < 0)
		refuse_version(event, "The type is not defined: all of its events have version 1.");
	event->schema_version = 0;
}

/* Can data of this version be brought to the newest? */
static void
check_way_on(const EvsEventType *type, const EvsEvent *event, int version)
{
	for (int v = version + 1; v <= type->newest; v++)
		if (type->versions[v] == NULL || type->versions[v]->upcaster == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event of schema version %d of type \"%s\" could not be read",
							version, text_to_cstring(event->type)),
					 errdetail("Version %d has no upcaster that would bring the data there from version %d.",
							   v, v - 1),
					 errhint("Append data of the newest version, %d.", type->newest)));
}

void
evs_type_validate(EvsTypeRun *run, EvsEvent *event)
{
	RunType    *found = find_type(run, event->type);
	const EvsTypeVersion *rule;
	int			version;

	if (found == NULL)
	{
		evs_type_check_undefined(event);
		return;
	}

	version = event->schema_version == 0 ? found->type->newest : event->schema_version;
	if (version < 1 || version > found->type->newest)
		refuse_version(event, psprintf("Its versions are 1 to %d.", found->type->newest));
	check_way_on(found->type, event, version);

	rule = found->type->versions[version];
	if (rule != NULL && rule->schema_path != NULL)
		check_path(rule, event);
	if (rule != NULL && rule->validator != NULL)
		check_function(run, &found->validators[version], rule, event);

	/* version 1 is stored as null: it costs nothing */
	event->schema_version = version == 1 ? 0 : version;
}

/* ---- upcasting ---- */

static void
upcast_step(EvsTypeRun *run, TypeFunction *function, const EvsTypeVersion *version,
			EvsEvent *event)
{
	TypeContext context;
	bool		isnull;
	Datum		result;

	push_context(&context, event, "upcaster", version->upcaster, version->version);
	event->data = (Jsonb *) PG_DETOAST_DATUM(PointerGetDatum(event->data));
	result = call(run, function, version, version->upcaster, event, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("upcaster %s returned null", version->upcaster),
				 errhint("For data that is good as it is, return what was passed.")));
	event->data = DatumGetJsonbP(result);
	pop_context(&context);
}

void
evs_type_upcast(EvsTypeRun *run, EvsEvent *event)
{
	RunType    *found = find_type(run, event->type);
	int			version = Max(event->schema_version, 1);

	if (found == NULL || version >= found->type->newest)
		return;
	for (int v = version + 1; v <= found->type->newest; v++)
	{
		const EvsTypeVersion *next = found->type->versions[v];

		CHECK_FOR_INTERRUPTS();
		if (next == NULL || next->upcaster == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("event of schema version %d of type \"%s\" cannot be read",
							version, text_to_cstring(event->type)),
					 errdetail("The event at position %lld is stored so, and version %d has no upcaster that brings it there from version %d.",
							   (long long) event->position, v, v - 1),
					 errhint("Define version %d again, with an upcaster.", v)));
		upcast_step(run, &found->upcasters[v], next, event);
	}
	event->schema_version = found->type->newest;
}
