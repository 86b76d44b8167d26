/*
 * command.c - execute a command: load, decide, append.
 *
 * The state is loaded and the decision made without a lock.  Then the stream is
 * locked, and if it is still at the version of the state, the events are
 * appended.  If not, the decision is taken back (it is made in a subtransaction,
 * in case its function writes after all), and everything is done again, now
 * with the lock held from the begin.
 *
 * A command with an id is executed once.  Its events get ids derived from its
 * own, so the log itself remembers it; only where that does not tell (it had no
 * events, or its decider gave them ids) there is a row in evsource.commands.  The
 * log is asked after the state was loaded: an execution that commits later has
 * moved the stream, or has its row, which is looked for again under the lock.
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
#include "metadata.h"
#include "query.h"
#include "scan.h"
#include "settings.h"
#include "state_load.h"
#include "states.h"
#include "store.h"
#include "streams.h"
#include "types.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_execute_command);

/* columns of evsource.commands */
#define COMMANDS_COMMAND_ID		1
#define COMMANDS_STREAM			2
#define COMMANDS_VERSION		3
#define COMMANDS_EVENT_COUNT	4

/* One call. */
typedef struct Command
{
	text	   *stream;
	Jsonb	   *command;
	bool		has_id;
	pg_uuid_t	id;
	EvsDecider *decider;
	EvsProjection *projection;
	uint64		generation;		/* of states, before the projection was loaded */
} Command;

/* What came of it. */
typedef struct Outcome
{
	int64		version;		/* of the stream, after it */
	int			count;			/* events: the last ones up to that version */
	bool		stored;			/* now, not before */
} Outcome;

/* ---- a command that was executed already ---- */

static char *
id_text(const pg_uuid_t *id)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
}

/*
 * The id of a command's nth event: a UUID of version 8 (RFC 9562).  It begins as
 * the command's does, so that ids which grow with time go on doing so; the rest
 * is a hash of the command's id and n.
 */
static void
derive_id(const pg_uuid_t *command_id, int n, pg_uuid_t *id)
{
	uint64		high = evs_get_big_endian(command_id->data, 8);
	uint64		low = evs_get_big_endian(command_id->data + 8, 8);

	high = evs_mix(high ^ evs_mix(low ^ evs_mix((uint64) n)));
	low = evs_mix(low ^ high);
	memcpy(id->data, command_id->data, 6);
	evs_put_big_endian(id->data + 6, 0x8000 | (high & 0x0FFF), 2);
	evs_put_big_endian(id->data + 8, UINT64CONST(1) << 63 | low >> 2, 8);
}

static void
check_same_stream(const Command *command, Relation events, const text *stream)
{
	if (!evs_same_text(stream, command->stream))
		ereport(ERROR,
				(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
				 errmsg("command id \"%s\" was used for another command", id_text(&command->id)),
				 evs_store_may_tell(events) ?
				 errdetail("That command was for stream \"%s\".", text_to_cstring(stream)) :
				 errdetail("Its stream differs."),
				 errhint("Give each command an id of its own.")));
}

