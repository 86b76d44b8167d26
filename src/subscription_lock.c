/*
 * subscription_lock.c - lock a subscription and its cursors, to change it.
 *
 * Consumers lock a cursor's row for as long as a transaction in which they fetch
 * or acknowledge is open.  A session that wants them all would hold up the group
 * while it waits for one of them.  So it waits a moment, gives back what it has, lets
 * the others go on, and tries again: until it is enough.  How long that is says
 * lock_timeout, if it is set.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "attempt.h"
#include "barrier.h"
#include "clock.h"
#include "query.h"
#include "subscription.h"

/* how long others may be kept waiting by one attempt (ms) */
#define ONE_ATTEMPT			50

/* until the next: so much longer each time (ms), at most */
#define NEXT_PAUSE			50
#define LONGEST_PAUSE		500

/* What is to be locked. */
typedef struct Opening
{
	const char *name;
	bool		missing_ok;
	bool		found;			/* result */
} Opening;

static void
lock_all(Opening *opening)
{
	const char *name = opening->name;
	static EvsQuery lock = {
		"select s.owner from evsource.subscriptions s where s.subscription = $1 for update",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	static EvsQuery lock_cursors = {
		"select from evsource.cursors c where c.subscription = $1"
		" order by c.generation, c.partition for update",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	static EvsQuery exists = {
		"select true from evsource.subscriptions s where s.subscription = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {CStringGetTextDatum(name)};
	List	   *owners = evs_query_texts(&lock, values, NULL);

	opening->found = owners != NIL;
	if (!opening->found)
	{
		evs_require_seen("subscription",
						 !DatumGetBool(evs_query_value_latest(&exists, values, NULL, BoolGetDatum(false))));
		if (opening->missing_ok)
			return;
		evs_subscription_unknown(name);
	}
	evs_subscription_check_rights(name, linitial(owners));
	(void) evs_query_run(&lock_cursors, values, NULL);
}

static void
lock_all_in_a_moment(void *opening)
{
	int			nest_level = NewGUCNestLevel();
	char		value[16];

	snprintf(value, sizeof(value), "%d", ONE_ATTEMPT);
	(void) set_config_option("lock_timeout", value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	lock_all(opening);
	AtEOXact_GUC(true, nest_level);
}

/* Is it worth another attempt after this error? */
static bool
is_a_matter_of_time(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

bool
evs_subscription_open_for_change(const char *name, bool missing_ok)
{
	Opening		opening = {name, missing_ok, false};
	int			patience = evs_patience();
	EvsTime		until = evs_clock_in(patience);
	ErrorData  *error;

	for (int attempt = 1; (error = evs_attempt(lock_all_in_a_moment, &opening)) != NULL; attempt++)
	{
		long		left = evs_clock_left(until);

		if (!is_a_matter_of_time(error))
			ReThrowError(error);
		if (left <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not lock the partitions of subscription \"%s\"", name),
					 errdetail("Consumers that have fetched or acknowledged in transactions that are still open held some of them for %d ms.",
							   patience),
					 errhint("Try again when these transactions have ended; lock_timeout says how long to wait for them.")));
		evs_attempt_pause(Min(left, Min(attempt * NEXT_PAUSE, LONGEST_PAUSE)));
	}
	return opening.found;
}
