/*
 * daemon_admin.c - start and stop the daemon for this database, and show it.
 */
#include "evsource.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "async.h"
#include "barrier.h"
#include "daemon.h"
#include "dispatch.h"
#include "give_way.h"
#include "listen.h"
#include "query.h"
#include "rebuild.h"
#include "shmem.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evsource_start_daemon);
PG_FUNCTION_INFO_V1(evsource_stop_daemon);
PG_FUNCTION_INFO_V1(evsource_check_adopt);
PG_FUNCTION_INFO_V1(evsource_daemon_workers);
PG_FUNCTION_INFO_V1(evsource_projection_workers);

/* ms that we wait for a coordinator to come */
#define TIME_TO_START		10000

/* ms between two looks */
#define LOOK_EVERY			10

static void
pause_between_looks(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 LOOK_EVERY, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Does one stay, that is has not come for a look only?  If none does, was it for want of room? */
static bool
has_coordinator(bool *no_room)
{
	dsm_segment *segment;
	EvsTeam    *team = evs_crew_find(MyDatabaseId, &segment);
	bool		is_there;

	if (team == NULL)
	{
		/* it may also have come, and left: there was nothing to do */
		*no_room = evs_crew_is_full();
		return false;
	}
	is_there = team->settled;
	*no_room = team->no_room;
	evs_crew_leave(segment);
	return is_there;
}

/* Has it no worker, or not even a coordinator, for want of room? */
static bool
lacks_room(const EvsTeam *team)
{
	if (team == NULL)
		return evs_crew_is_full();
	return team->coordinator != 0 ? team->starves : team->no_room;
}

/* Do our processes find it off here, whatever our session says?  As far as that is in the catalog. */
static bool
is_off_for_database(void)
{
	static EvsQuery query = {
		"select pg_catalog.split_part(c, '=', 2) from pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c"
		" where s.setrole = 0 and s.setdatabase in (0, $1)"
		" and lower(pg_catalog.split_part(c, '=', 1)) = 'evsource.daemon'"
		" order by s.setdatabase desc limit 1",
		1, {OIDOID}, SPI_OK_SELECT
	};
	Datum		values[] = {ObjectIdGetDatum(MyDatabaseId)};
	EvsQueryResult result;
	bool		on = true;

	evs_query_begin(&query, values, NULL, NULL, &result);
	if (result.count > 0 && !parse_bool(evs_query_text(&result, 0, 1), &on))
		on = true;
	evs_query_end(&result);
	return !on;
}

EvsDaemonLack
evs_daemon_lack(void)
{
	dsm_segment *segment;
	EvsTeam    *team = evs_crew_find(MyDatabaseId, &segment);
	EvsDaemonLack lack = EVS_DAEMON_LACKS_NOTHING;

	if (team == NULL || team->coordinator == 0)
		lack = !evs_daemon_enabled || is_off_for_database() ? EVS_DAEMON_IS_OFF :
			!evs_shmem_is_preloaded() && team == NULL ? EVS_DAEMON_IS_NOT_STARTED :
			EVS_DAEMON_LACKS_NOTHING;
	if (lack == EVS_DAEMON_LACKS_NOTHING && lacks_room(team))
		lack = EVS_DAEMON_LACKS_ROOM;
	if (team != NULL)
		evs_crew_leave(segment);
	return evs_daemon_is_in_copy() ? EVS_DAEMON_LACKS_ADOPTION : lack;
}

/* Who looks after this database, if anybody does, may be in a pause after others that died. */
static void
end_pause(void)
{
	dsm_segment *segment;
	EvsTeam    *team = evs_crew_find(MyDatabaseId, &segment);

	if (team == NULL)
		return;
	team->hurry = true;
	pg_memory_barrier();
	evs_crew_wake(team->launcher);
	evs_crew_leave(segment);
}

static void
refuse_for_room(bool comes_later)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not start evsource's daemon"),
			 errdetail("All %d background worker processes of the server are in use.",
					   max_worker_processes),
			 comes_later ?
			 errhint("Raise max_worker_processes; it comes as soon as there is room.") :
			 errhint("Raise max_worker_processes, or call again when there is room.")));
}

static void
refuse_off(const char *where)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("evsource's daemon is turned off"),
			 errdetail("Setting evsource.daemon is off %s. The daemon itself obeys the setting of the database.",
					   where),
			 errhint("Set evsource.daemon to on for the database and the session.")));
}

