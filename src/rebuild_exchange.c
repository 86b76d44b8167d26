/*
 * rebuild_exchange.c - the end of an online rebuild: the new version takes the
 * place of the old.
 *
 * A session whose snapshot is older than that reads the new tables with it
 * afterwards; pg_dump does.  It has to find in them what it knows to be applied: of
 * an inline projection all the events that it sees, of another those up to the
 * checkpoint that it sees.  So
 *
 *	1. the projection is held still, at one position for all its partitions, and
 *	   the new version brought to the same; this commits, unless there was nothing
 *	   to apply (settle);
 *	2. all snapshots go that do not see this: not for long, since appenders and
 *	   workers wait.  If some stay, the projection is let go, and it all begins
 *	   anew when they are gone;
 *	3. the tables exchange their files (swap.c), with the checkpoint and what else
 *	   is to become of the projection (go_on).
 *
 * Between 1 and 3 nothing is written to the new tables.  With the exchange, more may be:
 * who sees that sees another checkpoint, too.
 *
 * Locks: the rebuild's, the projection's name, the snapshots, the barrier if it is
 * inline: these from 1 to 3, over the commits in between; the tables.  Where readers that
 * append keep these from us, the tables come before the barrier: see rebuild_tables.c.
 */
#include "evsource.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "apply.h"
#include "attempt.h"
#include "barrier.h"
#include "catalog.h"
#include "dead_letters.h"
#include "failure.h"
#include "gate.h"
#include "hold.h"
#include "horizon.h"
#include "notify.h"
#include "positions.h"
#include "rebuild_online.h"
#include "rebuild_readers.h"
#include "rebuild_row.h"
#include "rebuild_tables.h"
#include "registry.h"
#include "shadow.h"
#include "snapshots.h"
#include "state_truncated.h"
#include "unit.h"

/* ms for which it is held still, if the call sets no limit, and between two looks */
#define STILL_TIME		2000
#define STILL_PAUSE		5

/* ms to wait for who works on the projection */
#define BUSY_PAUSE		100

/* ---- held still ---- */

/* These locks stay until the next transaction has them. */
static void
hold_still(const EvsProcedure *procedure, const EvsRebuild *rebuild,
		   const EvsProjection *projection)
{
	LOCKTAG		tag;

	evs_rebuild_locktag(&tag, rebuild->name);
	evs_hold(&tag, ExclusiveLock);
	evs_registry_locktag(&tag, rebuild->name);
	evs_hold(&tag, ExclusiveLock);
	evs_snapshot_locktag(&tag, rebuild->name);
	evs_hold(&tag, ExclusiveLock);
	if (!evs_online_will_live(projection))
		return;
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, evs_catalog()->events);
	evs_hold(&tag, ShareRowExclusiveLock);
	if (evs_gate_is_closed())
	{
		evs_gate_locktag(&tag);
		evs_hold(&tag, ExclusiveLock);
	}
	if (procedure->tables_taken)
		evs_tables_hold(evs_shadow_relations(rebuild->tables, rebuild->shadow));
}

static void
gather(void *projection)
{
	evs_apply_gather(projection);
}

/* Are its partitions at different positions, only because nobody waits for the others? */
static bool
is_apart(const EvsProjection *projection)
{
	int64		first = PG_INT64_MAX;
	int64		last = 0;

	for (int i = 0; i < projection->partitions; i++)
	{
		EvsUnit		unit;

		evs_unit_read(projection, i, &unit);
		if (unit.failure.exists)
			return false;
		first = Min(first, unit.checkpoint.position);
		last = Max(last, unit.checkpoint.position);
	}
	return first < last;
}

/*
 * Bring such partitions to one position.  What that does to the old version is
 * nothing that the new one's transactions do.  If one of them is stuck, a snapshot
 * of this moment may miss in the new version what the others have applied beyond it.
 */
