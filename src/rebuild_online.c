/*
 * rebuild_online.c - build the next version of a read model beside the one that
 * is read.
 *
 * The new tables (shadow.c) begin empty and take the log, a batch a transaction.
 * Meanwhile the old ones live: appends and workers keep them up to date, readers
 * read them.  When the new ones have caught up they are exchanged for the old
 * (swap.c), in one short transaction with the checkpoint and, for an inline
 * projection, behind the barrier.
 *
 * Rows in the new tables are as old as the transactions that wrote them, and a
 * reader with an older snapshot does not see them.  So nobody exchanges anything
 * before every snapshot is gone that is older than the moment when the new
 * version was whole: CREATE INDEX CONCURRENTLY does the same.
 *
 * Who is first to apply an event?  An inline projection's appender, always.  An
 * async one's worker: so the new version stays behind the old until the end, and
 * what it then applies beyond that is nobody's history.  If nobody works on the
 * old version (it is paused, it has failed), the new one is first.
 *
 * Locks: the rebuild's, then, for the exchange, the projection's name, the
 * snapshots, the barrier, the tables.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "barrier.h"
#include "failure.h"
#include "horizon.h"
#include "notify.h"
#include "rebuilds.h"
#include "registry.h"
#include "replay.h"
#include "resolve.h"
#include "shadow.h"
#include "snapshots.h"
#include "unit.h"

/* So many events were left to apply that another round without locks pays. */
#define FEW_EVENTS		1000

/* Rounds that found so many, before the exchange is made all the same. */
#define MAX_ROUNDS		20

/* So many events show whether the handler finds the new tables. */
#define PROBE_EVENTS	100

/* ms to wait before looking for old snapshots again */
#define SNAPSHOT_PAUSE	100

static bool
is_live(const EvsProjection *projection)
{
	return projection->mode == EVS_MODE_INLINE && projection->state == EVS_STATE_ACTIVE;
}

/* ---- what the handler gets, and what it does ---- */

/* Whoever locks one of the old tables does not build the new ones. */
static void
look_at_locks(void *watch)
{
	(void) evs_shadow_touched(watch);
}

/* What the old version has applied is history, up to the furthest partition. */
static int64
end_of_history(const EvsProjection *projection)
{
	if (is_live(projection))
		return PG_INT64_MAX;
	return Max(projection->replay_until, evs_units_furthest(projection));
}

/*
 * The projection as the new version sees it: what the old one has applied is
 * history.  Only one batch a transaction can
 * be watched: what a handler appends is dispatched to the old version.
 */
static EvsProjection *
redirect(const EvsRebuild *rebuild, const EvsProjection *projection, EvsShadowWatch *watch)
{
	EvsProjection *redirected = evs_shadow_redirect(projection, rebuild->shadow);

	redirected->replay_until = end_of_history(projection);
	evs_shadow_watch(watch, rebuild->tables);
	redirected->applied = look_at_locks;
	redirected->applied_argument = watch;
	return redirected;
}

/* How far it may go for now. */
static int64
get_limit(const EvsProjection *projection)
{
	int64		safe = evs_horizon_safe_position();
	EvsCheckpoint live;

	if (projection->mode == EVS_MODE_INLINE || projection->state != EVS_STATE_ACTIVE)
		return safe;
	evs_checkpoint_read(projection->name, &live);
	return Min(safe, live.position);
}

static const char *
describe_touched(const char *table)
{
	return psprintf("Its handler used table %s itself: it names the table with its schema, or does not look for it in the search_path that it is called with.",
					table);
}

#define TOUCHED_HINT \
	"Name the table without its schema, in a function without a search_path of its own; or rebuild in place, with online => false."

static void
refuse_touched(const EvsRebuild *rebuild, const char *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot rebuild projection \"%s\" online", rebuild->name),
			 errdetail("%s", describe_touched(table)),
			 errhint(TOUCHED_HINT)));
}

/*
 * Apply events to the new version.  What it cannot take is on record under the
 * name of its schema until the exchange: the old version has troubles of its own.
 */
static int64
apply_some(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *redirected,
		   int64 upto, int64 max_events)
{
	return evs_procedure_apply(procedure, redirected, rebuild->shadow, &rebuild->checkpoint,
							   upto, max_events, &rebuild->due);
}

/*
 * One batch.  A handler that works on the old tables may well fail because of
 * what it finds there: then that is what has to be said.
 */
