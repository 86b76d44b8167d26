/*
 * coordinator.c - find out what there is to do for a database, and have it done.
 *
 * It leaves when there is nothing to do for it: the extension is not there, no
 * projection is async and nobody listens, or the daemon is turned off for the
 * database.  Sessions that change that ask the launcher for another one.  A copy of
 * a database (the store does not say that it was last written here) has nothing to
 * do for it but to tell listeners, until evsource.adopt() changes that.
 *
 * While the safe position rises it also publishes it for standbys, and tells
 * those who LISTEN: once for all that was appended since the last time.
 */
#include "evsource.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "daemon.h"
#include "horizon.h"
#include "jobs.h"
#include "listen.h"
#include "notify.h"
#include "own_transaction.h"
#include "publish.h"
#include "staffing.h"
#include "wakeup.h"

/* how long we try to start a first worker (ms) before we leave our place to another database */
#define TIME_TO_STARVE		1000

/* how long we sleep at most (ms): those who watch us want to know that we live */
#define HEARTBEAT			30000

/* how long we stay (ms) for the next one who listens: clients come and go */
#define LISTENERS_AWAY		3000

/*
 * So many messages may come at once before evsource.notify_interval counts, where it is short:
 * no more than come within so many ms.  Who has chosen a long one wants no more than that.
 */
#define NOTIFY_BURST		5
#define NOTIFY_BURST_TIME	30

/* how long (ms) we wait for others who notify: our workers wait for us */
#define NOTIFY_PATIENCE		500

/* ms until notifying, or publishing, is tried again */
#define NOTIFY_DELAY		1000

static EvsPost post;
static EvsCrew *crew;
static EvsTeam *team;
static EvsJobs jobs;
static char *database_name;
static int64 published = 0;
static EvsTime publish_at;
static int64 notified = 0;
static EvsTime notify_at;
static EvsTime listened_at;		/* when somebody listened last */
static bool waits_for_adoption = false;
static bool closed = false;		/* the database allows no connections any more */

/* However it ends: the next coordinator would not know our workers, and start others. */
static void
coordinator_exits(int code, Datum arg)
{
	/* an error may have left some */
	LWLockReleaseAll();
	team->coordinator = 0;
	team->settled = false;
	team->wants_room = team->starves = false;
	evs_staffing_terminate();
}

static void
leave(EvsVerdict verdict)
{
	evs_staffing_end();
	team->verdict = verdict;
	proc_exit(0);
}

/*
 * What there is to do.
 */

static void
look_for_copy(void)
{
	bool		copy = jobs.count > 0 && evs_daemon_is_in_copy();

	/* who comes to look again does not say it again */
	if (copy && !waits_for_adoption)
		ereport(team->told_copy ? DEBUG1 : LOG,
				(errmsg("evsource waits for evsource.adopt() in database \"%s\"",
						database_name),
				 errdetail("The database is a copy of the one that its events were written in."),
				 errhint("Call evsource.adopt() if this database is to apply async projections.")));
	waits_for_adoption = copy;
	team->told_copy |= copy;
}

static bool
somebody_listens(void)
{
	if (evs_notify_interval == 0 || !evs_listen_anybody())
		return false;
	listened_at = evs_clock_now();
	return true;
}

/* Are there only listeners to stay for?  Then for how long, in ms; 0: no more. */
static long
time_to_stay(void)
{
	if ((jobs.count > 0 && !waits_for_adoption) || team->stay || somebody_listens())
		return HEARTBEAT;
	return !evs_clock_is_set(listened_at) ? 0 :
		evs_clock_left(evs_clock_after(listened_at, LISTENERS_AWAY));
}

/* Read the list of jobs if it is not what it was; leave if we are not needed. */
static void
look(void)
{
	EvsVerdict	verdict = EVS_VERDICT_NONE;
	bool		exists;

	evs_daemon_start_transaction();
	closed = evs_daemon_is_shut_out();
	exists = evs_catalog_exists();
	if (evs_crew_in_the_way(MyDatabaseId))
		verdict = EVS_VERDICT_AWAY;
	else if (team->stop)
		verdict = EVS_VERDICT_STOPPED;
	else if (!exists || !evs_daemon_enabled)
		verdict = EVS_VERDICT_NOT_NEEDED;
	else if (evs_daemon_is_outdated())
		verdict = EVS_VERDICT_ANEW;
	else
	{
		if (evs_jobs_have_changed())
		{
			evs_jobs_read(&jobs);
			look_for_copy();
		}
		if (time_to_stay() == 0)
			verdict = EVS_VERDICT_NOT_NEEDED;
	}
	CommitTransactionCommand();

	if (verdict == EVS_VERDICT_NONE && BackendPidGetProc(crew->launcher) == NULL)
		verdict = EVS_VERDICT_AWAY;
	if (verdict != EVS_VERDICT_NONE)
		leave(verdict);
}

/*
 * When many databases get a coordinator at once there may be no room left for workers.
 * One after the other makes room then, so that some of them are served, whoever listens
 * for what it does: none of them hears of anything while there are no workers.  The last
 * one stays, unless a database comes that its place may be enough for: one in which
 * somebody listens, or that only is to be looked at.
 */
