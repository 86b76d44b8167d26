/*
 * alter.c - alter, pause, resume and drop a projection.
 *
 * An inline projection that is active has no position of its own: appends keep
 * it up to date.  Whatever takes it out of their hands, or changes what they do
 * to it, happens behind the barrier and writes down how far it is and how many
 * events it has applied.  Whatever gives it back to them catches up from there
 * and ends behind the barrier (replay.c).  So nothing is lost and nothing is
 * applied twice.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"

#include "alter.h"
#include "apply.h"
#include "barrier.h"
#include "catalog.h"
#include "dead_letters.h"
#include "definition.h"
#include "failure.h"
#include "query.h"
#include "rebuild_row.h"
#include "registry.h"
#include "replay.h"
#include "snapshot_history.h"
#include "snapshots.h"
#include "state_truncated.h"
#include "table_snapshots.h"
#include "truncate_warn.h"
#include "unit.h"

PG_FUNCTION_INFO_V1(evsource_alter_projection);
PG_FUNCTION_INFO_V1(evsource_pause_projection);
PG_FUNCTION_INFO_V1(evsource_resume_projection);
PG_FUNCTION_INFO_V1(evsource_drop_projection);

/* The arguments of alter_projection after the projection. */
static const int alter_arguments[EVS_NPARAMETERS] = {
	[EVS_PARAMETER_HANDLER] = 1,
	[EVS_PARAMETER_QUERY] = 2,
	[EVS_PARAMETER_MODE] = 3,
	[EVS_PARAMETER_CATEGORIES] = 4,
	[EVS_PARAMETER_TYPES] = 5,
	[EVS_PARAMETER_KEY] = 6,
	[EVS_PARAMETER_STATE_VERSION] = 7,
	[EVS_PARAMETER_TABLES] = 8,
	[EVS_PARAMETER_ON_RESET] = 9,
	[EVS_PARAMETER_ON_ERROR] = 10,
	[EVS_PARAMETER_OWNER] = 11,
	[EVS_PARAMETER_SNAPSHOTS] = 12,
	[EVS_PARAMETER_SNAPSHOT_EVERY] = 13,
	[EVS_PARAMETER_SNAPSHOT_AFTER_BATCH] = 14,
	[EVS_PARAMETER_RESTORE_FROM_SNAPSHOT] = 15,
	[EVS_PARAMETER_IS_COMPATIBLE] = 16,
	[EVS_PARAMETER_MIGRATE_STATE] = 17,
	[EVS_PARAMETER_NOTIFY] = 18,
	[EVS_PARAMETER_DEFAULTS] = 19,
	[EVS_PARAMETER_KEEP_SNAPSHOTS] = 21,
	[EVS_PARAMETER_PATH] = 22,
	[EVS_PARAMETER_PARTITIONS] = 23,
};

#define ALTER_CONCURRENTLY	20

/* Do appends dispatch to it? */
static bool
is_live(const EvsProjection *projection)
{
	return projection->mode == EVS_MODE_INLINE &&
		projection->state == EVS_PROJECTION_ACTIVE;
}

/*
 * A projection that has applied nothing yet has no read model that could be
 * stale: it begins anew with what it is now.
 */
static bool
begins_anew(const EvsProjection *old, const EvsProjection *new)
{
	EvsCheckpoint checkpoint;

	evs_checkpoint_read(old->name, &checkpoint);
	if (checkpoint.event_count > 0)
		return false;

	/* what it has failed at was another definition's */
	evs_troubles_clear(old->name);
	checkpoint.position = new->start_after;
	evs_checkpoint_write(new->name, &checkpoint);
	return true;
}

/*
 * The same of one that appends keep up to date, once it is settled: it goes on from
 * there, so its new filter must not take what the old one has passed over.
 */
static bool
goes_on_anew(const EvsProjection *old, const EvsProjection *new)
{
	EvsCheckpoint checkpoint;

	evs_checkpoint_read(old->name, &checkpoint);
	return checkpoint.event_count == 0 && evs_snapshot_same_selection(old, new);
}

