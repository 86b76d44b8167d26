/*
 * append_json.c - append what one JSON array says, for clients without arrays.
 *
 * A key that is not known is an error: a misspelt "occured_at" must not get
 * lost in silence.
 */
#include "evsource.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "append.h"
#include "metadata.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_append_json);

/* which element is being read, for the error's context */
static void
name_element(void *arg)
{
	errcontext("element %d of the array of events", *(int *) arg);
}

static const char *
json_type_name(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return "null";
		case jbvString:
			return "a string";
		case jbvNumeric:
			return "a number";
		case jbvBool:
			return "a boolean";
		case jbvArray:
			return "an array";
		case jbvObject:
			return "an object";
		default:
			return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data) ?
				"an object" : "an array";
	}
}

static text *
take_string(const JsonbValue *value, const char *key)
{
	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of an event must be a string", key),
				 errdetail("It is %s.", json_type_name(value)),
				 errhint("Leave out what the event does not have.")));
	return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
}

static char *
take_cstring(const JsonbValue *value, const char *key)
{
	return text_to_cstring(take_string(value, key));
}

static void
take_time(EvsEvent *event, const JsonbValue *value, const char *key)
{
	if (value->type == jbvNull)
		return;
	if (event->has_occurred_at)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"time\" and \"occurred_at\" of an event are the same"),
				 errhint("Give one of them.")));
	event->has_occurred_at = true;
	event->occurred_at =
		DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
												CStringGetDatum(take_cstring(value, key)),
												ObjectIdGetDatum(InvalidOid),
												Int32GetDatum(-1)));
}

/* The number, which is not rounded. */
static int
whole_number(Numeric number, const char *key)
{
	Datum		value = NumericGetDatum(number);
	Datum		whole = DirectFunctionCall2(numeric_trunc, value, Int32GetDatum(0));
	float8		size = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, value));

	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, value, whole)) ||
		size < PG_INT32_MIN || size > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of an event must be a whole number between 1 and %d",
						key, PG_INT16_MAX),
				 errdetail("It is %s.",
						   DatumGetCString(DirectFunctionCall1(numeric_out, value))),
				 errhint("Leave it out for the newest version of the event's type.")));
	return DatumGetInt32(DirectFunctionCall1(numeric_int4, value));
}

static void
take_schema_version(EvsEvent *event, const JsonbValue *value, const char *key)
{
	if (value->type == jbvNull)
		return;
	if (value->type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of an event must be a number", key),
				 errdetail("It is %s.", json_type_name(value)),
				 errhint("Leave out what the event does not have.")));
	event->schema_version = evs_check_schema_version(whole_number(value->val.numeric, key));
}

static void
take_pair(EvsEvent *event, const char *key, JsonbValue *value)
{
	if (strcmp(key, "type") == 0)
		event->type = take_string(value, key);
	else if (strcmp(key, "data") == 0)
		event->data = JsonbValueToJsonb(value);
	else if (strcmp(key, "metadata") == 0)
	{
		if (value->type != jbvNull)
			event->metadata = JsonbValueToJsonb(value);
	}
	else if (strcmp(key, "id") == 0)
	{
		if (value->type == jbvNull)
			return;
		event->has_id = true;
		event->id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in,
													   CStringGetDatum(take_cstring(value, key))));
	}
	else if (strcmp(key, "schema_version") == 0)
		take_schema_version(event, value, key);
	else if (strcmp(key, "occurred_at") == 0 || strcmp(key, "time") == 0)
		take_time(event, value, key);
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown key \"%s\" in an event", key),
				 errdetail("An event has \"type\", \"data\", \"metadata\", \"id\", \"schema_version\" and \"occurred_at\" (or \"time\")."),
				 errhint("Put what the event says into its data.")));
}

static void
take_element(EvsEvent *event, JsonbValue *element)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;

	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an event must be a JSON object"),
				 errdetail("It is %s.", json_type_name(element)),
				 errhint("Pass an array of objects such as {\"type\": \"Opened\", \"data\": {}}.")));

	iterator = JsonbIteratorInit(element->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
			take_pair(event, key, &value);
	}

	evs_check_type(event->type);
	if (event->data == NULL)
		event->data = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	event->metadata = evs_metadata_for(event->metadata);
}

/*
 * evsource.append_json(stream text, events jsonb, expected_version bigint)
 *		returns (first_version, version, position, stored)
 *
 * Errors as append_batch; 22023 for what is not an array of events, with the
 * element's number in the context.
 */
Datum
evsource_append_json(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	int64		expected_version = evs_expected_version(fcinfo, 2);
	Jsonb	   *events;
	EvsBatch	batch;
	EvsAppended appended;
	ErrorContextCallback callback;
	int			element;

	evs_check_stream(stream);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("array of events must not be null"),
				 errhint("Pass an empty array to append nothing.")));
	events = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_ARRAY(events) || JB_ROOT_IS_SCALAR(events))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events must be a JSON array"),
				 errdetail("They are %s.", JB_ROOT_IS_OBJECT(events) ? "an object" : "a scalar"),
				 errhint("Put a single event into an array, or call evsource.append.")));

	batch.count = JB_ROOT_COUNT(events);
	batch.events = palloc0(Max(batch.count, 1) * sizeof(EvsEvent));

	callback.callback = name_element;
	callback.arg = &element;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	for (element = 1; element <= batch.count; element++)
	{
		EvsEvent   *event = &batch.events[element - 1];

		CHECK_FOR_INTERRUPTS();
		event->stream = stream;
		take_element(event, getIthJsonbValueFromContainer(&events->root, element - 1));
	}
	error_context_stack = callback.previous;

	evs_append(stream, &batch, expected_version, &appended);
	PG_RETURN_DATUM(evs_append_result(&appended));
}