/* Is there a row that says so? */
static bool
find_row(const Command *command, Relation events, Outcome *outcome)
{
	Relation	commands = table_open(evs_catalog()->commands, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&key, COMMANDS_COMMAND_ID, BTEqualStrategyNumber, F_UUID_EQ,
				UUIDPGetDatum(&command->id));
	scan = systable_beginscan(commands, evs_catalog()->commands_pkey, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		TupleDesc	desc = RelationGetDescr(commands);
		bool		isnull;

		check_same_stream(command, events,
						  DatumGetTextPP(heap_getattr(tuple, COMMANDS_STREAM, desc, &isnull)));
		outcome->version = DatumGetInt64(heap_getattr(tuple, COMMANDS_VERSION, desc, &isnull));
		outcome->count = DatumGetInt32(heap_getattr(tuple, COMMANDS_EVENT_COUNT, desc, &isnull));
		outcome->stored = false;
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(commands, AccessShareLock);
	return found;
}

/* Are there events with ids that were derived from the command's? */
static bool
find_events(const Command *command, Relation events, Outcome *outcome)
{
	pg_uuid_t	id;
	EvsEvent   *first;
	EvsEvent	event;
	EvsScan    *scan;

	derive_id(&command->id, 1, &id);
	first = evs_store_find(events, &id);
	if (first == NULL)
		return false;
	check_same_stream(command, events, first->stream);

	/* they follow each other: they were appended in one call */
	outcome->version = first->version;
	outcome->count = 1;
	outcome->stored = false;
	scan = evs_scan_stream(command->stream, first->version + 1, PG_INT64_MAX, false,
						   GetLatestSnapshot());
	while (evs_scan_next(scan, &event))
	{
		derive_id(&command->id, outcome->count + 1, &id);
		if (!event.has_id || memcmp(&event.id, &id, sizeof(id)) != 0)
			break;
		outcome->version = event.version;
		outcome->count++;
	}
	evs_scan_end(scan);
	return true;
}

static bool
was_executed(const Command *command, Relation events, Outcome *outcome)
{
	return command->has_id &&
		(find_row(command, events, outcome) || find_events(command, events, outcome));
}

/* Remember what the ids of its events do not tell. */
static void
remember(const Command *command, const Outcome *outcome)
{
	static EvsQuery query = {
		"insert into evsource.commands (command_id, stream, version, event_count)"
		" values ($1, $2, $3, $4) on conflict do nothing",
		4, {UUIDOID, TEXTOID, INT8OID, INT4OID}, SPI_OK_INSERT
	};
	Datum		values[] = {
		UUIDPGetDatum(&command->id), PointerGetDatum(command->stream),
		Int64GetDatum(outcome->version), Int32GetDatum(outcome->count)
	};

	/* to the same stream nobody else does while we have its lock */
	if (evs_query_run(&query, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_EVS_DUPLICATE_EVENT_ID),
				 errmsg("command id \"%s\" was used for another command", id_text(&command->id)),
				 errdetail("A command for another stream was executed at the same time."),
				 errhint("Give each command an id of its own.")));
}

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
		cause = DirectFunctionCall1(jsonb_in,
									CStringGetDatum(psprintf("{\"causation_id\": \"%s\"}",
															 id_text(&command->id))));
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
			derive_id(&command->id, i + 1, &event->id);
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
	Outcome		ignored;

	evs_decider_decide(command->decider, command->projection, state->state, command->command,
					   batch);

	/* nothing to append and nothing to remember: nothing to be in conflict */
	if (batch->count == 0 && !command->has_id)
		return true;
	*actual = evs_stream_lock(events, command->stream, state->seen_version);
	return *actual == state->seen_version &&
		!(command->has_id && find_row(command, events, &ignored));
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
execute(const Command *command, Relation events, EvsState *state, Outcome *outcome)
{
	EvsBatch	batch = {0};
	EvsAppended appended;
	bool		told_by_ids;

	for (int retries = 0;; retries++)
	{
		int64		actual;

		CHECK_FOR_INTERRUPTS();
		evs_state_now(command->projection, command->generation, command->stream, state);
		if (was_executed(command, events, outcome))
			return;
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
	if (command->has_id && !told_by_ids)
		remember(command, outcome);
}

/* ---- the result ---- */

/*
 * The state at the version after the command.  *state is an earlier one to go on
 * from, or all zero.
 */
static void
load_state_after(const Command *command, int64 version, EvsState *state)
{
	EvsStateAt	at = {.version = version};
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
	evs_state_finish(call.folder, state);
	copy = palloc(VARSIZE(state->state));
	memcpy(copy, state->state, VARSIZE(state->state));
	state->state = copy;
	evs_state_end(&call);
}

/* The command's events, as every reader gets them, and the last one's position. */
static Datum
load_events(const Command *command, const Outcome *outcome, int64 *position)
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
	batch = evs_scan_batch(scan, outcome->count, MAX_KILOBYTES);
	evs_scan_end(scan);

	events = palloc(Max(batch->count, 1) * sizeof(EvsEvent *));
	for (int i = 0; i < batch->count; i++)
		events[i] = &batch->events[i];
	if (batch->count > 0)
		*position = batch->events[batch->count - 1].position;
	return evs_event_row_array(&row, events, batch->count);
}

static Datum
result_row(const Command *command, const Outcome *outcome, EvsState *state)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(evs_catalog()->command_result, -1);
	Datum		values[5];
	bool		nulls[5] = {false};
	int64		position = 0;
	HeapTuple	tuple;

	load_state_after(command, outcome->version, state);
	values[0] = JsonbPGetDatum(state->state);
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

static void
check_not_null(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name)));
}

/* The stream must be one that the projection has states of. */
static void
check_category(const Command *command)
{
	const EvsFilter *filter = &command->projection->filter;
	const char *name = VARDATA_ANY(command->stream);
	int			length = evs_category_length(name, VARSIZE_ANY_EXHDR(command->stream));

	for (int i = 0; i < filter->ncategories; i++)
		if (VARSIZE_ANY_EXHDR(filter->categories[i]) == length &&
			memcmp(VARDATA_ANY(filter->categories[i]), name, length) == 0)
			return;
	if (filter->ncategories > 0)
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
 * command id that was used for another stream; 40001 under REPEATABLE READ; those
 * of append; what the decider raises.
 */
Datum
evsource_execute_command(PG_FUNCTION_ARGS)
{
	Command		command = {0};
	Outcome		outcome;
	EvsState	state;
	Relation	events;

	check_not_null(fcinfo, 0, "decider");
	command.stream = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	evs_check_stream(command.stream);
	check_not_null(fcinfo, 2, "command");
	command.command = PG_GETARG_JSONB_P(2);
	command.has_id = !PG_ARGISNULL(3);
	if (command.has_id)
		command.id = *PG_GETARG_UUID_P(3);

	evs_require_writable("evsource.execute_command()");
	evs_type_check_append();

	command.decider = evs_decider_load(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	command.generation = evs_state_cache_generation();
	command.projection = evs_state_projection(command.decider->projection, EVS_STATE_READ);
	if (command.projection->key_kind != EVS_KEY_STREAM)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("projection \"%s\" of decider \"%s\" is not keyed by stream",
						command.projection->name, command.decider->name),
				 errhint("Give the decider another projection.")));
	check_category(&command);

	events = table_open(evs_catalog()->events, RowExclusiveLock);
	execute(&command, events, &state, &outcome);
	table_close(events, NoLock);

	/* what was executed before is answered as it was then */
	if (state.seen_version > outcome.version)
		memset(&state, 0, sizeof(EvsState));
	PG_RETURN_DATUM(result_row(&command, &outcome, &state));
}