static void
refuse_for_absence(bool no_room)
{
	EvsDaemonLack lack = evs_daemon_lack();

	if (no_room || lack == EVS_DAEMON_LACKS_ROOM)
		refuse_for_room(true);
	if (lack == EVS_DAEMON_IS_OFF)
		refuse_off("for this database");
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not start evsource's daemon"),
			 errdetail("No process of it has come for this database, and stayed, within %d seconds.",
					   TIME_TO_START / 1000),
			 errhint("See the server log for what has become of it, and whether evsource.daemon is off for the server.")));
}

/* Preloaded, it comes as soon as there is something, and would leave before that. */
static bool
would_leave(void)
{
	return evs_shmem_is_preloaded() && !evs_listen_anybody() && evs_async_units() == NIL &&
		evs_rebuilds_requested() == NIL;
}

/* Preloaded, it comes by itself when the transaction commits; else nothing would bring it then. */
static void
refuse_before_commit(void)
{
	if (evs_shmem_is_preloaded() || !evs_daemon_is_new())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot start evsource's daemon in the transaction that creates or updates the extension"),
			 errdetail("Its processes cannot see that before the transaction commits."),
			 errhint("Commit first.")));
}

/*
 * evsource.start_daemon() returns boolean
 *
 * Starts the daemon for this database; false when it runs already, or preloaded has
 * nothing to do yet or before this transaction commits.  Not undone by a rollback.
 *
 * Errors: 55000 in a handler or on_reset function, on a standby, where evsource.daemon is off,
 * where connections are not allowed, in a copy that the daemon has nothing to do in before
 * evsource.adopt(), not preloaded in the transaction that creates or updates the extension,
 * or when nobody has come; 53400 when that was because max_worker_processes leaves no room;
 * 55P03 while the extension is updated or dropped.
 */
Datum
evsource_start_daemon(PG_FUNCTION_ARGS)
{
	bool		is_there = false;
	bool		no_room = false;

	evs_dispatch_refuse("start evsource's daemon",
						"No rollback undoes that, and each attempt, replay and trial would do it again.",
						"Start it in a session of its own.");
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot start evsource's daemon on a standby"),
				 errdetail("Read models come to a standby from its primary."),
				 errhint("Start it on the primary. With shared_preload_libraries = 'evsource' it starts by itself after a promotion.")));
	if (!evs_daemon_enabled)
		refuse_off("in this session");

	if (has_coordinator(&no_room))
		PG_RETURN_BOOL(false);

	/* it would look, and leave */
	if (is_off_for_database())
		refuse_off("for this database");

	if (evs_daemon_is_shut_out())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot start evsource's daemon in a database that allows no connections"),
				 errdetail("Its processes would have to connect."),
				 errhint("Use ALTER DATABASE ... ALLOW_CONNECTIONS true.")));

	/* the same; one that is started by hand stays */
	if (evs_shmem_is_preloaded() && evs_daemon_is_in_copy() && !evs_listen_anybody())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("evsource's daemon waits for evsource.adopt()"),
				 errdetail("This database is a copy of the one that its events were written in."),
				 errhint("Call evsource.adopt() if this database is to apply async projections: the daemon comes then.")));

	refuse_before_commit();
	if (evs_shmem_is_preloaded())
		evs_shmem_request(MyDatabaseId);
	else if (!evs_launcher_start(MyDatabaseId))
		refuse_for_room(false);
	end_pause();
	if (evs_shmem_is_preloaded() && evs_wakeup_has_changed())
	{
		ereport(NOTICE,
				(errmsg("evsource's daemon comes by itself when this transaction commits"),
				 errdetail("The transaction has changed what there is to do for it.")));
		PG_RETURN_BOOL(false);
	}
	if (would_leave())
	{
		ereport(NOTICE,
				(errmsg("evsource's daemon has nothing to do in this database yet"),
				 errdetail("It comes by itself with the first async projection, rebuild request or LISTEN.")));
		PG_RETURN_BOOL(false);
	}

	/* who has called this may rely on it */
	for (int waited = 0; waited < TIME_TO_START && !is_there; waited += LOOK_EVERY)
	{
		pause_between_looks();
		is_there = has_coordinator(&no_room);
		/* nobody can come before that has ended, and it waits for what we have read */
		if (!is_there)
			evs_give_way_or_fail();
	}
	if (!is_there)
		refuse_for_absence(no_room);
	PG_RETURN_BOOL(true);
}