static bool
has_gathered(EvsProjection *projection)
{
	ErrorData  *error;

	if (projection->partitions == 1 || projection->state != EVS_PROJECTION_ACTIVE ||
		!is_apart(projection))
		return false;
	error = evs_attempt(gather, projection);
	if (error == NULL)
		return true;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);

	/* it was at one of them: the new version takes the events of all */
	projection->filter.partitions = 1;
	ereport(LOG,
			(errmsg("the partitions of projection \"%s\" stay at different positions during its rebuild",
					projection->name),
			 errdetail("%s", error->detail ? error->detail : error->message)));
	return false;
}

/* The last events that the old version has. */
typedef struct Last
{
	EvsProcedure *procedure;
	EvsRebuild *rebuild;
	EvsProjection *projection;
	bool		complete;
	bool		at_tables;		/* it is them that it waits for */
} Last;

static int64
find_end(const EvsProjection *projection)
{
	EvsCheckpoint live;

	if (evs_online_will_live(projection))
		return evs_horizon_end();
	evs_checkpoint_read(projection->name, &live);
	return live.position;
}

/*
 * Not complete: a handler has appended, and what it appended was dispatched to the
 * old version; or it has failed; or the server has crashed, and this was a batch.
 */
static void
apply_last(void *arg)
{
	Last	   *last = arg;
	EvsRebuild *rebuild = last->rebuild;
	EvsShadowWatch watch;
	EvsProjection *redirected = evs_online_redirect(rebuild, last->projection, &watch);
	int64		upto = find_end(last->projection);
	bool		careful = last->procedure->caution.careful > 0;

	for (int batches = 0;; batches++)
	{
		last->complete = rebuild->checkpoint.position >= upto;
		if (last->complete || evs_clock_is_set(rebuild->due) || evs_shadow_touched(&watch) ||
			(careful && batches > 0))
			return;
		(void) evs_online_apply(last->procedure, rebuild, redirected, &watch, upto);
	}
}

/*
 * How far the old version is, for who wants to go back to it: up to a position,
 * so that most is counted before anybody has to wait.
 */
static void
count_old(EvsProjection *projection, EvsCheckpoint *old, int64 upto)
{
	if (!evs_online_is_live(projection) || old->position >= upto)
		return;
	old->event_count += evs_registry_count(&projection->filter, old->position, upto);
	old->position = upto;
}

/*
 * To drop the old version locks the tables that it refers to, and whoever has read one of
 * them would keep all others waiting.  So it is kept, at first: there is time for that when
 * nobody waits for us any more.
 */
static bool
keeps_old(const EvsRebuild *rebuild)
{
	return rebuild->keep_old || evs_shadow_referenced(rebuild->tables) != NIL;
}

/* ---- the exchange ---- */

static void
exchange(EvsRebuild *rebuild, EvsProjection *projection, const EvsCheckpoint *old, bool keep)
{
	/* also by an import that we have waited for */
	bool		was_stale = evs_projection_load(projection->name, false)->stale;

	evs_shadow_swap(rebuild->tables, rebuild->shadow);
	(void) evs_snapshots_clear(projection->name, false);
	/* those of the old version go where the old version goes, and what it stands for */
	evs_truncated_exchange(projection->name);
	evs_failures_clear(projection->name);
	evs_failures_clear(rebuild->shadow);
	evs_troubles_exchange(projection->name, rebuild->shadow);
	evs_dead_letters_divided(projection);
	if (!evs_online_will_live(projection))
		projection->replay_until = Max(projection->replay_until, evs_units_furthest(projection));
	else
		/* as in evs_replay_finish(), for it may not have been active, nor have events */
		evs_positions_open_log();
	if (projection->state != EVS_PROJECTION_PAUSED)
		projection->state = EVS_PROJECTION_ACTIVE;
	projection->stale = false;
	evs_registry_update(projection);
	if (keep)
		evs_rebuild_keep_parts(rebuild->name);
	evs_checkpoint_write(projection->name, &rebuild->checkpoint);
	evs_checkpoint_finish(projection->name);
	evs_notify(projection, rebuild->checkpoint.position);

	rebuild->state = EVS_REBUILD_KEPT;
	rebuild->background = rebuild->background && !rebuild->keep_old;
	rebuild->kept_stale = was_stale;
	rebuild->checkpoint = *old;
	evs_rebuild_write(rebuild);
	if (!keep)
		evs_rebuild_forget(rebuild->name);
}