static int64
apply_batch(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *redirected,
			EvsShadowWatch *watch, int64 upto)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz began = GetCurrentTimestamp();
	volatile int64 applied = 0;

	PG_TRY();
	{
		applied = apply_some(procedure, rebuild, redirected, upto,
							 evs_procedure_batch(procedure, redirected));
	}
	PG_CATCH();
	{
		if (geterrcode() == ERRCODE_QUERY_CANCELED || !evs_shadow_touched(watch))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		refuse_touched(rebuild, watch->touched);
	}
	PG_END_TRY();

	if (watch->touched != NULL)
		refuse_touched(rebuild, watch->touched);
	evs_procedure_pace(procedure, began);
	return applied;
}

/* ---- the begin ---- */

/* A sentence without its end why not; "" when nobody would expect it. */
static const char *
find_obstacle(const EvsRebuild *rebuild, EvsProjection *projection)
{
	EvsCheckpoint live;
	bool		demanded = rebuild->is_chosen && rebuild->online;

	if (projection->kind == EVS_KIND_FOLD)
		return demanded ? "it is a fold, whose states are evsource's own" : "";
	if (projection->tables == NIL)
		return demanded ? "it has no tables" : "";
	evs_resolve_check_tables(projection);

	/* what nobody has filled yet can as well be filled in its place */
	evs_checkpoint_read(projection->name, &live);
	if (!demanded && !is_live(projection) &&
		(live.event_count == 0 || projection->state == EVS_STATE_REBUILDING ||
		 projection->state == EVS_STATE_CATCHING_UP))
		return "";
	return evs_shadow_obstacle(projection);
}

static void
report_obstacle(const EvsRebuild *rebuild, const char *detail, const char *hint)
{
	bool		demanded = rebuild->is_chosen && rebuild->online;

	ereport(demanded ? ERROR : NOTICE,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 demanded ? errmsg("cannot rebuild projection \"%s\" online", rebuild->name) :
			 errmsg("rebuilding projection \"%s\" in place: readers see it grow", rebuild->name),
			 errdetail("%s", detail),
			 hint != NULL ? errhint("%s", hint) :
			 demanded ? errhint("Remove what is in the way; or rebuild in place, with online => false.") : 0));
}

/*
 * Make the shadow and let the handler show whether it finds it; unless the server
 * has crashed here before.
 */
static void
make_shadow(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection,
			EvsShadowWatch *watch)
{
	EvsProjection *redirected;

	rebuild->shadow = evs_shadow_create(projection, &rebuild->shape);
	rebuild->checkpoint.position = projection->start_after;
	rebuild->checkpoint.event_count = 0;

	redirected = redirect(rebuild, projection, watch);
	if (procedure->caution.careful == 0)
		(void) apply_some(procedure, rebuild, redirected, get_limit(projection), PROBE_EVENTS);
}

/*
 * The same as a subtransaction, for what a handler did to the old version must
 * not stay.  False: it has used one of the old tables instead, with or without
 * success; or the owner may not make the new ones.
 */
static bool
try_shadow(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	EvsShadowWatch watch;
	ErrorData  *volatile error = NULL;

	rebuild->tables = projection->tables;
	evs_shadow_watch(&watch, projection->tables);

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		make_shadow(procedure, rebuild, projection, &watch);
		if (watch.touched == NULL)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		(void) evs_shadow_touched(&watch);
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error == NULL && watch.touched == NULL)
		return true;
	if (error != NULL && error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE && rebuild->shadow == NULL)
		report_obstacle(rebuild, psprintf("Its owner may not make such tables: %s.", error->message), NULL);
	else if (watch.touched == NULL || (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED))
		ReThrowError(error);
	else
		report_obstacle(rebuild, describe_touched(watch.touched), TOUCHED_HINT);
	return false;
}

bool
evs_online_start(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection,
				 int64 total)
{
	const char *obstacle = find_obstacle(rebuild, projection);

	if (obstacle != NULL)
	{
		if (obstacle[0] != '\0')
			report_obstacle(rebuild, psprintf("Online it is not possible: %s.", obstacle), NULL);
		return false;
	}

	if (!try_shadow(procedure, rebuild, projection))
	{
		rebuild->tables = NIL;
		rebuild->shadow = rebuild->shape = NULL;
		return false;
	}

	rebuild->state = EVS_REBUILD_BUILDING;
	rebuild->is_chosen = rebuild->online = true;
	rebuild->total = total;
	rebuild->rounds = 0;
	evs_rebuild_start(rebuild);
	return true;
}

/* ---- on the way ---- */