/* Appends would go past what is parked. */
static void
check_nothing_is_parked(const EvsProjection *projection)
{
	if (!evs_dead_letters_exist(projection->name))
		return;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" has dead letters", projection->name),
			 errdetail("An inline projection has none."),
			 errhint("Apply them first: evsource.retry_dead_letters('%s'); or rebuild the projection.",
					 projection->name)));
}

/* Bring all partitions to one position, and go on from there in others. */
static void
divide_anew(EvsProjection *old, const EvsProjection *new)
{
	evs_apply_gather(old);
	evs_units_delete(old->name);
	evs_units_create(new);
	evs_dead_letters_divided(new);
}

/*
 * What was rejected must not come back with a later version: is_compatible and
 * migrate_state are asked for a version, and know what it was at last.  Of versions
 * before the one that ends they were told when it began, not what it became.  Nor
 * when one of them is given anew: that would have the other speak again, too.
 */
static void
forget_rejected(const EvsProjection *old)
{
	if (old->kind != EVS_KIND_FOLD)
		evs_table_snapshots_clear_foreign(old);
	else if (old->key_kind == EVS_KEY_STREAM)
		evs_snapshots_clear_foreign(old);
}

/*
 * What another filter or key passes over is in no row that goes on as a state, and
 * never will be, though the one that made the row comes back.  The log of a stream
 * tells what its rows are, as long as it is a stream's before and after.
 */
static bool
mixes_states(const EvsProjection *old, const EvsProjection *new)
{
	return old->kind == EVS_KIND_FOLD &&
		(old->key_kind != EVS_KEY_STREAM || new->key_kind != EVS_KEY_STREAM) &&
		!evs_snapshot_same_selection(old, new);
}

