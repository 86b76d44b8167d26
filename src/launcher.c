/*
 * launcher.c - keep a coordinator for each database that needs one.
 *
 * Preloaded, there is one launcher for the server. It is in no database, so it
 * is in nobody's way, and it cannot see which databases have the extension: a
 * coordinator looks, and leaves if there is nothing to do.  So each database is
 * looked at when the server starts, and again whenever a transaction in it
 * changes something about projections (wakeup.c), or it is created, or the daemon
 * is turned on for the server.
 *
 * Without preloading, evsource.start_daemon() starts a launcher for its database.
 * It ends when the database is gone or the coordinator is not needed any more.
 *
 * A coordinator that dies, or that leaves to let somebody drop or copy the
 * database, is started again after a while; that becomes longer for one that
 * dies soon, until evsource.start_daemon() is called.  The launcher itself is started
 * again by the postmaster.
 *
 * There may be many more databases than processes: a server that starts looks at each.
 * Those that find no room wait in line; as soon as one of our processes has gone the first
 * of them get its place, but coordinators without any worker come before them.  One that
 * gives up its own place because it has no worker goes to the end of the line.
 *
 * A database that allows no connections (ALTER DATABASE ... ALLOW_CONNECTIONS false,
 * mostly for a while) is not tried.  Whoever opens it again asks us to look at it
 * (utility.c), but for an UPDATE of pg_database: so we look by ourselves, less and
 * less often, up to once a minute.  Not at templates that are closed: template0 is.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "clock.h"
#include "daemon.h"
#include "databases.h"
#include "shmem.h"
#include "wakeup.h"

/* ms until a coordinator is started again: at least, at most */
#define FIRST_DELAY			500
#define LAST_DELAY			60000

/* at most, where it found no room: others than ours say nothing when they leave some (ms) */
#define ROOM_DELAY			10000

/* ms until the log says again that there is no room */
#define TELL_ROOM			60000

/* ms until it is seen that the last worker has gone */
#define LOOK_AGAIN			50

/* one that lived so long (ms) did not die of what it found at its start */
#define LONG_LIFE			10000

/* A database that needs a coordinator, as far as we know. */
typedef struct Charge
{
	EvsPost		post;			/* team -1: it has none yet */
	BackgroundWorkerHandle *handle; /* of its coordinator; NULL: it has none now */
	bool		again;			/* look again when it says it is not needed */
	bool		starved;		/* the last one found no room for a worker: it wants more than its place */
	bool		to_the_end;		/* of the line */
	bool		closed;			/* the database allows no connections */
	bool		locked;			/* somebody had locked it when we last looked */
	EvsTime		started_at;
	EvsTime		start_at;		/* not before that */
	long		delay;			/* ms, of the last restart */
} Charge;

static EvsCrew *crew;
static dsm_handle crew_handle;
static Oid	only_database;
static List *charges = NIL;
static List *told_copies = NIL; /* databases: that they wait is in the log */
static bool full;				/* there is no room for who waits in line */
static bool short_of_room;		/* somebody waits on */
static bool room;				/* somebody has left some */
static List *open_databases;	/* if that was asked in this round */

static Charge *
find_charge(Oid database)
{
	ListCell   *cell;

	foreach(cell, charges)
	{
		Charge	   *charge = lfirst(cell);

		if (charge->post.database == database)
			return charge;
	}
	return NULL;
}

/* Has it no coordinator because the server has no room for one? */
static bool
waits_for_room(const Charge *charge)
{
	return charge->handle == NULL && !charge->closed && !charge->locked &&
		(charge->post.team < 0 || crew->teams[charge->post.team].no_room);
}

/* Are workers there whose coordinator has died?  By the team alone they are found. */
static bool
has_heirs(const Charge *charge)
{
	return charge->post.team >= 0 && charge->handle == NULL &&
		evs_crew_has_workers(&crew->teams[charge->post.team]);
}

