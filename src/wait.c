/*
 * wait.c - wait until a projection has applied what was committed.
 *
 * An append returns before an async projection has seen its event.  Who wants to
 * read what it wrote waits for the projection: asleep, until a transaction that
 * moves the projection's checkpoint commits and wakes all who wait for it
 * (wakeup.c).  Each look is taken with a new snapshot, so the statement that
 * waits sees the checkpoint move; what else it sees is still of its beginning, and
 * the read model is for the next statement.
 *
 * A transaction that waits for itself would wait for ever: its own events hold
 * back the safe position, and no projection goes past that.
 */
#include "evsource.h"

#include <limits.h>
#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "barrier.h"
#include "daemon.h"
#include "dispatch.h"
#include "horizon.h"
#include "parameters.h"
#include "query.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evsource_wait_for);

/* How far a projection is. */
typedef struct Progress
{
	bool		live;			/* inline and active: always up to date */
	bool		choosy;			/* some events are not its business */
	char	   *mode;
	char	   *state;
	int64		position;
	char	   *message;		/* of its last failure, or NULL */
	int64		failed_at;		/* the position of that, or 0 */
} Progress;

typedef struct Wait
{
	const char *projection;
	int64		upto;
	int			looks;			/* so far; from the second on we are woken */
	MemoryContext context;		/* of one look */
	Progress	progress;		/* as of the last look, in that context */
} Wait;

/* Look, with a new snapshot. */
static void
look(Wait *wait)
{
	static EvsQuery query = {
		"select p.mode, p.state, c.position, f.position, f.message,"
		" (p.categories is not null or p.types is not null or p.partitions > 1)"
		" from evsource.projections p join evsource._checkpoints c using (projection)"
		" left join lateral (select s.position, s.message from evsource.projection_failures s"
		"  where s.projection = p.projection"
		"  order by s.retry_at is not null, s.position, s.partition limit 1) f on true"
		" where p.projection = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	MemoryContext caller;
	Datum		values[1];
	Snapshot	snapshot;
	EvsQueryResult result;
	Progress   *progress = &wait->progress;

	MemoryContextReset(wait->context);
	caller = MemoryContextSwitchTo(wait->context);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	values[0] = CStringGetTextDatum(wait->projection);
	memset(progress, 0, sizeof(Progress));

	evs_query_begin(&query, values, NULL, snapshot, &result);
	if (result.count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", wait->projection),
				 errhint("See evsource.projections for those that exist.")));
	progress->mode = evs_query_text(&result, 0, 1);
	progress->state = evs_query_text(&result, 0, 2);
	progress->position = evs_query_bigint(&result, 0, 3);
	progress->failed_at = evs_query_bigint(&result, 0, 4);
	progress->message = evs_query_text(&result, 0, 5);
	progress->choosy = evs_query_boolean(&result, 0, 6);
	progress->live = strcmp(progress->mode, "inline") == 0 &&
		strcmp(progress->state, "active") == 0;
	evs_query_end(&result);

	UnregisterSnapshot(snapshot);
	MemoryContextSwitchTo(caller);
}

/* What it fails at, and where, if that is an event's fault. */
static const char *
failure_text(const Progress *progress)
{
	return progress->failed_at == 0 ? progress->message :
		psprintf("at position %lld: %s", (long long) progress->failed_at, progress->message);
}

/* A projection that has stopped would be waited for in vain. */
static void
check_not_stopped(const Wait *wait)
{
	const Progress *progress = &wait->progress;
	bool		failed = strcmp(progress->state, "failed") == 0;

	if (!failed && strcmp(progress->state, "paused") != 0)
		return;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot wait for projection \"%s\": it %s", wait->projection,
					failed ? "has failed" : "is paused"),
			 progress->message ?
			 errdetail("It has applied the log up to position %lld; %s",
					   (long long) progress->position, failure_text(progress)) :
			 errdetail("It has applied the log up to position %lld.",
					   (long long) progress->position),
			 errhint("evsource.resume_projection() lets it go on.")));
}

static bool
has_applied(void *argument)
{
	Wait	   *wait = argument;

	look(wait);
	if (wait->progress.live || wait->progress.position >= wait->upto)
		return true;
	check_not_stopped(wait);
	/* that the log has nothing for it a worker writes down at leisure: see jobs.h */
	if (++wait->looks == 2 && wait->progress.choosy)
		evs_wakeup_followers();
	return false;
}

