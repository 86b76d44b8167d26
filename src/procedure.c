/*
 * procedure.c - work on one projection in transactions of its own.
 *
 * Each transaction applies one batch and moves the checkpoint: what another
 * session sees is a prefix of the log, and an interruption leaves a state from
 * which the next call goes on.  Between two transactions nothing is held, and
 * each of them begins by taking the projection's name and looking at its row
 * again: whoever changed it meanwhile has been heard.
 *
 * An inline projection ends with the barrier.  The last transaction takes it
 * with a lock timeout and, when an appender idles in its transaction, gives up
 * its place in the queue, lets others append until that one is through, and tries
 * again: so with every lock that others queue behind.
 */
#include "evsource.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "attempt.h"
#include "barrier.h"
#include "catalog.h"
#include "dead_letters.h"
#include "failure.h"
#include "handling.h"
#include "horizon.h"
#include "parameters.h"
#include "procedure.h"
#include "rebuild_readers.h"
#include "rebuild_row.h"
#include "rebuild_tables.h"
#include "registry.h"
#include "replay.h"

/* So few events were left to apply that the rest can wait for the barrier. */
#define FEW_EVENTS		1000

/* Rounds that found more, before the barrier is taken all the same. */
#define MAX_ROUNDS		20

/* How often to try for the barrier. */
#define MAX_ATTEMPTS	10

/* How often an attempt may become twice as long as the one before: to half an hour. */
#define MAX_DOUBLED		14

/* ms for which attempts that are in vain count as one, if the call sets no limit */
#define VAIN_TIME		2000

/* ms to wait for a transaction before we look whether we still have to */
#define LONGEST_WAIT	1000

/* The events of the first batch: nobody knows how long each will take. */
#define FIRST_BATCH		1000

/* So many times as many the next one may have, and once one was too long. */
#define FASTEST_GROWTH	16
#define CAREFUL_GROWTH	4

bool
evs_procedure_is_atomic(FunctionCallInfo fcinfo)
{
	return fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		((CallContext *) fcinfo->context)->atomic || IsSubTransaction();
}

void
evs_procedure_next_transaction(bool on_the_way)
{
	if (on_the_way)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
	SPI_commit();
	SPI_start_transaction();

	/* nothing has been read yet, so the level is still ours to choose */
	XactIsoLevel = XACT_READ_COMMITTED;
}

static int
interval_milliseconds(const Interval *interval)
{
	double		milliseconds = evs_interval_length(interval);

	if (milliseconds < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lock_timeout must not be negative"),
				 errdetail("It is %.0f ms.", milliseconds),
				 errhint("Null or zero waits as long as it takes.")));
	return (int) Min(milliseconds, INT_MAX);
}

/* What may be in the way of a lock, in words. */
typedef struct EvsMet
{
	const char *without;
	const char *detail;
	const char *hint;
} EvsMet;

static const EvsMet met_appends = {
	"open appends", "open transactions that have appended",
	"pg_locks for who holds RowExclusiveLock on evsource.events"
};

static const EvsMet met_readers = {
	"readers", "open transactions that have used the tables",
	"pg_locks for who holds locks on the tables of the projection"
};

static const EvsMet met_snapshots = {
	"old snapshots", "open transactions that have read something",
	"backend_xmin in pg_stat_activity for who has the oldest snapshots"
};

static const EvsMet met_changes = {
	"changes of tables that it refers to",
	"open transactions that have changed these tables",
	"pg_locks for who holds locks on the tables that foreign keys refer to"
};

static const EvsMet met_writers = {
	"locks that its handler waits for",
	"open transactions that have changed what it changes",
	"pg_locks for who holds what it waits for"
};

/*
 * Twice as long each time, so that transactions that overlap do not keep the lock
 * from us for ever.
 */
int
evs_procedure_moment(const EvsProcedure *procedure)
{
	int			moment = EVS_FIRST_ATTEMPT << Min(procedure->attempts, MAX_DOUBLED);

	if (procedure->at_once)
		return 0;
	return procedure->timeout > 0 ? Min(moment, procedure->timeout) : moment;
}

/*
 * A lock was not to be had: worth another attempt, unless there were many.  Only
 * a worker in the background has all the time in the world.  Others get as much
 * time as they have lost, at least.  If they have lost none, because it was in vain
 * to wait, that is no attempt before one could have been over.
 */
