/*
 * receipt.c - receipts: ack() and nack().
 *
 * A receipt names a subscription, a partition, the token of the claim and the
 * event's position.  It is good while the cursor's row has that token: a claim
 * by another, a nack, a seek or other partitions put an end to it.  A lease that
 * has run out does not, as long as nobody else has come: nothing is gained by
 * doing the work again.
 *
 * Each is one UPDATE of the cursor's row, in the caller's transaction.  A
 * transaction that stores what it made of the events and acks them has done both
 * or neither: its ack holds the row, so nobody takes the cursor meanwhile.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "barrier.h"
#include "parameters.h"
#include "query.h"
#include "subscription.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evsource_ack);
PG_FUNCTION_INFO_V1(evsource_nack);

/* bytes of a reason that are kept */
#define MAX_REASON		8192

/* A receipt, taken apart. */
typedef struct Receipt
{
	char	   *subscription;
	int64		token;
	int			generation;
	int			partition;
	bool		retry;
	int64		position;
} Receipt;

/* ---- as text ---- */

void
evs_receipts_begin(EvsReceipts *receipts, const EvsClaim *claim, bool retry)
{
	receipts->prefix = psprintf("%016llx.%d.%d.%c", (unsigned long long) claim->token,
								claim->generation, claim->partition, retry ? 'r' : 'e');
	receipts->suffix = psprintf(".%s", claim->subscription->name);
	receipts->prefix_length = strlen(receipts->prefix);
	receipts->suffix_length = strlen(receipts->suffix);
}

int
evs_receipt_max_length(const EvsReceipts *receipts)
{
	return receipts->prefix_length + MAXINT8LEN + 1 + receipts->suffix_length;
}

int
evs_receipt_write(const EvsReceipts *receipts, int64 position, char *to)
{
	char	   *at = to + receipts->prefix_length;

	memcpy(to, receipts->prefix, receipts->prefix_length);
	pg_lltoa(position, at);
	at += strlen(at);
	memcpy(at, receipts->suffix, receipts->suffix_length);
	return at + receipts->suffix_length - to;
}

/* The token: as many digits as evs_receipts_begin() writes. */
static bool
parse_token(const char **at, int64 *token)
{
	uint64		value = 0;

	for (int i = 0; i < 16; i++, (*at)++)
	{
		const char *digits = "0123456789abcdef";
		const char *digit = **at == '\0' ? NULL : strchr(digits, **at);

		if (digit == NULL)
			return false;
		value = value << 4 | (uint64) (digit - digits);
	}
	*token = (int64) value;
	return *(*at)++ == '.';
}

/* A number, and the dot after it. */
static bool
parse_number(const char **at, int64 most, int64 *number)
{
	const char *start = *at;

	*number = 0;
	for (; **at >= '0' && **at <= '9'; (*at)++)
	{
		if (*number > (most - (**at - '0')) / 10)
			return false;
		*number = *number * 10 + (**at - '0');
	}
	return *at > start && *(*at)++ == '.';
}

static bool
parse(const char *given, Receipt *receipt)
{
	const char *at = given;
	int64		generation;
	int64		partition;

	if (!parse_token(&at, &receipt->token) ||
		!parse_number(&at, PG_INT32_MAX, &generation) ||
		!parse_number(&at, PG_INT32_MAX, &partition) ||
		(*at != 'e' && *at != 'r'))
		return false;
	receipt->retry = *at++ == 'r';
	/* there is one after it */
	if (!parse_number(&at, PG_INT64_MAX - 1, &receipt->position) || *at == '\0')
		return false;
	receipt->generation = (int) generation;
	receipt->partition = (int) partition;
	receipt->subscription = pstrdup(at);
	return true;
}

static void
parse_receipt(const char *given, Receipt *receipt)
{
	if (!parse(given, receipt))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid receipt \"%s\"", given),
				 errhint("Pass the receipt of an event as evsource.fetch_events() returned it.")));
}

