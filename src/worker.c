/*
 * worker.c - apply projections in the background.
 *
 * The jobs of a database are the same list for all of its workers, and each job
 * is at home with one of them: the job's number modulo how many workers there
 * are.  As long as there are as many workers as jobs, each has its own, and
 * sleeps until an append wakes it.  A worker with several takes them in turns:
 * none goes on for longer than a slice while another one has something to do.
 *
 * A worker that is held up by one of its jobs does not hold up the others: who
 * has nothing to do at home takes over a job whose own worker is busy.  What a
 * worker has claimed is written in the team's memory; that two never apply one
 * projection at a time does not depend on that, the lock on the projection's
 * name sees to it.
 *
 * Between two transactions nothing is held.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "async.h"
#include "catalog.h"
#include "clock.h"
#include "crash_mark.h"
#include "daemon.h"
#include "horizon.h"
#include "jobs.h"
#include "own_transaction.h"
#include "rebuild.h"
#include "replay.h"

/* how long a job may go on while others wait (ms) */
#define SLICE				1000

/* a worker that is at one job for so long (ms) is too busy for its others */
#define BUSY				20

/* so many positions after the last time the counts of inline projections are noted */
#define MANY_UNCOUNTED		10000

/* how long we sleep at most (ms): those who watch us want to know that we live */
#define HEARTBEAT			30000

/* ms between two looks at the extension's version while nobody says that it changes */
#define LOOK_INTERVAL		500

/* with more jobs than this a worker waits for more events before it goes round */
#define MANY_JOBS			4

/* what rounds through many jobs may last before a rest as long as they were (ms) */
#define LONGEST_REST		100

/*
 * Under load: ms between rounds, and how many may come at once before that
 * counts.  Each costs some fifty events' worth of CPU, and a wake-up that an
 * appender pays for.
 */
#define ROUND_INTERVAL		2
#define ROUND_BURST			20

static EvsPost post;
static EvsCrew *crew;
static EvsTeam *team;
static EvsMember *me;
static EvsJobs jobs;
static MemoryContext step_context;
static bool failed = false;		/* an error ends us, that nobody has dealt with */

static void
take_mark_back(int code, Datum arg)
{
	/* one that is not told to leave, does not leave by itself and has no error dies of a handler */
	if (code == 0 || failed || evs_daemon_was_told_to_leave())
		evs_crash_mark_at_exit();
}

static void
leave_place(int code, Datum arg)
{
	SpinLockAcquire(&team->mutex);
	me->pid = 0;
	me->job = EVS_JOB_NONE;
	SpinLockRelease(&team->mutex);
	/* somebody may have left to us what it could have done */
	evs_crew_wake_team(team);
}

/* Is the coordinator that has started us still there? */
static bool
has_coordinator(void)
{
	return team->coordinator != 0 && team->term == post.term;
}

/*
 * Take the place in the team that we were started for; false if it is not for us any more.
 * Our coordinator may have ended meanwhile, and another one put somebody else there.
 */
static bool
take_place(void)
{
	bool		ours;

	SpinLockAcquire(&team->mutex);
	ours = has_coordinator() && me->pid == 0;
	if (ours)
	{
		me->pid = MyProcPid;
		me->job = EVS_JOB_NONE;
	}
	SpinLockRelease(&team->mutex);
	return ours;
}

/*
 * Claims.
 */

/* Is there somebody to leave a job to that is at home there?  Not for one who is to go. */
static bool
is_somebody(const EvsMember *home)
{
	return home->pid != 0 && !home->dismissed;
}

static bool
is_claimed_by(const EvsMember *member, const EvsJob *job)
{
	return member->pid != 0 && member->job == job->kind &&
		member->partition == job->partition &&
		strcmp(member->projection, job->projection) == 0;
}

/*
 * Is a job's home at another one, and for so long that we may take the job over?  The clock
 * may have been set back since.
 */
static bool
is_held_up(const EvsMember *home, TimestampTz now)
{
	return home->job != EVS_JOB_NONE &&
		(home->since > now || TimestampDifferenceExceeds(home->since, now, BUSY));
}

/*
 * Claim a job unless somebody else has it.  Not one that is at home with
 * another worker, unless that one is busy; then say that it may be so later.
 * Also if it is at home with us: the worker that has it may not know that, and wake
 * another when it is done, if the list has changed since it took the job.
 */
static bool
claim(int number, bool *later)
{
	TimestampTz now = GetCurrentTimestamp();
	EvsJob	   *job = &jobs.jobs[number];
	EvsMember  *home = &team->members[number % Max(team->size, 1)];
	bool		free = true;

	SpinLockAcquire(&team->mutex);
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		if (&team->members[i] != me && is_claimed_by(&team->members[i], job))
			free = false;
	}
	if (free && home != me && is_somebody(home))
	{
		free = is_held_up(home, now);
		if (!free && home->job != EVS_JOB_NONE)
			*later = true;
	}
	else if (!free && home == me)
		*later = true;
	if (free && !is_claimed_by(me, job))
	{
		me->job = job->kind;
		me->partition = job->partition;
		strlcpy(me->projection, job->projection, sizeof(me->projection));
		me->since = now;
	}
	SpinLockRelease(&team->mutex);
	return free;
}

