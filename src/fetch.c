/*
 * fetch.c - fetch_events(): hand out the next events of a subscription, or wait
 * until there are some.
 *
 * In these steps:
 *
 *	1. load the subscription and its cursors, ask for the safe position, and only
 *	   then take a snapshot: as read.c does, and for its reasons;
 *	2. look for the first event of a partition that is free: one scan for all;
 *	3. claim that partition's cursor, and read from where it is;
 *	4. note in the cursor what went out.
 *
 * One call hands out events of one partition, so that the ack of the last one is
 * the ack of all.  Nothing is written before there is something to hand out: who
 * polls or waits in vain has no transaction id and leaves no WAL.
 *
 * A cursor that is locked is not waited for: its partition is passed over.  The
 * session that has it wakes us when it acknowledges or is rolled back; if it commits
 * a lease, we do not know of it before we look again, which is after a while.
 *
 * Streams with a dead letter are passed over: their events become dead letters
 * behind it.
 *
 * To pass over much takes time, and what was passed over is written down only when the
 * transaction commits.  So a call ends after a while, with nothing if need be.
 *
 * Waiting: an appender wakes those that want its events, by their categories and types
 * (wakeup.c).  What it has committed may not be safe to read yet, because of another open
 * append; a call that sees that is woken only by those that hold it back: see wakeup_wait.c.
 *
 * The statement that calls has a snapshot, which a function cannot give back; so nobody
 * waits for longer than evsource.max_wait, nor while the extension is to be changed: see
 * give_way.c.  Nor is anything handed out after a wait to a client that has gone meanwhile.
 *
 * Who has locked a cursor does not wait: its consumer could not acknowledge, and
 * nobody else could fetch from it.  The lock goes with the transaction, so the
 * call ends.
 */
#include "evsource.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "barrier.h"
#include "clock.h"
#include "event.h"
#include "give_way.h"
#include "hand_out.h"
#include "horizon.h"
#include "parameters.h"
#include "read.h"
#include "replication.h"
#include "restore.h"
#include "scan.h"
#include "settings.h"
#include "subscription.h"
#include "unit.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evsource_fetch_events);

/* A cursor that has nothing to do is moved when it is so far behind. */
#define IDLE_POSITIONS		1000

/* where commits do not wake us (ms) */
#define COPY_TIMEOUT		1000

/* when what another transaction had locked is looked at again (ms) */
#define LOCKED_TIMEOUT		1000

/* How often something may have changed meanwhile, before the call ends. */
#define MAX_LOOKS			100

/* How long a call may search for something to hand out, if it does not wait as long (ms). */
#define LONGEST_SEARCH		5000

/* What one look at the subscription has led to. */
typedef enum Look
{
	LOOK_FETCHED,
	LOOK_NOTHING,
	LOOK_UNFINISHED,			/* there is more than there is time to look at */
	LOOK_AGAIN,					/* something has changed meanwhile */
	LOOK_LOST					/* the same, and nothing was found out: others have the partition */
} Look;

/* ---- which partition ---- */

/* Not free for us, for the rest of this look: somebody has it, and has not said so yet. */
static void
note_locked(EvsFetch *fetch, const EvsSubscription *subscription, const EvsCursor *cursor)
{
	MemoryContext look = MemoryContextSwitchTo(MemoryContextGetParent(fetch->context));

	fetch->locked_in = subscription->definition;
	fetch->locked = bms_add_member(fetch->locked, cursor->partition);
	MemoryContextSwitchTo(look);
}

static void
pass_over_locked(EvsFetch *fetch, EvsSubscription *subscription)
{
	if (fetch->locked_in != subscription->definition)
	{
		bms_free(fetch->locked);
		fetch->locked = NULL;
	}
	for (int i = 0; i < subscription->ncursors; i++)
	{
		if (bms_is_member(subscription->cursors[i].partition, fetch->locked))
			subscription->cursors[i].is_free = false;
	}
}

