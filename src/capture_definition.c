/*
 * capture_definition.c - what the arguments of a capture trigger say.
 *
 *	evsource.capture('line', 'order_id', 'number', '--exclude', 'note', '--as', 'ann')
 *
 * They tell how the table is captured: a dump holds them, the table may be renamed,
 * and partitions inherit them.  Who appends is asked for there as well, but granted
 * elsewhere (capture_registry.c).
 */
#include "capture.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_trigger_arguments);

static void
refuse(const char *detail, const char *value)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid arguments of trigger function evsource.capture"),
			 errdetail(detail, value),
			 errhint("They are the category and the key columns, then '--exclude' with columns and '--as' with a role if wanted. evsource.capture_table() writes them for you.")));
}

void
evs_capture_check_category(const char *category)
{
	if (category[0] == '\0' || strchr(category, '-') != NULL ||
		strlen(category) > EVS_MAX_NAME / 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid category \"%s\"", category),
				 errdetail("The category is what stands before the first \"-\" in the name of a stream, and has at most %d bytes here.",
						   EVS_MAX_NAME / 2),
				 errhint("Use a name without \"-\", such as \"order\".")));
}

void
evs_capture_parse(char *const *arguments, int count, EvsCaptureDefinition *definition)
{
	List	  **names = &definition->key;

	memset(definition, 0, sizeof(EvsCaptureDefinition));
	if (count == 0)
		refuse("There are none.", NULL);
	definition->category = arguments[0];
	evs_capture_check_category(definition->category);

	for (int i = 1; i < count; i++)
	{
		if (strcmp(arguments[i], EVS_CAPTURE_EXCLUDE) == 0)
			names = &definition->exclude;
		else if (strcmp(arguments[i], EVS_CAPTURE_AS) == 0)
		{
			if (i != count - 2)
				refuse("\"%s\" is not followed by one role, the last argument.", arguments[i]);
			definition->as = arguments[++i];
		}
		else if (strncmp(arguments[i], "--", 2) == 0)
			refuse("\"%s\" is not known.", arguments[i]);
		else
			*names = lappend(*names, arguments[i]);
	}
	if (definition->key == NIL)
		refuse("There is no key column.", NULL);
}

bool
evs_capture_has_arguments(const Trigger *trigger, char *const *arguments, int count)
{
	if (trigger->tgnargs != count)
		return false;
	for (int i = 0; i < count; i++)
		if (strcmp(trigger->tgargs[i], arguments[i]) != 0)
			return false;
	return true;
}

/*
 * evsource._trigger_arguments(trigger oid) returns text[]: in the form that
 * evsource.capture gets them.  NULL when there is no such trigger.
 */
Datum
evsource_trigger_arguments(PG_FUNCTION_ARGS)
{
	Relation	triggers_catalog = table_open(TriggerRelationId, AccessShareLock);
	ArrayBuildState *result = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(PG_GETARG_OID(0)));
	scan = systable_beginscan(triggers_catalog, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		int			count = ((Form_pg_trigger) GETSTRUCT(tuple))->tgnargs;
		bool		isnull;
		Datum		datum = heap_getattr(tuple, Anum_pg_trigger_tgargs,
										 RelationGetDescr(triggers_catalog), &isnull);
		char	   *argument = isnull ? NULL : VARDATA_ANY(DatumGetByteaPP(datum));

		/* they stand one behind the other, each with its end */
		for (int i = 0; argument != NULL && i < count; i++, argument += strlen(argument) + 1)
			result = accumArrayResult(result, CStringGetTextDatum(argument), false,
									  TEXTOID, CurrentMemoryContext);
	}
	systable_endscan(scan);
	table_close(triggers_catalog, AccessShareLock);
	PG_RETURN_DATUM(makeArrayResult(result, CurrentMemoryContext));
}
