/*
 * append.c - the way in.
 *
 * The order of the steps is the promise of the log:
 *
 *	1. RowExclusiveLock on events: from here on the list of inline projections
 *	   cannot change under us (who changes it takes ShareRowExclusiveLock)
 *	2. the stream's lock, then its version: nobody else appends to it now
 *	   (or, where the session knows where the expected last event is, that
 *	   event: if another has come behind it, storing the next one tells)
 *	3. ids that are stored already, then the expected version, then the data
 *	   (so that what was stored once is recognised whatever its rules are now;
 *	   only the policies of row security are asked before: who may not store such
 *	   events learns nothing of what is stored, and locks nothing)
 *	4. the bound, the positions, the rows (store.c)
 *	5. inline projections (dispatch.c), in the same transaction
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "append.h"
#include "barrier.h"
#include "catalog.h"
#include "dispatch.h"
#include "duplicate.h"
#include "event.h"
#include "gate.h"
#include "intake.h"
#include "metadata.h"
#include "pure_call.h"
#include "read.h"
#include "store.h"
#include "store_insert.h"
#include "streams.h"
#include "types.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_append);
PG_FUNCTION_INFO_V1(evsource_append_batch);

/* INSERT on the table, or on each column that the append writes. */
static void
check_insert_privilege(Relation events, const EvsBatch *batch)
{
	static const AttrNumber written[] = {
		EVS_EVENTS_STREAM, EVS_EVENTS_TYPE, EVS_EVENTS_DATA,
		EVS_EVENTS_METADATA, EVS_EVENTS_OCCURRED_AT, EVS_EVENTS_ID
	};
	Oid			relid = RelationGetRelid(events);
	Oid			user = GetUserId();
	AclResult	result = pg_class_aclcheck(relid, user, ACL_INSERT);

	if (result == ACLCHECK_OK)
		return;
	for (int i = 0; i < lengthof(written); i++)
		if (pg_attribute_aclcheck(relid, written[i], user, ACL_INSERT) != ACLCHECK_OK)
			aclcheck_error(result, OBJECT_TABLE, RelationGetRelationName(events));
	if (evs_store_has_versions(batch) &&
		pg_attribute_aclcheck(relid, EVS_EVENTS_SCHEMA_VERSION, user, ACL_INSERT) != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, RelationGetRelationName(events));
}

/* which event is being taken, for the error's context */
static void
name_event(void *arg)
{
	errcontext("event %d of the batch", *(int *) arg);
}

void
evs_append_check(Relation events, const EvsBatch *batch)
{
	check_insert_privilege(events, batch);
	evs_pure_check_append();
}