/* A cursor that somebody was faster to change may be locked all the same. */
static bool
note_claim(EvsFetch *fetch, const EvsSubscription *subscription, const EvsCursor *cursor,
		   bool claimed)
{
	fetch->has_locks |= TransactionIdIsValid(GetTopTransactionIdIfAny());
	if (!claimed)
		note_locked(fetch, subscription, cursor);
	return claimed;
}

static bool
claim_cursor(EvsFetch *fetch, const EvsSubscription *subscription, const EvsCursor *cursor,
			 EvsClaim *claim)
{
	return note_claim(fetch, subscription, cursor,
					  evs_cursor_claim(subscription, cursor, fetch->consumer, claim));
}

static EvsCursor *
cursor_of_partition(const EvsSubscription *subscription, int partition)
{
	for (int i = 0; i < subscription->ncursors; i++)
	{
		if (subscription->cursors[i].partition == partition)
			return &subscription->cursors[i];
	}
	return NULL;
}

/*
 * The free cursor that has the first event, or NULL.  *searched says how far no
 * other free cursor has one: to the safe position, unless it takes too long.
 */
static EvsCursor *
find_work(const EvsFetch *fetch, const EvsSubscription *subscription, int64 safe,
		  Snapshot snapshot, int64 *searched)
{
	EvsCursor  *found = NULL;
	int64		from = PG_INT64_MAX;
	EvsScan    *scan;
	TupleTableSlot *slot;

	for (int i = 0; i < subscription->ncursors; i++)
	{
		if (subscription->cursors[i].is_free)
			from = Min(from, subscription->cursors[i].position);
	}
	*searched = safe;
	if (from >= safe)
		return NULL;

	scan = evs_scan_log(from, safe, &subscription->filter, snapshot);
	evs_scan_until(scan, fetch->until);
	while (found == NULL && (slot = evs_scan_next_slot(scan)) != NULL)
	{
		int64		position;
		EvsCursor  *cursor;
		text	   *stream;

		slot_getsomeattrs(slot, EVS_EVENTS_STREAM);
		position = DatumGetInt64(slot->tts_values[EVS_EVENTS_POSITION - 1]);
		stream = DatumGetTextPP(slot->tts_values[EVS_EVENTS_STREAM - 1]);
		cursor = cursor_of_partition(subscription,
									 evs_partition_of(stream, subscription->partitions));
		if (cursor != NULL && cursor->is_free &&
			position > cursor->position && position <= cursor->end)
		{
			found = cursor;
			*searched = position - 1;
		}
	}
	if (found == NULL && !evs_scan_is_done(scan))
		*searched = evs_scan_passed(scan);
	evs_scan_end(scan);
	return found;
}

/*
 * Free cursors that have nothing up to a position: those that are at their end
 * go, and those far behind move on, lest they are searched for again and again.
 * What was out from one of these stays so: who has it may acknowledge as long as nobody
 * else fetches it.  Returns whether any went.
 */
static bool
advance_idle(EvsFetch *fetch, const EvsSubscription *subscription, const EvsCursor *found,
			 int64 searched)
{
	bool		any = false;

	for (int i = 0; i < subscription->ncursors; i++)
	{
		const EvsCursor *cursor = &subscription->cursors[i];
		bool		ends = searched >= cursor->end;
		EvsClaim	claim;

		if (cursor == found || !cursor->is_free ||
			(!ends && searched - cursor->position < IDLE_POSITIONS))
			continue;
		if (cursor->out > searched)
		{
			(void) note_claim(fetch, subscription, cursor,
							  evs_cursor_skip(subscription, cursor, fetch->consumer, searched));
			continue;
		}
		if (!claim_cursor(fetch, subscription, cursor, &claim))
			continue;
		if (claim.position == cursor->position)
			evs_cursor_advance(&claim, searched);
		any = any || ends;
	}
	return any;
}

/* ---- dead letters that are tried again ---- */

