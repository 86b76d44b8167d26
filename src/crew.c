/*
 * crew.c - who works on a database in the background, and how to find them.
 *
 * The launcher makes a segment of dynamic shared memory with a team for each
 * database that it looks after; coordinators and workers are told the segment
 * when they are started.  Everybody else finds it by the lock table: for each of
 * its teams the launcher holds a lock tag of our own that carries the database,
 * the segment and the team's number.  So it works the same whether the library
 * is preloaded or not.  Nobody ever waits for these locks.
 *
 * A coordinator holds another such tag, so that a database has one of them even
 * when two launchers have been started for it.
 *
 * Whoever needs a database without sessions (DROP DATABASE and others) locks it
 * first.  Our processes ask whether somebody does so before they go to sleep and
 * whenever they wake up, and leave; the command's session wakes them (utility.c)
 * or, if it has not loaded the library, they wake up once a second.
 */
#include "evsource.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "crew.h"
#include "lock_classes.h"
#include "wakeup.h"

#define CREW_LAYOUT			6

/* The segment that we belong to, if we do: nobody can attach to one twice. */
static dsm_segment *own_segment = NULL;

/* how long a team may take to leave by itself (ms); then it is told to */
#define TIME_TO_LEAVE		1000

/* and how long it then may take; who does not listen has to be waited for elsewhere */
#define TIME_TO_END			5000

static void
team_locktag(LOCKTAG *tag, const EvsPost *post)
{
	SET_LOCKTAG_ADVISORY(*tag, post->database, post->crew, post->team, EVS_LOCK_CREW);
}

/* Not the tag of the coordinator, which has no segment in it. */
static bool
is_team_locktag(const LOCKTAG *tag, Oid database)
{
	return tag->locktag_type == LOCKTAG_ADVISORY && tag->locktag_field4 == EVS_LOCK_CREW &&
		tag->locktag_field1 == database && tag->locktag_field2 != 0;
}

EvsCrew *
evs_crew_create(int nteams, dsm_handle *handle)
{
	Size		size = add_size(offsetof(EvsCrew, teams), mul_size(nteams, sizeof(EvsTeam)));
	dsm_segment *segment = dsm_create(size, 0);
	EvsCrew    *crew = dsm_segment_address(segment);

	dsm_pin_mapping(segment);
	own_segment = segment;
	memset(crew, 0, size);
	crew->layout = CREW_LAYOUT;
	crew->launcher = MyProcPid;
	crew->nteams = nteams;
	for (int i = 0; i < nteams; i++)
		SpinLockInit(&crew->teams[i].mutex);
	*handle = dsm_segment_handle(segment);
	return crew;
}

void
evs_crew_announce(const EvsPost *post)
{
	LOCKTAG		tag;

	team_locktag(&tag, post);
	(void) LockAcquire(&tag, ExclusiveLock, true, true);
}

void
evs_crew_withdraw(const EvsPost *post)
{
	LOCKTAG		tag;

	team_locktag(&tag, post);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

void
evs_crew_leave(dsm_segment *segment)
{
	if (segment != own_segment)
		dsm_detach(segment);
}

static EvsCrew *
attach(dsm_handle handle, dsm_segment **segment)
{
	EvsCrew    *crew;

	*segment = own_segment != NULL && dsm_segment_handle(own_segment) == handle ?
		own_segment : dsm_attach(handle);
	if (*segment == NULL)
		return NULL;
	crew = dsm_segment_address(*segment);
	if (crew->layout == CREW_LAYOUT)
		return crew;
	evs_crew_leave(*segment);
	return NULL;
}

EvsCrew *
evs_crew_attach(dsm_handle handle)
{
	dsm_segment *segment;
	EvsCrew    *crew = attach(handle, &segment);

	if (crew != NULL)
	{
		dsm_pin_mapping(segment);
		own_segment = segment;
	}
	return crew;
}

EvsTeam *
evs_crew_find(Oid database, dsm_segment **segment)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LOCKTAG    *tag = &locks->locks[i].locktag;
		EvsCrew    *crew;

		if (!is_team_locktag(tag, database))
			continue;
		crew = attach(tag->locktag_field2, segment);
		if (crew == NULL)
			continue;
		if (tag->locktag_field3 < crew->nteams &&
			crew->teams[tag->locktag_field3].database == database)
			return &crew->teams[tag->locktag_field3];
		evs_crew_leave(*segment);
	}
	return NULL;
}

bool
evs_crew_is_elsewhere(const EvsPost *post)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LOCKTAG    *tag = &locks->locks[i].locktag;
		dsm_segment *segment;
		EvsCrew    *crew;
		EvsTeam    *team;
		bool		is_there;

		if (!is_team_locktag(tag, post->database) || tag->locktag_field2 == post->crew)
			continue;
		crew = attach(tag->locktag_field2, &segment);
		if (crew == NULL)
			continue;
		team = tag->locktag_field3 < crew->nteams ? &crew->teams[tag->locktag_field3] : NULL;
		is_there = team != NULL && team->database == post->database && team->coordinator != 0;
		evs_crew_leave(segment);
		if (is_there)
			return true;
	}
	return false;
}

