/*
 * cursor.c - take a partition's cursor, and note what goes out with it.
 *
 * The lock is the row's: who fetches passes over a cursor that another locks, and
 * locks none that is out to another.
 * What goes out is fenced by a token, a random number a claim: whoever comes
 * with a receipt of an earlier claim finds another token, or none.
 *
 * When a batch fails nobody knows which of its events is at fault.  So the events
 * that were out become suspects: from then on each of them goes out alone, and
 * only one that was out alone can use up its attempts.  nack() names the event:
 * then it is the only suspect.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "failure.h"
#include "query.h"
#include "subscription.h"
#include "wakeup.h"

/* A cursor's row, locked. */
typedef struct Row
{
	bool		is_out;
	int64		handed_out;
	bool		alone;
	bool		retry;
	bool		ran_out;		/* its lease has */
	char	   *consumer;
} Row;

/*
 * Lock the row; false when another has it, or it is gone, not free, or of another
 * definition.  Then it is not locked, unless that has changed this very moment.
 */
static bool
lock_row(const EvsSubscription *subscription, const EvsCursor *cursor,
		 const char *consumer, EvsClaim *claim, Row *row)
{
	static EvsQuery query = {
		"select c.position, coalesce(c.until, 9223372036854775807), c.token is not null,"
		" c.handed_out, c.alone, c.retry, c.suspect_from, c.suspect_until, c.attempts, c.consumer,"
		" coalesce(c.lease_until <= clock_timestamp(), true), c.been_out"
		" from evsource.cursors c"
		" where c.subscription = $1 and c.generation = $2 and c.partition = $3 and c.definition = $5"
		"  and (c.lease_until is null or c.lease_until <= clock_timestamp() or c.consumer = $4)"
		"  and (c.retry_at is null or c.retry_at <= clock_timestamp())"
		" for update skip locked",
		5, {TEXTOID, INT4OID, INT4OID, TEXTOID, INT4OID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		CStringGetTextDatum(subscription->name), Int32GetDatum(cursor->generation),
		Int32GetDatum(cursor->partition), consumer ? CStringGetTextDatum(consumer) : (Datum) 0,
		Int32GetDatum(subscription->definition)
	};
	EvsQueryResult result;
	bool		found;

	evs_query_begin(&query, values, consumer ? NULL : "   n ", InvalidSnapshot, &result);
	found = result.count == 1;
	if (found)
	{
		claim->position = evs_query_bigint(&result, 0, 1);
		claim->end = evs_query_bigint(&result, 0, 2);
		row->is_out = evs_query_boolean(&result, 0, 3);
		row->handed_out = evs_query_bigint(&result, 0, 4);
		row->alone = evs_query_boolean(&result, 0, 5);
		row->retry = evs_query_boolean(&result, 0, 6);
		claim->suspect_from = evs_query_bigint(&result, 0, 7);
		claim->suspect_until = evs_query_bigint(&result, 0, 8);
		claim->attempts = evs_query_integer(&result, 0, 9);
		row->consumer = evs_query_text(&result, 0, 10);
		row->ran_out = evs_query_boolean(&result, 0, 11);
		claim->been_out = evs_query_bigint(&result, 0, 12);
	}
	evs_query_end(&result);
	return found;
}

/*
 * Events up to this one have failed: the first suspect, or all after "from" are.
 * True when it was the last attempt of one that was alone: it is a dead letter.
 */
static bool
fail(EvsClaim *claim, int64 from, int64 upto, bool alone, const char *reason)
{
	int			max_attempts = claim->subscription->max_attempts;

	if (claim->suspect_until != 0 && upto >= claim->suspect_from)
		claim->attempts++;
	else
	{
		claim->suspect_from = from;
		claim->attempts = 1;
	}
	claim->suspect_until = Max(claim->suspect_until, upto);
	if (!alone || max_attempts == 0 || claim->attempts < max_attempts)
		return false;

	evs_subscription_bury(claim->subscription->name, upto, claim->attempts, reason);
	if (upto < claim->suspect_until)
	{
		claim->suspect_from = upto + 1;
		claim->attempts = 1;
	}
	else
		claim->suspect_from = claim->suspect_until = claim->attempts = 0;
	return true;
}

/* What was out has come to nothing. */
static void
count_failure(EvsClaim *claim, const Row *row)
{
	const char *reason = row->consumer == NULL ? "its lease ran out" :
		psprintf(row->ran_out ? "the lease of consumer \"%s\" ran out" :
				 "consumer \"%s\" fetched again without an acknowledgement", row->consumer);

	if (row->retry)
		evs_subscription_retry_failed(claim->subscription->name, row->handed_out, reason);
	else
		(void) fail(claim, row->alone ? row->handed_out : claim->position + 1,
					row->handed_out, row->alone, reason);
}

/*
 * Attempts are those of the first suspect.  When it is not handed out any more, because
 * it is not wanted or its stream was truncated, the next has failed with the batch only.
 */
void
evs_cursor_begin(EvsClaim *claim, int64 position)
{
	if (claim->suspect_until == 0 || position <= claim->suspect_from)
		return;
	if (position > claim->suspect_until)
		claim->suspect_from = claim->suspect_until = claim->attempts = 0;
	else
	{
		claim->suspect_from = position;
		claim->attempts = 1;
	}
}

bool
evs_cursor_fail(EvsClaim *claim, int64 position, const char *reason)
{
	bool		is_last = fail(claim, position, position, true, reason);

	claim->retry_at = is_last ? 0 : evs_failure_retry_at(claim->attempts);
	return is_last;
}

bool
evs_cursor_claim(const EvsSubscription *subscription, const EvsCursor *cursor,
				 const char *consumer, EvsClaim *claim)
{
	Row			row;

	memset(claim, 0, sizeof(EvsClaim));
	claim->subscription = subscription;
	claim->generation = cursor->generation;
	claim->partition = cursor->partition;
	if (!lock_row(subscription, cursor, consumer, claim, &row))
		return false;
	evs_wakeup_holds_cursor(subscription->name);

	if (row.is_out)
		count_failure(claim, &row);
	if (!pg_strong_random(&claim->token, sizeof(claim->token)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not make a random token"),
				 errhint("Call again.")));
	return true;
}

bool
evs_cursor_skip(const EvsSubscription *subscription, const EvsCursor *cursor,
				const char *consumer, int64 position)
{
	static EvsQuery query = {
		"update evsource.cursors set position = $4"
		" where subscription = $1 and generation = $2 and partition = $3 and position = $5",
		5, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID}, SPI_OK_UPDATE
	};
	Datum		values[] = {
		CStringGetTextDatum(subscription->name), Int32GetDatum(cursor->generation),
		Int32GetDatum(cursor->partition), Int64GetDatum(position), Int64GetDatum(cursor->position)
	};
	EvsClaim	claim;
	Row			row;

	if (!lock_row(subscription, cursor, consumer, &claim, &row))
		return false;
	evs_wakeup_holds_cursor(subscription->name);
	(void) evs_query_run(&query, values, NULL);
	return true;
}

