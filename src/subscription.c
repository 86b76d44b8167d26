/*
 * subscription.c - subscriptions and their cursors as they are stored.
 */
#include "evsource.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "parameters.h"
#include "rights.h"
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
				 errmsg("%s must not be empty", parameter),
				 errhint("Choose a name.")));
	if (strlen(name) > EVS_MAX_SUBSCRIPTION_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of %s is too long", parameter),
				 errdetail("It has %zu bytes, at most %d are allowed.", strlen(name),
						   EVS_MAX_SUBSCRIPTION_NAME),
				 errhint("Choose a shorter name.")));
}

char *
evs_subscription_name(FunctionCallInfo fcinfo, int argument)
{
	char	   *name = evs_argument_text(fcinfo, argument);

	evs_argument_require(fcinfo, argument, "subscription");
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
	if (!evs_has_rights_of(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of subscription \"%s\"", name),
				 evs_errdetail_owner(owner),
				 OidIsValid(get_role_oid(owner, true)) ?
				 errhint("Grant that role to the consumer, or give the subscription another owner.") :
				 errhint("Have a superuser or the owner of evsource give it another one: evsource.alter_subscription('%s', owner => ...).",
						 name)));
}

int64
evs_interval_milliseconds(Interval *interval, const char *name)
{
	double		milliseconds = evs_interval_length(interval);

	if (milliseconds < 0 || milliseconds > LONGEST_INTERVAL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 0 and a hundred years", name),
				 errdetail("It is %.0f ms.", milliseconds),
				 errhint("Pass an interval within these bounds.")));
	return (int64) ceil(milliseconds);
}

/* ---- loading ---- */

/*
 * Without the executor: a consumer that waits looks here whenever it is woken.  The
 * columns, and their order, are those of sql/subscriptions.sql.
 */
enum
{
	SUBSCRIPTION_NAME = 1,		/* of cursors and letters, too */
	SUBSCRIPTION_OWNER,
	SUBSCRIPTION_CATEGORIES,
	SUBSCRIPTION_TYPES,
	SUBSCRIPTION_MAX_ATTEMPTS = 7,
	SUBSCRIPTION_DEFINITION = 9
};

enum
{
	CURSOR_GENERATION = 2,
	CURSOR_PARTITION,
	CURSOR_PARTITIONS,
	CURSOR_POSITION = 6,
	CURSOR_UNTIL,
	CURSOR_CONSUMER = 9,
	CURSOR_LEASE_UNTIL,
	CURSOR_HANDED_OUT,
	CURSOR_RETRY_AT = 19
};

/* A row that a scan is on. */
typedef struct Row
{
	HeapTuple	tuple;
	TupleDesc	desc;
} Row;

/* 0 for null */
static Datum
value(const Row *row, int column)
{
	bool		is_null;
	Datum		datum = heap_getattr(row->tuple, column, row->desc, &is_null);

	return is_null ? (Datum) 0 : datum;
}

static int64
bigint_value(const Row *row, int column, int64 null)
{
	bool		is_null;
	Datum		datum = heap_getattr(row->tuple, column, row->desc, &is_null);

	return is_null ? null : DatumGetInt64(datum);
}

static ArrayType *
array_value(const Row *row, int column)
{
	Datum		datum = value(row, column);

	return DatumGetPointer(datum) == NULL ? NULL : DatumGetArrayTypePCopy(datum);
}

static void
name_key(ScanKey key, const char *name)
{
	ScanKeyInit(key, SUBSCRIPTION_NAME, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
}

static void
load_definition(EvsSubscription *subscription, const char *name, Snapshot snapshot)
{
	Relation	subscriptions = evs_catalog_open(evs_catalog()->subscriptions, AccessShareLock);
	ArrayType  *categories;
	ArrayType  *types;
	ScanKeyData key;
	SysScanDesc scan;
	Row			row = {.desc = RelationGetDescr(subscriptions)};

	name_key(&key, name);
	scan = systable_beginscan(subscriptions, evs_catalog()->subscriptions_pkey, true, snapshot, 1, &key);
	row.tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(row.tuple))
		evs_subscription_unknown(name);
	subscription->owner = TextDatumGetCString(value(&row, SUBSCRIPTION_OWNER));
	categories = array_value(&row, SUBSCRIPTION_CATEGORIES);
	types = array_value(&row, SUBSCRIPTION_TYPES);
	subscription->max_attempts = DatumGetInt32(value(&row, SUBSCRIPTION_MAX_ATTEMPTS));
	subscription->definition = DatumGetInt32(value(&row, SUBSCRIPTION_DEFINITION));
	systable_endscan(scan);
	table_close(subscriptions, NoLock);
	evs_filter_from_arrays(&subscription->filter, categories, types);
}