/*
 * The last thing that may wait: for the tables.  Of one that is not inline, what nobody has
 * applied yet is applied with the exchange, or a good part of it; but not by a worker, which has
 * made no provision for a handler that ends the server (see crash_mark.h) and will
 * come to it soon.
 */
static void
take_tables(void *arg)
{
	Last	   *last = arg;
	EvsRebuild *rebuild = last->rebuild;
	EvsShadowWatch watch;

	last->at_tables = false;
	if (!last->procedure->background)
		(void) evs_online_apply(last->procedure, rebuild,
								evs_online_redirect(rebuild, last->projection, &watch), &watch,
								evs_horizon_safe_position());
	last->at_tables = true;
	evs_shadow_lock(rebuild->tables, rebuild->shadow);
}

static bool
has_taken_tables(Last *last)
{
	EvsProcedure *procedure = last->procedure;
	EvsRebuild *rebuild = last->rebuild;
	EvsCheckpoint before = rebuild->checkpoint;
	List	   *relations = evs_shadow_relations(rebuild->tables, rebuild->shadow);

	if (evs_online_will_live(last->projection))
		return evs_tables_take(procedure, relations);
	if (evs_within(evs_procedure_moment(procedure), take_tables, last))
		return true;
	rebuild->checkpoint = before;
	if (last->at_tables)
		evs_procedure_gave_way_to_readers(procedure, relations);
	else
		evs_procedure_gave_way_to_writers(procedure);
	return false;
}

static EvsOutcome
take_place(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection)
{
	Last		last = {procedure, rebuild, projection};
	bool		keep;

	if (!has_taken_tables(&last))
		return EVS_WAIT;
	if (!evs_shadow_exists(rebuild->tables, rebuild->shadow))
		return evs_online_start_over(procedure, rebuild);
	evs_online_check_again(rebuild, projection);
	if (strcmp(evs_shadow_shape(rebuild->tables, rebuild->shadow), rebuild->shape) != 0)
		return evs_online_start_over(procedure, rebuild);

	keep = keeps_old(rebuild);
	if (keep)
		count_old(projection, &procedure->old, evs_horizon_last_position());
	exchange(rebuild, projection, &procedure->old, keep);
	procedure->complete = true;
	procedure->attempts = 0;
	return keep && !rebuild->keep_old ? EVS_MORE : EVS_DONE;
}

/* ---- the transactions ---- */

EvsOutcome
evs_exchange_settle(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	EvsProjection *projection;
	Last		last = {procedure, rebuild};
	bool		will_live;

	if (procedure->background && !evs_registry_try_lock(rebuild->name))
	{
		procedure->pause = BUSY_PAUSE;
		return EVS_WAIT;
	}
	last.projection = projection = evs_registry_open(rebuild->name);
	will_live = evs_online_will_live(projection);

	/* altered since we looked */
	if (!evs_rebuild_read(rebuild->name, rebuild) || !rebuild->same_definition)
		return EVS_MORE;

	if (keeps_old(rebuild))
	{
		evs_checkpoint_read(projection->name, &procedure->old);
		count_old(projection, &procedure->old, evs_horizon_safe_position());
	}
	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	evs_tables_attempt(procedure);
	procedure->tables_taken = procedure->tables_first && will_live;
	if (procedure->tables_taken &&
		!evs_tables_take_first(procedure, evs_shadow_relations(rebuild->tables, rebuild->shadow)))
		return EVS_WAIT;
	if (will_live && procedure->insists)
		evs_gate_close(evs_shadow_relations(rebuild->tables, rebuild->shadow));
	if (will_live && !evs_procedure_barrier(procedure))
		return EVS_WAIT;
	if (has_gathered(projection))
	{
		procedure->still_until = EVS_NO_TIME;
		hold_still(procedure, rebuild, projection);
		return EVS_MORE;
	}
	/* appenders wait: the handler may not wait for long */
	if (!evs_within(will_live ? evs_tables_moment(procedure) : 0, apply_last, &last))
	{
		evs_procedure_gave_way_to_writers(procedure);
		return EVS_WAIT;
	}
	evs_rebuild_write(rebuild);
	if (!last.complete)
		return EVS_MORE;

	/* nothing was written since all saw it */
	if (rebuild->checkpoint.event_count == procedure->built_events)
		return take_place(procedure, rebuild, projection);

	evs_rebuild_readers_begin(procedure, rebuild->checkpoint.event_count);
	procedure->still_until =
		evs_clock_in(procedure->tables_taken ? evs_tables_moment(procedure) :
					 procedure->timeout > 0 ? procedure->timeout : STILL_TIME);
	hold_still(procedure, rebuild, projection);
	return EVS_MORE;
}

