/*
 * capture_pending.c - what has been captured and waits for its statement's end.
 *
 * Row triggers collect; the events are appended when all triggers of the
 * statement have run, in one batch, so that storing and dispatching them costs
 * what it costs for append_batch.  Hooks on the executor and on COPY tell when
 * that is.  A trigger that fires outside of both (deferred to the commit, or in
 * the statement that loaded this library) appends at once; if that is not the
 * order in which it happened, the statement that loaded the library is refused.
 *
 * Statements that triggers and functions of another statement run belong to it:
 * what they change is kept until its end too, and then put in order (capture_order.c).
 *
 * A big statement is appended in parts.  If rows leave streams in it, those that
 * come to streams are kept for its end; and there are no parts if triggers change
 * captured tables too.
 *
 * A subtransaction that rolls back takes what it has collected with it.
 */
#include "capture.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "append.h"
#include "capture_order.h"
#include "event.h"
#include "identity.h"
#include "streams.h"

/* What is collected; the memory belongs to the transaction. */
typedef struct Pending
{
	MemoryContext context;		/* holds everything; NULL: nothing is pending */
	EvsChange  *changes;
	int			count;
	int			capacity;
	int64		sequence;		/* of the next change */
	Size		enough;			/* bytes from which on a part is appended */
	bool		disordered;		/* the order of collection is not the right one */
	bool		leaving;		/* the statement has rows that leave their stream */
	bool		nested;			/* some come from statements of triggers */
	bool		shared;			/* some are of rows that may share their streams */
} Pending;

static Pending pending;

/* statements that are under way, one inside the other */
static int	running = 0;

/* that of the outermost one */
static CommandId first_command;

/* the last one that was seen to begin; only to be compared */
static const QueryDesc *begun = NULL;

/*
 * One that was not: its trigger BEFORE has loaded the library.  It counts as running
 * until the executor comes to its triggers AFTER, or they fire without that (COPY).
 */
static struct
{
	bool		running;
	int			nest_level;		/* of the transaction in which it began */
	TimestampTz message;		/* of the client, in which it began */
}			unseen;

/*
 * What this transaction has appended, for as long as it may hold statements whose
 * begin no hook has seen.
 */
static struct
{
	bool		watch;			/* the library was loaded in this transaction */
	bool		any;
	EvsChange	last;			/* only what is compared is valid */
	CommandId	found_by;		/* the highest one */
}			appended;

static ExecutorRun_hook_type previous_run = NULL;
static ExecutorFinish_hook_type previous_finish = NULL;

static bool
is_too_late(const EvsChange *change)
{
	/* a row that comes is too late for what was done to it, and for nothing else */
	if (change->step.phase == EVS_CAPTURE_COMES)
		return appended.found_by != InvalidCommandId && appended.found_by >= change->step.command;
	return appended.any && evs_capture_compare(change, &appended.last) < 0;
}

static void
order_is_unknown(const EvsChange *change)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the order of captured changes is not known"),
			 errdetail("The statement had begun when it loaded evsource, and changed rows again, among them that of stream \"%s\".",
					   text_to_cstring(change->event.stream)),
			 errhint("Run it again: evsource is loaded now. To have it loaded before, set shared_preload_libraries or session_preload_libraries, or begin with LOAD 'evsource'.")));
}

/*
 * The statement that loaded the library was not seen to begin, so that changes of the
 * statements in it were not kept.
 */
static void
check_order(const EvsChange *changes, int count)
{
	for (int i = 0; i < count; i++)
		if (is_too_late(&changes[i]))
			order_is_unknown(&changes[i]);
}

static void
check_nothing_pending(void)
{
	if (pending.count > 0)
		order_is_unknown(&pending.changes[0]);
}

static void
note_appended(const EvsChange *changes, int count)
{
	for (int i = 0; i < count; i++)
	{
		const EvsChange *change = &changes[i];
		CommandId	found_by = change->step.found.made_by;

		if (!appended.any || evs_capture_compare(&appended.last, change) < 0)
			appended.last = *change;
		appended.any = true;
		if (found_by != InvalidCommandId && found_by != EVS_FROZEN_COMMAND &&
			(appended.found_by == InvalidCommandId || appended.found_by < found_by))
			appended.found_by = found_by;
	}
}

static void
add_change(const EvsChange *change)
{
	MemoryContext old;

	if (pending.context == NULL)
	{
		pending.context = AllocSetContextCreate(TopTransactionContext,
												"evsource captured changes",
												ALLOCSET_DEFAULT_SIZES);
		pending.capacity = 16;
		pending.changes = MemoryContextAlloc(pending.context, pending.capacity * sizeof(EvsChange));
	}
	else if (pending.count == pending.capacity)
	{
		pending.capacity *= 2;
		pending.changes = repalloc_huge(pending.changes, pending.capacity * sizeof(EvsChange));
	}
	if (pending.count > 0 && evs_capture_compare(change, &pending.changes[pending.count - 1]) < 0)
		pending.disordered = true;
	/* its command is not the one that is said */
	pending.disordered |= change->step.left.made_by == EVS_FROZEN_COMMAND;
	pending.leaving |= change->step.phase == EVS_CAPTURE_LEAVES;

	old = MemoryContextSwitchTo(pending.context);
	pending.changes[pending.count] = *change;
	evs_event_copy(&pending.changes[pending.count].event, &change->event);
	MemoryContextSwitchTo(old);
	pending.count++;
}