/* Says whether that is new to it. */
static void
stop_team(EvsTeam *team, void *argument)
{
	if (team->stop)
		return;
	team->stop = true;
	pg_memory_barrier();
	evs_crew_wake(team->launcher);
	*(bool *) argument = true;
}

/*
 * evsource.stop_daemon() returns boolean
 *
 * Stops the daemon for this database and waits until it has gone; false when it
 * does not run.  What it is doing is rolled back.  Not undone by a rollback.
 *
 * Errors: 55000 in a handler or on_reset function, and in whatever the daemon calls.
 */
Datum
evsource_stop_daemon(PG_FUNCTION_ARGS)
{
	bool		told;
	bool		stopped = false;

	evs_dispatch_refuse("stop evsource's daemon",
						"It may run in a process of the daemon, and would wait for itself.",
						"Stop it in a session of its own.");
	for (told = false; evs_crew_visit(MyDatabaseId, stop_team, &told) > 0; told = false)
	{
		/* also one that waits for a lock, and does not hear of it */
		if (told || !stopped)
			evs_crew_clear_database(MyDatabaseId);
		stopped = true;
		pause_between_looks();
	}
	PG_RETURN_BOOL(stopped);
}

/*
 * evsource._check_adopt() returns void: may adopt() be called here?
 *
 * Errors: 55000 in a handler or on_reset function, 25006 on a standby or in a read-only transaction.
 */
Datum
evsource_check_adopt(PG_FUNCTION_ARGS)
{
	evs_dispatch_refuse("adopt a copy",
						"It would adopt every database in which its event is applied.",
						"Adopt the copy in a session of its own.");
	evs_require_writable("evsource.adopt()");
	PG_RETURN_VOID();
}

/*
 * Showing it.
 */
enum
{
	COLUMN_ROLE,
	COLUMN_PID,
	COLUMN_STATE,
	COLUMN_PROJECTION,
	COLUMN_PARTITION,
	COLUMN_SINCE,
	COLUMN_HEARTBEAT,
	COLUMNS
};

static void
put_row(ReturnSetInfo *result, Datum *values, bool *nulls)
{
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Is there work for a coordinator, which comes for it by itself? */
static bool
is_needed(void)
{
	return evs_shmem_is_preloaded() && evs_daemon_enabled && !RecoveryInProgress() &&
		evs_async_units() != NIL && !is_off_for_database();
}

/*
 * A session that drops the extension sends the daemon away before it locks tables.  It may
 * have all of them, and wait for the view that asks us: so we touch none then.
 */
static bool
is_sent_away(void)
{
	return evs_crew_changes_extension() != 0;
}

/* What it waits for; NULL: it waits for events only. */
static const char *
coordinator_waits_for(const EvsTeam *team)
{
	if (is_sent_away())
		return NULL;
	if ((team == NULL || team->coordinator == 0) && !is_needed())
		return NULL;
	if (evs_daemon_is_in_copy())
		return "waiting for adopt";
	return lacks_room(team) ? "waiting for a process" : NULL;
}

/*
 * In a copy that nobody has adopted, or where processes are short, mostly none is there: it
 * waits without a process.
 */
static void
put_coordinator(ReturnSetInfo *result, const EvsTeam *team)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS] = {0};
	bool		is_there = team != NULL && team->coordinator != 0;
	const char *waiting = coordinator_waits_for(team);

	if (!is_there && waiting == NULL)
		return;
	values[COLUMN_ROLE] = CStringGetTextDatum("coordinator");
	values[COLUMN_STATE] = CStringGetTextDatum(waiting ? waiting : "idle");
	nulls[COLUMN_PROJECTION] = nulls[COLUMN_PARTITION] = nulls[COLUMN_SINCE] = true;
	nulls[COLUMN_PID] = nulls[COLUMN_HEARTBEAT] = !is_there;
	if (is_there)
	{
		values[COLUMN_PID] = Int32GetDatum(team->coordinator);
		values[COLUMN_HEARTBEAT] = TimestampTzGetDatum(team->heartbeat);
	}
	put_row(result, values, nulls);
}

