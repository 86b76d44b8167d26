/*
 * rebuild_online.c - build the next version of a read model beside the one that
 * is read.
 *
 * The new tables (shadow.c) begin empty and take the log, a batch a transaction.
 * Meanwhile the old ones live: appends and workers keep them up to date, readers
 * read them.  When the new ones have caught up they are exchanged for the old
 * (rebuild_exchange.c).
 *
 * Rows in the new tables are as old as the transactions that wrote them, and a
 * reader with an older snapshot does not see them.  So the exchange begins when
 * every snapshot is gone that is older than the moment when the new version was
 * whole, or nearly so: CREATE INDEX CONCURRENTLY does the same.
 *
 * Who is first to apply an event?  An inline projection's appender, always.  An
 * async one's worker: so the new version stays behind the old until the exchange,
 * and what it then applies beyond that is nobody's history.
 *
 * Locks: the rebuild's; for those of the exchange see there.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "attempt.h"
#include "barrier.h"
#include "failure.h"
#include "horizon.h"
#include "rebuild_online.h"
#include "rebuild_readers.h"
#include "rebuild_row.h"
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

bool
evs_online_is_live(const EvsProjection *projection)
{
	return projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE;
}

bool
evs_online_will_live(const EvsProjection *projection)
{
	return projection->mode == EVS_MODE_INLINE && projection->state != EVS_PROJECTION_PAUSED;
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
	if (evs_online_is_live(projection))
		return PG_INT64_MAX;
	return Max(projection->replay_until, evs_units_furthest(projection));
}

/*
 * The projection as the new version sees it: what the old one has applied is
 * history.  Only one batch a transaction can
 * be watched: what a handler appends is dispatched to the old version.
 */
EvsProjection *
evs_online_redirect(const EvsRebuild *rebuild, const EvsProjection *projection,
					EvsShadowWatch *watch)
{
	EvsProjection *redirected = evs_shadow_redirect(projection, rebuild->shadow);

	redirected->replay_until = end_of_history(projection);
	evs_shadow_watch(watch, rebuild->tables);
	redirected->applied = look_at_locks;
	redirected->applied_argument = watch;
	return redirected;
}

/* How far it may go for now: where the old version is, nobody sees it ahead of that. */
static int64
get_limit(const EvsProjection *projection)
{
	int64		safe = evs_horizon_safe_position();
	EvsCheckpoint live;

	if (evs_online_will_live(projection))
		return safe;
	evs_checkpoint_read(projection->name, &live);
	return Min(safe, live.position);
}

/* "table" or "sequence": what the name of what was touched begins with. */
static char *
touched_kind(const char *touched)
{
	return pnstrdup(touched, strcspn(touched, " "));
}

static const char *
describe_touched(const char *touched)
{
	return psprintf("Its handler used %s itself: it names the %s with its schema, or does not look for it in the search_path that it is called with.",
					touched, touched_kind(touched));
}

static const char *
touched_hint(const char *touched)
{
	return psprintf("Name the %s without its schema, in a function without a search_path of its own; or rebuild in place, with online => false.",
					touched_kind(touched));
}

static void
refuse_touched(const EvsRebuild *rebuild, const char *touched)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot rebuild projection \"%s\" online", rebuild->name),
			 errdetail("%s", describe_touched(touched)),
			 errhint("%s", touched_hint(touched))));
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
int64
evs_online_apply(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *redirected,
				 EvsShadowWatch *watch, int64 upto)
{
	MemoryContext context = CurrentMemoryContext;
	EvsTime		began = evs_clock_now();
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
	evs_procedure_pace(procedure, applied, began);
	return applied;
}

/* ---- the beginning ---- */

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
	if (!demanded && !evs_online_is_live(projection) &&
		(live.event_count == 0 || projection->state == EVS_PROJECTION_REBUILDING ||
		 projection->state == EVS_PROJECTION_CATCHING_UP))
		return "";
	return evs_shadow_obstacle(projection, true);
}

/* Does it pass?  Then whoever it is is waited for. */
static bool
gave_way(EvsProcedure *procedure, const EvsProjection *projection, const char *obstacle)
{
	List	   *changed = evs_online_find_changed(projection, obstacle);

	if (changed == NIL)
		return false;
	if (evs_procedure_may_try(procedure))
		evs_procedure_gave_way_to_changes(procedure, changed, ShareUpdateExclusiveLock);
	return true;
}

typedef struct Foresight
{
	const EvsRebuild *rebuild;
	const char *obstacle;
} Foresight;

static void
foresee(void *arg)
{
	Foresight  *foresight = arg;
	EvsProjection *projection = evs_projection_load(foresight->rebuild->name, false);
	const char *obstacle = find_obstacle(foresight->rebuild, projection);

	if (obstacle != NULL && obstacle[0] != '\0' && evs_online_find_changed(projection, obstacle) == NIL)
		foresight->obstacle = obstacle;
}