/* For a moment: nobody has to know. */
static bool
may_take(int number)
{
	EvsMember  *home = &team->members[number % Max(team->size, 1)];
	TimestampTz now = GetCurrentTimestamp();
	bool		free;

	SpinLockAcquire(&team->mutex);
	free = home == me || !is_somebody(home) || is_held_up(home, now);
	SpinLockRelease(&team->mutex);
	return free;
}

/* Done, or enough for now.  Whose job it is may be asleep by now. */
static void
release_claim(int number)
{
	EvsMember  *home = &team->members[number % Max(team->size, 1)];

	SpinLockAcquire(&team->mutex);
	me->job = EVS_JOB_NONE;
	SpinLockRelease(&team->mutex);
	if (home != me && !jobs.jobs[number].idle)
		evs_crew_wake(home->pid);
}

/*
 * Work.
 */

/* One transaction of it; returns whether to go on at once. */
static bool
step(EvsJob *job)
{
	int			wait;

	switch (job->kind)
	{
		case EVS_JOB_NONE:
			return false;
		case EVS_JOB_APPLY:
			switch (evs_async_step(job->projection, job->partition, &job->pacing))
			{
				case EVS_ASYNC_MORE:
					return true;
				case EVS_ASYNC_RETRY:
					job->retry_at = job->pacing.retry_at;
					return false;
				case EVS_ASYNC_IDLE:
					job->idle = true;
					return false;
				case EVS_ASYNC_STOPPED:
					job->retry_at = EVS_NEVER;
					return false;
				case EVS_ASYNC_WORN:
					/* whoever takes our place can begin at once */
					me->dismissed = true;
					return false;
			}
			break;
		case EVS_JOB_REBUILD:
			switch (evs_rebuild_step(job->projection, &wait))
			{
				case EVS_MORE:
					return true;
				case EVS_WAIT:
					job->retry_at = evs_clock_in(wait);
					return false;
				case EVS_WORN:
					me->dismissed = true;
					return false;
				case EVS_DONE:
					job->retry_at = EVS_NEVER;
					return false;
			}
			break;
	}
	return false;
}

/* Should we leave, or look at the list again, before we go on? */
static bool
is_interrupted(void)
{
	return me->dismissed || !has_coordinator() || evs_jobs_have_changed();
}

/* Go on with a job that we have claimed, as long as it may. */
static void
work_on(EvsJob *job)
{
	EvsTime		started = evs_clock_now();
	bool		more = true;

	job->retry_at = EVS_NO_TIME;
	job->idle = false;
	while (more && !is_interrupted())
	{
		(void) evs_daemon_reload();
		pgstat_report_activity(STATE_RUNNING, job->projection);
		evs_daemon_allow_cancel(true);
		more = step(job);
		evs_daemon_allow_cancel(false);
		MemoryContextSwitchTo(step_context);
		MemoryContextReset(step_context);
		me->heartbeat = GetCurrentTimestamp();
		if (jobs.count > 1 && evs_clock_since(started) >= SLICE)
			break;
	}
}

/* Is there something to do for a job, as far as we know? */
static bool
is_due(const EvsJob *job)
{
	return !job->idle && evs_clock_is_over(job->retry_at);
}

/* What came of a round. */
typedef struct Round
{
	bool		was_due;		/* there was something to do */
	bool		crowded;		/* the log had grown by more than one event */
	bool		behind;			/* and there is still more */
	long		timeout;		/* nothing to do: how long to sleep (ms) */
} Round;

/* Take each job once: first those at home, then others'. */
static Round
go_round(void)
{
	static int	turn = 0;
	Round		round = {0};
	bool		later = false;

	for (int at_home = 1; at_home >= 0; at_home--)
	{
		for (int i = 0; i < jobs.count && !is_interrupted(); i++)
		{
			int			number = (turn + i) % jobs.count;
			EvsJob	   *job = &jobs.jobs[number];
			int64		position;

			if ((number % Max(team->size, 1) == post.member) != at_home || !is_due(job))
				continue;
			if (!claim(number, &later))
				continue;
			round.was_due = true;
			position = job->pacing.position;
			work_on(job);
			round.crowded |= job->pacing.position > position + 1;
			round.behind |= !job->idle;
			release_claim(number);
		}
	}
	turn = jobs.count > 0 ? (turn + 1) % jobs.count : 0;

	round.timeout = later ? BUSY : HEARTBEAT;
	for (int i = 0; i < jobs.count; i++)
	{
		EvsJob	   *job = &jobs.jobs[i];
		EvsTime		until = job->idle ? job->write_at : job->retry_at;

		if (evs_clock_is_set(until))
			round.timeout = Min(round.timeout, Max(evs_clock_left(until), 1));
	}
	return round;
}

