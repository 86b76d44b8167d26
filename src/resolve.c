/*
 * resolve.c - from the names of functions and tables to what is stored of them.
 *
 * Stored is the qualified, quoted signature: it survives dump, restore and
 * pg_upgrade, which OIDs do not, and it is what the event trigger on DROP
 * compares with.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "resolve.h"

/* Types that have no fixed OID; no real type has these. */
#define EVENT			((Oid) 1)
#define EVENT_ARRAY		((Oid) 2)
#define NEW_EVENT_ARRAY	((Oid) 3)

#define MAX_PARAMETERS	3

/* A signature that is accepted. */
typedef struct Signature
{
	int			nargs;
	Oid			args[MAX_PARAMETERS];
	Oid			result;
	int			kind;			/* handlers: the kind that it tells */
} Signature;

static const Signature handler_signatures[] = {
	{1, {EVENT}, VOIDOID, EVS_KIND_EVENT},
	{1, {EVENT_ARRAY}, VOIDOID, EVS_KIND_BATCH},
	{2, {JSONBOID, EVENT}, JSONBOID, EVS_KIND_FOLD},
	{3, {JSONBOID, EVENT, TEXTARRAYOID}, JSONBOID, EVS_KIND_FOLD},
};

static const Signature key_signatures[] = {
	{1, {EVENT}, TEXTOID, 0},
	{1, {EVENT}, TEXTARRAYOID, 0},
};

static const Signature reset_signatures[] = {
	{0, {InvalidOid}, VOIDOID, 0},
};

static const Signature compatible_signatures[] = {
	{2, {INT4OID, INT4OID}, BOOLOID, 0},
};

static const Signature migrate_signatures[] = {
	{2, {JSONBOID, INT4OID}, JSONBOID, 0},
};

static const Signature validator_signatures[] = {
	{1, {JSONBOID}, BOOLOID, 0},
	{1, {JSONBOID}, TEXTOID, 0},
};

static const Signature upcaster_signatures[] = {
	{1, {JSONBOID}, JSONBOID, 0},
	{1, {EVENT}, JSONBOID, 0},
};

static const Signature decider_signatures[] = {
	{2, {JSONBOID, JSONBOID}, NEW_EVENT_ARRAY, 0},
};

/* What a function is wanted for. */
typedef struct Use
{
	const char *noun;			/* as messages call it */
	const char *whole;			/* and what it is a part of */
	const char *hint;			/* what is accepted */
	const Signature *signatures;
	int			count;
} Use;

static const Use handler_use = {
	"handler", "a projection",
	"A handler is f(evsource.event) returns void, f(evsource.event[]) returns void, or, for a fold, f(jsonb, evsource.event) returns jsonb.",
	handler_signatures, lengthof(handler_signatures)
};

static const Use other_uses[] = {
	[EVS_USE_KEY] = {
		"key function", "a projection",
		"A key is 'stream', 'global', or a function f(evsource.event) that returns text or text[].",
		key_signatures, lengthof(key_signatures)
	},
	[EVS_USE_RESET] = {
		"on_reset function", "a projection",
		"It is f() returns void.",
		reset_signatures, lengthof(reset_signatures)
	},
	[EVS_USE_COMPATIBLE] = {
		"is_compatible function", "a projection",
		"It is f(saved integer, current integer) returns boolean.",
		compatible_signatures, lengthof(compatible_signatures)
	},
	[EVS_USE_MIGRATE] = {
		"migrate_state function", "a projection",
		"It is f(state jsonb, saved integer) returns jsonb.",
		migrate_signatures, lengthof(migrate_signatures)
	},
	[EVS_USE_VALIDATOR] = {
		"validator", "an event type",
		"A validator is f(data jsonb) that returns boolean, or text: what is wrong, or null.",
		validator_signatures, lengthof(validator_signatures)
	},
	[EVS_USE_UPCASTER] = {
		"upcaster", "an event type",
		"An upcaster is f(data jsonb) or f(event evsource.event) that returns jsonb.",
		upcaster_signatures, lengthof(upcaster_signatures)
	},
	[EVS_USE_DECIDER] = {
		"handler", "a decider",
		"It is f(state jsonb, command jsonb) returns evsource.new_event[].",
		decider_signatures, lengthof(decider_signatures)
	},
};

static Oid
real_type(Oid type)
{
	if (type == EVENT)
		return evs_catalog()->event_type;
	if (type == EVENT_ARRAY)
		return evs_catalog()->event_array_type;
	if (type == NEW_EVENT_ARRAY)
		return evs_catalog()->new_event_array_type;
	return type;
}