static void
gave_way(EvsProcedure *procedure, const EvsMet *met)
{
	bool		in_vain = procedure->in_vain;

	procedure->met = met;
	procedure->in_vain = false;
	procedure->tables_first = procedure->tables_taken = false;
	procedure->pause = evs_procedure_moment(procedure);
	if (in_vain && !evs_clock_is_over(procedure->ahead_until))
		return;
	procedure->ahead_until = evs_clock_in(procedure->timeout > 0 ? procedure->timeout : VAIN_TIME);
	procedure->attempts++;
	if (evs_procedure_has_tried(procedure) && !procedure->complete)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not get a moment without %s for projection \"%s\"",
						met->without, procedure->name),
				 errdetail("%d attempts of %d ms each met %s.",
						   procedure->attempts, procedure->timeout, met->detail),
				 errhint("See %s, and call again: it continues where it stopped.", met->hint)));
	ereport(DEBUG1,
			(errmsg_internal("projection \"%s\": no moment without %s, trying again",
							 procedure->name, met->without)));
}

/* Who is in the way of a lock on these relations? */
static void
look_ahead(EvsProcedure *procedure, List *relations, LOCKMODE mode)
{
	ListCell   *cell;

	procedure->nahead = 0;
	foreach(cell, relations)
	{
		LOCKTAG		tag;
		VirtualTransactionId *holders;
		int			count;
		MemoryContext caller;

		SET_LOCKTAG_RELATION(tag, MyDatabaseId, lfirst_oid(cell));
		holders = GetLockConflicts(&tag, mode, &count);
		if (count == 0)
			continue;
		caller = MemoryContextSwitchTo(MemoryContextGetParent(procedure->context));
		procedure->ahead = procedure->ahead == NULL ?
			palloc(sizeof(VirtualTransactionId) * count) :
			repalloc(procedure->ahead,
					 sizeof(VirtualTransactionId) * (procedure->nahead + count));
		MemoryContextSwitchTo(caller);
		memcpy(procedure->ahead + procedure->nahead, holders,
			   sizeof(VirtualTransactionId) * count);
		procedure->nahead += count;
	}
	if (procedure->nahead > 0)
		procedure->awaited = procedure->ahead[procedure->nahead - 1];
}

bool
evs_procedure_may_try(EvsProcedure *procedure)
{
	while (procedure->nahead > 0 &&
		   VirtualXactLock(procedure->ahead[procedure->nahead - 1], false))
		procedure->nahead--;
	if (procedure->nahead == 0)
		return true;

	procedure->awaited = procedure->ahead[procedure->nahead - 1];
	evs_rebuild_waits_for_transactions(procedure->name, procedure->ahead, procedure->nahead);
	if (procedure->timeout > 0 && !procedure->background &&
		evs_clock_is_over(procedure->ahead_until))
		gave_way(procedure, procedure->met);
	return false;
}

bool
evs_procedure_barrier(EvsProcedure *procedure)
{
	List	   *events = list_make1_oid(evs_catalog()->events);

	if (!evs_procedure_may_try(procedure))
		return false;
	if (evs_barrier_within(procedure->tables_taken ? EVS_GLANCE : evs_procedure_moment(procedure)))
		return true;
	/* who has appended may wait for the tables that we have */
	procedure->in_vain = procedure->tables_taken;
	evs_rebuild_waits_for_relations(procedure->name, events, false);
	look_ahead(procedure, events, ShareRowExclusiveLock);
	gave_way(procedure, &met_appends);
	return false;
}

void
evs_procedure_gave_way_to_readers(EvsProcedure *procedure, List *relations)
{
	evs_rebuild_waits_for_relations(procedure->name, relations, true);
	look_ahead(procedure, relations, AccessExclusiveLock);
	gave_way(procedure, &met_readers);
}

void
evs_procedure_gave_way_to_snapshots(EvsProcedure *procedure)
{
	gave_way(procedure, &met_snapshots);
}

void
evs_procedure_gave_way_to_writers(EvsProcedure *procedure)
{
	/* whom the handler met nobody has told us, but it is not who was noted before */
	evs_rebuild_waits_for_relations(procedure->name, NIL, false);
	gave_way(procedure, &met_writers);
}

void
evs_procedure_gave_way_to_changes(EvsProcedure *procedure, List *relations, LOCKMODE mode)
{
	evs_rebuild_waits_for_relations(procedure->name, relations, false);
	look_ahead(procedure, relations, mode);
	gave_way(procedure, &met_changes);
}

bool
evs_procedure_has_tried(const EvsProcedure *procedure)
{
	return procedure->attempts >= MAX_ATTEMPTS && !procedure->background && procedure->timeout > 0;
}

EvsProjection *
evs_procedure_open(const EvsProcedure *procedure)
{
	EvsProjection *projection = evs_registry_open(procedure->name);

	if (projection->state == EVS_PROJECTION_ACTIVE)
		return NULL;
	if (projection->state != procedure->state)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" was changed meanwhile", procedure->name),
				 errdetail("Its state is \"%s\".", evs_projection_state_name(projection->state)),
				 errhint("See evsource.projection_status for what became of it, and call again if need be.")));
	return projection;
}