void
evs_append_validate(EvsBatch *batch)
{
	EvsTypeRun *run = evs_types_any() ? evs_type_run() : NULL;
	MemoryContext context;
	MemoryContext caller;
	int			number;
	ErrorContextCallback callback = {error_context_stack, name_event, &number};

	if (run == NULL)
	{
		for (int i = 0; i < batch->count; i++)
			evs_type_check_undefined(&batch->events[i]);
		return;
	}

	context = AllocSetContextCreate(CurrentMemoryContext, "evsource validate",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	if (batch->count > 1)
		error_context_stack = &callback;
	for (int i = 0; i < batch->count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		number = i + 1;
		evs_type_validate(run, &batch->events[i]);
		MemoryContextReset(context);
	}
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* Who is told of the events now gets data of the newest version, as all readers do. */
static void
upcast(EvsBatch *batch)
{
	EvsTypeRun *run = evs_types_any() ? evs_type_run() : NULL;

	for (int i = 0; run != NULL && i < batch->count; i++)
		evs_type_upcast(run, &batch->events[i]);
}

void
evs_append_dispatch(EvsBatch *batch)
{
	/* what is called next, in this very statement, sees the events */
	CommandCounterIncrement();
	if (!evs_intake_defer(batch))
	{
		upcast(batch);
		evs_dispatch_inline(batch);
	}
}

/*
 * Can evs_append_validate refuse the batch?  Then the stream's version has to be
 * known before: a wrong one is the answer, whatever is wrong with the data.
 */
static bool
may_be_refused(const EvsBatch *batch)
{
	return evs_types_any() || evs_store_has_versions(batch);
}

/*
 * An empty batch: the expected version is compared, and the stream's returned to who
 * may know it.  Where policies say which streams are whose, one that nothing is
 * stored in is not locked, and what the policies show is all there is.
 */
static void
append_nothing(Relation events, text *stream, int64 expected_version, bool secured,
			   EvsAppended *appended)
{
	int64		version;

	if (secured)
	{
		(void) evs_read_check_access();
		version = evs_read_secured_version(stream, PG_INT64_MAX);
	}
	else
		version = evs_stream_lock(events, stream, Max(expected_version, 0));
	evs_stream_check_version(events, stream, expected_version, version);
	appended->version = version;
	appended->version_is_hidden = version != expected_version &&
		!evs_store_may_tell_version(events, stream, version);
}

void
evs_append(text *stream, EvsBatch *batch, int64 expected_version, EvsAppended *appended)
{
	Relation	events;
	bool		direct;
	bool		secured;
	int64		version = 0;
	EvsEvent   *last;

	evs_require_writable("evsource.append()");

	memset(appended, 0, sizeof(EvsAppended));
	evs_gate_pass();
	events = evs_catalog_open(evs_catalog()->events, RowExclusiveLock);
	evs_append_check(events, batch);

	secured = evs_store_is_secured(events);
	if (batch->count == 0)
	{
		append_nothing(events, stream, expected_version, secured, appended);
		table_close(events, NoLock);
		return;
	}

	direct = evs_store_is_direct(events);
	if (!secured || (evs_any_id(batch) && evs_may_ask_for_duplicates(events, stream, batch)))
	{
		if (direct && expected_version > 0 && !may_be_refused(batch) &&
			evs_stream_lock_behind(events, stream, expected_version))
			version = expected_version;
		else
			version = evs_stream_lock(events, stream, Max(expected_version, 0));
		if (evs_find_duplicates(events, stream, batch, appended))
		{
			table_close(events, NoLock);
			return;
		}
	}
	/* under policies they have the first word: the INSERT compares the versions */
	if (!secured)
		evs_stream_check_version(events, stream, expected_version, version);

	if (direct)
	{
		evs_append_validate(batch);
		evs_store_batch(events, batch, version, expected_version);
		table_close(events, NoLock);
		evs_append_dispatch(batch);
	}
	else
	{
		table_close(events, NoLock);
		evs_store_insert(stream, batch, expected_version);
	}

	last = &batch->events[batch->count - 1];
	appended->first_version = batch->events[0].version;
	appended->version = last->version;
	appended->position = last->position;
	evs_event_id(last, &appended->id);
	appended->stored = true;
}

int64
evs_expected_version(FunctionCallInfo fcinfo, int argument)
{
	int64		expected;

	if (PG_ARGISNULL(argument))
		return EVS_EXPECTED_ANY;
	expected = PG_GETARG_INT64(argument);
	if (expected < 0 && expected != EVS_EXPECTED_EXISTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid expected version %lld", (long long) expected),
				 errdetail("Valid values are null (any version), 0 (the stream must not exist), a version, and -4 (the stream must exist)."),
				 errhint("Use 0 to require that the stream does not exist.")));
	return expected;
}

/*
 * A row of one of the composite types that appends return.  Where its description is
 * stays the same for the session, and is looked up once; what is there may change.
 */
static Datum
result_row(TypeCacheEntry **entry, Oid type, Datum *values, bool *nulls)
{
	if (*entry == NULL || (*entry)->type_id != type || (*entry)->tupDesc == NULL)
		*entry = lookup_type_cache(type, TYPECACHE_TUPDESC);
	return HeapTupleGetDatum(heap_form_tuple((*entry)->tupDesc, values, nulls));
}

static Datum
single_result(const EvsAppended *appended)
{
	static TypeCacheEntry *entry = NULL;
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = Int64GetDatum(appended->version);
	values[1] = Int64GetDatum(appended->position);
	values[2] = UUIDPGetDatum(&appended->id);
	values[3] = BoolGetDatum(appended->stored);
	return result_row(&entry, evs_catalog()->append_result, values, nulls);
}

Datum
evs_append_result(const EvsAppended *appended)
{
	static TypeCacheEntry *entry = NULL;
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = Int64GetDatum(appended->first_version);
	nulls[0] = appended->first_version == 0;
	values[1] = Int64GetDatum(appended->version);
	nulls[1] = appended->version_is_hidden;
	values[2] = Int64GetDatum(appended->position);
	nulls[2] = appended->position == 0;
	values[3] = BoolGetDatum(appended->stored);
	return result_row(&entry, evs_catalog()->append_batch_result, values, nulls);
}

/*
 * evsource.append(stream text, type text, data jsonb, metadata jsonb,
 *		expected_version bigint, id uuid, occurred_at timestamptz,
 *		schema_version integer)
 *		returns (version, position, id, stored)
 *
 * Errors: VE001 wrong expected version, VE002 duplicate event id, VE004 data that
 * its type does not allow, 22004 and 22023 for what is not an event, 42501 without the right to INSERT, 40001
 * under REPEATABLE READ when the stream moved on.
 */
Datum
evsource_append(PG_FUNCTION_ARGS)
{
	EvsEvent	event = {0};
	EvsBatch	batch = {&event, 1};
	int64		expected_version;
	EvsAppended appended;

	event.stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	evs_check_stream(event.stream);
	event.type = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	evs_check_type(event.type);
	evs_check_data(PG_ARGISNULL(2));
	event.data = PG_GETARG_JSONB_P(2);
	event.metadata = evs_metadata_for(PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3));
	expected_version = evs_expected_version(fcinfo, 4);
	event.has_id = !PG_ARGISNULL(5);
	if (event.has_id)
		event.id = *PG_GETARG_UUID_P(5);
	event.has_occurred_at = !PG_ARGISNULL(6);
	if (event.has_occurred_at)
		event.occurred_at = PG_GETARG_TIMESTAMPTZ(6);
	if (!PG_ARGISNULL(7))
		event.schema_version = evs_check_schema_version(PG_GETARG_INT32(7));

	evs_append(event.stream, &batch, expected_version, &appended);
	PG_RETURN_DATUM(single_result(&appended));
}