static void
forget_readers(EvsProcedure *procedure)
{
	procedure->built = InvalidTransactionId;
	procedure->nreaders = 0;
	if (procedure->readers != NULL)
		pfree(procedure->readers);
	procedure->readers = NULL;
}

/*
 * What we remember is that of another rebuild if the tables are others: the
 * one that we knew was cancelled, or has begun anew in another session.
 */
static void
look_at_shadow(EvsProcedure *procedure, const EvsRebuild *rebuild)
{
	Oid			shadow = get_namespace_oid(rebuild->shadow, true);

	if (procedure->shadow != shadow)
		forget_readers(procedure);
	procedure->shadow = shadow;
}

/* What was built is of no use any more: begin anew. */
static EvsOutcome
start_over(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	ereport(DEBUG1,
			(errmsg_internal("projection \"%s\" or its tables have changed, beginning its rebuild anew",
							 rebuild->name)));
	evs_shadow_drop(rebuild->shadow);
	evs_troubles_clear(rebuild->shadow);
	rebuild->state = EVS_REBUILD_REQUESTED;
	rebuild->tables = NIL;
	rebuild->shadow = rebuild->shape = NULL;
	evs_rebuild_write(rebuild);
	forget_readers(procedure);
	procedure->attempts = 0;
	return EVS_MORE;
}

/*
 * Is every snapshot gone that does not see a whole read model?  Transactions in
 * other databases read other tables, and vacuum reads no read models.  Who comes
 * later is not waited for.
 */
static bool
old_snapshots_gone(EvsProcedure *procedure)
{
	if (procedure->readers == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(MemoryContextGetParent(procedure->context));

		procedure->readers = GetCurrentVirtualXIDs(procedure->built, true, false,
												   PROC_IS_AUTOVACUUM | PROC_IN_VACUUM,
												   &procedure->nreaders);
		MemoryContextSwitchTo(caller);
	}
	while (procedure->nreaders > 0)
	{
		VirtualTransactionId reader = procedure->readers[procedure->nreaders - 1];

		if (!VirtualXactLock(reader, false))
		{
			procedure->pause = SNAPSHOT_PAUSE;
			procedure->awaited = reader;
			evs_rebuild_waits_for_transactions(procedure->name, procedure->readers,
											   procedure->nreaders);
			return false;
		}
		procedure->nreaders--;
	}
	return true;
}

/* ---- the end ---- */

/* The last events, which the old version has (inline) or will never get. */
typedef struct Last
{
	EvsProcedure *procedure;
	EvsRebuild *rebuild;
	EvsProjection *projection;
	bool		complete;
} Last;

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
	EvsProjection *redirected = redirect(rebuild, last->projection, &watch);
	bool		is_inline = last->projection->mode == EVS_MODE_INLINE;
	bool		careful = last->procedure->caution.careful > 0;

	for (int batches = 0;; batches++)
	{
		int64		upto = is_inline ? evs_horizon_last_position() : evs_horizon_safe_position();

		last->complete = rebuild->checkpoint.position >= upto;
		if (last->complete || rebuild->due != 0 || evs_shadow_touched(&watch) ||
			(careful && batches > 0))
			return;
		apply_batch(last->procedure, rebuild, redirected, &watch, upto);
	}
}

/*
 * How far the old version is, for who wants to go back to it: up to a position,
 * so that most is counted before anybody has to wait.
 */
static void
count_old(EvsProjection *projection, EvsCheckpoint *old, int64 upto)
{
	if (!is_live(projection) || old->position >= upto)
		return;
	old->event_count += evs_registry_count(&projection->filter, old->position, upto);
	old->position = upto;
}

static void
exchange(EvsRebuild *rebuild, EvsProjection *projection, const EvsCheckpoint *old)
{
	bool		was_stale = projection->stale;

	evs_shadow_swap(rebuild->tables, rebuild->shadow);
	(void) evs_snapshots_clear(projection->name, false);
	/* those of the old version go where the old version goes */
	evs_failures_clear(projection->name);
	evs_failures_clear(rebuild->shadow);
	evs_troubles_exchange(projection->name, rebuild->shadow);
	if (projection->state != EVS_STATE_PAUSED)
		projection->state = EVS_STATE_ACTIVE;
	projection->stale = false;
	evs_registry_update(projection);
	if (rebuild->keep_old)
		evs_rebuild_keep_parts(rebuild->name);
	evs_checkpoint_write(projection->name, &rebuild->checkpoint);
	evs_checkpoint_finish(projection->name);
	evs_notify(projection, rebuild->checkpoint.position);

	if (!rebuild->keep_old)
	{
		evs_rebuild_forget(rebuild->name);
		return;
	}
	rebuild->state = EVS_REBUILD_KEPT;
	rebuild->background = false;
	rebuild->kept_stale = was_stale;
	rebuild->checkpoint = *old;
	evs_rebuild_write(rebuild);
}