/* What a process says of itself holds as long as there is such a process. */
static bool
is_alive(const EvsMember *member)
{
	PGPROC	   *process = member->pid == 0 ? NULL : BackendPidGetProc(member->pid);

	return process != NULL && process->databaseId == MyDatabaseId;
}

static void
put_worker(ReturnSetInfo *result, EvsTeam *team, int number)
{
	EvsMember	member;
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS] = {0};

	SpinLockAcquire(&team->mutex);
	member = team->members[number];
	SpinLockRelease(&team->mutex);
	if (!is_alive(&member))
		return;

	values[COLUMN_ROLE] = CStringGetTextDatum("worker");
	values[COLUMN_PID] = Int32GetDatum(member.pid);
	values[COLUMN_STATE] = CStringGetTextDatum(member.job == EVS_JOB_APPLY ? "applying" :
											   member.job == EVS_JOB_REBUILD ? "rebuilding" :
											   "idle");
	nulls[COLUMN_PROJECTION] = nulls[COLUMN_PARTITION] = nulls[COLUMN_SINCE] =
		member.job == EVS_JOB_NONE;
	if (member.job != EVS_JOB_NONE)
	{
		values[COLUMN_PROJECTION] = CStringGetTextDatum(member.projection);
		values[COLUMN_PARTITION] = Int32GetDatum(member.partition);
		values[COLUMN_SINCE] = TimestampTzGetDatum(member.since);
	}
	values[COLUMN_HEARTBEAT] = TimestampTzGetDatum(member.heartbeat);
	put_row(result, values, nulls);
}

static void
put_workers(EvsTeam *team, void *result)
{
	for (int i = 0; i < EVS_MAX_WORKERS; i++)
		put_worker(result, team, i);
}

/*
 * evsource._daemon_workers() returns setof (role, pid, state, projection,
 * partition, since, heartbeat)
 *
 * The processes that work for this database, as they say themselves.
 */
Datum
evsource_daemon_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	dsm_segment *segment;
	EvsTeam    *team;

	InitMaterializedSRF(fcinfo, 0);
	team = evs_crew_find(MyDatabaseId, &segment);
	put_coordinator(result, team);
	if (team != NULL)
		evs_crew_leave(segment);
	(void) evs_crew_visit(MyDatabaseId, put_workers, result);
	return (Datum) 0;
}

static void
copy_team(EvsTeam *team, void *argument)
{
	List	  **teams = argument;
	EvsTeam    *copy = palloc(sizeof(EvsTeam));

	SpinLockAcquire(&team->mutex);
	memcpy(copy, team, sizeof(EvsTeam));
	SpinLockRelease(&team->mutex);
	*teams = lappend(*teams, copy);
}

/*
 * Who applies a unit: the worker that has claimed it, or else the one that it is
 * at home with, see worker.c.
 */
static void
put_unit(ReturnSetInfo *result, List *teams, const EvsAsyncUnit *unit, int number)
{
	EvsMember	found = {0};
	Datum		values[5];
	bool		nulls[5] = {0};
	bool		busy = false;
	ListCell   *cell;

	foreach(cell, teams)
	{
		const EvsTeam *team = lfirst(cell);

		if (!busy && team->size > 0 && is_alive(&team->members[number % team->size]))
			found = team->members[number % team->size];
		for (int i = 0; i < EVS_MAX_WORKERS && !busy; i++)
		{
			const EvsMember *member = &team->members[i];

			busy = member->job == EVS_JOB_APPLY && member->partition == unit->partition &&
				strcmp(member->projection, unit->projection) == 0 && is_alive(member);
			if (busy)
				found = *member;
		}
	}
	if (found.pid == 0)
		return;

	values[0] = CStringGetTextDatum(unit->projection);
	values[1] = Int32GetDatum(unit->partition);
	values[2] = Int32GetDatum(found.pid);
	values[3] = BoolGetDatum(busy);
	values[4] = TimestampTzGetDatum(found.heartbeat);
	put_row(result, values, nulls);
}

/*
 * evsource._projection_workers() returns setof (projection, partition, pid, busy,
 * heartbeat)
 */
Datum
evsource_projection_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	List	   *teams = NIL;
	ListCell   *cell;
	int			number = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (is_sent_away() || evs_crew_visit(MyDatabaseId, copy_team, &teams) == 0)
		return (Datum) 0;
	foreach(cell, evs_async_units())
		put_unit(result, teams, lfirst(cell), number++);
	return (Datum) 0;
}