static Form_pg_proc
get_function(Oid function, HeapTuple *tuple)
{
	*tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(*tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	return (Form_pg_proc) GETSTRUCT(*tuple);
}

/* The accepted signature that a function has, or NULL. */
static const Signature *
match_signature(Oid function, const Use *use)
{
	HeapTuple	tuple;
	Form_pg_proc proc = get_function(function, &tuple);
	const Signature *found = NULL;

	for (int i = 0; i < use->count && found == NULL; i++)
	{
		const Signature *signature = &use->signatures[i];
		bool		fits;

		fits = proc->prokind == PROKIND_FUNCTION && !proc->proretset &&
			proc->pronargs == signature->nargs &&
			proc->prorettype == real_type(signature->result);
		for (int arg = 0; fits && arg < signature->nargs; arg++)
			fits = proc->proargtypes.values[arg] == real_type(signature->args[arg]);
		if (fits)
			found = signature;
	}
	ReleaseSysCache(tuple);

	return found;
}

/* "app.f(integer) returns text, app.f() returns void" */
static void
describe(StringInfo list, Oid function)
{
	HeapTuple	tuple;
	Form_pg_proc proc = get_function(function, &tuple);

	if (list->len > 0)
		appendStringInfoString(list, ", ");
	appendStringInfoString(list, format_procedure_qualified(function));
	if (proc->prokind == PROKIND_PROCEDURE)
		appendStringInfoString(list, " (a procedure)");
	else
		appendStringInfo(list, " returns %s%s", proc->proretset ? "setof " : "",
						 format_type_be(proc->prorettype));
	ReleaseSysCache(tuple);
}

/*
 * All functions that the name can mean: the one with this signature, or those
 * of this name that the search_path finds.
 */
static List *
find_candidates(const char *name)
{
	size_t		length = strlen(name);
	FuncCandidateList candidate;
	List	   *candidates = NIL;
	int			flags;

	if (length > 0 && name[length - 1] == ')')
		return list_make1_oid(DatumGetObjectId(DirectFunctionCall1(regprocedurein,
																   CStringGetDatum(name))));

	candidate = FuncnameGetCandidates(stringToQualifiedNameList(name, NULL), -1, NIL,
									  false, false, false, true, &flags);
	for (; candidate != NULL; candidate = candidate->next)
		candidates = lappend_oid(candidates, candidate->oid);

	return candidates;
}

int
evs_quote_as_needed(void)
{
	int			nest_level = NewGUCNestLevel();

	(void) set_config_option("quote_all_identifiers", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

static char *
signature_of(Oid function)
{
	int			nest_level = evs_quote_as_needed();
	char	   *signature = format_procedure_qualified(function);

	AtEOXact_GUC(true, nest_level);
	return signature;
}

/* Nobody drops it until we have committed; whoever was faster is noticed. */
static void
keep_function(Oid function, const char *name)
{
	LockDatabaseObject(ProcedureRelationId, function, 0, AccessShareLock);
	if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function \"%s\" does not exist", name),
				 errdetail("It was dropped meanwhile."),
				 errhint("Create it again, or name another.")));
}

static char *
resolve(const char *name, const Use *use, int *kind)
{
	List	   *candidates = find_candidates(name);
	StringInfoData rejected;
	StringInfoData accepted;
	Oid			function = InvalidOid;
	int			count = 0;
	ListCell   *cell;

	initStringInfo(&rejected);
	initStringInfo(&accepted);

	foreach(cell, candidates)
	{
		const Signature *signature = match_signature(lfirst_oid(cell), use);

		if (signature == NULL)
		{
			describe(&rejected, lfirst_oid(cell));
			continue;
		}
		function = lfirst_oid(cell);
		describe(&accepted, function);
		*kind = signature->kind;
		count++;
	}

	if (candidates == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function \"%s\" does not exist", name),
				 errhint("%s", use->hint)));
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function \"%s\" cannot be the %s of %s", name, use->noun, use->whole),
				 errdetail("There is: %s.", rejected.data),
				 errhint("%s", use->hint)));
	if (count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
				 errmsg("%s \"%s\" is ambiguous", use->noun, name),
				 errdetail("There are: %s.", accepted.data),
				 errhint("Give the signature, too.")));
	if (isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s \"%s\" is temporary", use->noun, name),
				 errhint("Other sessions cannot call it: create it in a schema.")));

	keep_function(function, name);
	return signature_of(function);
}

char *
evs_resolve_handler(const char *name, EvsKind *kind)
{
	int			result = 0;
	char	   *signature = resolve(name, &handler_use, &result);

	*kind = (EvsKind) result;
	return signature;
}

char *
evs_resolve_function(const char *name, EvsFunctionUse use)
{
	int			ignored;

	return resolve(name, &other_uses[use], &ignored);
}

Oid
evs_resolve_signature(const char *signature)
{
	return DatumGetObjectId(DirectFunctionCall1(regprocedurein,
												CStringGetDatum(signature)));
}

/*
 * Ownership.
 */

/*
 * The function belongs to the role that will run it, or to one that this role
 * is a member of.  A superuser is a member of all, but must not run what
 * others can replace at any time.  What comes with evsource nobody replaces.
 */
