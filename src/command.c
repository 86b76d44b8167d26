/*
 * command.c - execute a command: load, decide, append.
 *
 * The state is loaded and the decision made without a lock.  Then the stream is
 * locked, and if it is still at the version of the state, the events are
 * appended.  If not, the decision is taken back (it is made in a subtransaction,
 * in case its function writes after all), and everything is done again, now
 * with the lock held from the beginning.
 *
 * A command with an id is executed once: executed.c knows which were.  That is
 * asked after the state was loaded: an execution that commits later has moved the
 * stream, or has its row, which is looked for again under the lock.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "append.h"
#include "barrier.h"
#include "catalog.h"
#include "decider.h"
#include "event.h"
#include "event_row.h"
#include "executed.h"
#include "gate.h"
#include "metadata.h"
#include "parameters.h"
#include "pure_call.h"
#include "scan.h"
#include "settings.h"
#include "state_load.h"
#include "states.h"
#include "streams.h"
#include "types.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_execute_command);

/* One call. */
typedef struct Command
{
	text	   *stream;
	Jsonb	   *command;
	bool		has_id;
	EvsCommandId id;
	EvsDecider *decider;
	EvsProjection *projection;
	uint64		generation;		/* of states, before the projection was loaded */
} Command;

/* ---- executing it ---- */

/*
 * Ids and metadata of the events: the command is what caused them, unless
 * somebody says that it was something else.  Returns true when the ids tell
 * which command it was, and how many events it had.
 */
static bool
complete_events(const Command *command, EvsBatch *batch)
{
	bool		told_by_ids = batch->count > 0;
	Datum		cause = (Datum) 0;

	if (command->has_id)
	{
		char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&command->id.id)));

		cause = DirectFunctionCall1(jsonb_in,
									CStringGetDatum(psprintf("{\"causation_id\": \"%s\"}", id)));
	}
	for (int i = 0; i < batch->count; i++)
	{
		EvsEvent   *event = &batch->events[i];

		event->stream = command->stream;
		event->metadata = evs_metadata_for(event->metadata);
		if (!command->has_id)
			continue;
		event->metadata = event->metadata == NULL ? DatumGetJsonbP(cause) :
			DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, cause,
											   JsonbPGetDatum(event->metadata)));
		if (event->has_id)
			told_by_ids = false;
		else
		{
			evs_executed_event_id(&command->id, i + 1, &event->id);
			event->has_id = true;
		}
	}
	return told_by_ids;
}

/*
 * Decide on the state, and see that the stream is still what it was: it is
 * locked then.  If it is not, its actual version is returned with false.
 */
static bool
decide(const Command *command, Relation events, const EvsState *state, EvsBatch *batch,
	   int64 *actual)
{
	EvsExecuted	ignored;

	evs_decider_decide(command->decider, command->projection, state->state, command->command,
					   batch);

	/* nothing to append and nothing to remember: nothing to be in conflict */
	if (batch->count == 0 && !command->has_id)
		return true;
	*actual = evs_stream_lock(events, command->stream, state->seen_version);
	return *actual == state->seen_version &&
		!(command->has_id && evs_executed_find_row(&command->id, &ignored));
}

/*
 * The same in a subtransaction: what is of no use leaves nothing behind, neither
 * what the decider did nor the lock.
 */
static bool
try_to_decide(const Command *command, Relation events, const EvsState *state,
			  EvsBatch *batch, int64 *actual)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	volatile bool good = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		good = decide(command, events, state, batch, actual);
		if (good)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		/* the backend expects whoever began a subtransaction to end it */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error != NULL)
		ReThrowError(error);
	return good;
}

static void
execute(const Command *command, Relation events, EvsState *state, EvsExecuted *outcome)
{
	EvsBatch	batch = {0};
	EvsAppended appended;
	bool		told_by_ids;

	for (int retries = 0;; retries++)
	{
		int64		actual;

		CHECK_FOR_INTERRUPTS();
		evs_state_now(command->projection, command->generation, command->stream, state);
		if (command->has_id && evs_executed_find(&command->id, events, outcome))
		{
			/* the state after it would not be the one that the transaction sees */
			if (IsolationUsesXactSnapshot() && state->seen_version < outcome->version)
				evs_stream_report_newer(command->stream);
			return;
		}
		if (try_to_decide(command, events, state, &batch, &actual))
			break;
		ereport(DEBUG1,
				(errmsg_internal("decider \"%s\" decided on version " INT64_FORMAT " of a stream that is at " INT64_FORMAT " now",
								 command->decider->name, state->seen_version, actual)));
		if (retries >= evs_max_command_retries)
			evs_stream_check_version(events, command->stream, state->seen_version, actual);
		(void) evs_stream_lock(events, command->stream, actual);
	}

	told_by_ids = complete_events(command, &batch);
	outcome->count = batch.count;
	outcome->version = state->seen_version;
	outcome->stored = batch.count > 0;
	if (batch.count > 0)
	{
		evs_append(command->stream, &batch, state->seen_version, &appended);
		outcome->version = appended.version;
		outcome->stored = appended.stored;
	}
	if (command->has_id && told_by_ids)
		evs_executed_check_alone(&command->id, events);
	else if (command->has_id)
		evs_executed_remember(&command->id, events, outcome);
}

/* ---- the result ---- */

/*
 * The state at the version after the command, if events that make it were not
 * truncated.  *state is an earlier one to go on from, or all zero.
 */
