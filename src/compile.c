/*
 * compile.c - let PL/pgSQL compile what a replay calls as if it were called live.
 *
 * PL/pgSQL looks the types of a function's variables up when it compiles the function, at
 * its first call in the session, and keeps them.  A handler that fills copies of its tables
 * is called with their schema first in the search_path.  If that is its first call, its
 * variables of a row type get that of a copy, which is soon gone: later calls then
 * fail with "cache lookup failed for type", be they of an append or of the next replay.
 *
 * So each PL/pgSQL function that is called with such a search_path is compiled before, with
 * the one that the projection has when it is live.  Rows of the copies are assigned to
 * variables of the tables' types column by column, as PL/pgSQL always does.
 *
 * The function manager asks whether a hook wants to know of the calls of a function, and
 * then tells it before each of them, with what the compiled function depends on: its input
 * collation and the types of its arguments.  A function with a search_path of its own finds
 * the same types whoever calls it, and is left alone.  So are triggers: they are compiled
 * for each trigger anew.
 *
 * To ask PL/pgSQL costs two changes of the search_path.  Each expression of each statement is
 * a caller of its own, so what was compiled is remembered for all of them.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/proclang.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "compile.h"
#include "handlers.h"
#include "handling.h"

/* What its call handler does first; other extensions call it, too. */
typedef void *(*Compile) (FunctionCallInfo fcinfo, bool for_validator);

/* What we know of a function, as long as whoever calls it does. */
typedef struct Called
{
	uint64		changes;		/* evs_handler_changes() when it was seen to */
	Datum		of_previous;	/* what the previous hook knows */
} Called;

/* Of a function whose types are its own, PL/pgSQL has one version for each input collation. */
typedef struct Version
{
	Oid			function;
	Oid			collation;
} Version;

/* Those that were compiled, with which search_path, and evs_handler_changes() then. */
static HTAB *versions = NULL;
static MemoryContext versions_context = NULL;
static const char *versions_path;
static uint64 versions_changes;

static needs_fmgr_hook_type previous_needs_hook = NULL;
static fmgr_hook_type previous_hook = NULL;

/* NULL: this PL/pgSQL does not let us. */
static Compile
find_compile(void)
{
	static bool looked = false;
	static Compile compile = NULL;

	if (!looked)
		compile = (Compile) (void *) load_external_function("$libdir/plpgsql", "plpgsql_compile", false, NULL);
	looked = true;
	return compile;
}

/* Is it in PL/pgSQL, and no trigger? */
static bool
is_compiled(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	result = form->prorettype != TRIGGEROID && form->prorettype != EVENT_TRIGGEROID &&
		form->prolang == get_language_oid("plpgsql", true);
	ReleaseSysCache(tuple);
	return result;
}

/* Has it types that depend on the call? */
static bool
is_polymorphic(Oid function)
{
	Oid		   *types;
	int			count;
	bool		result = false;

	(void) get_func_signature(function, &types, &count);
	for (int i = 0; i < count && !result; i++)
		result = types[i] == ANYOID || IsPolymorphicType(types[i]);
	pfree(types);
	return result;
}

static Oid
input_collation(const FmgrInfo *function)
{
	return function->fn_expr != NULL ? exprInputCollation(function->fn_expr) : InvalidOid;
}

/* Forget what was compiled when functions were others, or for another search_path. */
static void
renew_versions(const char *search_path, uint64 changes)
{
	HASHCTL		control = {.keysize = sizeof(Version), .entrysize = sizeof(Version)};

	if (versions != NULL && versions_changes == changes && strcmp(versions_path, search_path) == 0)
		return;
	versions = NULL;
	if (versions_context == NULL)
		versions_context = AllocSetContextCreate(TopMemoryContext, "evsource compiled functions",
												 ALLOCSET_SMALL_SIZES);
	MemoryContextReset(versions_context);
	versions_path = MemoryContextStrdup(versions_context, search_path);
	versions_changes = changes;
	control.hcxt = versions_context;
	versions = hash_create("evsource compiled functions", 16, &control,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static bool
is_known(const FmgrInfo *function)
{
	Version		version = {function->fn_oid, input_collation(function)};

	return hash_search(versions, &version, HASH_FIND, NULL) != NULL;
}

static void
remember(const FmgrInfo *function)
{
	Version		version = {function->fn_oid, input_collation(function)};

	if (!is_polymorphic(function->fn_oid))
		(void) hash_search(versions, &version, HASH_ENTER, NULL);
}

/* It does nothing if PL/pgSQL has it already. */
static void
compile_live(const FmgrInfo *called, const char *search_path)
{
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	function = {.fn_oid = called->fn_oid, .fn_expr = called->fn_expr};
	Compile		compile = find_compile();
	int			nest_level;

	if (compile == NULL)
		return;
	SPI_connect();
	nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	function.fn_mcxt = CurrentMemoryContext;
	InitFunctionCallInfoData(*fcinfo, &function, 0, input_collation(called), NULL, NULL);
	(void) compile(fcinfo, false);
	AtEOXact_GUC(false, nest_level);
	SPI_finish();
}

static bool
needs_hook(Oid function)
{
	if (evs_handling_live_path() != NULL && is_compiled(function))
		return true;
	return previous_needs_hook != NULL && previous_needs_hook(function);
}

/* A function may be replaced between two calls. */
static void
before_call(Called *called, const FmgrInfo *function)
{
	uint64		changes = evs_handler_changes();
	const char *search_path = called->changes != changes ? evs_handling_live_path() : NULL;

	if (search_path == NULL)
		return;
	renew_versions(search_path, changes);
	if (!is_known(function) && is_compiled(function->fn_oid))
	{
		compile_live(function, search_path);
		renew_versions(search_path, changes);
		remember(function);
	}
	called->changes = changes;
}

static void
hook(FmgrHookEventType event, FmgrInfo *function, Datum *argument)
{
	Called	   *called = (Called *) DatumGetPointer(*argument);

	if (called == NULL)
	{
		called = MemoryContextAllocZero(function->fn_mcxt, sizeof(Called));
		*argument = PointerGetDatum(called);
	}
	if (event == FHET_START)
		before_call(called, function);
	if (previous_hook != NULL)
		previous_hook(event, function, &called->of_previous);
}

void
evs_compile_init(void)
{
	previous_needs_hook = needs_fmgr_hook;
	needs_fmgr_hook = needs_hook;
	previous_hook = fmgr_hook;
	fmgr_hook = hook;
}