/* What goes wrong here is said when it begins. */
void
evs_online_foresee(const EvsRebuild *rebuild)
{
	Foresight	foresight = {rebuild, NULL};
	EvsRebuild	current;

	/* one that has begun goes on */
	if (!evs_rebuild_read(rebuild->name, &current) || current.state != EVS_REBUILD_REQUESTED)
		return;
	if (evs_attempt(foresee, &foresight) == NULL && foresight.obstacle != NULL)
		ereport(NOTICE,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" will be rebuilt in place: readers see it grow", rebuild->name),
				 errdetail("Online it is not possible now: %s.", foresight.obstacle),
				 errhint("Request it with online => true if it must not be in place.")));
}

/* Once, however often it is tried.  The daemon's reader is the server's log. */
static void
report_obstacle(EvsProcedure *procedure, const EvsRebuild *rebuild, const char *detail, const char *hint)
{
	bool		demanded = rebuild->is_chosen && rebuild->online;

	if (procedure->in_place_said)
		return;
	procedure->in_place_said = !demanded;
	ereport(demanded ? ERROR : procedure->background ? LOG : NOTICE,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 demanded ? errmsg("cannot rebuild projection \"%s\" online", rebuild->name) :
			 errmsg("rebuilding projection \"%s\" in place: readers see it grow", rebuild->name),
			 errdetail("%s", detail),
			 hint != NULL ? errhint("%s", hint) :
			 demanded && rebuild->keep_old ?
			 errhint("Remove what is in the way; or rebuild in place, with online => false, which keeps no old version.") :
			 demanded ? errhint("Remove what is in the way; or rebuild in place, with online => false.") : 0));
}

/*
 * Make the shadow and let the handler show whether it finds it; unless the server
 * has crashed here before.  False: one of the old tables was used before the handler
 * was called.
 */
static bool
make_shadow(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection,
			EvsShadowWatch *watch)
{
	EvsProjection *redirected;

	rebuild->shadow = evs_shadow_create(projection, &rebuild->shape);
	if (evs_shadow_touched(watch))
		return false;
	rebuild->checkpoint.position = projection->start_after;
	rebuild->checkpoint.event_count = 0;

	redirected = evs_online_redirect(rebuild, projection, watch);
	if (procedure->caution.careful == 0)
		(void) apply_some(procedure, rebuild, redirected, get_limit(projection), PROBE_EVENTS);
	return true;
}

/*
 * The new tables cannot be made: their owner may not, or what belongs to the old ones, such
 * as an index, does not fit.  Unless it is nobody's fault.
 */
static bool
report_unmade(EvsProcedure *procedure, const EvsRebuild *rebuild, const ErrorData *error)
{
	const char *why = error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE ?
		"Its owner may not make such tables" : "Such tables cannot be made";

	if (rebuild->shadow != NULL || evs_failure_is_transient(error->sqlerrcode))
		return false;
	report_obstacle(procedure, rebuild, psprintf("%s: %s.", why, error->message), NULL);
	return true;
}

/*
 * Nothing that evsource does to make them takes the old ones: it is an event trigger of the
 * user's, which may append, or a policy that the new ones are given, too.
 */
static void
report_disturbed(EvsProcedure *procedure, const EvsRebuild *rebuild, const char *touched)
{
	report_obstacle(procedure, rebuild,
					psprintf("While the new tables were made, %s was used: by an event trigger, by what that appended, or by a policy that reads it.",
							 touched),
					"Disable the event trigger, or drop the policy, for the time of the rebuild; or rebuild in place, with online => false.");
}

/*
 * The same as a subtransaction, for what a handler did to the old version must
 * not stay.  False: it has used one of the old tables instead, with or without
 * success; or the new ones cannot be made.
 */
static bool
try_shadow(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	EvsShadowWatch watch;
	ErrorData  *volatile error = NULL;
	volatile bool undisturbed = true;

	rebuild->tables = projection->tables;
	evs_shadow_watch(&watch, projection->tables);

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		undisturbed = make_shadow(procedure, rebuild, projection, &watch);
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
	if (error != NULL && report_unmade(procedure, rebuild, error))
		return false;
	if (watch.touched == NULL || (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED))
	{
		if (error->sqlerrcode == ERRCODE_UNDEFINED_FUNCTION)
			error->hint = "A function that takes rows of a table does not take those of the new version: then rebuild in place, with online => false.";
		ReThrowError(error);
	}
	if (!undisturbed)
		report_disturbed(procedure, rebuild, watch.touched);
	else
		report_obstacle(procedure, rebuild, describe_touched(watch.touched),
						touched_hint(watch.touched));
	return false;
}

/* The shadow is to be made. */
typedef struct Making
{
	EvsProcedure *procedure;
	EvsRebuild *rebuild;
	EvsProjection *projection;
	bool		made;
} Making;

static void
make(void *arg)
{
	Making	   *making = arg;

	making->made = try_shadow(making->procedure, making->rebuild, making->projection);
}

/*
 * Those who write to a table that the new ones refer to queue behind us, and the
 * workers of the projection: so nothing is waited for for long.  False: something was.
 */