/* Have a look at a database. */
static void
take_charge(Oid database)
{
	Charge	   *charge = find_charge(database);
	MemoryContext old;

	if (charge != NULL)
	{
		charge->again = true;
		charge->starved = false;
		if (charge->closed || waits_for_room(charge))
			charge->start_at = EVS_NO_TIME;
		return;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	charge = palloc0(sizeof(Charge));
	charge->post.database = database;
	charge->post.crew = crew_handle;
	charge->post.team = -1;
	charges = lappend(charges, charge);
	MemoryContextSwitchTo(old);
}

/* Give it a team, which others can find from now on; false if all are taken. */
static bool
give_team(Charge *charge)
{
	for (int number = 0; number < crew->nteams; number++)
	{
		EvsTeam    *team = &crew->teams[number];

		if (OidIsValid(team->database))
			continue;
		team->database = charge->post.database;
		team->launcher = MyProcPid;
		team->stop = false;
		team->hurry = false;
		team->no_room = team->wants_room = team->starves = team->room = false;
		team->tell_room_at = EVS_NO_TIME;
		team->stay = OidIsValid(only_database);
		team->told_copy = list_member_oid(told_copies, team->database);
		charge->post.team = number;
		evs_crew_announce(&charge->post);
		return true;
	}
	return false;
}

static void
take_team(Charge *charge)
{
	EvsTeam    *team;
	MemoryContext old;

	if (charge->post.team < 0)
		return;
	evs_crew_withdraw(&charge->post);
	team = &crew->teams[charge->post.team];
	if (team->told_copy)
	{
		old = MemoryContextSwitchTo(TopMemoryContext);
		told_copies = list_append_unique_oid(told_copies, team->database);
		MemoryContextSwitchTo(old);
	}
	team->database = InvalidOid;
	charge->post.team = -1;
	room = true;
}

/* Not at once, and less and less often. */
static void
try_later(Charge *charge)
{
	charge->delay = Min(Max(charge->delay * 2, FIRST_DELAY), LAST_DELAY);
	charge->start_at = evs_clock_in(charge->delay);
}

static void
wait_for_room(Charge *charge)
{
	/* start_daemon() wants to know; it does not help to hurry */
	if (charge->post.team >= 0 || give_team(charge))
	{
		crew->teams[charge->post.team].no_room = true;
		crew->teams[charge->post.team].hurry = false;
	}
	short_of_room = true;
	charge->delay = Min(Max(charge->delay * 2, FIRST_DELAY), ROOM_DELAY);
	charge->start_at = evs_clock_in(charge->delay);
}

static void
start(Charge *charge)
{
	BackgroundWorker worker;
	MemoryContext old;
	bool		started;
	EvsTeam    *team;

	charge->started_at = evs_clock_now();
	if (charge->post.team < 0 && !give_team(charge))
	{
		wait_for_room(charge);
		return;
	}

	charge->again = false;
	team = &crew->teams[charge->post.team];
	team->hurry = false;
	team->verdict = EVS_VERDICT_NONE;
	evs_daemon_describe(&worker, "evsource coordinator", "evs_coordinator_main",
						&charge->post);
	worker.bgw_notify_pid = MyProcPid;
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &charge->handle);
	MemoryContextSwitchTo(old);
	team->no_room = false;
	if (started)
		return;

	charge->handle = NULL;
	full = true;
	wait_for_room(charge);
}

/* Its coordinator has gone: is that all?  If not, say when to try again. */
static bool
bury(Charge *charge)
{
	EvsVerdict	verdict = crew->teams[charge->post.team].verdict;

	pfree(charge->handle);
	charge->handle = NULL;
	room = true;
	charge->starved = verdict == EVS_VERDICT_NO_ROOM && !charge->again;
	if (verdict == EVS_VERDICT_STOPPED ||
		(verdict == EVS_VERDICT_NOT_NEEDED && !charge->again))
		return true;

	/* another launcher has the new library, we may have the old one */
	if (verdict == EVS_VERDICT_ANEW && OidIsValid(only_database) &&
		evs_launcher_start(only_database))
		return true;

	/* several have been started at the same time, or while a killed one was away */
	if (verdict == EVS_VERDICT_AWAY && OidIsValid(only_database) &&
		evs_crew_is_elsewhere(&charge->post))
		return true;

	/* the place is for another database; then it is this one's turn again */
	if (verdict == EVS_VERDICT_NO_ROOM)
	{
		charge->delay = 0;
		charge->to_the_end = true;
		wait_for_room(charge);
		return false;
	}

	if (verdict != EVS_VERDICT_NONE ||
		evs_clock_since(charge->started_at) >= LONG_LIFE)
		charge->delay = 0;
	try_later(charge);
	if (verdict == EVS_VERDICT_NOT_NEEDED || verdict == EVS_VERDICT_ANEW)
		charge->start_at = EVS_NO_TIME;
	return false;
}

