/*
 * rebuild_request.c - ask for a rebuild, cancel it, go back to what it replaced.
 * What a worker does about it: rebuild_worker.c.
 *
 * What becomes of a row of evsource.rebuilds, which keeps what was asked for (online,
 * from_snapshot, keep_old; background: of the daemon) and what has come of it: a shadow; or
 * started_at without one, in place; or neither, if it has not begun.
 *
 *	no row		requested, by the daemon's request.  By a call, too, in the transaction that
 *				begins: who calls leaves none that has not begun.
 *	requested	building, when the shadow is made or the read model emptied.  An error of
 *				the daemon's that is not passing: failed, not begun.
 *	building	online, when its tables or the definition have changed: requested, and all
 *				that it had is forgotten.  An error of the daemon's: failed, begun; of a
 *				call's: it stays, with nobody at work.  At the end: no row, or kept.
 *	failed		whoever works on rebuilds leaves it alone.
 *	kept		the old version is to be dropped (not keep_old), or stays to go back to.
 *
 * Asked for again, one that has begun, building or failed, goes on (building) if it is what is
 * wanted, and wants from then on what was asked for last.  It is another request then: an
 * error of an attempt that began before was met by the one before, and does not fail it.  Any
 * other row is replaced (requested), and so is one in place whose projection is not in its
 * hands any more: another session has completed, reset or paused it.
 *
 * cancel_rebuild() leaves no row, nor does a dump, nor resume_projection() one in place;
 * pg_upgrade takes it along, with its shadow.  A row that says building and has nothing to go
 * on with is requested again by whoever comes to it (a server could leave one that did not
 * tell these apart).
 *
 * Locks: the rebuild's before the projection's name; see evs_rebuild_lock().
 */
#include "evsource.h"

#include "fmgr.h"

#include "alter.h"
#include "barrier.h"
#include "dead_letters.h"
#include "definition.h"
#include "failure.h"
#include "handling.h"
#include "horizon.h"
#include "procedure.h"
#include "rebuild_online.h"
#include "rebuild_row.h"
#include "registry.h"
#include "replay.h"
#include "shadow.h"
#include "snapshots.h"
#include "state_truncated.h"
#include "unit.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evsource_request_rebuild);
PG_FUNCTION_INFO_V1(evsource_cancel_rebuild);
PG_FUNCTION_INFO_V1(evsource_revert_rebuild);
PG_FUNCTION_INFO_V1(evsource_accept_rebuild);
PG_FUNCTION_INFO_V1(evsource_replaying);

/* ---- requests ---- */

void
evs_rebuild_check(EvsRebuild *wanted)
{
	if (wanted->keep_old && wanted->is_chosen && !wanted->online)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("keep_old requires an online rebuild"),
				 errhint("keep_old goes with online => true.")));
	if (wanted->keep_old && wanted->from_snapshot)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_snapshot and keep_old exclude each other"),
				 errdetail("A snapshot is restored in place, where no old version stays; keep_old means an online rebuild."),
				 errhint("Leave one of them out.")));
	/* in place there would be no way back, and only a notice before it is gone */
	if (wanted->keep_old)
		wanted->is_chosen = wanted->online = true;
	if (wanted->from_snapshot && wanted->is_chosen && wanted->online)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_snapshot and online exclude each other"),
				 errdetail("A snapshot is restored in place; an online rebuild builds new tables from the whole log."),
				 errhint("Leave one of them out.")));
}

/* Is there something that was begun, and can go on? */
static bool
can_go_on(const EvsRebuild *rebuild)
{
	if (rebuild->state != EVS_REBUILD_BUILDING && rebuild->state != EVS_REBUILD_FAILED)
		return false;
	if (evs_rebuild_is_online(rebuild))
		return true;
	return evs_rebuild_has_begun(rebuild) &&
		evs_projection_load(rebuild->name, false)->state == EVS_PROJECTION_REBUILDING;
}

/*
 * It goes on, unless it is another way of doing it that is asked for, or more: all of it,
 * where it began with a snapshot.
 */
static bool
goes_on(const EvsRebuild *current, const EvsRebuild *wanted)
{
	return can_go_on(current) &&
		(!wanted->is_chosen || wanted->online == evs_rebuild_is_online(current)) &&
		(!current->from_snapshot || wanted->from_snapshot);
}

bool
evs_rebuild_replaces(const EvsRebuild *wanted, EvsRebuild *former)
{
	evs_registry_check_rights(evs_projection_load(wanted->name, false));
	evs_rebuild_lock(wanted->name);
	return evs_rebuild_read(wanted->name, former) && !goes_on(former, wanted);
}