void
evs_alter_apply(EvsProjection *old, EvsProjection *new, bool concurrently)
{
	bool		becomes_inline = old->mode != EVS_MODE_INLINE &&
		new->mode == EVS_MODE_INLINE;
	bool		keeps_fewer = new->policy.keep_snapshots < old->policy.keep_snapshots;
	bool		mixes = mixes_states(old, new);
	bool		other_model = !evs_definition_same_model(old, new);
	bool		other_versions = !evs_definition_same_versions(old, new);

	/* the new partitions go on from where the old ones are now */
	if (old->partitions != new->partitions)
		evs_require_read_committed("change the partitions of a projection");

	new->state = old->state;
	new->stale = old->stale;
	new->lapses = old->lapses;
	new->replay_until = old->replay_until;
	new->vouched = other_versions ? evs_snapshot_vouch(new) : old->vouched;
	if (evs_definition_equal(old, new))
		return;
	if (other_model || other_versions)
	{
		evs_history_check_bases(new);
		evs_truncated_check(old, new);
	}
	if (other_model && !is_live(old))
		new->stale = !begins_anew(old, new);

	if (other_versions || keeps_fewer || mixes)
		(void) evs_snapshot_lock(old->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	if (is_live(old))
	{
		evs_replay_settle(old);
		new->stale = old->stale || (other_model && !goes_on_anew(old, new));
	}
	if (other_versions)
		forget_rejected(old);
	if (keeps_fewer)
		evs_history_trim_all(new);
	if (mixes)
		evs_snapshots_mark_mixed(old->name);
	if (becomes_inline)
		check_nothing_is_parked(old);
	if (old->partitions != new->partitions)
		divide_anew(old, new);

	/* only an inline projection has to catch up before it is active */
	if (new->mode != EVS_MODE_INLINE && new->state == EVS_PROJECTION_CATCHING_UP)
		new->state = EVS_PROJECTION_ACTIVE;
	if (becomes_inline && new->state == EVS_PROJECTION_ACTIVE)
		new->state = EVS_PROJECTION_CATCHING_UP;
	evs_registry_update(new);

	if (becomes_inline && new->state == EVS_PROJECTION_CATCHING_UP && !concurrently)
		evs_replay_activate(new);
	if (other_model)
		evs_truncate_warn(new, old);
}

/*
 * evsource.alter_projection(projection, handler, query, mode, ...) returns void
 *
 * Changes the parameters that are given; NULL keeps what is.  A change that
 * would make another read model marks the projection stale until it is rebuilt.
 *
 * Errors: 42704 when unknown; 25000 when partitions change under REPEATABLE READ;
 * else as create_projection.
 */
Datum
evsource_alter_projection(PG_FUNCTION_ARGS)
{
	EvsProjection *old = evs_registry_open(evs_argument_name(fcinfo, 0));
	bool		concurrently = evs_argument_bool(fcinfo, ALTER_CONCURRENTLY, false);
	EvsProjection new = *old;
	EvsParameters parameters;

	/* what the old definition has found out is not for the new one */
	new.runtime = NULL;
	evs_parameters_read(fcinfo, alter_arguments, &parameters);
	evs_definition_apply(&new, &parameters);
	evs_alter_apply(old, &new, concurrently);

	PG_RETURN_VOID();
}

void
evs_alter_pause(EvsProjection *projection)
{
	if (is_live(projection))
		evs_replay_settle(projection);
	projection->state = EVS_PROJECTION_PAUSED;
	evs_registry_update(projection);
	evs_checkpoint_finish(projection->name);
}

/*
 * evsource.pause_projection(projection) returns void
 *
 * From the end of this transaction on nothing is applied to the projection.
 */
Datum
evsource_pause_projection(PG_FUNCTION_ARGS)
{
	EvsProjection *projection = evs_registry_open(evs_argument_name(fcinfo, 0));

	if (projection->state == EVS_PROJECTION_PAUSED)
	{
		ereport(NOTICE,
				(errmsg("projection \"%s\" is already paused", projection->name)));
		PG_RETURN_VOID();
	}

	evs_alter_pause(projection);
	PG_RETURN_VOID();
}

/*
 * A rebuild in place that has come to its end with the pause: what is applied from here on
 * completes its read model.  A session that works on it sees to that itself.
 */
static void
forget_in_place(const char *name)
{
	EvsRebuild	rebuild;

	if (!evs_rebuild_try_lock(name) || !evs_rebuild_read(name, &rebuild))
		return;
	if ((rebuild.state == EVS_REBUILD_BUILDING || rebuild.state == EVS_REBUILD_FAILED) &&
		!evs_rebuild_is_online(&rebuild) && evs_rebuild_has_begun(&rebuild))
		evs_rebuild_forget(name);
}

/*
 * The projection; while it is rebuilt in place with the rebuild's lock, which comes before
 * that on the name.  Beside the old version that is free, so it may be paused and resumed.
 */
static EvsProjection *
open_to_resume(const char *name)
{
	EvsProjection *projection = evs_projection_load(name, false);

	evs_registry_check_rights(projection);
	if (projection->state == EVS_PROJECTION_REBUILDING)
		evs_rebuild_lock(name);
	return evs_registry_open(name);
}

/*
 * A rebuild in place of a projection that was paused pauses it again when it is complete.
 * Not if it is resumed meanwhile.  False: there is no such rebuild.
 */
static bool
resume_after_rebuild(const EvsProjection *projection)
{
	static EvsQuery forget_pause = {
		"update evsource.rebuilds set paused = false"
		" where projection = $1 and paused and state <> 'kept'",
		1, {TEXTOID}, SPI_OK_UPDATE
	};

	if (projection->state != EVS_PROJECTION_REBUILDING)
		return false;
	/* it may have begun just now */
	if (!evs_rebuild_try_lock(projection->name))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("projection \"%s\" was changed meanwhile", projection->name),
				 errdetail("Its state is \"%s\".", evs_projection_state_name(projection->state)),
				 errhint("Call again.")));
	return evs_query_run_by_name(&forget_pause, projection->name) > 0;
}

/*
 * evsource.resume_projection(projection, concurrently) returns void
 *
 * An inline projection catches up with what was appended meanwhile, in this
 * transaction; concurrently leaves that to activate_projection.  A rebuild in place that
 * was paused is over; one of a projection that was paused leaves it active in the end.
 *
 * Errors: 42704, 42501, 55P03 when a rebuild begins just then, whatever the handler raises.
 */