/*
 * The list.
 */

/* The log as we last saw it. */
static int64 safe_position = 0;

/*
 * Is the extension another version than when we began?  Whoever updates it tells
 * us, unless that session does not know of evsource: then a look now and then will
 * do.
 */
static bool
is_outdated(void)
{
	static EvsTime look_at;

	if (!evs_jobs_have_changed() && !evs_clock_is_over(look_at))
		return false;
	look_at = evs_clock_in(LOOK_INTERVAL);
	return evs_daemon_is_outdated();
}

/* What there is to do has changed; false: not for us, a dump is being restored. */
static bool
look_again(void)
{
	evs_jobs_read(&jobs);
	return !evs_daemon_is_in_copy();
}

/* See what there is to do; false: leave, we are in the way or not up to date. */
static bool
look(void)
{
	bool		stay;

	evs_daemon_start_transaction();
	stay = evs_catalog_exists() && !is_outdated() && !evs_crew_in_the_way(MyDatabaseId) &&
		(!evs_jobs_have_changed() || look_again());
	if (stay)
	{
		safe_position = evs_horizon_safe_position();
		evs_jobs_wake(&jobs, safe_position);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(step_context);
	return stay;
}

/* Asked when whatever changes from now on wakes us. */
static bool
nothing_to_do(void *argument)
{
	return !is_interrupted() && evs_catalog_exists() &&
		evs_jobs_are_up_to(&jobs, evs_horizon_safe_position());
}

/* Is there no worker of a lower number?  Where room is short the only one may be any. */
static bool
is_first(void)
{
	for (int i = 0; i < post.member; i++)
	{
		if (team->members[i].pid != 0)
			return false;
	}
	return true;
}

/*
 * Active inline projections keep no counter.  Write down what they have applied,
 * so that nobody who asks has to count a large part of the log.
 */
static void
note_counts(void)
{
	static int64 noted = 0;

	if (safe_position - noted < MANY_UNCOUNTED || !is_first())
		return;
	noted = safe_position;
	PG_TRY();
	{
		evs_own_transaction_begin();
		evs_replay_note_counts();
		evs_own_transaction_commit();
	}
	PG_CATCH();
	{
		/* the next time will do */
		evs_own_transaction_give_up(step_context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(step_context);
}

/* Let some more events come; nobody needs to wake us for that. */
static void
rest(long milliseconds)
{
	(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds,
					 PG_WAIT_EXTENSION);
}

/* With many jobs at home each append would be a round. */
static void
rest_after(EvsTime started)
{
	if (jobs.count <= MANY_JOBS * Max(team->size, 1))
		return;
	rest((long) Max(Min(evs_clock_since(started), LONGEST_REST), 1));
}

/*
 * When events keep coming faster than we go round, do not take them one by one:
 * appenders need the processor, and many cost little more than one.  "next" is
 * when the next round is due if one came every ROUND_INTERVAL; a few may be
 * early, so that what comes now and then is applied at once.
 */
static void
rest_under_load(void)
{
	static EvsTime next;
	EvsTime		earliest = evs_clock_in(-ROUND_BURST * ROUND_INTERVAL);

	next = evs_clock_after(evs_clock_later(next, earliest), ROUND_INTERVAL);
	if (!evs_clock_is_over(next))
		rest(Max(evs_clock_left(next), 1));
}

/* Until we leave. */
static void
work(void)
{
	for (;;)
	{
		EvsTime		started = evs_clock_now();
		Round		round;

		(void) evs_daemon_reload();
		me->heartbeat = GetCurrentTimestamp();
		if (me->dismissed || !has_coordinator() || !look())
			proc_exit(0);
		evs_jobs_write(&jobs, may_take);
		MemoryContextSwitchTo(step_context);
		round = go_round();
		if (round.was_due)
		{
			if (round.crowded && !round.behind)
				rest_under_load();
			continue;
		}
		rest_after(started);
		note_counts();
		MemoryContextReset(step_context);
		pgstat_report_stat(false);
		evs_daemon_sleep(true, nothing_to_do, NULL, round.timeout);
	}
}

void
evs_worker_main(Datum argument)
{
	post = evs_daemon_begin(true);
	crew = evs_crew_attach(post.crew);
	if (crew == NULL)
		proc_exit(0);
	team = &crew->teams[post.team];
	me = &team->members[post.member];
	evs_crew_join(&post);
	if (!take_place())
		proc_exit(0);
	/* last what must be done even if the other one fails */
	before_shmem_exit(leave_place, (Datum) 0);
	before_shmem_exit(take_mark_back, (Datum) 0);
	step_context = AllocSetContextCreate(TopMemoryContext, "evsource worker step",
										 ALLOCSET_DEFAULT_SIZES);

	PG_TRY();
	{
		work();
	}
	PG_CATCH();
	{
		/* what is FATAL does not come here */
		failed = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
}
