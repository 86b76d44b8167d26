/*
 * capture_pending.c - what has been captured and waits for its statement's end.
 *
 * Row triggers collect; the events are appended when all triggers of the
 * statement have run, in one batch, so that storing and dispatching them costs
 * what it costs for append_batch.  Hooks on the executor and on COPY tell when
 * that is.  A trigger that fires outside of both (deferred to the commit, or in
 * the statement that loaded this library) appends at once.
 *
 * Statements that triggers run belong to the one that fired them: what they
 * change is kept until its end too.  For PostgreSQL fires the triggers of such a
 * statement before the rest of the outer one's, though its changes came later:
 * a row that both change would get its events in the wrong order.  Every row
 * version knows the command that made it, and commands are numbered as they run.
 *
 * Within one command, what leaves a stream comes before what comes to it: when
 * keys are moved on by one, each stream first loses its old row.  A command sees
 * no row of its own, so this is an order in which it could have happened.
 *
 * Rows of one key share a stream, and sessions that change different ones of them
 * meet there.  So that they do not deadlock, the events of a statement are appended in
 * the order of their streams then, if they are more than are locked at once.
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
#include "utils/memutils.h"

#include "append.h"
#include "event.h"
#include "identity.h"
#include "streams.h"

typedef struct Change
{
	CommandId	command;
	EvsCapturePhase phase;
	int64		sequence;		/* in which it was collected */
	int			nest_level;		/* of the transaction that collected it */
	Oid			role;			/* who appends it */
	EvsEvent	event;
} Change;

/* What is collected; the memory belongs to the transaction. */
typedef struct Pending
{
	MemoryContext context;		/* holds everything; NULL: nothing is pending */
	Change	   *changes;
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

/* statements whose triggers are being fired, one inside the other */
static int	firing = 0;

static ExecutorFinish_hook_type previous_finish = NULL;

static int
compare_order(const Change *a, const Change *b)
{
	if (a->command != b->command)
		return a->command < b->command ? -1 : 1;
	if (a->phase != b->phase)
		return a->phase < b->phase ? -1 : 1;
	return 0;
}

static int
compare_changes(const void *left, const void *right)
{
	const Change *a = left;
	const Change *b = right;
	int			order = compare_order(a, b);

	return order != 0 ? order : (a->sequence < b->sequence ? -1 : 1);
}

/* Who appends comes first: each has a batch of his own. */
static int
compare_streams(const void *left, const void *right)
{
	const Change *a = left;
	const Change *b = right;
	int			order = compare_order(a, b);

	if (order == 0 && a->role != b->role)
		order = a->role < b->role ? -1 : 1;
	if (order == 0)
		order = evs_compare_text(a->event.stream, b->event.stream);
	return order != 0 ? order : (a->sequence < b->sequence ? -1 : 1);
}

static void
add_change(const Change *change)
{
	MemoryContext old;

	if (pending.context == NULL)
	{
		pending.context = AllocSetContextCreate(TopTransactionContext,
												"evsource captured changes",
												ALLOCSET_DEFAULT_SIZES);
		pending.capacity = 16;
		pending.changes = MemoryContextAlloc(pending.context, pending.capacity * sizeof(Change));
	}
	else if (pending.count == pending.capacity)
	{
		pending.capacity *= 2;
		pending.changes = repalloc_huge(pending.changes, pending.capacity * sizeof(Change));
	}
	if (pending.count > 0 && compare_order(change, &pending.changes[pending.count - 1]) < 0)
		pending.disordered = true;
	pending.leaving |= change->phase == EVS_CAPTURE_LEAVES;

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
	const Change *last = &done->changes[done->count - 1];
	int			count = 0;

	while (count < done->count && last[-count].command == last->command &&
		   last[-count].phase == EVS_CAPTURE_COMES)
		count++;
	return count;
}

/* Make pending again what is not appended yet. */
static void
keep(const Pending *done, int first)
{
	pending.sequence = done->sequence;
	pending.leaving = done->leaving;
	pending.shared = done->shared;
	for (int i = first; i < done->count; i++)
		add_change(&done->changes[i]);
	pending.enough = done->enough;
	if (pending.context != NULL)
		pending.enough += MemoryContextMemAllocated(pending.context, false);
}

/* Append what is pending, all of it at the end of the statement. */
static void
append_pending(bool at_end)
{
	Pending		done = pending;
	MemoryContext old;
	EvsEvent   *events;
	int			count;

	/* handlers that the append calls may change captured tables themselves */
	memset(&pending, 0, sizeof(pending));
	if (done.shared && done.count > EVS_STREAMS_AT_ONCE)
		qsort(done.changes, done.count, sizeof(Change), compare_streams);
	else if (done.disordered)
		qsort(done.changes, done.count, sizeof(Change), compare_changes);
	count = done.count;
	if (!at_end && done.leaving)
		count -= count_coming(&done);

	old = MemoryContextSwitchTo(done.context);
	events = MemoryContextAllocHuge(done.context, Max(count, 1) * sizeof(EvsEvent));
	for (int i = 0; i < count; i++)
		events[i] = done.changes[i].event;
	for (int first = 0, next; first < count; first = next)
	{
		next = first + 1;
		while (next < count && done.changes[next].role == done.changes[first].role)
			next++;
		append_as(done.changes[first].role, &events[first], next - first);
	}
	MemoryContextSwitchTo(old);

	if (!at_end)
		keep(&done, count);
	MemoryContextDelete(done.context);
}

void
evs_capture_add(const EvsCapturePlan *plan, CommandId command, EvsCapturePhase phase,
				const EvsEvent *event)
{
	Change		change;

	change.command = command;
	change.phase = phase;
	change.sequence = pending.sequence++;
	change.nest_level = GetCurrentTransactionNestLevel();
	change.role = plan->registrant;
	change.event = *event;
	pending.nested |= firing > 1;
	pending.shared |= plan->shares_streams;
	add_change(&change);
}

/* After the changes of one trigger call have been added. */
void
evs_capture_added(void)
{
	if (pending.count == 0)
		return;
	if (firing == 0)
		append_pending(true);
	else if (firing == 1 && !pending.nested &&
			 MemoryContextMemAllocated(pending.context, false) >
			 pending.enough + (Size) work_mem * 1024)
		append_pending(false);
}

void
evs_capture_statement_begins(void)
{
	firing++;
}

void
evs_capture_statement_fails(void)
{
	firing--;
}

void
evs_capture_statement_ends(void)
{
	firing--;
	if (firing == 0 && pending.count > 0)
		append_pending(true);
}

static void
fire_triggers(QueryDesc *query)
{
	if (previous_finish)
		previous_finish(query);
	else
		standard_ExecutorFinish(query);
}

/* Here the executor fires the triggers of a statement. */
static void
finish_statement(QueryDesc *query)
{
	if (query->operation == CMD_SELECT && !query->plannedstmt->hasModifyingCTE)
	{
		fire_triggers(query);
		return;
	}

	evs_capture_statement_begins();
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
transaction_ends(XactEvent event, void *arg)
{
	memset(&pending, 0, sizeof(pending));
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
		while (pending.count > 0 && pending.changes[pending.count - 1].nest_level >= level)
			pending.count--;
		if (pending.count == 0)
			transaction_ends(XACT_EVENT_ABORT, NULL);
	}
}

void
evs_capture_pending_init(void)
{
	previous_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = finish_statement;
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
