/*
 * subscription.c - subscriptions and their cursors as they are stored.
 */
#include "evsource.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event.h"
#include "parameters.h"
#include "query.h"
#include "scan.h"
#include "subscription.h"

/* longer is not a time to wait but a mistake (ms): a hundred years */
#define LONGEST_INTERVAL	INT64CONST(3155760000000)

static void
check_name(const char *name, const char *parameter)
{
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", parameter)));
	if (strlen(name) > EVS_MAX_SUBSCRIPTION_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of %s is too long", parameter),
				 errdetail("It has %zu bytes, the most is %d.", strlen(name),
						   EVS_MAX_SUBSCRIPTION_NAME)));
}

char *
evs_subscription_name(FunctionCallInfo fcinfo, int argument)
{
	char	   *name = evs_argument_text(fcinfo, argument);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("subscription must not be null")));
	check_name(name, "subscription");
	return name;
}

char *
evs_consumer_name(FunctionCallInfo fcinfo, int argument)
{
	char	   *name = evs_argument_text(fcinfo, argument);

	if (name != NULL)
		check_name(name, "consumer");
	return name;
}

void
evs_subscription_unknown(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("subscription \"%s\" does not exist", name),
			 errhint("Create it with evsource.create_subscription().")));
}

void
evs_subscription_check_rights(const char *name, const char *owner)
{
	Oid			role = get_role_oid(owner, true);

	if (OidIsValid(role) && has_privs_of_role(GetUserId(), role))
		return;
	if (has_privs_of_role(GetUserId(), evs_query_owner()))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of subscription \"%s\"", name),
			 errdetail("Its owner is role \"%s\".", owner),
			 errhint("Grant that role to the consumer, or give the subscription another owner.")));
}

int64
evs_interval_milliseconds(Interval *interval, const char *name)
{
	double		milliseconds = interval->time / 1000.0 +
		(interval->day + interval->month * 30.0) * 86400000.0;

	if (milliseconds < 0 || milliseconds > LONGEST_INTERVAL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 0 and a hundred years", name)));
	return (int64) ceil(milliseconds);
}

/* ---- loading ---- */

/* Values of the result's rows; NULL and 0 for null. */
static char *
text_value(EvsQueryResult *result, uint64 row, int column)
{
	MemoryContext old = MemoryContextSwitchTo(result->context);
	char	   *value = SPI_getvalue(result->rows[row], result->tupdesc, column);

	MemoryContextSwitchTo(old);
	return value;
}

static Datum
value(EvsQueryResult *result, uint64 row, int column)
{
	bool		is_null;
	Datum		datum = SPI_getbinval(result->rows[row], result->tupdesc, column, &is_null);

	return is_null ? (Datum) 0 : datum;
}

static int64
int64_value(EvsQueryResult *result, uint64 row, int column)
{
	bool		is_null;
	Datum		datum = SPI_getbinval(result->rows[row], result->tupdesc, column, &is_null);

	return is_null ? 0 : DatumGetInt64(datum);
}

static ArrayType *
array_value(EvsQueryResult *result, uint64 row, int column)
{
	MemoryContext old;
	ArrayType  *array = NULL;
	bool		is_null;
	Datum		datum = SPI_getbinval(result->rows[row], result->tupdesc, column, &is_null);

	old = MemoryContextSwitchTo(result->context);
	if (!is_null)
		array = DatumGetArrayTypePCopy(datum);
	MemoryContextSwitchTo(old);
	return array;
}

EvsSubscription *
evs_subscription_load(const char *name, const char *consumer)
{
	static EvsQuery query = {
		"select s.owner, s.categories, s.types, s.max_attempts, s.definition,"
		" exists (select from evsource.subscription_dead_letters d where d.subscription = $1 and d.retry),"
		" c.generation, c.partition, c.partitions, c.position, coalesce(c.until, 9223372036854775807),"
		" (c.lease_until is null or c.lease_until <= clock_timestamp() or coalesce(c.consumer = $2, false))"
		"  and (c.retry_at is null or c.retry_at <= clock_timestamp()),"
		" greatest(c.lease_until, c.retry_at)"
		" from evsource.subscriptions s join evsource.cursors c on c.subscription = s.subscription"
		" where s.subscription = $1 order by c.generation, c.partition",
		2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
	};
	EvsSubscription *subscription = palloc0(sizeof(EvsSubscription));
	Datum		values[2];
	char		nulls[] = "  ";
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ArrayType  *categories;
	ArrayType  *types;
	EvsQueryResult result;

	values[0] = CStringGetTextDatum(name);
	values[1] = consumer ? CStringGetTextDatum(consumer) : (Datum) 0;
	if (consumer == NULL)
		nulls[1] = 'n';

	evs_query_begin(&query, values, nulls, snapshot, &result);
	if (result.count == 0)
		evs_subscription_unknown(name);
	subscription->name = MemoryContextStrdup(result.context, name);
	subscription->owner = text_value(&result, 0, 1);
	categories = array_value(&result, 0, 2);
	types = array_value(&result, 0, 3);
	subscription->max_attempts = DatumGetInt32(value(&result, 0, 4));
	subscription->definition = DatumGetInt32(value(&result, 0, 5));
	subscription->has_retries = DatumGetBool(value(&result, 0, 6));
	subscription->partitions = DatumGetInt32(value(&result, 0, 9));
	subscription->cursors = MemoryContextAlloc(result.context,
											   sizeof(EvsCursor) * result.count);
	for (uint64 row = 0; row < result.count; row++)
	{
		EvsCursor  *cursor = &subscription->cursors[row];

		/* others begin where these end */
		cursor->generation = DatumGetInt32(value(&result, row, 7));
		if (cursor->generation != subscription->cursors[0].generation)
			break;
		subscription->ncursors++;
		cursor->partition = DatumGetInt32(value(&result, row, 8));
		cursor->position = int64_value(&result, row, 10);
		cursor->end = int64_value(&result, row, 11);
		cursor->is_free = DatumGetBool(value(&result, row, 12));
		cursor->free_at = int64_value(&result, row, 13);
	}
	evs_query_end(&result);
	UnregisterSnapshot(snapshot);

	evs_subscription_check_rights(name, subscription->owner);
	evs_filter_from_arrays(&subscription->filter, categories, types);
	return subscription;
}
