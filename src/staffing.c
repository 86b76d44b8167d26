/*
 * staffing.c - how many workers a database has, and how they are kept.
 *
 * One for each job, up to evsource.max_workers.  Where the server has too few processes, no
 * database has a second worker while another has none.  One that died is started again,
 * less and less often.
 *
 * A coordinator that ends, however that is, has its workers terminated.  One that does not
 * hear of that for a while keeps its place, for all to see: the next coordinator gives that to
 * nobody else before it has gone.
 */
#include "evsource.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"

#include "clock.h"
#include "daemon.h"
#include "staffing.h"

/* ms until a worker that died is started again: at least, at most */
#define FIRST_DELAY			100
#define LAST_DELAY			60000

/* at most, where it found no room: others than ours say nothing when they leave some (ms) */
#define ROOM_DELAY			10000

/* ms until the log says again that there is no room */
#define TELL_ROOM			60000

/* one that lived so long (ms) did not die of what it found at its start */
#define LONG_LIFE			10000

/* how long workers may take to leave by themselves (ms) */
#define TIME_TO_LEAVE		200

/* A worker that we have started. */
typedef struct Worker
{
	BackgroundWorkerHandle *handle; /* NULL: there is none */
	EvsTime		started_at;
	EvsTime		start_at;		/* the next one: not before that */
	long		delay;			/* ms, of the last restart */
	bool		no_room;		/* the last one found none */
	pid_t		heir;			/* who is in its place, and is told to leave; 0: nobody is */
} Worker;

static EvsPost post;
static EvsCrew *crew;
static EvsTeam *team = NULL;
static const char *database_name;
static Worker workers[EVS_MAX_WORKERS];
static EvsTime starves_since;
static bool shares = false;		/* one worker has to do: another database has none */
static int	first_worker = 0;	/* then it is this one */

void
evs_staffing_begin(const EvsPost *its_post, EvsCrew *its_crew, const char *its_database_name)
{
	post = *its_post;
	crew = its_crew;
	team = &crew->teams[post.team];
	database_name = its_database_name;
}

/* Is somebody in this place whom we have not started? */
static bool
has_heir(int number)
{
	return workers[number].handle == NULL && evs_crew_is_taken(&team->members[number]);
}

/* Its own coordinator has told it, if it could. */
static void
see_off(int number)
{
	EvsMember  *member = &team->members[number];

	if (workers[number].heir == member->pid)
		return;
	workers[number].heir = member->pid;
	member->dismissed = true;
	evs_crew_terminate(member, post.database);
}

/* Not at once, and less and less often. */
static void
try_later(Worker *worker)
{
	worker->delay = Min(Max(worker->delay * 2, FIRST_DELAY), LAST_DELAY);
	worker->start_at = evs_clock_in(worker->delay);
}

/* Say so in the log, now and then, whoever of our database has said it before. */
static void
tell_no_room(int number)
{
	if (!evs_clock_is_over(team->tell_room_at))
		return;
	team->tell_room_at = evs_clock_in(TELL_ROOM);
	ereport(LOG,
			(errmsg("evsource could not start worker %d of %d for database \"%s\"",
					number + 1, team->size, database_name),
			 errhint("Raise max_worker_processes, or lower evsource.max_workers.")));
}

static void
start_worker(int number)
{
	Worker	   *worker = &workers[number];
	EvsPost		its_post = post;
	BackgroundWorker description;

	its_post.member = number;
	evs_daemon_describe(&description, "evsource worker", "evs_worker_main", &its_post);
	description.bgw_notify_pid = MyProcPid;
	worker->started_at = evs_clock_now();
	worker->heir = 0;
	SpinLockAcquire(&team->mutex);
	team->members[number].pid = 0;	/* of one that died in its exit */
	team->members[number].dismissed = false;
	SpinLockRelease(&team->mutex);
	worker->no_room = !RegisterDynamicBackgroundWorker(&description, &worker->handle);
	if (!worker->no_room)
		return;

	/* often there is room soon: when a server starts, many look what there is to do */
	worker->handle = NULL;
	worker->delay = Min(Max(worker->delay * 2, FIRST_DELAY), ROOM_DELAY);
	worker->start_at = evs_clock_in(worker->delay);
	tell_no_room(number);
}

static void
tell_launcher_of_room(void)
{
	crew->room = true;
	pg_memory_barrier();
	evs_crew_wake(crew->launcher);
}