static bool
is_better_left(void)
{
	if (team->stay || evs_staffing_starves_for() < TIME_TO_STARVE)
		return false;
	if (evs_crew_count_starving(crew, crew->nteams) > 1)
		return evs_crew_count_starving(crew, post.team) > 0;
	return crew->newcomer && !somebody_listens();
}

/*
 * The safe position.
 */

/* For what we watch the log; either may have to wait for its time. */
typedef struct Watch
{
	bool		publish;
	bool		notify;
	bool		listened;		/* somebody listens */
} Watch;

/* Publish it if it has risen, but not too often; returns whether to watch it. */
static bool
publish(long *timeout)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int64 safe = -1;

	if (evs_publish_interval == 0 || max_wal_senders == 0)
		return false;
	if (!evs_clock_is_over(publish_at))
	{
		*timeout = Min(*timeout, Max(evs_clock_left(publish_at), 10));
		return false;
	}

	PG_TRY();
	{
		evs_daemon_start_transaction();
		PushActiveSnapshot(GetTransactionSnapshot());
		safe = evs_publish_next(published);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		evs_own_transaction_give_up(context);	/* the workers need us all the same */
		safe = -1;
	}
	PG_END_TRY();
	if (safe != published)
		publish_at = evs_clock_in(safe >= 0 ? evs_publish_interval : Max(evs_publish_interval, NOTIFY_DELAY));
	published = Max(published, safe);
	if (safe < 0)
		*timeout = Min(*timeout, Max(evs_clock_left(publish_at), 10));
	return safe >= 0;
}

/* Tell them, if there is something new. */
static void
tell_listeners(void)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		int64		safe;

		evs_daemon_start_transaction();
		safe = evs_horizon_safe_position();
		if (safe > notified &&
			!(evs_notify_turn_within(NOTIFY_PATIENCE) && evs_notify_events(safe)))
		{
			/* a session notifies and does not end, or listens and does not take what it is sent */
			notify_at = evs_clock_in(NOTIFY_DELAY);
			safe = notified;
		}
		else if (safe > notified)
		{
			int64		made_up_for = Min((int64) NOTIFY_BURST * evs_notify_interval,
										  Max(NOTIFY_BURST_TIME - evs_notify_interval, 0));
			EvsTime		earliest = evs_clock_in(-made_up_for);

			notify_at = evs_clock_after(evs_clock_later(notify_at, earliest), evs_notify_interval);
		}
		CommitTransactionCommand();
		notified = safe;
	}
	PG_CATCH();
	{
		/* others may have filled the queue just now */
		evs_own_transaction_give_up(context);
		notify_at = evs_clock_in(NOTIFY_DELAY);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}

/* The same, but not too often; returns whether to watch the log. */
static bool
notify(long *timeout)
{
	/* the interval may have been made shorter meanwhile */
	notify_at = evs_clock_earlier(notify_at, evs_clock_in(Max(evs_notify_interval, NOTIFY_DELAY)));
	if (evs_clock_is_over(notify_at))
		tell_listeners();
	if (evs_clock_is_over(notify_at))
		return true;
	*timeout = Min(*timeout, Max(evs_clock_left(notify_at), 1));
	return false;
}

/* Asked when whatever changes from now on wakes us. */
static bool
nothing_to_do(void *argument)
{
	const Watch *watch = argument;

	if (evs_jobs_have_changed() || team->stop || team->room || !evs_catalog_exists())
		return false;
	if (evs_staffing_is_outdated() || is_better_left())
		return false;
	if (watch->publish && evs_horizon_safe_position() > published)
		return false;
	if (watch->notify && evs_horizon_safe_position() > notified)
		return false;
	return watch->listened == somebody_listens();
}

void
evs_coordinator_main(Datum argument)
{
	post = evs_daemon_begin(true);
	crew = evs_crew_attach(post.crew);
	if (crew == NULL)
		proc_exit(0);
	team = &crew->teams[post.team];
	post.term = ++team->term;
	before_shmem_exit(coordinator_exits, (Datum) 0);
	evs_daemon_start_transaction();
	database_name = MemoryContextStrdup(TopMemoryContext, get_database_name(MyDatabaseId));
	CommitTransactionCommand();
	evs_staffing_begin(&post, crew, database_name);
	if (!evs_crew_claim_database())
	{
		/* one whose launcher has gone sees that when it is woken, and makes room */
		evs_daemon_start_transaction();
		evs_wakeup_daemon();
		CommitTransactionCommand();
		leave(EVS_VERDICT_AWAY);
	}
	team->coordinator = MyProcPid;
	evs_crew_join(&post);

	for (;;)
	{
		long		timeout;
		Watch		watch;

		(void) evs_daemon_reload();
		team->heartbeat = GetCurrentTimestamp();
		look();
		team->settled = true;
		watch.listened = somebody_listens();
		timeout = evs_staffing_look_after(waits_for_adoption ? 0 : jobs.count, closed,
										  Min(HEARTBEAT, time_to_stay()));
		if (is_better_left())
			leave(EVS_VERDICT_NO_ROOM);
		watch.publish = publish(&timeout);
		watch.notify = watch.listened && notify(&timeout);
		evs_daemon_sleep(watch.publish || watch.notify, nothing_to_do, &watch, timeout);
	}
}
