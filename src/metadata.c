/*
 * metadata.c - the metadata that a session or transaction adds to its appends.
 *
 * It lives in the setting evsource.metadata, so that SET LOCAL, savepoints and
 * poolers in transaction mode treat it as any other setting.  What is no JSON
 * object is refused when it is set.  The text is parsed once and kept for as long
 * as it stays the same.
 */
#include "evsource.h"

#include "common/jsonapi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "event.h"
#include "metadata.h"
#include "settings.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_set_metadata);

static char *parsed_text = NULL;	/* what "parsed" was made from */
static Jsonb *parsed = NULL;

/* malformed text is an error of jsonb_in, which does not know whose it is */
static void
name_setting(void *arg)
{
	errcontext("setting \"evsource.metadata\"");
}

/*
 * Is the text a JSON object, or nothing?  Called when the setting is set, which
 * may be while the server starts: nothing here needs a transaction or raises an
 * error.  What only jsonb refuses, such as \u0000, is found by the append.
 */
bool
evs_metadata_check_setting(char **value, void **extra, GucSource source)
{
	const char *text = *value;
	JsonLexContext *lex = NULL;

	if (text == NULL || text[0] == '\0')
		return true;

	lex = makeJsonLexContextCstringLen(lex, text, strlen(text), GetDatabaseEncoding(), false);
	if (pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS &&
		text[strspn(text, " \t\n\r")] == '{')
		return true;

	GUC_check_errdetail("It must be the text of a JSON object.");
	GUC_check_errhint("Set it to an object, such as {\"user\": \"ann\"}, or to nothing.");
	return false;
}

static bool
is_empty_object(Jsonb *jsonb)
{
	return JB_ROOT_IS_OBJECT(jsonb) && JB_ROOT_COUNT(jsonb) == 0;
}

static Jsonb *
session_metadata(void)
{
	Jsonb	   *fresh;
	MemoryContext old;
	ErrorContextCallback callback = {error_context_stack, name_setting, NULL};

	if (evs_metadata == NULL || evs_metadata[0] == '\0')
		return NULL;
	if (parsed_text != NULL && strcmp(parsed_text, evs_metadata) == 0)
		return parsed;

	error_context_stack = &callback;
	fresh = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(evs_metadata)));
	error_context_stack = callback.previous;
	if (!JB_ROOT_IS_OBJECT(fresh))
		elog(ERROR, "setting evsource.metadata is not an object");

	old = MemoryContextSwitchTo(TopMemoryContext);
	if (parsed_text)
		pfree(parsed_text);
	parsed_text = NULL;
	if (parsed)
		pfree(parsed);
	parsed = palloc(VARSIZE(fresh));
	memcpy(parsed, fresh, VARSIZE(fresh));
	parsed_text = pstrdup(evs_metadata);
	MemoryContextSwitchTo(old);
	return parsed;
}

Jsonb *
evs_metadata_for(Jsonb *given)
{
	Jsonb	   *session = session_metadata();
	Jsonb	   *merged;

	evs_check_metadata(given);
	if (session == NULL)
		merged = given;
	else if (given == NULL)
	{
		/* a copy: what a handler sets must not change what it handles */
		merged = palloc(VARSIZE(session));
		memcpy(merged, session, VARSIZE(session));
	}
	else
		merged = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
													JsonbPGetDatum(session),
													JsonbPGetDatum(given)));
	return merged == NULL || is_empty_object(merged) ? NULL : merged;
}

/*
 * A user who inserts through a view need not have any right on the table, not even on the
 * stream: the view's owner has it.
 */
Jsonb *
evs_metadata_for_row(Relation events, Jsonb *given)
{
	Oid			relid = RelationGetRelid(events);
	Oid			user = GetUserId();
	Jsonb	   *merged = evs_metadata_for(given);

	if (merged != NULL && merged != given &&
		pg_class_aclcheck(relid, user, ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, EVS_EVENTS_METADATA, user, ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, EVS_EVENTS_STREAM, user, ACL_INSERT) == ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set metadata of an event"),
				 errdetail("evsource.metadata is set, and you have no right to INSERT into column metadata of evsource.events."),
				 errhint("Set evsource.metadata to nothing, or have the right granted.")));
	return merged;
}

/*
 * evsource.set_metadata(metadata jsonb) returns void: the default metadata for
 * the rest of this transaction, in place of the setting; NULL for none.  22023 if
 * not an object.
 */
Datum
evsource_set_metadata(PG_FUNCTION_ARGS)
{
	char	   *value = "";

	if (!PG_ARGISNULL(0))
	{
		Jsonb	   *metadata = PG_GETARG_JSONB_P(0);

		if (!JB_ROOT_IS_OBJECT(metadata))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata must be a JSON object"),
					 errdetail("It is %s.", JB_ROOT_IS_SCALAR(metadata) ? "a scalar" : "an array"),
					 errhint("Pass an object, such as {\"user\": \"ann\"}, or NULL for none.")));
		value = JsonbToCString(NULL, &metadata->root, VARSIZE(metadata));
	}
	(void) set_config_option("evsource.metadata", value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	PG_RETURN_VOID();
}