/* What the call asks for becomes the row. */
void
evs_rebuild_register(EvsRebuild *wanted)
{
	EvsRebuild	current;

	if (evs_rebuild_replaces(wanted, &current))
	{
		wanted->paused = current.state != EVS_REBUILD_KEPT && current.paused;
		/* who has tables of it waits for nobody */
		if (current.shadow != NULL)
			evs_registry_lock(wanted->name);
		evs_rebuild_forget(wanted->name);
	}
	else if (evs_rebuild_read(wanted->name, &current))
	{
		current.state = EVS_REBUILD_BUILDING;
		current.background = current.background || wanted->background;
		current.keep_old = wanted->keep_old;
		current.is_chosen = wanted->is_chosen;
		current.online = wanted->online;
		evs_rebuild_write(&current);
		evs_rebuild_resume(wanted->name);
		evs_rebuild_renew(wanted->name);
		if (!evs_rebuild_is_online(&current))
			evs_checkpoint_resume(wanted->name);
		return;
	}
	wanted->state = EVS_REBUILD_REQUESTED;
	evs_rebuild_write(wanted);
}

/*
 * evsource.request_rebuild(projection, from_snapshot, online, keep_old) returns void
 *
 * Leaves a rebuild to the daemon, which begins when this transaction commits.
 *
 * Errors: 42704, 42501, 22023, 55000 when nothing can be emptied, 25006 where nothing
 * can be written.
 */
Datum
evsource_request_rebuild(PG_FUNCTION_ARGS)
{
	EvsRebuild	wanted = {0};

	evs_require_writable("evsource.request_rebuild()");
	wanted.name = evs_argument_name(fcinfo, 0);
	wanted.background = true;
	wanted.from_snapshot = evs_argument_bool(fcinfo, 1, false);
	wanted.is_chosen = !PG_ARGISNULL(2);
	wanted.online = evs_argument_bool(fcinfo, 2, false);
	wanted.keep_old = evs_argument_bool(fcinfo, 3, false);
	evs_rebuild_check(&wanted);
	evs_rebuild_register(&wanted);
	evs_reset_check(evs_projection_load(wanted.name, false));
	if (!wanted.is_chosen && !wanted.from_snapshot)
		evs_online_foresee(&wanted);
	evs_wakeup_changed();

	PG_RETURN_VOID();
}

/*
 * evsource.cancel_rebuild(projection) returns boolean
 *
 * Waits for the batch that is being applied, no longer.  A rebuild beside the
 * old version leaves that as it is, live.  One in place leaves a read model that
 * is half built: as far as the log has been applied to it.  The projection is in
 * state rebuilding then, or paused if it was before.
 *
 * Errors: 42704, 42501.
 */
Datum
evsource_cancel_rebuild(PG_FUNCTION_ARGS)
{
	char	   *name = evs_argument_name(fcinfo, 0);
	EvsProjection *projection;
	EvsRebuild	rebuild;

	evs_rebuild_lock(name);
	projection = evs_registry_open(name);
	if (!evs_rebuild_read(name, &rebuild) || rebuild.state == EVS_REBUILD_KEPT)
		PG_RETURN_BOOL(false);

	evs_rebuild_forget(name);
	if (projection->state != EVS_PROJECTION_REBUILDING)
		PG_RETURN_BOOL(true);
	if (rebuild.paused)
	{
		evs_alter_pause(projection);
		ereport(NOTICE,
				(errmsg("the read model of projection \"%s\" is half built", name),
				 errdetail("It is paused, as it was before."),
				 errhint("evsource.resume_projection() continues the rebuild; CALL evsource.rebuild_projection() starts it again from the beginning.")));
	}
	else
		ereport(NOTICE,
				(errmsg("the read model of projection \"%s\" is half built", name),
				 evs_rebuild_has_snapshot(name) ?
				 errhint("CALL evsource.rebuild_projection() starts it again from the beginning, or from the snapshot with from_snapshot => true.") :
				 errhint("CALL evsource.rebuild_projection() completes it; after evsource.reset_projection() it starts from the beginning.")));
	PG_RETURN_BOOL(true);
}

/* ---- the version that was kept ---- */

static EvsProjection *
open_kept(const char *name, EvsRebuild *rebuild)
{
	EvsProjection *projection;

	evs_rebuild_lock(name);
	projection = evs_registry_open(name);
	if (!evs_rebuild_read(name, rebuild) || rebuild->state != EVS_REBUILD_KEPT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no old version of projection \"%s\" is kept", name),
				 errhint("A rebuild keeps it with keep_old => true, until the next one.")));
	return projection;
}

/*
 * evsource.accept_rebuild(projection) returns void
 *
 * Drops the old version.
 *
 * Errors: 42704, 42501, 55000 when none is kept, 55P03 when somebody reads it.
 */
Datum
evsource_accept_rebuild(PG_FUNCTION_ARGS)
{
	EvsRebuild	rebuild;

	(void) open_kept(evs_argument_name(fcinfo, 0), &rebuild);
	evs_rebuild_forget(rebuild.name);
	PG_RETURN_VOID();
}

