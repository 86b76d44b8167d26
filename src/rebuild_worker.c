/*
 * rebuild_worker.c - a worker rebuilds what was asked for, a transaction at a time.
 */
#include "evsource.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "attempt.h"
#include "barrier.h"
#include "crash_mark.h"
#include "failure.h"
#include "handlers.h"
#include "handling.h"
#include "hold.h"
#include "known.h"
#include "own_transaction.h"
#include "procedure.h"
#include "rebuild.h"
#include "rebuild_row.h"
#include "registry.h"

/* ms that a worker waits for a lock before it lets others go first */
#define WORKER_TIMEOUT	1000

/* ms until a rebuild that has to wait is tried again */
#define REBUILD_DELAY	1000

/* twice as long after each error in a row that was nobody's fault, and at most */
#define MAX_DELAY		60000

/* ms that a worker waits for a lock to put on record what it has met */
#define NOTE_TIMEOUT	200

/* Nobody's fault: the next attempt may succeed; unless it has crashed too often. */
static bool
is_passing(const ErrorData *error)
{
	return evs_failure_is_transient_at_commit(error) && error->sqlerrcode != ERRCODE_CRASH_SHUTDOWN;
}

/* What the worker remembers of the rebuilds that it works on, in turns. */
static List *procedures = NIL;