/*
 * A coordinator would wait until it is not, and then find out whether there is still a
 * database; or, while the extension is dropped in it, leave at once.
 */
static bool
is_locked(Oid database)
{
	bool		locked;

	evs_daemon_start_transaction();
	locked = evs_crew_in_the_way(database);
	CommitTransactionCommand();
	return locked;
}

/* Can sessions connect to it?  As it was when this was first asked in this round. */
static bool
is_open(Oid database)
{
	if (open_databases == NIL)
		open_databases = evs_databases_find(EVS_DATABASES_OPEN, InvalidOid);
	return list_member_oid(open_databases, database);
}

/* Keep it in mind until it is open again; false if there is no such database. */
static bool
wait_until_open(Charge *charge)
{
	if (evs_databases_find(EVS_DATABASES_CLOSED, charge->post.database) == NIL)
		return false;

	/* others may need the place; but by its place stop_daemon() finds one started by hand */
	if (!OidIsValid(only_database) && !has_heirs(charge))
		take_team(charge);
	charge->closed = true;
	try_later(charge);
	return true;
}

/* Do what is to be done for one of them; returns whether that was all. */
static bool
look_after(Charge *charge)
{
	pid_t		pid;

	if (charge->handle != NULL)
	{
		if (GetBackgroundWorkerPid(charge->handle, &pid) != BGWH_STOPPED)
			return false;
		if (bury(charge))
			return true;
	}
	if (charge->post.team >= 0 && crew->teams[charge->post.team].stop)
	{
		charge->start_at = evs_clock_in(LOOK_AGAIN);
		return !has_heirs(charge);
	}
	if (charge->post.team >= 0 && crew->teams[charge->post.team].hurry)
	{
		charge->delay = 0;
		charge->start_at = EVS_NO_TIME;
	}
	if (!evs_clock_is_over(charge->start_at))
		return false;
	/* not for each of many a look for nothing */
	if (waits_for_room(charge) &&
		(full || (charge->post.team < 0 && !evs_crew_has_free_team(crew))) && is_open(charge->post.database))
	{
		wait_for_room(charge);
		return false;
	}
	if (evs_databases_find(EVS_DATABASES_OPEN, charge->post.database) == NIL)
		return !wait_until_open(charge);
	if (charge->closed)
	{
		charge->closed = false;
		charge->delay = 0;
	}
	charge->locked = is_locked(charge->post.database);
	if (charge->locked)
	{
		charge->start_at = evs_clock_in(FIRST_DELAY);
		return false;
	}
	start(charge);
	return false;
}

/* How many wait for room?  Say so in the log, now and then. */
static void
tell_who_waits(void)
{
	static EvsTime tell_at;
	Oid			first = InvalidOid;
	int			count = 0;
	ListCell   *cell;

	if (!evs_clock_is_over(tell_at))
		return;
	foreach(cell, charges)
	{
		Charge	   *charge = lfirst(cell);

		if (!waits_for_room(charge))
			continue;
		if (count++ == 0)
			first = charge->post.database;
	}
	tell_at = evs_clock_in(TELL_ROOM);

	/* often there is room soon: when a server starts, many look what there is to do */
	ereport(LOG,
			(errmsg("evsource could not start a coordinator for database %u", first),
			 errdetail_plural("No background worker process of the server is free; %d database waits for one.",
							  "No background worker process of the server is free; %d databases wait for one.",
							  count, count),
			 errhint("Raise max_worker_processes if this does not pass.")));
}

/* Somebody has left: those that wait for that need not wait for their time. */
static void
use_room(void)
{
	ListCell   *cell;

	evs_crew_offer_room(crew);
	foreach(cell, charges)
	{
		Charge	   *charge = lfirst(cell);

		if (waits_for_room(charge))
		{
			charge->start_at = EVS_NO_TIME;
			charge->delay = 0;
		}
	}
}