/* One argument of append_batch, taken apart. */
typedef struct BatchArray
{
	const char *name;
	Datum	   *values;
	bool	   *nulls;
	int			count;
} BatchArray;

static void
take_array(FunctionCallInfo fcinfo, int argument, const char *name, Oid type,
		   bool required, BatchArray *result)
{
	ArrayType  *array;
	int16		typlen;
	bool		typbyval;
	char		typalign;

	result->name = name;
	result->count = -1;
	if (PG_ARGISNULL(argument))
	{
		if (required)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("array \"%s\" must not be null", name),
					 errhint("Pass an empty array to append nothing.")));
		return;
	}
	array = PG_GETARG_ARRAYTYPE_P(argument);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("array \"%s\" must have one dimension", name),
				 errdetail("It has %d dimensions.", ARR_NDIM(array)),
				 errhint("Pass one element per event.")));
	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	deconstruct_array(array, type, typlen, typbyval, typalign,
					  &result->values, &result->nulls, &result->count);
	for (int i = 0; required && i < result->count; i++)
		if (result->nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("array \"%s\" must not contain nulls", name),
					 errdetail("Element %d is null.", i + 1),
					 errhint("Every event has a type and data; data may be the JSON value 'null'.")));
}

static void
check_same_length(const BatchArray *array, const BatchArray *types)
{
	if (array->count >= 0 && array->count != types->count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays \"%s\" and \"%s\" must have the same length", types->name, array->name),
				 errdetail("\"%s\" has %d elements, \"%s\" has %d.",
						   types->name, types->count, array->name, array->count),
				 errhint("Pass one element per event.")));
}

static bool
has_element(const BatchArray *array, int i)
{
	return array->count >= 0 && !array->nulls[i];
}

/*
 * evsource.append_batch(stream text, types text[], data jsonb[], metadata jsonb[],
 *		expected_version bigint, ids uuid[], occurred_at timestamptz[],
 *		schema_versions integer[])
 *		returns (first_version, version, position, stored)
 *
 * metadata, ids, occurred_at and schema_versions may be NULL, whole or an element:
 * the event has none.  Errors as append, and 2202E for arrays that do not fit together.
 */
Datum
evsource_append_batch(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	int64		expected_version = evs_expected_version(fcinfo, 4);
	BatchArray	types,
				data,
				metadata,
				ids,
				occurred_at,
				schema_versions;
	EvsBatch	batch;
	EvsAppended appended;
	int			number;
	ErrorContextCallback callback = {error_context_stack, name_event, &number};

	evs_check_stream(stream);
	take_array(fcinfo, 1, "types", TEXTOID, true, &types);
	take_array(fcinfo, 2, "data", JSONBOID, true, &data);
	take_array(fcinfo, 3, "metadata", JSONBOID, false, &metadata);
	take_array(fcinfo, 5, "ids", UUIDOID, false, &ids);
	take_array(fcinfo, 6, "occurred_at", TIMESTAMPTZOID, false, &occurred_at);
	take_array(fcinfo, 7, "schema_versions", INT4OID, false, &schema_versions);
	check_same_length(&data, &types);
	check_same_length(&metadata, &types);
	check_same_length(&ids, &types);
	check_same_length(&occurred_at, &types);
	check_same_length(&schema_versions, &types);

	batch.count = types.count;
	batch.events = palloc0(Max(batch.count, 1) * sizeof(EvsEvent));
	error_context_stack = &callback;
	for (int i = 0; i < batch.count; i++)
	{
		EvsEvent   *event = &batch.events[i];

		number = i + 1;
		event->stream = stream;
		event->type = DatumGetTextPP(types.values[i]);
		evs_check_type(event->type);
		event->data = DatumGetJsonbP(data.values[i]);
		event->metadata = evs_metadata_for(has_element(&metadata, i) ?
										   DatumGetJsonbP(metadata.values[i]) : NULL);
		event->has_id = has_element(&ids, i);
		if (event->has_id)
			event->id = *DatumGetUUIDP(ids.values[i]);
		event->has_occurred_at = has_element(&occurred_at, i);
		if (event->has_occurred_at)
			event->occurred_at = DatumGetTimestampTz(occurred_at.values[i]);
		if (has_element(&schema_versions, i))
			event->schema_version =
				evs_check_schema_version(DatumGetInt32(schema_versions.values[i]));
	}
	error_context_stack = callback.previous;

	evs_append(stream, &batch, expected_version, &appended);
	PG_RETURN_DATUM(evs_append_result(&appended));
}