/* Some snapshots are older than what was applied last. */
static EvsOutcome
wait_for_snapshots(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection)
{
	/* those that we wait for may wait for us: look for them, and stand in no queue */
	SetInvalidVirtualTransactionId(procedure->awaited);
	if (!evs_clock_is_over(procedure->still_until) && !procedure->in_vain)
	{
		hold_still(procedure, rebuild, projection);
		procedure->pause = STILL_PAUSE;
		return EVS_WAIT;
	}
	evs_procedure_gave_way_to_snapshots(procedure);
	return EVS_MORE;
}

EvsOutcome
evs_exchange_go_on(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	EvsProjection *projection;

	/* the partitions were gathered */
	if (!evs_clock_is_set(procedure->still_until))
		return evs_exchange_settle(procedure, rebuild);

	projection = evs_registry_open(rebuild->name);

	/* altered since we looked */
	if (!evs_rebuild_read(rebuild->name, rebuild) || !rebuild->same_definition)
		return EVS_MORE;

	if (!evs_rebuild_readers_gone(procedure, true, procedure->tables_taken ?
								  evs_shadow_relations(rebuild->tables, rebuild->shadow) : NIL))
		return wait_for_snapshots(procedure, rebuild, projection);
	return take_place(procedure, rebuild, projection);
}

/* ---- after it ---- */

/* A call is in a transaction, but for moments. */
static bool
is_in_transaction(int pid)
{
	PGPROC	   *process = BackendPidGetProc(pid);
	VirtualTransactionId transaction;

	if (process == NULL)
		return false;
	GET_VXID_FROM_PGPROC(transaction, *process);
	return VirtualTransactionIdIsValid(transaction);
}

bool
evs_exchange_takes_over(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	if (!procedure->background || rebuild->background || rebuild->state != EVS_REBUILD_KEPT)
		return true;
	if (is_in_transaction(rebuild->pid))
		return false;
	rebuild->background = true;
	evs_rebuild_write(rebuild);
	return true;
}

static void
forget(void *name)
{
	evs_rebuild_forget(name);
}

/* What others have built on the old version is no reason for what is complete to fail. */
static void
drop_or_keep(const EvsRebuild *rebuild)
{
	ErrorData  *error = evs_attempt(forget, unconstify(char *, rebuild->name));

	if (error == NULL)
		return;
	if (evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	ereport(WARNING,
			(errmsg("the old version of projection \"%s\" is still there", rebuild->name),
			 errdetail("%s", error->detail ? error->detail : error->message),
			 errhint("Remove what is in the way, and drop it with evsource.accept_rebuild().")));
	(void) evs_rebuild_fail(rebuild->name, rebuild->request, 0, error);
}

EvsOutcome
evs_exchange_drop_old(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	if (evs_online_lock_dropped(procedure, rebuild))
	{
		drop_or_keep(rebuild);
		return EVS_DONE;
	}
	if (!evs_procedure_has_tried(procedure))
		return EVS_WAIT;

	/* somebody else's transaction is no reason for what is complete to fail */
	ereport(WARNING,
			(errmsg("the old version of projection \"%s\" is still there", rebuild->name),
			 errdetail("Open transactions that have used its tables, or tables that these refer to, were in the way."),
			 errhint("Drop it with evsource.accept_rebuild() when they have ended.")));
	rebuild->keep_old = true;
	evs_rebuild_write(rebuild);
	return EVS_DONE;
}