static void
load_cursor(EvsCursor *cursor, const Row *row, const char *consumer, TimestampTz now)
{
	TimestampTz lease_until = bigint_value(row, CURSOR_LEASE_UNTIL, DT_NOBEGIN);
	TimestampTz retry_at = bigint_value(row, CURSOR_RETRY_AT, DT_NOBEGIN);
	Datum		holder = value(row, CURSOR_CONSUMER);
	TimestampTz free_at = Max(lease_until, retry_at);

	cursor->generation = DatumGetInt32(value(row, CURSOR_GENERATION));
	cursor->partition = DatumGetInt32(value(row, CURSOR_PARTITION));
	cursor->position = DatumGetInt64(value(row, CURSOR_POSITION));
	cursor->end = bigint_value(row, CURSOR_UNTIL, PG_INT64_MAX);
	cursor->out = bigint_value(row, CURSOR_HANDED_OUT, 0);
	cursor->is_free = retry_at <= now &&
		(lease_until <= now ||
		 (consumer != NULL && DatumGetPointer(holder) != NULL &&
		  strcmp(TextDatumGetCString(holder), consumer) == 0));
	cursor->free_at = free_at == DT_NOBEGIN ? 0 : free_at;
}

const char *
evs_cursor_problem(int partition, int partitions, int expected)
{
	if (partitions == expected && expected <= EVS_MAX_SUBSCRIPTION_PARTITIONS &&
		partition >= 0 && partition < expected)
		return NULL;
	return psprintf("One is for partition %d of %d, in a generation of %d; they are numbered from 0.",
					partition, partitions, expected);
}

const char *
evs_generation_problem(int generation, int older)
{
	return psprintf("Generation %d begins where generation %d ends, but that has no end.",
					generation, older);
}

const char *
evs_missing_cursors_problem(int cursors, int partitions, bool has_end)
{
	/* those of an older generation go as they come to their ends */
	if (cursors >= partitions || has_end)
		return NULL;
	return psprintf("There are %d for %d partitions: the others would be passed over.",
					cursors, partitions);
}

const char *
evs_no_cursors_problem(void)
{
	return "There are none.";
}

/* problem NULL: there is no such thing */
static void
refuse(const char *subscription, const char *problem)
{
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cursors of subscription \"%s\" cannot be used", subscription),
				 errdetail_internal("%s", problem),
				 errhint("evsource.seek_subscription() replaces all of them, at the position that it is given.")));
}

/* Those of the oldest generation: others begin where these end. */
static void
load_cursors(EvsSubscription *subscription, const char *consumer, Snapshot snapshot)
{
	Relation	cursors = evs_catalog_open(evs_catalog()->cursors, AccessShareLock);
	Relation	index = index_open(evs_catalog()->cursors_pkey, AccessShareLock);
	TimestampTz now = GetCurrentTimestamp();
	ScanKeyData key;
	SysScanDesc scan;
	Row			row = {.desc = RelationGetDescr(cursors)};

	name_key(&key, subscription->name);
	scan = systable_beginscan_ordered(cursors, index, snapshot, 1, &key);
	while (HeapTupleIsValid(row.tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		int			partitions = DatumGetInt32(value(&row, CURSOR_PARTITIONS));
		EvsCursor	cursor;

		load_cursor(&cursor, &row, consumer, now);
		if (subscription->ncursors == 0)
			subscription->partitions = partitions;
		else if (cursor.generation != subscription->cursors[0].generation)
		{
			/* nobody would come to those */
			if (subscription->cursors[0].end == PG_INT64_MAX)
				refuse(subscription->name,
					   evs_generation_problem(cursor.generation, subscription->cursors[0].generation));
			break;
		}
		refuse(subscription->name,
			   evs_cursor_problem(cursor.partition, partitions, subscription->partitions));
		if (subscription->cursors == NULL)
			subscription->cursors = palloc(sizeof(EvsCursor) * partitions);
		subscription->cursors[subscription->ncursors++] = cursor;
	}
	if (subscription->ncursors == 0)
		refuse(subscription->name, evs_no_cursors_problem());
	refuse(subscription->name,
		   evs_missing_cursors_problem(subscription->ncursors, subscription->partitions,
									   subscription->cursors[0].end != PG_INT64_MAX));
	systable_endscan_ordered(scan);
	index_close(index, NoLock);
	table_close(cursors, NoLock);
}

static bool
has_retries(const char *name, Snapshot snapshot)
{
	Relation	letters = evs_catalog_open(evs_catalog()->letters, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	name_key(&key, name);
	scan = systable_beginscan(letters, evs_catalog()->letters_retry, true, snapshot, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(letters, NoLock);
	return found;
}

EvsSubscription *
evs_subscription_load(const char *name, const char *consumer)
{
	EvsSubscription *subscription = palloc0(sizeof(EvsSubscription));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	subscription->name = pstrdup(name);
	load_definition(subscription, name, snapshot);
	evs_subscription_check_rights(name, subscription->owner);
	load_cursors(subscription, consumer, snapshot);
	subscription->has_retries = has_retries(name, snapshot);
	UnregisterSnapshot(snapshot);
	return subscription;
}