/* A letter that a free cursor is past, and that cursor. */
static EvsCursor *
find_retry(const EvsSubscription *subscription)
{
	int64	   *upto = palloc0(sizeof(int64) * subscription->partitions);
	EvsLetter	letter;

	for (int i = 0; i < subscription->ncursors; i++)
	{
		if (subscription->cursors[i].is_free)
			upto[subscription->cursors[i].partition] = subscription->cursors[i].position;
	}
	if (!evs_subscription_find_retry(subscription, upto, &letter))
		return NULL;
	return cursor_of_partition(subscription, letter.partition);
}

/*
 * With the cursor claimed: what others have done up to now is seen.  Letters whose
 * events are gone from the log go, too.
 */
static bool
hand_out_retry(EvsFetch *fetch, EvsClaim *claim)
{
	const EvsSubscription *subscription = claim->subscription;
	int64	   *upto = palloc0(sizeof(int64) * subscription->partitions);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EvsLetter	letter;

	upto[claim->partition] = claim->position;
	while (fetch->count == 0 && evs_subscription_find_retry(subscription, upto, &letter))
	{
		CHECK_FOR_INTERRUPTS();
		if (!evs_hand_out_dead_letter(fetch, claim, letter.position, letter.attempts + 1, snapshot))
			evs_subscription_forget_letter(subscription->name, letter.position);
	}
	UnregisterSnapshot(snapshot);
	return fetch->count > 0;
}

/*
 * Nobody else is at a letter of the stream once its cursor is claimed; whether
 * there is still one to be tried again is seen only then.
 */
static Look
fetch_retry(EvsFetch *fetch, EvsSubscription *subscription)
{
	EvsCursor  *cursor;

	while ((cursor = find_retry(subscription)) != NULL)
	{
		EvsClaim	claim;

		if (!claim_cursor(fetch, subscription, cursor, &claim))
		{
			cursor->is_free = false;
			continue;
		}
		if (hand_out_retry(fetch, &claim))
			return LOOK_FETCHED;
		/* keep what the claim has found out */
		evs_cursor_advance(&claim, claim.position);
		return LOOK_AGAIN;
	}
	return LOOK_NOTHING;
}

/* ---- one look ---- */

/* Are there events that are committed and not safe to read? */
static bool
is_blocked(const EvsSubscription *subscription, int64 safe, Snapshot snapshot)
{
	EvsScan    *scan;
	bool		blocked;

	if (evs_horizon_last_position() <= safe)
		return false;
	scan = evs_scan_log(safe, PG_INT64_MAX, &subscription->filter, snapshot);
	blocked = evs_scan_next_slot(scan) != NULL;
	evs_scan_end(scan);
	return blocked;
}

/* When to look again without being woken: of what is locked, no time is known. */
static void
note_nothing(EvsFetch *fetch, const EvsSubscription *subscription, int64 safe, Snapshot snapshot)
{
	fetch->due = fetch->locked == NULL ? EVS_NO_TIME : evs_clock_in(LOCKED_TIMEOUT);
	for (int i = 0; i < subscription->ncursors; i++)
	{
		const EvsCursor *cursor = &subscription->cursors[i];

		if (!cursor->is_free && cursor->free_at != 0 &&
			!bms_is_member(cursor->partition, fetch->locked))
		{
			EvsTime		due = evs_clock_at(cursor->free_at);

			fetch->due = evs_clock_is_set(fetch->due) ? evs_clock_earlier(fetch->due, due) : due;
		}
	}
	fetch->held_at = is_blocked(subscription, safe, snapshot) ? safe + 1 : 0;
	evs_wakeup_wanted(&subscription->filter, &fetch->wanted);
}

