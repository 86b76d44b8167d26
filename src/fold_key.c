/*
 * fold_key.c - the keys of an event.
 *
 * A key function returns text (null: the event belongs to no key) or text[]
 * (the event belongs to each of them).  It is called as handlers are.
 */
#include "fold_key.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "event.h"
#include "handlers.h"
#include "pure_call.h"
#include "resolve.h"

text *
evs_global_key(void)
{
	static text *key = NULL;

	if (key == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

		key = cstring_to_text("global");
		MemoryContextSwitchTo(caller);
	}
	return key;
}

/* Look the key function up, and see that it is what it must be. */
static void
find_function(EvsKeyer *keyer)
{
	const EvsProjection *projection = keyer->projection;
	Oid			argtypes[] = {evs_catalog()->event_type};
	Oid			function = evs_handler_lookup(projection->key_function, 1, argtypes);
	Oid			rettype;

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("key function %s of projection \"%s\" does not exist",
						projection->key_function, projection->name),
				 errhint("Create the function again, or drop the projection.")));

	rettype = get_func_rettype(function);
	if ((rettype != TEXTOID && rettype != TEXTARRAYOID) || get_func_retset(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("key function %s of projection \"%s\" has changed its signature",
						projection->key_function, projection->name),
				 errdetail("It must return text or text[]."),
				 errhint("Create the function as it was, or drop the projection.")));

	if (object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for key function %s of projection \"%s\"",
						projection->key_function, projection->name),
				 errdetail("The projection's owner \"%s\" may not execute it.",
						   projection->owner),
				 errhint("Grant EXECUTE on the function to the owner, or give the projection another owner.")));

	evs_resolve_check_trust(function);
	fmgr_info(function, &keyer->flinfo);
	keyer->returns_array = rettype == TEXTARRAYOID;
}

EvsKeyer *
evs_keyer_open(EvsProjection *projection)
{
	EvsKeyer   *keyer = palloc0(sizeof(EvsKeyer));

	keyer->projection = projection;
	keyer->context = AllocSetContextCreate(CurrentMemoryContext, "evsource keys",
										   ALLOCSET_SMALL_SIZES);
	if (projection->key_kind == EVS_KEY_FUNCTION)
		find_function(keyer);
	return keyer;
}

void
evs_keyer_close(EvsKeyer *keyer)
{
	MemoryContextDelete(keyer->context);
	pfree(keyer);
}

static text **
one_key(text *key)
{
	text	  **keys = palloc(sizeof(text *));

	keys[0] = key;
	return keys;
}

/* Add a key unless it is among the keys already. */
static void
add_key(const EvsProjection *projection, text **keys, int *count, text *key)
{
	int			length = VARSIZE_ANY_EXHDR(key);

	if (length == 0 || length > EVS_MAX_KEY_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key function %s of projection \"%s\" returned a key of %d bytes",
						projection->key_function, projection->name, length),
				 errdetail("A key has at least 1 and at most %d bytes.", EVS_MAX_KEY_BYTES),
				 errhint("For an event that belongs to no key, return null.")));
	for (int i = 0; i < *count; i++)
	{
		if (evs_same_text(keys[i], key))
			return;
	}
	keys[(*count)++] = key;
}

/* What the key function returned, as keys. */
static int
keys_from_result(EvsKeyer *keyer, Datum result, text ***keys)
{
	Datum	   *elements = &result;
	bool	   *nulls = NULL;
	int			nelements = 1;
	int			count = 0;

	if (keyer->returns_array)
		deconstruct_array(DatumGetArrayTypeP(result), TEXTOID, -1, false,
						  TYPALIGN_INT, &elements, &nulls, &nelements);
	*keys = palloc(sizeof(text *) * Max(nelements, 1));
	for (int i = 0; i < nelements; i++)
	{
		if (nulls == NULL || !nulls[i])
			add_key(keyer->projection, *keys, &count, DatumGetTextPP(elements[i]));
	}
	return count;
}

int
evs_keyer_keys(EvsKeyer *keyer, const EvsEvent *event, text ***keys)
{
	EvsEvent   *events[] = {(EvsEvent *) event};
	EvsHandlerContext errors;
	MemoryContext caller;
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;
	int			count = 0;

	MemoryContextReset(keyer->context);
	caller = MemoryContextSwitchTo(keyer->context);
	switch (keyer->projection->key_kind)
	{
		case EVS_KEY_STREAM:
			*keys = one_key(event->stream);
			count = 1;
			break;
		case EVS_KEY_GLOBAL:
			*keys = one_key(evs_global_key());
			count = 1;
			break;
		case EVS_KEY_FUNCTION:
			evs_handler_context_push(&errors, keyer->projection, events, 1);
			InitFunctionCallInfoData(*fcinfo, &keyer->flinfo, 1, InvalidOid, NULL, NULL);
			fcinfo->args[0].value = evs_event_datum(event);
			fcinfo->args[0].isnull = false;
			result = evs_pure_call(fcinfo, EVS_PURE_STATE);
			if (!fcinfo->isnull)
				count = keys_from_result(keyer, result, keys);
			evs_handler_context_pop(&errors);
			break;
	}
	MemoryContextSwitchTo(caller);
	return count;
}