static void
receipt_argument(FunctionCallInfo fcinfo, Receipt *receipt)
{
	evs_argument_require(fcinfo, 0, "receipt");
	parse_receipt(text_to_cstring(PG_GETARG_TEXT_PP(0)), receipt);
}

/*
 * Run a statement, an UPDATE as a rule, on the cursor that has this token.  Its first
 * parameters are the receipt's, and it returns the subscription's owner.  False:
 * there is none.  Another column that it returns goes to number.
 */
static bool
update_cursor(EvsQuery *query, Receipt *receipt, int nextra, Datum *extra, int64 *number)
{
	Datum		values[8] = {
		CStringGetTextDatum(receipt->subscription), Int32GetDatum(receipt->generation),
		Int32GetDatum(receipt->partition), Int64GetDatum(receipt->token),
		Int64GetDatum(receipt->position)
	};
	EvsQueryResult result;
	char	   *owner = NULL;

	for (int i = 0; i < nextra; i++)
		values[5 + i] = extra[i];
	evs_query_begin(query, values, NULL, InvalidSnapshot, &result);
	if (result.count > 0)
	{
		owner = evs_query_text(&result, 0, 1);
		if (number != NULL)
			*number = evs_query_bigint(&result, 0, 2);
	}
	evs_query_end(&result);

	if (owner == NULL)
		return false;
	evs_wakeup_holds_cursor(receipt->subscription);
	evs_subscription_check_rights(receipt->subscription, owner);
	return true;
}

#define OF_THE_RECEIPT \
	" where s.subscription = $1 and c.subscription = $1 and c.generation = $2 and c.partition = $3"

#define THE_CURSOR \
	" from evsource.subscriptions s" OF_THE_RECEIPT " and c.token = $4"

#define ACKED_NOW	" acked = $4, acked_upto = $5, acked_in = pg_current_xact_id(),"

#define NOTHING_OUT \
	"token = null, consumer = null, lease_until = null, handed_out = null, seen = null," \
	" alone = false, retry = false"

/* ---- ack ---- */

/* Up to the last event that is out, or to one before it. */
static bool
ack_events(Receipt *receipt)
{
	static EvsQuery last = {
		"update evsource.cursors c set position = greatest(c.seen, $5), " NOTHING_OUT "," ACKED_NOW
		" suspect_from = case when c.suspect_until > $5 then greatest(c.suspect_from, $5 + 1) end,"
		" suspect_until = case when c.suspect_until > $5 then c.suspect_until end,"
		" attempts = case when c.suspect_until > $5 then 1 else 0 end"
		THE_CURSOR " and not c.retry and $5 = c.handed_out returning s.owner",
		5, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID}, SPI_OK_UPDATE_RETURNING
	};
	static EvsQuery earlier = {
		"update evsource.cursors c set" ACKED_NOW " position = $5"
		THE_CURSOR " and not c.retry and $5 < c.handed_out and $5 > c.position returning s.owner",
		5, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID}, SPI_OK_UPDATE_RETURNING
	};

	return update_cursor(&last, receipt, 0, NULL, NULL) ||
		update_cursor(&earlier, receipt, 0, NULL, NULL);
}

static bool
ack_dead_letter(Receipt *receipt)
{
	static EvsQuery cursor = {
		"update evsource.cursors c set" ACKED_NOW " " NOTHING_OUT
		THE_CURSOR " and c.retry and $5 = c.handed_out returning s.owner",
		5, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID}, SPI_OK_UPDATE_RETURNING
	};

	if (!update_cursor(&cursor, receipt, 0, NULL, NULL))
		return false;
	evs_subscription_forget_letter(receipt->subscription, receipt->position);
	return true;
}

/*
 * Has this receipt, or one of a later event with the same token, been acknowledged?
 * *here: by this very transaction.
 */