static Look
look_with(EvsFetch *fetch, EvsSubscription *subscription, int64 safe, Snapshot snapshot)
{
	int64		searched;
	EvsCursor  *cursor;
	EvsClaim	claim;

	if (subscription->has_retries)
	{
		Look		look = fetch_retry(fetch, subscription);

		if (look != LOOK_NOTHING)
			return look;
	}

	cursor = find_work(fetch, subscription, safe, snapshot, &searched);
	if (advance_idle(fetch, subscription, cursor, searched))
		return LOOK_AGAIN;
	if (cursor == NULL && searched < safe)
		return LOOK_UNFINISHED;
	if (cursor == NULL)
	{
		note_nothing(fetch, subscription, safe, snapshot);
		return LOOK_NOTHING;
	}

	if (!claim_cursor(fetch, subscription, cursor, &claim))
		return LOOK_LOST;
	evs_hand_out_batch(fetch, &claim, safe, snapshot);
	return fetch->count > 0 ? LOOK_FETCHED : LOOK_AGAIN;
}

/* First the safe position, then the snapshot: see the top of read.c. */
static Look
look_once(EvsFetch *fetch)
{
	EvsSubscription *subscription;
	MemoryContext caller;
	int64		safe;
	Snapshot	snapshot;
	Look		look;

	MemoryContextReset(fetch->context);
	caller = MemoryContextSwitchTo(fetch->context);
	subscription = evs_subscription_load(fetch->name, fetch->consumer);
	pass_over_locked(fetch, subscription);
	safe = evs_horizon_safe_position();
	evs_restore_followed(safe);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	look = look_with(fetch, subscription, safe, snapshot);
	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(caller);
	return look;
}

/* True: events were fetched. */
static bool
look(EvsFetch *fetch)
{
	Look		result = LOOK_AGAIN;

	bms_free(fetch->locked);
	fetch->locked = NULL;
	for (int i = 0; i < MAX_LOOKS && (result == LOOK_AGAIN || result == LOOK_LOST); i++)
	{
		result = look_once(fetch);
		CHECK_FOR_INTERRUPTS();
		if (result == LOOK_AGAIN && evs_hand_out_is_late(fetch))
			break;
	}
	fetch->unfinished = result != LOOK_FETCHED && result != LOOK_NOTHING;
	return result == LOOK_FETCHED;
}

/* ---- waiting ---- */

static void
sleep_until(const EvsFetch *fetch, EvsTime until)
{
	static uint32 wait_event = 0;
	long		timeout = evs_clock_left(evs_clock_is_set(fetch->due) ?
										 evs_clock_earlier(fetch->due, until) : until);

	if (wait_event == 0)
		wait_event = evs_wakeup_wait_event("EvsourceFetch");
	if (evs_replication_is_copy())
		timeout = Min(timeout, COPY_TIMEOUT);
	evs_wakeup_sleep(timeout + 1, wait_event);
}

/* End the session as PostgreSQL does where it finds that its client has gone. */
static void
require_client(void)
{
	if (MyProcPort != NULL && !pq_check_connection())
	{
		ClientConnectionLost = true;
		InterruptPending = true;
	}
	CHECK_FOR_INTERRUPTS();
}

/* Nothing was found: will somebody wake us when there is something? */
static bool
will_be_woken(const EvsFetch *fetch)
{
	/* what is held back or leased, others leave to us to watch */
	bool		woken = !evs_wakeup_found_nothing(fetch->held_at != 0 || evs_clock_is_set(fetch->due));

	/* from a change on other things wake us than before, so look again after it */
	if (evs_wakeup_want(&fetch->wanted, fetch->held_at) || woken)
		return false;
	/* what held it back may have ended before it could know */
	return fetch->held_at == 0 || evs_horizon_is_held(fetch->held_at);
}

static void
wait_for_events(EvsFetch *fetch, EvsTime until)
{
	for (;;)
	{
		evs_wakeup_looks();
		if (look(fetch) || fetch->has_locks || fetch->unfinished)
			return;
		(void) evs_give_way(&until);
		if (will_be_woken(fetch) && !evs_clock_is_over(until))
			sleep_until(fetch, until);
		else if (evs_clock_is_over(until))
			return;
		require_client();
	}
}