void
evs_resolve_check_function(const char *signature, const char *owner_name, const char *whole)
{
	Oid			owner = get_role_oid(owner_name, false);
	Oid			function = evs_resolve_signature(signature);
	HeapTuple	tuple;
	Oid			function_owner = get_function(function, &tuple)->proowner;

	ReleaseSysCache(tuple);

	if (getExtensionOfObject(ProcedureRelationId, function) ==
		get_extension_oid("evsource", true))
		return;
	if (superuser_arg(owner) && !superuser_arg(function_owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s belongs to role \"%s\"", signature,
						GetUserNameFromId(function_owner, false)),
				 errdetail("As part of %s of role \"%s\" it would run with the rights of a superuser.",
						   whole, owner_name),
				 errhint("Create the %s as the function's owner: see SET ROLE.",
						 strchr(whole, ' ') + 1)));
	if (!has_privs_of_role(owner, function_owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of function %s", signature),
				 errdetail("It is to run as role \"%s\", and belongs to role \"%s\".",
						   owner_name, GetUserNameFromId(function_owner, false)),
				 errhint("Have the function's owner do it, or give the function to the role.")));
}

/*
 * What was checked when the function was registered, for owners change: ALTER
 * FUNCTION OWNER, REASSIGN OWNED.  A superuser's function may be run by all, as
 * after a restore without owners.
 */
void
evs_resolve_check_trust(Oid function)
{
	Oid			user = GetUserId();
	HeapTuple	tuple;
	Oid			owner = get_function(function, &tuple)->proowner;

	ReleaseSysCache(tuple);

	if (owner == user || superuser_arg(owner))
		return;
	if (getExtensionOfObject(ProcedureRelationId, function) ==
		get_extension_oid("evsource", true))
		return;
	if (superuser_arg(user) || !has_privs_of_role(user, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("function %s must not run with the rights of role \"%s\"",
						format_procedure_qualified(function), GetUserNameFromId(user, false)),
				 errdetail("It belongs to role \"%s\" now, which could replace it.",
						   GetUserNameFromId(owner, false)),
				 errhint("Give the function, or what it is used for, another owner.")));
}

/* Its owner must be allowed to read what it is shown: every event. */
void
evs_resolve_check_may_read(const EvsProjection *projection, Oid owner)
{
	Oid			events = evs_catalog()->events;

	if (pg_class_aclcheck(events, owner, ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for projection \"%s\"", projection->name),
				 errdetail("Its owner \"%s\" may not select from evsource.events.",
						   projection->owner),
				 errhint("Grant SELECT on evsource.events to the owner, or give the projection another owner.")));

	if (check_enable_rls(events, owner, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("projection \"%s\" would bypass row security", projection->name),
				 errdetail("Policies on evsource.events limit what its owner \"%s\" may see.",
						   projection->owner),
				 errhint("Give the projection an owner with BYPASSRLS, or disable row security on evsource.events.")));
}

const char *
evs_resolve_foreign_table(const EvsProjection *projection)
{
	Oid			owner = get_role_oid(projection->owner, false);
	ListCell   *cell;

	foreach(cell, projection->tables)
	{
		List	   *names = stringToQualifiedNameList(lfirst(cell), NULL);
		Oid			table = RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, true);

		if (OidIsValid(table) && !object_ownercheck(RelationRelationId, table, owner))
			return lfirst(cell);
	}
	return NULL;
}

void
evs_resolve_check_owner(const EvsProjection *projection)
{
	Oid			owner = get_role_oid(projection->owner, false);
	const char *functions[] = {
		projection->handler,
		projection->key_function,
		projection->on_reset,
		projection->is_compatible,
		projection->migrate_state,
	};
	const char *foreign;

	for (int i = 0; i < lengthof(functions); i++)
		if (functions[i] != NULL)
			evs_resolve_check_function(functions[i], projection->owner, "a projection");

	evs_resolve_check_tables(projection);
	foreign = evs_resolve_foreign_table(projection);
	if (foreign != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table %s", foreign),
				 errdetail("A projection's reset empties its tables as the projection's owner, role \"%s\".",
						   projection->owner),
				 errhint("Give the table to that role, or let the table's owner create the projection.")));
	evs_resolve_check_may_read(projection, owner);
}

/*
 * Temporary objects go last: nobody can slip one under a name that the
 * projection means otherwise.
 */
char *
evs_resolve_search_path(void)
{
	StringInfoData path;
	List	   *schemas = fetch_search_path(false);
	int			nest_level = evs_quote_as_needed();
	ListCell   *cell;

	initStringInfo(&path);
	foreach(cell, schemas)
	{
		char	   *schema;

		if (isAnyTempNamespace(lfirst_oid(cell)))
			continue;
		schema = get_namespace_name(lfirst_oid(cell));
		if (schema != NULL)
			appendStringInfo(&path, "%s, ", quote_identifier(schema));
	}
	if (path.len == 0)
		appendStringInfoString(&path, "pg_catalog, ");
	appendStringInfoString(&path, "pg_temp");
	AtEOXact_GUC(true, nest_level);

	return path.data;
}