static void
load_state_after(const Command *command, int64 version, EvsState *state)
{
	EvsStateAt	at = {.version = version, .leave_out = true};
	EvsStateCall call;
	Jsonb	   *copy;

	if (version == 0)
	{
		memset(state, 0, sizeof(EvsState));
		state->state = evs_initial_state();
		return;
	}
	evs_state_begin(&call, command->projection, 0);
	call.folder->asked = true;
	evs_state_load_stream(call.folder, command->stream, &at, call.snapshot, state);
	/* not even the event that it ends with is left, nor a state in place of it */
	if (state->seen_version < version)
		state->is_lost = true;
	evs_state_finish(call.folder, state);
	copy = palloc(VARSIZE(state->state));
	memcpy(copy, state->state, VARSIZE(state->state));
	state->state = copy;
	evs_state_end(&call);
}

/* The command's events, as every reader gets them, and the last one's position. */
static Datum
load_events(const Command *command, const EvsExecuted *outcome, int64 *position)
{
	EvsEventRow row;
	EvsScan    *scan;
	EvsBatch   *batch;
	EvsEvent  **events;

	if (outcome->count == 0)
		return PointerGetDatum(construct_empty_array(evs_catalog()->event_type));
	evs_event_row_init(&row);
	scan = evs_scan_stream(command->stream, outcome->version - outcome->count + 1,
						   outcome->version, false, GetLatestSnapshot());
	batch = evs_scan_batch(scan, outcome->count, MAX_KILOBYTES, false);
	evs_scan_end(scan);

	events = palloc(Max(batch->count, 1) * sizeof(EvsEvent *));
	for (int i = 0; i < batch->count; i++)
		events[i] = &batch->events[i];
	if (batch->count > 0)
		*position = batch->events[batch->count - 1].position;
	return evs_event_row_array(&row, events, batch->count);
}

/* It was executed: that is the answer, even if nobody can tell what came of it. */
static void
warn_of_lost(const Command *command)
{
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("the state after the command is not known any more"),
			 errdetail("The command was executed before, and events of stream \"%s\" that make this state were truncated since.",
					   text_to_cstring(command->stream)),
			 errhint("To get the current state, call evsource.load_state('%s', '%s').",
					 command->projection->name, text_to_cstring(command->stream))));
}

static Datum
result_row(const Command *command, const EvsExecuted *outcome, EvsState *state)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(evs_catalog()->command_result, -1);
	Datum		values[5];
	bool		nulls[5] = {false};
	int64		position = 0;
	HeapTuple	tuple;

	load_state_after(command, outcome->version, state);
	if (state->is_lost)
		warn_of_lost(command);
	values[0] = JsonbPGetDatum(state->state);
	nulls[0] = state->is_lost;
	values[1] = Int64GetDatum(outcome->version);
	values[3] = load_events(command, outcome, &position);
	values[2] = Int64GetDatum(position);
	nulls[2] = position == 0;
	values[4] = BoolGetDatum(outcome->stored);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

/* ---- the call ---- */

/* The stream must be one that the projection has states of. */
static void
check_category(const Command *command)
{
	const EvsFilter *filter = &command->projection->filter;
	EvsFilter	categories = {.ncategories = filter->ncategories, .categories = filter->categories};
	EvsEvent	event = {.stream = command->stream};
	const char *name = VARDATA_ANY(command->stream);
	int			length = evs_category_length(name, VARSIZE_ANY_EXHDR(command->stream));

	if (!evs_filter_accepts(&categories, &event))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" has no state for decider \"%s\"",
						text_to_cstring(command->stream), command->decider->name),
				 errdetail("It decides on projection \"%s\", which category \"%.*s\" is not part of.",
						   command->projection->name, length, name),
				 errhint("Execute the command on a stream of the projection's categories.")));
}

/*
 * evsource.execute_command(decider text, stream text, command jsonb, command_id
 *		uuid) returns (state, version, position, events, stored)
 *
 * Errors: 22004 and 22023 for arguments, 42704 for the decider or its
 * projection, 42501; VE001 when the stream moves on at each attempt; VE002 for a
 * command id that was used for another command; 40001 under REPEATABLE READ; those
 * of append; what the decider raises.
 */
Datum
evsource_execute_command(PG_FUNCTION_ARGS)
{
	Command		command = {0};
	EvsExecuted	outcome;
	EvsState	state;
	Relation	events;

	evs_argument_require(fcinfo, 0, "decider");
	command.stream = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	evs_check_stream(command.stream);
	evs_argument_require(fcinfo, 2, "command");
	command.command = PG_GETARG_JSONB_P(2);
	command.has_id = !PG_ARGISNULL(3);

	evs_require_writable("evsource.execute_command()");
	evs_pure_check_append();

	command.decider = evs_decider_load(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	if (command.has_id)
	{
		command.id.id = *PG_GETARG_UUID_P(3);
		command.id.stream = command.stream;
		command.id.fingerprint = evs_executed_fingerprint(command.decider->name, command.command);
	}
	command.generation = evs_state_cache_generation();
	command.projection = evs_state_projection(command.decider->projection, EVS_STATE_READ);
	if (command.projection->key_kind != EVS_KEY_STREAM)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("projection \"%s\" of decider \"%s\" is not keyed by stream",
						command.projection->name, command.decider->name),
				 errhint("Give the decider another projection.")));
	check_category(&command);

	evs_gate_pass();
	events = evs_catalog_open(evs_catalog()->events, RowExclusiveLock);
	execute(&command, events, &state, &outcome);
	table_close(events, NoLock);

	/* what was executed before is answered as it was then */
	if (state.seen_version > outcome.version)
		memset(&state, 0, sizeof(EvsState));
	PG_RETURN_DATUM(result_row(&command, &outcome, &state));
}