/*
 * Can the tables still be exchanged for those that are kept?  They need not be those that the
 * projection has by now.  Only of tables that can have a shadow a shape can be told.
 */
static void
check_way_back(const EvsRebuild *rebuild, const EvsProjection *projection)
{
	EvsProjection exchanged = *projection;
	bool		exists = evs_shadow_exists(rebuild->tables, rebuild->shadow);
	const char *obstacle;

	exchanged.tables = rebuild->tables;
	obstacle = exists ? evs_shadow_obstacle(&exchanged, false) : NULL;
	if (obstacle != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot go back to the old version of projection \"%s\"", rebuild->name),
				 errdetail("Now it is not possible: %s.", obstacle),
				 errhint("Remove what is in the way, or drop the old version with evsource.accept_rebuild().")));
	if (!exists ||
		strcmp(evs_shadow_shape(rebuild->tables, rebuild->shadow), rebuild->shape) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot go back to the old version of projection \"%s\"", rebuild->name),
				 errdetail("Its tables have been changed since."),
				 errhint("Drop it with evsource.accept_rebuild().")));
}

/*
 * evsource.revert_rebuild(projection) returns void
 *
 * Exchanges the read model for the version that is kept.  An inline projection
 * then gets, in this transaction, the events since that was replaced; an async
 * one with its next run.
 *
 * Errors: 42704, 42501, 55000 when none is kept, the tables have changed since,
 * or others have come to depend on what is in them, 25000 under REPEATABLE READ, 55P03
 * when readers or appends are in the way, whatever the handler raises.
 */
Datum
evsource_revert_rebuild(PG_FUNCTION_ARGS)
{
	EvsRebuild	rebuild;
	EvsBarrier	barrier;
	EvsProjection *projection = open_kept(evs_argument_name(fcinfo, 0), &rebuild);
	bool		is_inline = projection->mode == EVS_MODE_INLINE;
	bool		is_live;
	bool		was_stale;
	EvsCheckpoint kept = rebuild.checkpoint;
	int			count;
	char	   *parts = evs_rebuild_parts(rebuild.name, &count);
	int64		furthest;

	evs_require_read_committed("revert a rebuild");
	if (parts != NULL && count != projection->partitions)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot go back to the old version of projection \"%s\"", rebuild.name),
				 errdetail("It had %d partitions, which are at different positions.", count),
				 errhint("Divide it so again: evsource.alter_projection('%s', partitions => %d).",
						 rebuild.name, count)));
	(void) evs_snapshot_lock(rebuild.name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	is_live = is_inline && projection->state == EVS_PROJECTION_ACTIVE;
	if (is_live)
		evs_replay_note_count(projection);
	evs_barrier_begin(&barrier, "revert the rebuild of projection", rebuild.name,
					  "used its tables");
	barrier.appends_go_on = !is_live;
	barrier.tables = evs_shadow_relations(rebuild.tables, rebuild.shadow);
	while (!evs_barrier_attempt(&barrier, NULL, NULL))
		;
	if (is_live)
		evs_replay_settle(projection);
	was_stale = projection->stale;
	evs_checkpoint_read(rebuild.name, &rebuild.checkpoint);
	furthest = evs_units_furthest(projection);

	check_way_back(&rebuild, projection);
	evs_shadow_swap(rebuild.tables, rebuild.shadow);
	(void) evs_snapshots_clear(rebuild.name, false);
	evs_failures_clear(rebuild.name);
	evs_troubles_exchange(rebuild.name, rebuild.shadow);
	evs_dead_letters_divided(projection);
	evs_truncated_exchange(rebuild.name);
	evs_truncated_warn_missed(rebuild.name);

	/* events that the other version has applied are history for this one */
	projection->replay_until = Max(projection->replay_until, furthest);
	projection->stale = rebuild.kept_stale || !rebuild.same_definition;
	if (projection->state != EVS_PROJECTION_PAUSED)
		projection->state = is_inline ? EVS_PROJECTION_CATCHING_UP : EVS_PROJECTION_ACTIVE;
	evs_registry_update(projection);
	evs_rebuild_keep_parts(rebuild.name);
	evs_checkpoint_write(rebuild.name, &kept);
	if (parts != NULL)
		evs_rebuild_restore_parts(rebuild.name, parts);

	rebuild.kept_stale = was_stale;
	rebuild.keep_old = true;
	evs_rebuild_write(&rebuild);
	if (projection->state == EVS_PROJECTION_CATCHING_UP)
		evs_replay_activate(projection);
	PG_RETURN_VOID();
}

/*
 * evsource.replaying() returns boolean
 *
 * In a handler: is what it gets history?  Elsewhere false.
 */
Datum
evsource_replaying(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(evs_handling_is_replaying());
}