static void
wait_and_fetch(EvsFetch *fetch, int64 wait_ms)
{
	EvsTime		until = evs_clock_in(wait_ms);

	evs_give_way_once();
	evs_wakeup_register_subscription(fetch->name, &fetch->wanted);
	PG_TRY();
	{
		wait_for_events(fetch, until);
	}
	PG_CATCH();
	{
		evs_wakeup_unregister();
		PG_RE_THROW();
	}
	PG_END_TRY();
	evs_wakeup_unregister();
}

/* ---- the call ---- */

static int64
positive_argument(FunctionCallInfo fcinfo, int argument, const char *name, int64 value)
{
	evs_argument_require(fcinfo, argument, name);
	if (value < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be positive", name),
				 errdetail("It is %lld.", (long long) value),
				 errhint("Pass at least 1.")));
	return value;
}

/*
 * What a call has found out, beyond what it hands out, is lost when it is cancelled: so
 * it must end before that.
 */
static EvsTime
search_until(int64 wait_ms)
{
	EvsTime		until = evs_clock_in(Max(wait_ms, LONGEST_SEARCH));
	TimestampTz half = TimestampTzPlusMilliseconds(GetCurrentStatementStartTimestamp(),
												   StatementTimeout / 2);

	if (StatementTimeout <= 0)
		return until;
	/* the clock may have been set back since the statement began */
	until = evs_clock_earlier(until, evs_clock_in(StatementTimeout / 2));
	return evs_clock_earlier(until, evs_clock_at(half));
}

/* Row security could hide events, which a cursor would pass over for ever. */
static void
check_reader(void)
{
	if (evs_read_check_access())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot fetch events: row-level security on evsource.events applies to role \"%s\"",
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("A cursor would pass over the events that are hidden from it."),
				 errhint("Fetch as a role with BYPASSRLS, and filter by categories and types.")));
}

/*
 * evsource.fetch_events(subscription, max_count, consumer, lease, wait, max_bytes)
 * returns setof evsource.fetched_event
 *
 * Errors: 42704 unknown subscription, 42501, 22004 and 22023 for bad arguments,
 * 25000 under REPEATABLE READ, 25006 where nothing can be written, 55P03 for a second wait
 * while the extension is updated or dropped.
 */
Datum
evsource_fetch_events(PG_FUNCTION_ARGS)
{
	EvsFetch	fetch = {.name = evs_subscription_name(fcinfo, 0)};
	int64		wait_ms = PG_ARGISNULL(4) ? 0 :
		evs_interval_milliseconds(PG_GETARG_INTERVAL_P(4), "wait");

	fetch.max_count = (int) positive_argument(fcinfo, 1, "max_count",
											  PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1));
	fetch.consumer = evs_consumer_name(fcinfo, 2);
	fetch.lease_ms = positive_argument(fcinfo, 3, "lease", PG_ARGISNULL(3) ? 0 :
									   evs_interval_milliseconds(PG_GETARG_INTERVAL_P(3), "lease"));
	fetch.max_bytes = positive_argument(fcinfo, 5, "max_bytes",
										PG_ARGISNULL(5) ? 0 : PG_GETARG_INT64(5));

	evs_require_writable("evsource.fetch_events()");
	evs_require_read_committed("fetch events");
	check_reader();

	fetch.result = evs_read_result(fcinfo);
	fetch.context = AllocSetContextCreate(CurrentMemoryContext, "evsource fetch",
										  ALLOCSET_DEFAULT_SIZES);
	fetch.has_locks = evs_wakeup_holds_any_cursor();
	if (evs_max_wait > 0)
		wait_ms = Min(wait_ms, evs_max_wait);
	fetch.until = search_until(wait_ms);
	if (!look(&fetch) && !fetch.unfinished && wait_ms > 0)
		wait_and_fetch(&fetch, wait_ms);
	if (fetch.unfinished)
		evs_hand_out_later(&fetch);
	return (Datum) 0;
}
