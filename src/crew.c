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
 * The others of the team hold that tag, too, in a weaker mode: none of them is missed when
 * its launcher, or also its coordinator, has died.
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

#define CREW_LAYOUT			8

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

/* Not the tag by which a coordinator claims its database, which has no segment in it. */
static bool
is_team_locktag(const LOCKTAG *tag, Oid database)
{
	return tag->locktag_type == LOCKTAG_ADVISORY && tag->locktag_field4 == EVS_LOCK_CREW &&
		tag->locktag_field1 == database && tag->locktag_field2 != 0;
}

/* The launcher announces a team by this mode; the others keep to it by a weaker one. */
static bool
is_announced(const LockInstanceData *lock, Oid database)
{
	return is_team_locktag(&lock->locktag, database) &&
		(lock->holdMask & LOCKBIT_ON(ExclusiveLock)) != 0;
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
evs_crew_join(const EvsPost *post)
{
	LOCKTAG		tag;

	team_locktag(&tag, post);
	(void) LockAcquire(&tag, AccessShareLock, true, true);
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

/* The team of this tag, if it is the database's; leave its segment when done. */
static EvsTeam *
team_of(const LOCKTAG *tag, Oid database, dsm_segment **segment)
{
	EvsCrew    *crew = attach(tag->locktag_field2, segment);

	if (crew == NULL)
		return NULL;
	if (tag->locktag_field3 < crew->nteams &&
		crew->teams[tag->locktag_field3].database == database)
		return &crew->teams[tag->locktag_field3];
	evs_crew_leave(*segment);
	return NULL;
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

/*
 * While a launcher's successor has announced a team and the former coordinator, or only a
 * worker of it, has not left yet, there are two.  One with a coordinator comes first, then one
 * with a launcher.
 */
EvsTeam *
evs_crew_find(Oid database, dsm_segment **segment)
{
	LockData   *locks = GetLockStatusData();

	for (int choice = 0; choice <= 2; choice++)
	{
		for (int i = 0; i < locks->nelements; i++)
		{
			EvsTeam    *team;

			if (!is_team_locktag(&locks->locks[i].locktag, database))
				continue;
			team = team_of(&locks->locks[i].locktag, database, segment);
			if (team == NULL)
				continue;
			if (choice == 2 || team->coordinator != 0 ||
				(choice == 1 && is_announced(&locks->locks[i], database)))
				return team;
			evs_crew_leave(*segment);
		}
	}
	return NULL;
}

/* Is the lock of this number the first of its tag?  Each process of a team has one. */
static bool
is_first_of_tag(const LockData *locks, int number)
{
	for (int i = 0; i < number; i++)
	{
		if (memcmp(&locks->locks[i].locktag, &locks->locks[number].locktag, sizeof(LOCKTAG)) == 0)
			return false;
	}
	return true;
}

int
evs_crew_visit(Oid database, EvsTeamVisitor visit, void *argument)
{
	LockData   *locks = GetLockStatusData();
	int			count = 0;

	for (int i = 0; i < locks->nelements; i++)
	{
		dsm_segment *segment;
		EvsTeam    *team;

		if (!is_team_locktag(&locks->locks[i].locktag, database) || !is_first_of_tag(locks, i))
			continue;
		team = team_of(&locks->locks[i].locktag, database, &segment);
		if (team == NULL)
			continue;
		visit(team, argument);
		evs_crew_leave(segment);
		count++;
	}
	/* who waits asks often */
	pfree(locks->locks);
	pfree(locks);
	return count;
}

bool
evs_crew_is_taken(const EvsMember *member)
{
	pid_t		pid = member->pid;

	return pid != 0 && BackendPidGetProc(pid) != NULL;
}

bool
evs_crew_has_workers(const EvsTeam *team)
{
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
	{
		if (evs_crew_is_taken(&team->members[i]))
			return true;
	}
	return false;
}

bool
evs_crew_is_elsewhere(const EvsPost *post)
{
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LOCKTAG    *tag = &locks->locks[i].locktag;
		dsm_segment *segment;
		EvsTeam    *team;
		bool		has_coordinator;

		if (!is_announced(&locks->locks[i], post->database) || tag->locktag_field2 == post->crew)
			continue;
		team = team_of(tag, post->database, &segment);
		if (team == NULL)
			continue;
		has_coordinator = team->coordinator != 0;
		evs_crew_leave(segment);
		if (has_coordinator)
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

/* Of who drops or updates the extension in a database. */
static void
extension_locktag(LOCKTAG *tag, Oid database)
{
	SET_LOCKTAG_ADVISORY(*tag, database, 0, 1, EVS_LOCK_CREW);
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
evs_crew_in_the_way(Oid database)
{
	LOCKTAG		tag;

	/* the lock that a session takes while it connects */
	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	if (is_locked(&tag))
		return true;
	extension_locktag(&tag, database);
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

	extension_locktag(&tag, MyDatabaseId);
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

bool
evs_crew_has_free_team(const EvsCrew *crew)
{
	for (int i = 0; i < crew->nteams; i++)
	{
		if (!OidIsValid(crew->teams[i].database))
			return true;
	}
	return false;
}

void
evs_crew_offer_room(EvsCrew *crew)
{
	for (int i = 0; i < crew->nteams; i++)
	{
		EvsTeam    *team = &crew->teams[i];

		if (!team->wants_room)
			continue;
		team->room = true;
		pg_memory_barrier();
		evs_crew_wake(team->coordinator);
	}
}

void
evs_crew_wake_coordinators(const EvsCrew *crew)
{
	pg_memory_barrier();
	for (int i = 0; i < crew->nteams; i++)
		evs_crew_wake(crew->teams[i].coordinator);
}

void
evs_crew_terminate(const EvsMember *member, Oid database)
{
	pid_t		pid = member->pid;
	PGPROC	   *proc = pid == 0 ? NULL : BackendPidGetProc(pid);

	if (proc != NULL && proc->databaseId == database)
		(void) kill(pid, SIGTERM);
}

static void
terminate(EvsTeam *team, void *argument)
{
	if (team->coordinator != 0)
		(void) kill(team->coordinator, SIGTERM);
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
		evs_crew_terminate(&team->members[i], team->database);
}

static void
wake_team(EvsTeam *team, void *argument)
{
	evs_crew_wake_team(team);
}

static void
look_who_is_there(EvsTeam *team, void *argument)
{
	*(bool *) argument |= is_there(team);
}

/* Does any process of ours use the database? */
static bool
anybody_is_there(Oid database)
{
	bool		found = false;

	(void) evs_crew_visit(database, look_who_is_there, &found);
	return found;
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
		if (is_announced(&locks->locks[i], locks->locks[i].locktag.locktag_field1))
			count++;
	}
	return count >= max_worker_processes;
}

/* Wait for all of them to leave; false if they have not after so many ms. */
static bool
wait_until_gone(Oid database, int milliseconds)
{
	bool		gone = false;

	for (int waited = 0; waited < milliseconds; waited += 10)
	{
		gone = !anybody_is_there(database);
		if (gone)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return gone;
}

void
evs_crew_clear_database(Oid database)
{
	if (evs_crew_visit(database, wake_team, NULL) == 0)
		return;
	/* the command waits until they have gone */
	if (!wait_until_gone(database, TIME_TO_LEAVE))
		(void) evs_crew_visit(database, terminate, NULL);
}

void
evs_crew_make_room(void)
{
	LOCKTAG		tag;

	extension_locktag(&tag, MyDatabaseId);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	evs_wakeup_everybody();
	evs_crew_clear_database(MyDatabaseId);
	(void) wait_until_gone(MyDatabaseId, TIME_TO_END);
}