static bool
make_in_time(Making *making)
{
	EvsProcedure *procedure = making->procedure;
	List	   *referenced = evs_shadow_referenced(making->projection->tables);
	int			moment = evs_procedure_moment(procedure);

	if (!evs_procedure_may_try(procedure))
		return false;
	if (!evs_locks_within(referenced, ShareRowExclusiveLock, moment))
		evs_procedure_gave_way_to_changes(procedure, referenced, ShareRowExclusiveLock);
	else if (evs_within(moment, make, making))
		return true;
	else
		evs_procedure_gave_way_to_writers(procedure);
	making->rebuild->tables = NIL;
	making->rebuild->shadow = making->rebuild->shape = NULL;
	return false;
}

bool
evs_online_start(EvsProcedure *procedure, EvsRebuild *rebuild, EvsProjection *projection,
				 int64 total, EvsOutcome *outcome)
{
	Making		making = {procedure, rebuild, projection};
	const char *obstacle = find_obstacle(rebuild, projection);

	*outcome = EVS_WAIT;
	if (obstacle != NULL)
	{
		if (gave_way(procedure, projection, obstacle))
			return true;
		/* it may have passed in between */
		obstacle = find_obstacle(rebuild, projection);
	}
	if (obstacle != NULL)
	{
		if (obstacle[0] != '\0')
			report_obstacle(procedure, rebuild, psprintf("Online it is not possible: %s.", obstacle), NULL);
		return false;
	}

	if (!make_in_time(&making))
		return true;
	if (!making.made)
	{
		rebuild->tables = NIL;
		rebuild->shadow = rebuild->shape = NULL;
		return false;
	}

	rebuild->state = EVS_REBUILD_BUILDING;
	rebuild->total = total;
	rebuild->rounds = 0;
	evs_rebuild_start(rebuild, projection);
	procedure->attempts = 0;
	*outcome = EVS_MORE;
	return true;
}

/* ---- on the way ---- */

/*
 * What we remember is that of another rebuild if the tables are others: the
 * one that we knew was cancelled, or has begun anew in another session.
 */
static void
look_at_shadow(EvsProcedure *procedure, const EvsRebuild *rebuild)
{
	Oid			shadow = get_namespace_oid(rebuild->shadow, true);

	if (procedure->shadow != shadow)
		evs_rebuild_readers_forget(procedure);
	procedure->shadow = shadow;
}

bool
evs_online_lock_dropped(EvsProcedure *procedure, const EvsRebuild *rebuild)
{
	List	   *relations = evs_shadow_dropped(rebuild->shadow);

	if (!evs_procedure_may_try(procedure))
		return false;
	if (evs_locks_within(relations, AccessExclusiveLock, evs_procedure_moment(procedure)))
		return true;
	evs_procedure_gave_way_to_readers(procedure, relations);
	return false;
}

EvsOutcome
evs_online_start_over(EvsProcedure *procedure, EvsRebuild *rebuild)
{
	if (!evs_online_lock_dropped(procedure, rebuild))
		return EVS_WAIT;
	ereport(DEBUG1,
			(errmsg_internal("projection \"%s\" or its tables have changed, starting its rebuild again",
							 rebuild->name)));
	evs_shadow_drop(rebuild->shadow);
	evs_troubles_clear(rebuild->shadow);
	rebuild->state = EVS_REBUILD_REQUESTED;
	rebuild->tables = NIL;
	rebuild->shadow = rebuild->shape = NULL;
	rebuild->checkpoint.position = rebuild->checkpoint.event_count = rebuild->total = 0;
	evs_rebuild_write(rebuild);
	evs_rebuild_readers_forget(procedure);
	procedure->attempts = 0;
	procedure->worn = true;
	return EVS_MORE;
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
		return evs_online_start_over(procedure, rebuild);

	look_at_shadow(procedure, rebuild);
	if (procedure->still)
		return evs_exchange_go_on(procedure, rebuild);
	if (!evs_online_look(procedure, rebuild, projection))
		return evs_online_start_over(procedure, rebuild);
	redirected = evs_online_redirect(rebuild, projection, &watch);
	upto = get_limit(projection);
	applied = evs_online_apply(procedure, rebuild, redirected, &watch, upto);
	if (applied > FEW_EVENTS && rebuild->checkpoint.position >= upto)
		rebuild->rounds++;
	if (applied > 0 || rebuild->checkpoint.position > from)
		evs_rebuild_write(rebuild);
	if (evs_clock_is_set(rebuild->due))
		return evs_procedure_wait_until(procedure, rebuild->due);

	if (rebuild->checkpoint.position < upto ||
		(procedure->caution.careful > 0 && applied > 0) ||
		(applied > FEW_EVENTS && rebuild->rounds < MAX_ROUNDS))
		return EVS_MORE;

	/* whoever sees this transaction sees a whole read model */
	if (!TransactionIdIsValid(procedure->built))
	{
		evs_rebuild_readers_begin(procedure, rebuild->checkpoint.event_count);
		return EVS_MORE;
	}
	if (!evs_rebuild_readers_gone(procedure, false, NIL) || !evs_procedure_may_try(procedure))
	{
		procedure->pause = SNAPSHOT_PAUSE;
		return EVS_WAIT;
	}
	return evs_exchange_settle(procedure, rebuild);
}