/* Somebody has left some: who found none tries again. */
static void
use_room(void)
{
	if (!team->room)
		return;
	team->room = false;
	pg_memory_barrier();
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		if (workers[i].no_room)
		{
			workers[i].start_at = EVS_NO_TIME;
			workers[i].delay = 0;
		}
	}
}

/* Does some database have no worker, or no coordinator yet, for want of room? */
static bool
somebody_has_none(void)
{
	return crew->queue || evs_crew_count_starving(crew, crew->nteams) > 0;
}

/* How many workers shall there be?  None has a second one while another has none. */
static int
decide_size(int jobs)
{
	int			size = Min(jobs, evs_max_workers);

	shares = somebody_has_none();
	first_worker = 0;
	if (!shares || size <= 1)
		return size;

	for (int i = EVS_MAX_WORKERS - 1; i >= 0; i--)
	{
		if (workers[i].handle != NULL && !team->members[i].dismissed)
			first_worker = i;
	}
	return 1;
}

static bool
is_wanted(int number, int size)
{
	return number >= first_worker && number < first_worker + size;
}

/* Let the others know whether there is room for our workers. */
static void
note_room(int size, bool closed)
{
	bool		wants_room = false;
	bool		starves = true;

	for (int i = 0; i < EVS_MAX_WORKERS && !closed; i++)
	{
		if (!is_wanted(i, size))
			continue;
		wants_room |= workers[i].no_room;
		starves &= workers[i].no_room;
	}
	starves &= wants_room;
	team->wants_room = wants_room || shares;	/* it may have more of them then */
	if (starves == team->starves)
		return;
	team->starves = starves;
	starves_since = evs_clock_now();
	evs_crew_wake_coordinators(crew);
	/* others have waited for us */
	if (!starves)
		tell_launcher_of_room();
}

/* It has gone: by itself, or because it died. */
static void
bury_worker(int number)
{
	Worker	   *worker = &workers[number];

	pfree(worker->handle);
	worker->handle = NULL;
	tell_launcher_of_room();
	if (evs_clock_since(worker->started_at) >= LONG_LIFE)
		worker->delay = 0;
	if (!team->members[number].dismissed)
		try_later(worker);
}

long
evs_staffing_look_after(int jobs, bool closed, long timeout)
{
	int			size = decide_size(jobs);

	if (team->size != size)
	{
		/* who does what depends on how many there are */
		team->size = size;
		evs_crew_wake_team(team);
	}
	use_room();
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		Worker	   *worker = &workers[i];
		pid_t		pid;

		if (worker->handle != NULL &&
			GetBackgroundWorkerPid(worker->handle, &pid) == BGWH_STOPPED)
			bury_worker(i);
		if (has_heir(i))
		{
			/* it wakes us when it goes */
			see_off(i);
			continue;
		}
		if (!is_wanted(i, size) && worker->handle != NULL && !team->members[i].dismissed)
		{
			team->members[i].dismissed = true;
			evs_crew_wake(team->members[i].pid);
		}
		if (is_wanted(i, size) && worker->handle == NULL)
		{
			bool		due = evs_clock_is_over(worker->start_at);

			if (due && closed)
				try_later(worker);
			else if (due)
				start_worker(i);
			if (worker->handle == NULL)
				timeout = Min(timeout, Max(evs_clock_left(worker->start_at), 10));
		}
	}
	note_room(size, closed);
	return timeout;
}

bool
evs_staffing_is_outdated(void)
{
	return shares != somebody_has_none();
}

long
evs_staffing_starves_for(void)
{
	return team->starves ? Max(evs_clock_since(starves_since), 1) : 0;
}

/* Have all workers gone? */
static bool
is_alone(void)
{
	pid_t		pid;

	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		if (workers[i].handle != NULL &&
			GetBackgroundWorkerPid(workers[i].handle, &pid) != BGWH_STOPPED)
			return false;
		if (has_heir(i))
			return false;
	}
	return true;
}

static void
wait_for_exits(long timeout)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

void
evs_staffing_terminate(void)
{
	/* the coordinator ends before it has begun */
	if (team == NULL)
		return;
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		if (workers[i].handle != NULL)
			TerminateBackgroundWorker(workers[i].handle);
		else if (has_heir(i))
			see_off(i);
	}
}

/* Those that are in a transaction are not waited for long. */
void
evs_staffing_end(void)
{
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		team->members[i].dismissed = true;
		evs_crew_wake(team->members[i].pid);
	}
	for (int waited = 0; waited < TIME_TO_LEAVE && !is_alone(); waited += 10)
		wait_for_exits(10);
	evs_staffing_terminate();
	while (!is_alone())
		wait_for_exits(100);
}