void
evs_procedure_finish_async(EvsProjection *projection)
{
	projection->state = EVS_PROJECTION_ACTIVE;
	evs_registry_update(projection);
	evs_checkpoint_finish(projection->name);
	evs_dead_letters_divided(projection);
}

EvsOutcome
evs_procedure_wait_until(EvsProcedure *procedure, EvsTime due)
{
	procedure->pause = (int) Max(evs_clock_left(due), 1);
	return EVS_WAIT;
}

int64
evs_procedure_batch(EvsProcedure *procedure, const EvsProjection *projection)
{
	if (procedure->batch <= 0)
		procedure->batch = FIRST_BATCH;
	procedure->batch = Min(procedure->batch, evs_apply_limit(projection));
	return evs_caution_batch(&procedure->caution, procedure->batch);
}

/*
 * A statement or a fold writes less the more events it gets: soon as many as there is time
 * for beside the price of a statement.  It may be that twice the events take far more than
 * twice the time, so where one was too long it goes on with care.
 */
void
evs_procedure_pace(EvsProcedure *procedure, int64 applied, EvsTime began)
{
	double		elapsed = Max(evs_clock_since(began), 0.001);
	double		events = applied > 0 ? applied : procedure->batch;
	double		batch = procedure->batch;
	double		took;
	double		fit;

	/* that nothing could be applied yet tells nothing about the next one */
	if (procedure->caution.careful > 0 || (applied == 0 && elapsed <= EVS_PROCEDURE_TIME))
		return;
	took = evs_price_without(&procedure->price, events, elapsed);
	fit = events * EVS_PROCEDURE_TIME / took;
	if (took > EVS_PROCEDURE_TIME)
	{
		/* the first time by half, which tells what the price is */
		batch = procedure->was_slow ? Min(batch, fit) : Min(batch / 2, fit);
		procedure->was_slow = true;
	}
	else
		batch = Max(batch, Min(fit, batch * (procedure->was_slow ? CAREFUL_GROWTH : FASTEST_GROWTH)));
	procedure->batch = (int64) Min(Max(batch, 1), PG_INT32_MAX);
}

int64
evs_procedure_apply(EvsProcedure *procedure, EvsProjection *projection, const char *troubles,
					EvsCheckpoint *checkpoint, int64 upto, int64 max_events, EvsTime *due)
{
	EvsApply	apply;
	EvsTime		until = evs_clock_in(EVS_PROCEDURE_TIME);
	EvsScanLimit limit = {max_events, until};
	bool		crashes = evs_caution_blames(&procedure->caution) > 0;

	*due = EVS_NO_TIME;
	if (!projection->dead_letter && !crashes)
		return evs_replay_some(projection, checkpoint, upto, &limit);

	evs_apply_begin_rebuild(&apply, projection, troubles, checkpoint);
	apply.worn = procedure->worn;
	if (!evs_clock_is_set(evs_apply_due(&apply)))
	{
		if (crashes)
			(void) evs_apply_crashed(&apply, upto, &procedure->caution);
		else
			(void) evs_apply_batch(&apply, upto, max_events, until);
		evs_apply_end(&apply);
		*checkpoint = apply.unit.checkpoint;
	}
	*due = evs_apply_due(&apply);
	return apply.applied;
}

/* The next batch of what is built in place. */
static int64
apply_batch(EvsProcedure *procedure, EvsProjection *projection, EvsCheckpoint *checkpoint,
			int64 upto, EvsTime *due)
{
	EvsTime		began = evs_clock_now();
	int64		applied;

	applied = evs_procedure_apply(procedure, projection, projection->name, checkpoint, upto,
								  evs_procedure_batch(procedure, projection), due);
	evs_procedure_pace(procedure, applied, began);
	evs_checkpoint_write(projection->name, checkpoint);
	return applied;
}

/* The rest, behind the barrier. */
typedef struct Rest
{
	EvsProcedure *procedure;
	EvsProjection *projection;
	EvsCheckpoint *checkpoint;
	EvsOutcome	outcome;
} Rest;

static void
apply_rest(void *arg)
{
	Rest	   *rest = arg;
	int64		last = evs_horizon_last_position();
	EvsTime		due;

	/* what has crashed before is applied bit by bit */
	if (rest->procedure->caution.careful > 0 && rest->checkpoint->position < last)
	{
		(void) apply_batch(rest->procedure, rest->projection, rest->checkpoint, last, &due);
		rest->outcome = EVS_MORE;
		return;
	}
	evs_replay_finish(rest->projection, rest->checkpoint);
	rest->outcome = EVS_DONE;
}

/*
 * Appenders wait meanwhile, so a handler that has to wait for a lock does so no
 * longer than we would for the barrier.
 */