static bool
is_acked(Receipt *receipt, bool *here)
{
	static EvsQuery query = {
		"select s.owner, coalesce(c.acked_in = pg_current_xact_id_if_assigned(), false)::integer::bigint"
		" from evsource.subscriptions s, evsource.cursors c" OF_THE_RECEIPT
		" and c.acked = $4 and $5 <= c.acked_upto",
		5, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID}, SPI_OK_SELECT
	};
	int64		by_this_transaction;

	if (!update_cursor(&query, receipt, 0, NULL, &by_this_transaction))
		return false;
	*here = by_this_transaction != 0;
	return true;
}

static void
is_acked_elsewhere(const Receipt *receipt)
{
	ereport(ERROR,
			(errcode(ERRCODE_EVS_LEASE_LOST),
			 errmsg("the event at position %lld of subscription \"%s\" is acknowledged already",
					(long long) receipt->position, receipt->subscription),
			 errdetail("An earlier transaction has done so with this receipt, and has stored what it made of the events."),
			 errhint("Roll back, and fetch again.")));
}

static void
lease_is_lost(const Receipt *receipt)
{
	ereport(ERROR,
			(errcode(ERRCODE_EVS_LEASE_LOST),
			 errmsg("the lease on partition %d of subscription \"%s\" is lost",
					receipt->partition, receipt->subscription),
			 errdetail("The event at position %lld was handed out again, or the subscription was changed, after this receipt was made.",
					   (long long) receipt->position),
			 errhint("Roll back what was made of these events, and fetch again. A longer lease leaves more time.")));
}

/*
 * Under REPEATABLE READ and above: is a receipt that seems to be lost newer than what
 * this transaction sees?  That is no reason to drop what was made of the events.
 */
static void
check_is_seen(Receipt *receipt)
{
	static EvsQuery query = {
		"select from evsource.subscriptions s, evsource.cursors c" OF_THE_RECEIPT " and c.token = $4",
		4, {TEXTOID, INT4OID, INT4OID, INT8OID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		CStringGetTextDatum(receipt->subscription), Int32GetDatum(receipt->generation),
		Int32GetDatum(receipt->partition), Int64GetDatum(receipt->token)
	};

	if (!IsolationUsesXactSnapshot() || evs_query_run(&query, values, NULL) > 0 ||
		evs_query_run_latest(&query, values, NULL) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to a receipt that is newer than this transaction"),
			 errdetail("The event at position %lld of subscription \"%s\" was handed out after the snapshot of the transaction was taken.",
					   (long long) receipt->position, receipt->subscription),
			 errhint("Roll back and do it again, in a transaction that begins after the events were fetched.")));
}

/*
 * evsource.ack(receipt, required) returns boolean
 *
 * This event and all before it in its partition are done.  False: the lease is
 * lost, somebody else has got the events or will.
 *
 * An ack may be repeated, and one of an earlier event may come after it.  But a
 * consumer that requires it stores its results in the same transaction.  When it
 * cannot know whether that was committed, and does all of it again, the ack must fail.
 *
 * Errors: 22004 for null, 22023 for what is not a receipt, 42501, 40001 when the receipt is
 * newer than the transaction, VE005 when it is required and the lease is lost, or the ack
 * is another transaction's.
 */
Datum
evsource_ack(PG_FUNCTION_ARGS)
{
	Receipt		receipt;
	bool		required = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	bool		here = false;

	evs_require_writable("evsource.ack()");
	receipt_argument(fcinfo, &receipt);
	if (receipt.retry ? ack_dead_letter(&receipt) : ack_events(&receipt))
	{
		evs_wakeup_subscription(receipt.subscription);
		PG_RETURN_BOOL(true);
	}
	if (is_acked(&receipt, &here))
	{
		if (required && !here)
			is_acked_elsewhere(&receipt);
		PG_RETURN_BOOL(true);
	}
	check_is_seen(&receipt);
	if (required)
		lease_is_lost(&receipt);
	PG_RETURN_BOOL(false);
}

/* ---- nack ---- */

/*
 * An event that is out has failed.  It becomes the first suspect, unless it was
 * one already.  Returns how often it has failed.
 */