/* whose rights an append needs: the statement's user knows nothing of it */
static void
name_role(void *arg)
{
	errcontext("capturing changes of a table with the rights of role \"%s\"",
			   GetUserNameFromId(*(Oid *) arg, true));
}

static void
append_as(Oid role, EvsEvent *events, int count)
{
	EvsBatch	batch = {events, count};
	EvsIdentity identity;
	ErrorContextCallback callback = {error_context_stack, name_role, &role};

	/* to become somebody takes longer than to see that one is */
	if (role == GetUserId())
	{
		evs_append_many(&batch);
		return;
	}
	error_context_stack = &callback;
	evs_identity_enter_role(&identity, role, "pg_catalog, pg_temp");
	evs_append_many(&batch);
	evs_identity_leave(&identity);
	error_context_stack = callback.previous;
}

/* How many of the changes, which are in order, end with rows that come. */
static int
count_coming(const Pending *done)
{
	const EvsChange *last = &done->changes[done->count - 1];
	int			count = 0;

	while (count < done->count && last[-count].step.command == last->step.command &&
		   last[-count].step.phase == EVS_CAPTURE_COMES)
		count++;
	return count;
}

/* Make pending again what is not appended yet, and the links that are needed for it. */
static void
keep(const Pending *done, int first, const EvsChange *links, int nlinks)
{
	pending.leaving |= done->leaving;
	pending.shared |= done->shared;
	for (int i = first; i < done->count; i++)
		add_change(&done->changes[i]);
	for (int i = 0; i < nlinks; i++)
		add_change(&links[i]);
	pending.enough = done->enough;
	if (pending.context != NULL)
		pending.enough += MemoryContextMemAllocated(pending.context, false);
}

/* Updates that are no events have told which changes are of one row: they are links. */
static int
drop_links(EvsChange *changes, int count)
{
	int			events = 0;

	for (int i = 0; i < count; i++)
	{
		if (changes[i].is_event)
			changes[events++] = changes[i];
	}
	return events;
}

/* Append what is pending, all of it at the end of the statement. */
static void
append_pending(bool at_end)
{
	Pending		done = pending;
	MemoryContext old;
	EvsEvent   *events;
	EvsChange  *links = NULL;
	int			nlinks = 0;
	int			count;

	/* handlers that the append calls may change captured tables themselves */
	memset(&pending, 0, sizeof(pending));
	pending.sequence = done.sequence;
	/* a savepoint that ends with an error of the append takes the memory with it */
	MemoryContextSetParent(done.context, CurTransactionContext);
	old = MemoryContextSwitchTo(done.context);
	if (done.nested && done.disordered)
		evs_capture_place(done.changes, done.count);
	if (!at_end)
		links = evs_capture_ahead(done.changes, done.count, &nlinks);
	done.count = drop_links(done.changes, done.count);
	if (done.shared && done.count > EVS_STREAMS_AT_ONCE)
		evs_capture_sort(done.changes, done.count, true);
	else if (done.disordered)
		evs_capture_sort(done.changes, done.count, false);
	count = done.count;
	if (!at_end && done.leaving && count > 0)
		count -= count_coming(&done);
	if (appended.watch)
	{
		check_order(done.changes, count);
		if (at_end)
			note_appended(done.changes, count);
	}

	events = MemoryContextAllocHuge(done.context, Max(count, 1) * sizeof(EvsEvent));
	for (int i = 0; i < count; i++)
		events[i] = done.changes[i].event;
	if (done.shared && count > EVS_STREAMS_AT_ONCE &&
		evs_capture_compare(&done.changes[0], &done.changes[count - 1]) != 0)
		evs_append_lock_ahead(events, count);
	for (int first = 0, next; first < count; first = next)
	{
		next = first + 1;
		while (next < count && done.changes[next].role == done.changes[first].role)
			next++;
		append_as(done.changes[first].role, &events[first], next - first);
	}
	MemoryContextSwitchTo(old);

	if (!at_end)
		keep(&done, count, links, nlinks);
	MemoryContextDelete(done.context);
}

static void
add(const EvsCapturePlan *plan, const EvsCaptureStep *step, const EvsEvent *event, bool is_event)
{
	EvsChange	change;

	change.step = *step;
	change.place = step->command;
	change.repeats_key = plan->repeats_keys;
	change.is_event = is_event;
	change.table = plan->relid;
	change.sequence = pending.sequence++;
	change.nest_level = GetCurrentTransactionNestLevel();
	change.role = plan->registrant;
	change.event = *event;
	add_change(&change);
}

void
evs_capture_add(const EvsCapturePlan *plan, const EvsCaptureStep *step, const EvsEvent *event)
{
	pending.nested |= running > 1;
	pending.shared |= plan->shares_streams;
	add(plan, step, event, true);
}