static EvsOutcome
finish_inline(EvsProcedure *procedure, EvsProjection *projection, EvsCheckpoint *checkpoint)
{
	Rest		rest = {procedure, projection, checkpoint};

	if (!evs_procedure_barrier(procedure))
		return EVS_WAIT;
	if (evs_within(evs_procedure_moment(procedure), apply_rest, &rest))
		return rest.outcome;
	evs_procedure_gave_way_to_writers(procedure);
	return EVS_WAIT;
}

EvsOutcome
evs_procedure_catch_up(EvsProcedure *procedure, EvsProjection *projection)
{
	EvsCheckpoint checkpoint;
	int64		safe = evs_horizon_safe_position();
	bool		careful = procedure->caution.careful > 0;
	int64		applied;
	EvsTime		due;

	evs_checkpoint_read(projection->name, &checkpoint);
	applied = apply_batch(procedure, projection, &checkpoint, safe, &due);
	if (evs_clock_is_set(due))
		return evs_procedure_wait_until(procedure, due);
	if (checkpoint.position < safe || (careful && applied > 0) ||
		(applied > FEW_EVENTS && ++procedure->rounds < MAX_ROUNDS))
		return EVS_MORE;

	if (projection->mode == EVS_MODE_INLINE)
		return finish_inline(procedure, projection, &checkpoint);

	evs_procedure_finish_async(projection);
	return EVS_DONE;
}

/* How long to wait for somebody: an attempt may be over sooner. */
static int
longest_wait(const EvsProcedure *procedure)
{
	int			left = LONGEST_WAIT;

	if (procedure->nahead > 0 && procedure->timeout > 0)
		left = (int) Min(left, evs_clock_left(procedure->ahead_until));
	return Max(left, 1);
}

static void
wait_for_awaited(void *arg)
{
	EvsProcedure *procedure = arg;

	(void) VirtualXactLock(procedure->awaited, true);
}

/*
 * Before the next step: what was in the way may be over sooner than we know.
 * No lock is held, so that others can go on, and cancel what we wait for.
 */
static void
wait_between(EvsProcedure *procedure)
{
	if (!VirtualTransactionIdIsValid(procedure->awaited))
		evs_attempt_pause(procedure->pause);
	else
		(void) evs_within(longest_wait(procedure), wait_for_awaited, procedure);
	SetInvalidVirtualTransactionId(procedure->awaited);
}

void
evs_procedure_repeat(EvsProcedure *procedure, EvsOutcome (*step) (EvsProcedure *))
{
	volatile EvsOutcome outcome;

	do
	{
		MemoryContext caller = MemoryContextSwitchTo(procedure->context);

		PushActiveSnapshot(GetTransactionSnapshot());
		PG_TRY();
		{
			outcome = step(procedure);
		}
		PG_CATCH();
		{
			if (procedure->worn)
				evs_failure_hint_stale(procedure->context);
			PG_RE_THROW();
		}
		PG_END_TRY();
		PopActiveSnapshot();

		MemoryContextSwitchTo(caller);
		MemoryContextReset(procedure->context);

		if (outcome != EVS_DONE)
			evs_procedure_next_transaction(true);
		if (outcome == EVS_WAIT)
			wait_between(procedure);
	} while (outcome != EVS_DONE);
}

void
evs_procedure_init(EvsProcedure *procedure, const char *name, EvsProjectionState state,
				   int timeout)
{
	memset(procedure, 0, sizeof(EvsProcedure));
	procedure->name = name;
	procedure->state = state;
	procedure->timeout = timeout;
	procedure->worn = evs_handling_calls() > 0;
	SetInvalidVirtualTransactionId(procedure->awaited);
	procedure->context = AllocSetContextCreate(CurrentMemoryContext,
											   "evsource replay step",
											   ALLOCSET_DEFAULT_SIZES);
}

void
evs_procedure_begin_anew(EvsProcedure *procedure, uint64 request)
{
	EvsProcedure fresh = {
		.name = procedure->name, .state = procedure->state, .timeout = procedure->timeout,
		.at_once = procedure->at_once, .background = procedure->background,
		.caution = procedure->caution, .wanted = procedure->wanted,
		.worn = procedure->worn || procedure->request != 0,
		.context = procedure->context, .request = request
	};

	evs_rebuild_readers_forget(procedure);
	if (procedure->ahead != NULL)
		pfree(procedure->ahead);
	evs_tables_forget(procedure);
	SetInvalidVirtualTransactionId(fresh.awaited);
	*procedure = fresh;
}

void
evs_procedure_begin(EvsProcedure *procedure, FunctionCallInfo fcinfo, EvsProjectionState state,
					int timeout_argument)
{
	evs_procedure_init(procedure, evs_argument_name(fcinfo, 0), state,
					   PG_ARGISNULL(timeout_argument) ? 0 :
					   interval_milliseconds(PG_GETARG_INTERVAL_P(timeout_argument)));
}
