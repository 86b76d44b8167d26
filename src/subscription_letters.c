/*
 * subscription_letters.c - dead letters of subscriptions: events that consumers
 * could not process, and later events of the same streams behind them.
 *
 * All letters of a stream are tried again together, one by one in their order; so
 * the first of those that are to be tried again is the first of its stream.
 *
 * Locks: who writes or retries letters of a stream has its partition's cursor.
 * What is found without it may be gone, or no longer to be tried again, by the
 * time that the cursor is claimed: look again then.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "dead_letters.h"
#include "query.h"
#include "subscription.h"
#include "unit.h"

void
evs_subscription_bury(const char *subscription, int64 position, int attempts,
					  const char *reason)
{
	static EvsQuery query = {
		"insert into evsource.subscription_dead_letters"
		" (subscription, position, stream, version, type, attempts, reason, failed_at)"
		" select $1, e.position, e.stream, e.version, e.type, $3, $4, clock_timestamp()"
		" from evsource.events e where e.position = $2"
		" on conflict (subscription, position) do update"
		" set attempts = excluded.attempts, reason = excluded.reason, failed_at = excluded.failed_at",
		4, {TEXTOID, INT8OID, INT4OID, TEXTOID}, SPI_OK_INSERT
	};
	Datum		values[] = {
		CStringGetTextDatum(subscription), Int64GetDatum(position), Int32GetDatum(attempts),
		CStringGetTextDatum(reason)
	};

	(void) evs_query_run(&query, values, NULL);
}

/* An event behind a dead letter of its stream, which is to be tried again like that. */
void
evs_subscription_park_behind(const char *subscription, const EvsEvent *event)
{
	static EvsQuery query = {
		"insert into evsource.subscription_dead_letters"
		" (subscription, position, stream, version, type, attempts, reason, retry)"
		" select $1, $2, $3, $4, $5, 0, 'an earlier event of its stream is a dead letter',"
		"  coalesce((select d.retry from evsource.subscription_dead_letters d"
		"   where d.subscription = $1 and d.stream = $3 order by d.position limit 1), false)"
		" on conflict do nothing",
		5, {TEXTOID, INT8OID, TEXTOID, INT8OID, TEXTOID}, SPI_OK_INSERT
	};
	Datum		values[] = {
		CStringGetTextDatum(subscription), Int64GetDatum(event->position),
		PointerGetDatum(event->stream), Int64GetDatum(event->version), PointerGetDatum(event->type)
	};

	(void) evs_query_run(&query, values, NULL);
}

/* ---- streams that have some ---- */

/* So many letters are read at once; when there are more, each stream is asked for. */
#define FEW_LETTERS		200

/* columns of evsource.subscription_dead_letters */
#define LETTERS_SUBSCRIPTION	1
#define LETTERS_POSITION		2
#define LETTERS_STREAM			3
#define LETTERS_ATTEMPTS		6

struct EvsDeadStreams
{
	const char *subscription;
	EvsKeySet  *dead;
	EvsKeySet  *alive;			/* that were asked for; NULL: all that are dead are known */
};

/* Asked for at each fetch, and mostly there are none: without the executor. */
EvsDeadStreams *
evs_dead_streams(const char *subscription)
{
	Relation	letters = evs_catalog_open(evs_catalog()->letters, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsDeadStreams *streams = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int			count = 0;

	ScanKeyInit(&key, LETTERS_SUBSCRIPTION, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(subscription));
	scan = systable_beginscan(letters, evs_catalog()->letters_pkey, true, snapshot, 1, &key);
	while (count <= FEW_LETTERS && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		is_null;
		text	   *stream = DatumGetTextPP(heap_getattr(tuple, LETTERS_STREAM,
														 RelationGetDescr(letters), &is_null));
		EvsKeys		keys = {&stream, 1};

		if (count++ == 0)
		{
			streams = palloc0(sizeof(EvsDeadStreams));
			streams->subscription = subscription;
			streams->dead = evs_key_set_create();
		}
		evs_key_set_add(streams->dead, &keys, 0);
	}
	if (count > FEW_LETTERS)
		streams->alive = evs_key_set_create();
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(letters, NoLock);
	return streams;
}

static bool
has_letters(const char *subscription, text *stream)
{
	static EvsQuery query = {
		"select from evsource.subscription_dead_letters"
		" where subscription = $1 and stream = $2 limit 1",
		2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {CStringGetTextDatum(subscription), PointerGetDatum(stream)};

	return evs_query_run(&query, values, NULL) > 0;
}

bool
evs_dead_streams_have(EvsDeadStreams *streams, text *stream)
{
	EvsKeys		keys = {&stream, 1};
	bool		found;

	if (evs_key_set_has_before(streams->dead, &keys, PG_INT64_MAX))
		return true;
	if (streams->alive == NULL || evs_key_set_has_before(streams->alive, &keys, PG_INT64_MAX))
		return false;
	found = has_letters(streams->subscription, stream);
	evs_key_set_add(found ? streams->dead : streams->alive, &keys, 0);
	return found;
}

/* ---- letters that are done ---- */

void
evs_subscription_forget_letter(const char *subscription, int64 position)
{
	static EvsQuery query = {
		"delete from evsource.subscription_dead_letters where subscription = $1 and position = $2",
		2, {TEXTOID, INT8OID}, SPI_OK_DELETE
	};
	Datum		values[] = {CStringGetTextDatum(subscription), Int64GetDatum(position)};

	(void) evs_query_run(&query, values, NULL);
}

/* ---- again ---- */

/* Along the index, without a planner: it has no statistics when many have come at once. */
bool
evs_subscription_find_retry(const EvsSubscription *subscription, const int64 *upto,
							EvsLetter *letter)
{
	Relation	letters = evs_catalog_open(evs_catalog()->letters, AccessShareLock);
	Relation	index = index_open(evs_catalog()->letters_retry, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(letters);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, LETTERS_SUBSCRIPTION, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(subscription->name));
	scan = systable_beginscan_ordered(letters, index, snapshot, 1, &key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext_ordered(scan, ForwardScanDirection)))
	{
		bool		is_null;
		text	   *stream = DatumGetTextPP(heap_getattr(tuple, LETTERS_STREAM, desc, &is_null));

		CHECK_FOR_INTERRUPTS();
		letter->partition = evs_partition_of(stream, subscription->partitions);
		letter->position = DatumGetInt64(heap_getattr(tuple, LETTERS_POSITION, desc, &is_null));
		letter->attempts = DatumGetInt32(heap_getattr(tuple, LETTERS_ATTEMPTS, desc, &is_null));
		found = letter->position <= upto[letter->partition];
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, NoLock);
	table_close(letters, NoLock);
	return found;
}

void
evs_subscription_retry_failed(const char *subscription, int64 position, const char *reason)
{
	static EvsQuery count = {
		"update evsource.subscription_dead_letters"
		" set attempts = attempts + 1, reason = $3, failed_at = clock_timestamp()"
		" where subscription = $1 and position = $2",
		3, {TEXTOID, INT8OID, TEXTOID}, SPI_OK_UPDATE
	};
	static EvsQuery stop = {
		"update evsource.subscription_dead_letters d set retry = false"
		" where d.subscription = $1 and d.retry and d.stream ="
		" (select f.stream from evsource.subscription_dead_letters f"
		"  where f.subscription = $1 and f.position = $2)",
		2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
	};
	Datum		values[] = {
		CStringGetTextDatum(subscription), Int64GetDatum(position), CStringGetTextDatum(reason)
	};

	(void) evs_query_run(&count, values, NULL);
	(void) evs_query_run(&stop, values, NULL);
}