static EvsOutcome
wait_for_tables(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	evs_rebuild_write(rebuild);
	evs_procedure_gave_way_to_readers(procedure,
									  evs_shadow_relations(rebuild->tables, rebuild->shadow));
	return EVS_WAIT;
}

/* Nobody changes the tables any more: is it still possible? */
static void
check_again(const EvsRebuild *rebuild, EvsProjection *projection)
{
	const char *obstacle = evs_shadow_obstacle(projection);

	if (obstacle != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot complete the online rebuild of projection \"%s\"", rebuild->name),
				 errdetail("Online it is not possible any more: %s.", obstacle),
				 errhint("Remove what is in the way and call again: it goes on where it stopped; or rebuild in place, with online => false.")));
}

static EvsOutcome
finish(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	EvsProjection *projection;
	EvsCheckpoint old = {0, 0};
	Last		last = {procedure, rebuild};

	if (procedure->background && !evs_registry_try_lock(rebuild->name))
	{
		procedure->pause = SNAPSHOT_PAUSE;
		return EVS_WAIT;
	}
	last.projection = projection = evs_registry_open(rebuild->name);

	/* altered since we looked */
	if (!evs_rebuild_read(rebuild->name, rebuild) || !rebuild->same_definition)
		return EVS_MORE;

	if (rebuild->keep_old)
	{
		evs_checkpoint_read(projection->name, &old);
		count_old(projection, &old, evs_horizon_safe_position());
	}
	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	if (projection->mode == EVS_MODE_INLINE && !evs_procedure_barrier(procedure))
		return EVS_WAIT;
	/* appenders wait: the handler may not wait for long */
	if (!evs_within(projection->mode == EVS_MODE_INLINE ? procedure->timeout : 0, apply_last, &last))
	{
		evs_procedure_gave_way_to_writers(procedure);
		return EVS_WAIT;
	}
	if (!last.complete)
	{
		evs_rebuild_write(rebuild);
		return EVS_MORE;
	}
	if (!evs_shadow_lock(rebuild->tables, rebuild->shadow, procedure->timeout))
		return wait_for_tables(procedure, rebuild);
	if (!evs_shadow_exists(rebuild->tables, rebuild->shadow) ||
		strcmp(evs_shadow_shape(rebuild->tables, rebuild->shadow), rebuild->shape) != 0)
		return start_over(procedure, rebuild);
	check_again(rebuild, projection);

	if (rebuild->keep_old)
		count_old(projection, &old, evs_horizon_last_position());
	exchange(rebuild, projection, &old);
	procedure->complete = true;
	return EVS_DONE;
}

EvsOutcome
evs_online_step(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	EvsProjection *projection = evs_projection_load(rebuild->name, false);
	EvsProjection *redirected;
	EvsShadowWatch watch;
	int64		from = rebuild->checkpoint.position;
	int64		upto;
	int64		applied;

	if (!rebuild->same_definition ||
		!evs_shadow_exists(rebuild->tables, rebuild->shadow))
		return start_over(procedure, rebuild);

	look_at_shadow(procedure, rebuild);
	redirected = redirect(rebuild, projection, &watch);
	upto = get_limit(projection);
	applied = apply_batch(procedure, rebuild, redirected, &watch, upto);
	if (applied > FEW_EVENTS && rebuild->checkpoint.position >= upto)
		rebuild->rounds++;
	if (applied > 0 || rebuild->checkpoint.position > from)
		evs_rebuild_write(rebuild);
	if (rebuild->due != 0)
		return evs_procedure_wait_until(procedure, rebuild->due);

	if (rebuild->checkpoint.position < upto ||
		(procedure->caution.careful > 0 && applied > 0) ||
		(applied > FEW_EVENTS && rebuild->rounds < MAX_ROUNDS))
		return EVS_MORE;

	/* whoever sees this transaction sees a whole read model */
	if (!TransactionIdIsValid(procedure->built))
	{
		procedure->built = GetTopTransactionId();
		return EVS_MORE;
	}
	if (!old_snapshots_gone(procedure))
		return EVS_WAIT;
	return finish(procedure, rebuild);
}