void
evs_capture_add_truncated(const EvsCapturePlan *plan, const EvsEvent *event)
{
	EvsCaptureStep step = {EVS_CAPTURE_LEAVES, GetCurrentCommandId(false),
		EVS_NO_ROW_VERSION, EVS_NO_ROW_VERSION};

	evs_capture_add(plan, &step, event);
}

void
evs_capture_unchanged(EvsCapturePlan *plan, const EvsCaptureStep *step, TupleTableSlot *row)
{
	EvsEvent	none = {0};

	/* only rows that the statement brought itself can be told later than that */
	if (running == 0 || step->found.made_by == InvalidCommandId ||
		step->found.made_by < first_command)
		return;
	none.stream = evs_capture_stream(plan, row);
	add(plan, step, &none, false);
}

static void
forget_unseen(void)
{
	unseen.running = false;
	running = 0;
}

void
evs_capture_statement_unseen(void)
{
	if (!appended.watch || running > 0)
		return;
	unseen.running = true;
	unseen.nest_level = GetCurrentTransactionNestLevel();
	unseen.message = GetCurrentStatementStartTimestamp();
	running = 1;
	first_command = FirstCommandId;
}

/* After the changes of one trigger call have been added. */
void
evs_capture_added(void)
{
	if (pending.count == 0)
		return;
	if (unseen.running && running == 1)
		forget_unseen();
	if (running == 0)
		append_pending(true);
	else if (running == 1 && !pending.nested &&
			 MemoryContextMemAllocated(pending.context, false) >
			 pending.enough + (Size) work_mem * 1024)
		append_pending(false);
}

static void
begins(CommandId command)
{
	if (running++ == 0)
		first_command = command;
}

void
evs_capture_statement_begins(void)
{
	begins(GetCurrentCommandId(false));
}

void
evs_capture_statement_fails(void)
{
	running--;
}

void
evs_capture_statement_ends(void)
{
	running--;
	if (running == 0 && pending.count > 0)
		append_pending(true);
}

static bool
changes_rows(const QueryDesc *query)
{
	return query->operation != CMD_SELECT || query->plannedstmt->hasModifyingCTE;
}

static void
run(EVS_EXECUTOR_RUN_PARAMETERS)
{
	if (previous_run)
		previous_run(EVS_EXECUTOR_RUN_ARGUMENTS);
	else
		standard_ExecutorRun(EVS_EXECUTOR_RUN_ARGUMENTS);
}

/*
 * Here the executor changes rows, and runs the triggers BEFORE and the functions of a
 * statement.  It comes to an end in finish_statement(), or fails.
 */
static void
run_statement(EVS_EXECUTOR_RUN_PARAMETERS)
{
	if (!changes_rows(query))
	{
		run(EVS_EXECUTOR_RUN_ARGUMENTS);
		return;
	}

	/* a COPY that brought no row is over */
	if (unseen.running && unseen.message != GetCurrentStatementStartTimestamp())
		forget_unseen();
	begins(query->estate->es_output_cid);
	PG_TRY();
	{
		run(EVS_EXECUTOR_RUN_ARGUMENTS);
		begun = query;
	}
	PG_FINALLY();
	{
		running--;
	}
	PG_END_TRY();
}

static void
fire_triggers(QueryDesc *query)
{
	if (previous_finish)
		previous_finish(query);
	else
		standard_ExecutorFinish(query);
}

/* Here it fires the triggers AFTER. */
static void
finish_statement(QueryDesc *query)
{
	if (!changes_rows(query))
	{
		fire_triggers(query);
		return;
	}

	if (unseen.running && query != begun)
		unseen.running = false;
	else
		begins(query->estate->es_output_cid);
	PG_TRY();
	{
		fire_triggers(query);
	}
	PG_CATCH();
	{
		evs_capture_statement_fails();
		PG_RE_THROW();
	}
	PG_END_TRY();
	evs_capture_statement_ends();
}

/* The memory goes with the transaction. */
static void
forget_pending(void)
{
	memset(&pending, 0, sizeof(pending));
}

static void
transaction_ends(XactEvent event, void *arg)
{
	/* what follows a COPY without rows, in one message, as the first of a session */
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		check_nothing_pending();
	if (unseen.running)
		forget_unseen();
	forget_pending();
	memset(&appended, 0, sizeof(appended));
}

/* Newer changes are behind older ones, so a subtransaction's are at the end. */
static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = pending.count; i > 0 && pending.changes[i - 1].nest_level >= level; i--)
			pending.changes[i - 1].nest_level = level - 1;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		if (unseen.running && unseen.nest_level >= level)
			forget_unseen();
		while (pending.count > 0 && pending.changes[pending.count - 1].nest_level >= level)
			pending.count--;
		if (pending.count == 0 && pending.context != NULL)
		{
			MemoryContextDelete(pending.context);
			forget_pending();
		}
	}
}

void
evs_capture_pending_init(void)
{
	appended.watch = IsTransactionState();
	appended.found_by = InvalidCommandId;
	previous_run = ExecutorRun_hook;
	ExecutorRun_hook = run_statement;
	previous_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = finish_statement;
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