/* Let coordinators know who waits in line. */
static void
tell_of_queue(void)
{
	bool		queue = false;
	bool		newcomer = false;
	ListCell   *cell;

	foreach(cell, charges)
	{
		Charge	   *charge = lfirst(cell);

		if (!waits_for_room(charge))
			continue;
		queue = true;
		newcomer |= !charge->starved;
	}
	if (crew->queue == queue && crew->newcomer == newcomer)
		return;
	crew->queue = queue;
	crew->newcomer = newcomer;
	evs_crew_wake_coordinators(crew);
}

/* Look after all of them; returns how many ms to sleep, -1 for ever. */
static long
look_after_charges(void)
{
	long		timeout = -1;
	List	   *all = charges;
	List	   *last = NIL;
	ListCell   *cell;
	MemoryContext old;

	charges = open_databases = NIL;
	room = short_of_room = false;
	if (crew->room)
	{
		crew->room = false;
		pg_memory_barrier();
		room = true;
	}
	full = evs_crew_count_starving(crew, crew->nteams) > 0;
	foreach(cell, all)
	{
		Charge	   *charge = lfirst(cell);

		if (look_after(charge))
		{
			take_team(charge);
			pfree(charge);
			continue;
		}
		if (charge->handle == NULL)
		{
			long		left = evs_clock_left(charge->start_at);

			timeout = timeout < 0 ? Max(left, 10) : Min(timeout, Max(left, 10));
		}
		old = MemoryContextSwitchTo(TopMemoryContext);
		if (charge->to_the_end)
			last = lappend(last, charge);
		else
			charges = lappend(charges, charge);
		MemoryContextSwitchTo(old);
		charge->to_the_end = false;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	charges = list_concat(charges, last);
	MemoryContextSwitchTo(old);
	list_free(last);
	list_free(all);
	if (short_of_room)
		tell_who_waits();
	if (room)
		use_room();
	else
		tell_of_queue();
	return room ? 0 : timeout;
}

static void
take_requests(void)
{
	List	   *databases;
	ListCell   *cell;

	if (OidIsValid(only_database))
		return;
	for (;;)
	{
		Oid			database = evs_shmem_take_request();

		if (!OidIsValid(database))
			break;
		if (database != EVS_ALL_DATABASES)
		{
			take_charge(database);
			continue;
		}
		databases = list_concat(evs_databases_find(EVS_DATABASES_OPEN, InvalidOid),
								evs_databases_find(EVS_DATABASES_CLOSED, InvalidOid));
		foreach(cell, databases)
			take_charge(lfirst_oid(cell));
	}
}

/*
 * Who left while the daemon was turned off is missed when it is turned on.  Or who
 * leaves: it may have seen that where we have come too late for it.
 */
static void
reload(void)
{
	bool		was_enabled = evs_daemon_enabled;
	ListCell   *cell;

	if (!evs_daemon_reload() || !evs_daemon_enabled || OidIsValid(only_database))
		return;
	foreach(cell, charges)
		((Charge *) lfirst(cell))->again = true;
	if (!was_enabled)
		evs_shmem_request(EVS_ALL_DATABASES);
}

/* Our teams look for us when they are woken: let them leave at once, others come soon. */
static void
launcher_exits(int code, Datum argument)
{
	crew->launcher = 0;
	evs_crew_wake_coordinators(crew);
}

void
evs_launcher_main(Datum argument)
{
	EvsPost		post = evs_daemon_begin(false);
	uint32		wait_event = evs_wakeup_wait_event("EvsourceLauncher");
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "evsource launcher step",
												  ALLOCSET_SMALL_SIZES);

	only_database = post.database;
	crew = evs_crew_create(OidIsValid(only_database) ? 1 : max_worker_processes,
						   &crew_handle);
	before_shmem_exit(launcher_exits, (Datum) 0);
	if (OidIsValid(only_database))
		take_charge(only_database);
	else
	{
		evs_shmem_launcher_starts();
		evs_shmem_request(EVS_ALL_DATABASES);
	}

	for (;;)
	{
		long		timeout;

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		reload();
		take_requests();
		timeout = look_after_charges();
		if (OidIsValid(only_database) && charges == NIL)
			proc_exit(0);

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wait_event);
		ResetLatch(MyLatch);
	}
}