static bool
nack_event(Receipt *receipt, int64 retry_ms, int64 *attempts)
{
	static EvsQuery query = {
		"update evsource.cursors c set " NOTHING_OUT ","
		" retry_at = clock_timestamp() + $6 * interval '1 ms',"
		" attempts = case when c.suspect_from = $5 then c.attempts + 1 else 1 end,"
		" suspect_from = $5, suspect_until = greatest(c.suspect_until, $5)"
		THE_CURSOR " and not c.retry and $5 > c.position and $5 <= c.handed_out"
		" returning s.owner, case when s.max_attempts > 0 and c.attempts >= s.max_attempts then c.attempts else 0 end::bigint",
		6, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID, INT8OID}, SPI_OK_UPDATE_RETURNING
	};
	Datum		extra[] = {Int64GetDatum(retry_ms)};

	return update_cursor(&query, receipt, 1, extra, attempts);
}

/* It was the last attempt: what comes after it need not wait. */
static void
give_up(Receipt *receipt, int attempts, const char *reason)
{
	static EvsQuery query = {
		"update evsource.cursors c set retry_at = null,"
		" suspect_from = case when c.suspect_until > $4 then $4 + 1 end,"
		" suspect_until = case when c.suspect_until > $4 then c.suspect_until end,"
		" attempts = case when c.suspect_until > $4 then 1 else 0 end"
		" where c.subscription = $1 and c.generation = $2 and c.partition = $3",
		4, {TEXTOID, INT4OID, INT4OID, INT8OID}, SPI_OK_UPDATE
	};
	Datum		values[] = {
		CStringGetTextDatum(receipt->subscription), Int32GetDatum(receipt->generation),
		Int32GetDatum(receipt->partition), Int64GetDatum(receipt->position)
	};

	evs_subscription_bury(receipt->subscription, receipt->position, attempts, reason);
	(void) evs_query_run(&query, values, NULL);
}

static bool
nack_dead_letter(Receipt *receipt, const char *reason)
{
	static EvsQuery query = {
		"update evsource.cursors c set " NOTHING_OUT
		THE_CURSOR " and c.retry and $5 = c.handed_out returning s.owner",
		5, {TEXTOID, INT4OID, INT4OID, INT8OID, INT8OID}, SPI_OK_UPDATE_RETURNING
	};

	if (!update_cursor(&query, receipt, 0, NULL, NULL))
		return false;
	evs_subscription_retry_failed(receipt->subscription, receipt->position, reason);
	return true;
}

/*
 * evsource.nack(receipt, reason, retry_after) returns boolean
 *
 * This event could not be processed: it and what follows it in its partition are
 * handed out again after a while, or it becomes a dead letter.  False: the lease
 * is lost.
 *
 * Errors: 22004 for null, 22023 for what is not a receipt or a negative time, 42501, 40001
 * when the receipt is newer than the transaction.
 */
Datum
evsource_nack(PG_FUNCTION_ARGS)
{
	Receipt		receipt;
	char	   *reason = evs_argument_text(fcinfo, 1);
	int64		retry_ms = PG_ARGISNULL(2) ? 0 :
		evs_interval_milliseconds(PG_GETARG_INTERVAL_P(2), "retry_after");
	int64		attempts = 0;
	bool		done;

	evs_require_writable("evsource.nack()");
	receipt_argument(fcinfo, &receipt);
	if (reason == NULL)
		reason = "no reason was given";
	else
		reason[pg_mbcliplen(reason, strlen(reason), MAX_REASON)] = '\0';
	if (receipt.retry)
		done = nack_dead_letter(&receipt, reason);
	else
	{
		done = nack_event(&receipt, retry_ms, &attempts);
		if (done && attempts > 0)
			give_up(&receipt, (int) attempts, reason);
	}
	if (done)
		evs_wakeup_subscription(receipt.subscription);
	else
		check_is_seen(&receipt);
	PG_RETURN_BOOL(done);
}