Datum
evsource_resume_projection(PG_FUNCTION_ARGS)
{
	EvsProjection *projection = open_to_resume(evs_argument_name(fcinfo, 0));
	bool		concurrently = evs_argument_bool(fcinfo, 1, false);

	if (resume_after_rebuild(projection))
	{
		ereport(NOTICE,
				(errmsg("projection \"%s\" is being rebuilt", projection->name),
				 errdetail("It was to be paused again when that is complete; now it will be active.")));
		PG_RETURN_VOID();
	}

	if (projection->state != EVS_PROJECTION_PAUSED && projection->state != EVS_PROJECTION_FAILED)
	{
		ereport(NOTICE,
				(errmsg("projection \"%s\" is not paused", projection->name),
				 errdetail("Its state is \"%s\".", evs_projection_state_name(projection->state))));
		PG_RETURN_VOID();
	}

	projection->state = projection->mode == EVS_MODE_INLINE ?
		EVS_PROJECTION_CATCHING_UP : EVS_PROJECTION_ACTIVE;
	evs_registry_update(projection);
	evs_failures_clear(projection->name);
	forget_in_place(projection->name);
	if (projection->mode == EVS_MODE_INLINE && !concurrently)
		evs_replay_activate(projection);

	PG_RETURN_VOID();
}

/* Without the projection nobody could tell what the events were that are gone. */
static void
check_no_bases(const EvsProjection *projection)
{
	List	   *streams = evs_history_base_keys(projection->name);

	if (streams == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot drop projection \"%s\" because it holds states of truncated events",
					projection->name),
			 errdetail_plural("Of %d stream only the state that its truncated events made is left: \"%s\".",
							  "Of %d streams only the states that their truncated events made are left; the first is \"%s\".",
							  list_length(streams), list_length(streams), (char *) linitial(streams)),
			 errhint("Use evsource.alter_projection() to change the projection, or force => true to drop these states, too.")));
}

/* No decider is registered for it while we look and until we commit. */
static void
check_no_deciders(const EvsProjection *projection)
{
	static EvsQuery query = {
		"select decider from evsource.deciders where projection = $1 order by 1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {CStringGetTextDatum(projection->name)};
	List	   *deciders;

	LockRelationOid(evs_catalog()->deciders, ShareLock);
	deciders = evs_query_texts(&query, values, NULL);
	if (deciders == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot drop projection \"%s\": a decider uses it", projection->name),
			 errdetail("Decider \"%s\" decides on its states.", (char *) linitial(deciders)),
			 errhint("Drop the decider first: evsource.drop_decider('%s'); or use force => true.",
					 (char *) linitial(deciders))));
}

/*
 * evsource.drop_projection(projection, if_exists, force) returns void
 *
 * Its tables stay, a version of them that a rebuild makes or has kept does not.
 * Behind the barrier if it is live, so that no append that is
 * still open applies events to what its owner is about to drop.
 *
 * Errors: 42704, 42501; without force 55000 when it has states that stand for
 * truncated events, 2BP01 when a decider uses it.
 */
Datum
evsource_drop_projection(PG_FUNCTION_ARGS)
{
	char	   *name = evs_argument_name(fcinfo, 0);
	bool		if_exists = evs_argument_bool(fcinfo, 1, false);
	bool		force = evs_argument_bool(fcinfo, 2, false);
	EvsProjection *projection;
	EvsBarrier	barrier;

	evs_rebuild_lock(name);
	evs_registry_lock(name);
	projection = evs_projection_load(name, if_exists);
	if (projection == NULL)
	{
		ereport(NOTICE,
				(errmsg("projection \"%s\" does not exist, skipping", name)));
		PG_RETURN_VOID();
	}
	evs_registry_check_rights(projection);
	if (!force)
	{
		check_no_bases(projection);
		check_no_deciders(projection);
	}

	(void) evs_snapshot_lock(name, NULL, EVS_SNAPSHOT_LOCK_ALL);

	/* both at once: who waits for appends has no tables that others need */
	evs_barrier_begin(&barrier, "drop projection", name,
					  "used versions of its tables that it keeps, or those that they refer to");
	barrier.appends_go_on = !is_live(projection);
	barrier.tables = evs_rebuild_dropped(name);
	while (!evs_barrier_attempt(&barrier, NULL, NULL))
		;
	evs_rebuild_forget(name);
	(void) evs_snapshots_clear(name, true);
	(void) evs_table_snapshots_clear(name);
	evs_troubles_clear(name);
	evs_units_delete(name);
	evs_registry_delete(name);

	PG_RETURN_VOID();
}