/* What there is to wait for: the argument, or all that was committed by now. */
static int64
position_to_reach(FunctionCallInfo fcinfo)
{
	int64		own = evs_horizon_own_bound();
	int64		last = evs_horizon_last_position();
	int64		upto = PG_ARGISNULL(1) ? last : PG_GETARG_INT64(1);

	if (upto > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position %lld has not been drawn yet", (long long) upto),
				 errdetail("The last one is %lld.", (long long) last),
				 errhint("Wait for a position that an append has returned.")));
	if (own != 0 && upto >= own)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for events that are not committed"),
				 errdetail("This transaction has appended; projections wait for its end before they go past position %lld.",
						   (long long) own - 1),
				 errhint("Commit first, then wait.")));
	return upto;
}

/* In milliseconds; -1: as long as it takes. */
static long
timeout_argument(FunctionCallInfo fcinfo)
{
	double		milliseconds;

	if (PG_ARGISNULL(2))
		return -1;
	milliseconds = evs_interval_length(PG_GETARG_INTERVAL_P(2));
	if (milliseconds < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative"),
				 errdetail("It is %.0f ms.", milliseconds),
				 errhint("Null waits as long as it takes.")));
	return (long) Min(ceil(milliseconds), (double) INT_MAX);
}

/* What a user can do about a projection that has not come so far in time. */
static const char *
way_out(const Wait *wait)
{
	if (wait->progress.message)
		return "See evsource.projection_failures for the error, and for when it is tried again.";
	switch (evs_daemon_lack())
	{
		case EVS_DAEMON_LACKS_ADOPTION:
			return "The daemon waits for evsource.adopt(): this database is a copy. evsource.run_projection() applies a projection without it.";
		case EVS_DAEMON_LACKS_ROOM:
			return psprintf("The daemon waits for a process: all %d background worker processes of the server are in use. Raise max_worker_processes.",
							max_worker_processes);
		case EVS_DAEMON_IS_OFF:
			return "The daemon is off: evsource.daemon turns it on. evsource.run_projection() applies a projection without it.";
		case EVS_DAEMON_IS_NOT_STARTED:
			return "No daemon runs for this database: call evsource.start_daemon(), or evsource.run_projection(), which applies a projection without it.";
		default:
			return "evsource.projection_status shows whether a worker applies it, evsource.blockers whether an open append holds it back.";
	}
}

static void
report_timeout(const Wait *wait)
{
	const Progress *progress = &wait->progress;
	const char *hint = way_out(wait);

	ereport(ERROR,
			(errcode(ERRCODE_EVS_WAIT_TIMEOUT),
			 errmsg("projection \"%s\" has not reached position %lld in time",
					wait->projection, (long long) wait->upto),
			 progress->message ?
			 errdetail("It is %s and has applied the log up to position %lld; %s",
					   progress->state, (long long) progress->position, failure_text(progress)) :
			 errdetail("It is %s and has applied the log up to position %lld; the safe position is %lld.",
					   progress->state, (long long) progress->position,
					   (long long) evs_horizon_safe_position()),
			 errhint("%s", hint)));
}

/*
 * evsource.wait_for(projection, up_to, timeout) returns bigint
 *
 * Waits until the projection has applied the log up to a position, or up to all
 * that was appended by now; returns the position that it has reached.
 *
 * Errors: 42704 when there is no such projection, 55000 when it is paused or has
 * failed, 55000 for events of the own transaction and in a handler or on_reset function,
 * 22023 for a position that has not been drawn, 25000 under REPEATABLE READ, VE009 when the
 * time is over, 55P03 while the extension is updated or dropped.
 */
Datum
evsource_wait_for(PG_FUNCTION_ARGS)
{
	Wait		wait = {.projection = evs_argument_name(fcinfo, 0)};
	long		timeout = timeout_argument(fcinfo);

	PreventCommandDuringRecovery("evsource.wait_for()");
	evs_require_not_parallel(fcinfo);
	evs_require_read_committed("wait for a projection");
	evs_dispatch_refuse("wait for a projection",
						"It would wait for its own transaction, or for a worker that may wait for it.",
						"Wait in the session that needs both.");
	wait.upto = position_to_reach(fcinfo);
	wait.context = AllocSetContextCreate(CurrentMemoryContext, "evsource wait",
										 ALLOCSET_SMALL_SIZES);

	if (!has_applied(&wait) &&
		!evs_wakeup_wait_projection(wait.projection, has_applied, &wait, timeout))
		report_timeout(&wait);

	PG_RETURN_INT64(wait.progress.live ? Max(wait.upto, wait.progress.position) :
					wait.progress.position);
}