bool
evs_crew_claim_database(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, EVS_LOCK_CREW);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* Of who drops or updates the extension in this database. */
static void
extension_locktag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 1, EVS_LOCK_CREW);
}

static bool
is_locked(const LOCKTAG *tag)
{
	if (LockAcquire(tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(tag, RowExclusiveLock, false);
	return false;
}

bool
evs_crew_database_is_locked(Oid database)
{
	LOCKTAG		tag;

	/* the lock that a session takes while it connects */
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	return is_locked(&tag);
}

bool
evs_crew_in_the_way(void)
{
	LOCKTAG		tag;

	if (evs_crew_database_is_locked(MyDatabaseId))
		return true;
	extension_locktag(&tag);
	return is_locked(&tag);
}

/* By the lock table: to lock it for a moment might keep that somebody waiting. */
pid_t
evs_crew_changes_extension(void)
{
	VirtualTransactionId *holders;
	LOCKTAG		tag;
	int			count;
	pid_t		pid = 0;

	extension_locktag(&tag);
	if (LockWaiterCount(&tag) == 0)
		return 0;
	holders = GetLockConflicts(&tag, RowExclusiveLock, &count);
	for (int i = 0; i < count; i++)
	{
		PGPROC	   *proc = evs_vxid_get_proc(&holders[i]);

		if (proc != NULL)
			pid = proc->pid;
	}
	pfree(holders);
	return pid;
}

void
evs_crew_wake(pid_t pid)
{
	PGPROC	   *proc = pid == 0 ? NULL : BackendPidGetProc(pid);

	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

void
evs_crew_wake_team(EvsTeam *team)
{
	evs_crew_wake(team->coordinator);
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
		evs_crew_wake(team->members[i].pid);
}

int
evs_crew_count_starving(const EvsCrew *crew, int first)
{
	int			count = 0;

	for (int i = 0; i < first; i++)
	{
		if (crew->teams[i].starves)
			count++;
	}
	return count;
}

void
evs_crew_wake_coordinators(const EvsCrew *crew)
{
	pg_memory_barrier();
	for (int i = 0; i < crew->nteams; i++)
		evs_crew_wake(crew->teams[i].coordinator);
}

/* Does one of the team's processes still use the database? */
static bool
is_there(EvsTeam *team)
{
	pid_t		pid = team->coordinator;

	for (int i = 0; i <= EVS_MAX_WORKERS; i++)
	{
		PGPROC	   *proc = pid == 0 ? NULL : BackendPidGetProc(pid);

		if (proc != NULL && proc->databaseId == team->database)
			return true;
		if (i < EVS_MAX_WORKERS)
			pid = team->members[i].pid;
	}
	return false;
}

static void
terminate(EvsTeam *team)
{
	if (team->coordinator != 0)
		(void) kill(team->coordinator, SIGTERM);
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		if (team->members[i].pid != 0)
			(void) kill(team->members[i].pid, SIGTERM);
	}
}

bool
evs_crew_is_in(Oid database)
{
	dsm_segment *segment;

	if (evs_crew_find(database, &segment) == NULL)
		return false;
	evs_crew_leave(segment);
	return true;
}

bool
evs_crew_is_full(void)
{
	LockData   *locks = GetLockStatusData();
	int			count = 0;

	for (int i = 0; i < locks->nelements; i++)
	{
		LOCKTAG    *tag = &locks->locks[i].locktag;

		if (is_team_locktag(tag, tag->locktag_field1))
			count++;
	}
	return count >= max_worker_processes;
}

/* Wait for the team to leave; false if it has not after so many ms. */
static bool
wait_until_gone(EvsTeam *team, int milliseconds)
{
	for (int waited = 0; waited < milliseconds && is_there(team); waited += 10)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return !is_there(team);
}

void
evs_crew_clear_database(Oid database)
{
	dsm_segment *segment;
	EvsTeam    *team = evs_crew_find(database, &segment);

	if (team == NULL)
		return;
	evs_crew_wake_team(team);
	/* the command waits until they have gone */
	if (!wait_until_gone(team, TIME_TO_LEAVE))
		terminate(team);
	evs_crew_leave(segment);
}

void
evs_crew_make_room(void)
{
	dsm_segment *segment;
	EvsTeam    *team;
	LOCKTAG		tag;

	extension_locktag(&tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	evs_wakeup_everybody();
	evs_crew_clear_database(MyDatabaseId);
	team = evs_crew_find(MyDatabaseId, &segment);
	if (team == NULL)
		return;
	(void) wait_until_gone(team, TIME_TO_END);
	evs_crew_leave(segment);
}