static EvsProcedure *
get_procedure(const char *name)
{
	ListCell   *cell;
	MemoryContext context;
	MemoryContext caller;
	EvsProcedure *procedure;

	foreach(cell, procedures)
		if (strcmp(((EvsProcedure *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);

	context = AllocSetContextCreate(TopMemoryContext, "evsource rebuild",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	procedure = palloc(sizeof(EvsProcedure));
	evs_procedure_init(procedure, pstrdup(name), EVS_PROJECTION_REBUILDING, WORKER_TIMEOUT);
	procedure->background = true;
	procedure->worn = evs_known_used(name);
	MemoryContextSwitchTo(TopMemoryContext);
	procedures = lappend(procedures, procedure);
	MemoryContextSwitchTo(caller);
	return procedure;
}

/* Its context has the one of a step as its child. */
static void
forget_procedure(EvsProcedure *procedure)
{
	procedures = list_delete_ptr(procedures, procedure);
	MemoryContextDelete(MemoryContextGetParent(procedure->context));
}

void
evs_rebuild_keep(const List *names)
{
	List	   *before = list_copy(procedures);
	ListCell   *cell;

	foreach(cell, before)
	{
		EvsProcedure *procedure = lfirst(cell);
		bool		found = false;
		ListCell   *name;

		foreach(name, names)
			found |= strcmp(lfirst(name), procedure->name) == 0;
		if (!found)
			forget_procedure(procedure);
	}
	list_free(before);
}

/* Where a rebuild is: what it applies next comes after that.  -1: nowhere yet. */
static int64
find_position(const EvsRebuild *rebuild)
{
	EvsCheckpoint checkpoint;

	if (rebuild->state == EVS_REBUILD_REQUESTED)
		return -1;
	if (evs_rebuild_is_online(rebuild))
		return rebuild->checkpoint.position;
	evs_checkpoint_read(rebuild->name, &checkpoint);
	return checkpoint.position;
}

/*
 * Where it is, the process has died so often that it is not an event that is to blame.  While
 * it is building one is set aside first, and then what reads it.
 */
static void
refuse_crash(const EvsCaution *caution, EvsRebuildState state)
{
	bool		begins = state == EVS_REBUILD_REQUESTED;

	if (evs_caution_blames(caution) > (begins ? 0 : 2))
		ereport(ERROR,
				(errcode(ERRCODE_CRASH_SHUTDOWN),
				 errmsg("the process died when the rebuild %s", begins ? "began" : "went on"),
				 errdetail("It did so %d times.", caution->crashes),
				 errhint("See the server log for what ended the process.")));
}

/* A new process was to try it again: that is this one. */
static bool
is_retried(const EvsRebuild *rebuild)
{
	const char *s = rebuild->trouble;

	return s != NULL && evs_failure_may_be_stale(MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4]));
}

/* See crash_mark.h.  False: it is somebody else's turn. */
static bool
leave_mark(EvsProcedure *procedure)
{
	EvsRebuild	rebuild;
	EvsProjection *projection;
	int64		events = 1;

	procedure->caution.careful = procedure->caution.crashes = 0;
	if (!evs_rebuild_try_lock(procedure->name) || !evs_rebuild_read(procedure->name, &rebuild))
		return true;
	/* an error is of this one from here on; while it is held still it stays the same */
	if (rebuild.request != procedure->request)
		evs_procedure_begin_anew(procedure, rebuild.request);
	if (is_retried(&rebuild))
		procedure->worn = false;
	if (rebuild.state == EVS_REBUILD_BUILDING)
	{
		projection = evs_projection_load(procedure->name, false);
		events = evs_procedure_batch(procedure, projection);
	}
	else if (rebuild.state != EVS_REBUILD_REQUESTED)
		return true;
	if (!evs_caution_begin(&procedure->caution, procedure->name, EVS_CRASH_REBUILD,
						   find_position(&rebuild), events))
		return false;
	refuse_crash(&procedure->caution, rebuild.state);
	return true;
}

/*
 * The step has come to an end, of whatever kind.  It was no error: then what is on record is
 * over, whoever has met it.
 */
static void
settle(EvsProcedure *procedure, EvsOutcome outcome)
{
	EvsRebuild	rebuild;

	if (outcome != EVS_WAIT)
		procedure->troubles = 0;
	if (outcome == EVS_WAIT || !evs_rebuild_read(procedure->name, &rebuild))
	{
		evs_caution_withdraw(procedure->name, EVS_CRASH_REBUILD);
		return;
	}
	evs_caution_end(&procedure->caution, procedure->name, EVS_CRASH_REBUILD,
					find_position(&rebuild), outcome == EVS_DONE);
	if (rebuild.trouble != NULL)
		evs_rebuild_clear_trouble(procedure->name);
}

/* ---- errors ---- */

/* What a step has met. */
typedef struct Note
{
	EvsProcedure *procedure;
	ErrorData  *error;
	int64		position;		/* of the event that is to blame, 0: none */
	bool		passing;
	bool		stale;			/* a new process is to try it */
	bool		obsolete;		/* it is another request by now, or none */
} Note;

/*
 * The abort has let in a session that waited to ask for it again, or to cancel it: what is
 * there after that has not failed.
 */
static void
write_note(void *arg)
{
	Note	   *note = arg;
	const char *name = note->procedure->name;

	if (note->stale)
	{
		/* it is to know that it is the second one */
		evs_caution_withdraw(name, EVS_CRASH_REBUILD);
		evs_rebuild_lock(name);
		evs_rebuild_note_trouble(name, note->procedure->request, note->position, note->error);
		return;
	}
	if (!note->passing)
	{
		evs_rebuild_lock(name);
		note->obsolete = !evs_rebuild_fail(name, note->procedure->request, note->position, note->error);
		if (!note->obsolete)
			evs_crash_mark_clear(name, EVS_CRASH_REBUILD);
		return;
	}
	evs_caution_withdraw(name, EVS_CRASH_REBUILD);
	/* who has it may sit on the row */
	if (evs_rebuild_try_lock(name))
		evs_rebuild_note_trouble(name, note->procedure->request, note->position, note->error);
}

/*
 * False: it is not on record, because of a lock of somebody else's, a cancel or a full disk,
 * say.  The process goes on: the next attempt will meet the same, or nothing at all.
 */
static bool
put_on_record(Note *note)
{
	volatile bool written = false;

	PG_TRY();
	{
		evs_own_transaction_begin();
		MemoryContextSwitchTo(note->procedure->context);
		written = evs_within(NOTE_TIMEOUT, write_note, note);
		evs_own_transaction_commit();
	}
	PG_CATCH();
	{
		written = false;
		evs_own_transaction_give_up(note->procedure->context);
	}
	PG_END_TRY();
	return written;
}

/*
 * A handler that failed does so until somebody mends it.  A cancel is of this attempt: the
 * next one is a moment later, and cancel_rebuild() ends them all.  But who looks why it does
 * not come to an end is to see what it meets each time.
 */
static EvsOutcome
fail(EvsProcedure *procedure)
{
	Note		note = {procedure, .position = evs_handler_blamed};

	MemoryContextSwitchTo(procedure->context);
	note.error = CopyErrorData();
	EmitErrorReport();
	evs_attempt_flush();
	note.passing = is_passing(note.error);
	note.stale = procedure->worn && evs_failure_may_be_stale(note.error->sqlerrcode);
	AbortCurrentTransaction();

	if (note.stale && put_on_record(&note))
	{
		ereport(LOG,
				(errmsg("the rebuild of projection \"%s\" failed, and is continued by a new process", procedure->name),
				 errdetail("What its handler remembers may be out of date: %s", note.error->message)));
		return EVS_WORN;
	}
	if (!note.stale && put_on_record(&note) && !note.passing)
		return note.obsolete ? EVS_MORE : EVS_DONE;
	procedure->troubles++;
	return EVS_WAIT;
}

/* A transaction that may call a handler. */
static EvsOutcome
advance(EvsProcedure *procedure)
{
	bool		my_turn;
	EvsOutcome	outcome;

	evs_own_transaction_begin();
	MemoryContextSwitchTo(procedure->context);
	my_turn = leave_mark(procedure);
	evs_own_transaction_commit();
	if (!my_turn)
	{
		evs_hold_drop();
		return EVS_MORE;
	}

	evs_own_transaction_begin();
	evs_caution_keep_turn();
	MemoryContextSwitchTo(procedure->context);
	outcome = evs_rebuild_advance(procedure);
	settle(procedure, outcome);
	evs_own_transaction_commit();
	evs_caution_settled();
	return outcome;
}

/* One that waits for old snapshots, and exchanges the tables: it needs no mark. */
static EvsOutcome
advance_held(EvsProcedure *procedure)
{
	EvsOutcome	outcome;

	evs_own_transaction_begin();
	MemoryContextSwitchTo(procedure->context);
	outcome = evs_rebuild_advance(procedure);
	evs_own_transaction_commit();
	return outcome;
}

/*
 * While the projection is held still nothing else is to be done.  If that is because
 * its partitions were gathered, the last events are still to be applied.
 */
static EvsOutcome
go_on(EvsProcedure *procedure, EvsOutcome outcome)
{
	while (evs_hold_is_held())
	{
		if (outcome == EVS_WAIT)
			evs_attempt_pause(procedure->pause);
		outcome = !evs_clock_is_set(procedure->still_until) ? advance(procedure) : advance_held(procedure);
	}
	return outcome;
}

static EvsOutcome
step(EvsProcedure *procedure)
{
	volatile EvsOutcome outcome = EVS_DONE;

	evs_handler_blamed = 0;
	PG_TRY();
	{
		outcome = go_on(procedure, advance(procedure));
	}
	PG_CATCH();
	{
		evs_hold_drop();
		outcome = fail(procedure);
	}
	PG_END_TRY();
	return outcome;
}

EvsOutcome
evs_rebuild_step(const char *name, int *wait)
{
	MemoryContext caller = CurrentMemoryContext;
	EvsProcedure *procedure = get_procedure(name);
	int			troubles = procedure->troubles;
	uint64		calls = evs_handling_calls();
	EvsOutcome	outcome = step(procedure);
	int			rest = evs_caution_rest();

	if (evs_handling_calls() != calls)
		evs_known_set_used(name);

	*wait = procedure->troubles > troubles ?
		Min(REBUILD_DELAY << Min(troubles, 10), MAX_DELAY) : REBUILD_DELAY;
	if (rest > 0 && outcome == EVS_MORE)
	{
		outcome = EVS_WAIT;
		*wait = rest;
	}
	MemoryContextSwitchTo(caller);
	if (outcome == EVS_DONE)
		forget_procedure(procedure);
	else
		MemoryContextReset(procedure->context);
	return outcome;
}
