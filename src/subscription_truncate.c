/*
 * subscription_truncate.c - what it is to subscriptions that the beginning of a stream
 * goes.
 *
 * An event that a subscription wants and has not acknowledged it would never get.
 * The event belongs to one cursor: that of its partition which has its end there or
 * later, for the next generation begins where the one before it ends.
 *
 * Cursors are not locked, but read as they are committed.  Another's ack
 * that is not committed may yet be rolled back, so it does not count; a batch that
 * is out is not acknowledged.  Whoever creates a subscription meanwhile, or moves one
 * back, gets what is left.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "query.h"
#include "subscription.h"

/* What one subscription has not had. */
typedef struct Missing
{
	const char *stream;
	const char *subscription;
	int64		events;
	int64		acknowledged;	/* by the partition of the stream, up to here ... */
	int64		last;			/* and this is the last of the events */
} Missing;

static void
refuse(const Missing *missing)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot truncate stream \"%s\": subscription \"%s\" has not had its events",
					missing->stream, missing->subscription),
			 errdetail_plural("Its consumers have acknowledged up to position %lld; %lld event that it wants would go, at position %lld.",
							  "Its consumers have acknowledged up to position %lld; %lld events that it wants would go, the last at position %lld.",
							  (unsigned long) missing->events,
							  (long long) missing->acknowledged, (long long) missing->events,
							  (long long) missing->last),
			 errhint("Have them fetched and acknowledged first, or use force => true to let the events go without it.")));
}

static void
warn(const Missing *missing)
{
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg_plural("subscription \"%s\" will never get %lld event of stream \"%s\"",
						   "subscription \"%s\" will never get %lld events of stream \"%s\"",
						   (unsigned long) missing->events,
						   missing->subscription, (long long) missing->events, missing->stream),
			 errdetail("Its consumers have acknowledged up to position %lld; the last of them was at position %lld.",
					   (long long) missing->acknowledged, (long long) missing->last)));
}

void
evs_subscriptions_check_truncation(text *stream, int64 before, int64 position, bool force)
{
	static EvsQuery query = {
		"select s.subscription, sum(e.events)::bigint, min(c.position), max(e.last)"
		" from evsource.subscriptions s"
		" join evsource.cursors c on c.subscription = s.subscription"
		"  and c.position < $3 and c.partition = evsource._partition($1, c.partitions)"
		" cross join lateral (select count(*) as events, max(e.position) as last from evsource.events e"
		"  where e.stream = $1 and e.version < $2"
		"  and e.position > c.position and (c.until is null or e.position <= c.until)"
		"  and (s.types is null or e.type = any (s.types))) e"
		" where e.events > 0"
		"  and (s.categories is null or evsource.category($1) = any (s.categories))"
		" group by 1 order by 1",
		3, {TEXTOID, INT8OID, INT8OID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		PointerGetDatum(stream), Int64GetDatum(before), Int64GetDatum(position)
	};
	EvsQueryResult result;

	evs_query_begin(&query, values, NULL, InvalidSnapshot, &result);
	for (uint64 i = 0; i < result.count; i++)
	{
		Missing		missing = {
			.stream = text_to_cstring(stream),
			.subscription = evs_query_text(&result, i, 1),
			.events = evs_query_bigint(&result, i, 2),
			.acknowledged = evs_query_bigint(&result, i, 3),
			.last = evs_query_bigint(&result, i, 4)
		};

		if (!force)
			refuse(&missing);
		warn(&missing);
	}
	evs_query_end(&result);
}

void
evs_subscriptions_truncated(text *stream, int64 before)
{
	static EvsQuery query = {
		"delete from evsource.subscription_dead_letters d where (d.subscription, d.position) in ("
		" select l.subscription, l.position from evsource.subscriptions s"
		" join evsource.subscription_dead_letters l on l.subscription = s.subscription"
		" where l.stream = $1 and l.version < $2 for update of l skip locked)",
		2, {TEXTOID, INT8OID}, SPI_OK_DELETE
	};
	Datum		values[] = {PointerGetDatum(stream), Int64GetDatum(before)};

	(void) evs_query_run(&query, values, NULL);
}