void
evs_cursor_hand_out(const EvsClaim *claim, const EvsHandOut *out,
					const char *consumer, int64 lease_ms)
{
	static EvsQuery query = {
		"update evsource.cursors set token = $4, consumer = $5,"
		" lease_until = clock_timestamp() + $6 * interval '1 ms', retry_at = null,"
		" handed_out = $7, seen = $8, alone = $9, retry = $10,"
		" been_out = case when $10 then been_out else greatest(been_out, $7) end,"
		" suspect_from = nullif($11, 0), suspect_until = nullif($12, 0), attempts = $13"
		" where subscription = $1 and generation = $2 and partition = $3",
		13, {
			TEXTOID, INT4OID, INT4OID, INT8OID, TEXTOID, INT8OID, INT8OID, INT8OID,
			BOOLOID, BOOLOID, INT8OID, INT8OID, INT4OID
		}, SPI_OK_UPDATE
	};
	Datum		values[] = {
		CStringGetTextDatum(claim->subscription->name), Int32GetDatum(claim->generation),
		Int32GetDatum(claim->partition), Int64GetDatum(claim->token),
		consumer ? CStringGetTextDatum(consumer) : (Datum) 0, Int64GetDatum(lease_ms),
		Int64GetDatum(out->last), Int64GetDatum(out->seen), BoolGetDatum(out->alone),
		BoolGetDatum(out->retry), Int64GetDatum(claim->suspect_from),
		Int64GetDatum(claim->suspect_until), Int32GetDatum(claim->attempts)
	};

	if (evs_query_run(&query, values, consumer ? NULL : "    n        ") != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" was changed while its events were fetched",
						claim->subscription->name),
				 errdetail("An upcaster that read them dropped or moved it."),
				 errhint("Upcasters should do nothing but bring data to a newer version.")));
}

void
evs_cursor_advance(const EvsClaim *claim, int64 position)
{
	static EvsQuery move = {
		"update evsource.cursors set position = greatest(position, $4), token = null, consumer = null,"
		" lease_until = null, retry_at = $8, handed_out = null, seen = null, alone = false, retry = false,"
		" suspect_from = case when $6 > $4 then nullif($5, 0) end,"
		" suspect_until = case when $6 > $4 then nullif($6, 0) end,"
		" attempts = case when $6 > $4 then $7 else 0 end"
		" where subscription = $1 and generation = $2 and partition = $3",
		8, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID, INT8OID, INT4OID, TIMESTAMPTZOID}, SPI_OK_UPDATE
	};
	static EvsQuery finish = {
		"delete from evsource.cursors"
		" where subscription = $1 and generation = $2 and partition = $3",
		3, {TEXTOID, INT4OID, INT4OID}, SPI_OK_DELETE
	};
	Datum		values[] = {
		CStringGetTextDatum(claim->subscription->name), Int32GetDatum(claim->generation),
		Int32GetDatum(claim->partition), Int64GetDatum(position),
		Int64GetDatum(claim->suspect_from), Int64GetDatum(claim->suspect_until),
		Int32GetDatum(claim->attempts), TimestampTzGetDatum(claim->retry_at)
	};

	(void) evs_query_run(position >= claim->end ? &finish : &move, values,
						 claim->retry_at != 0 ? NULL : "       n");
}
