/*
 * intake.c - INSERT and COPY into evsource.events as appends.
 *
 * A row trigger validates and numbers each row, in the order that append.c
 * keeps: stream lock, version, bound, position.  A column default would draw the
 * position before the lock and could turn a stream's order around.
 *
 * A statement trigger dispatches what the statement stored (intake_runs.c).
 *
 * A query that SPI runs with a limit of rows stops when it has returned so many:
 * no AFTER trigger of the statement is queued.  Such a statement ends where the
 * executor finishes its query.  A statement whose end nobody sees may not commit.
 *
 * Statements nest when a trigger or a function that a statement calls appends.
 * What is stored meanwhile is dispatched at the end of the outermost one, so
 * that projections see every event in the order of the log.
 *
 * A row that comes with a position is a restore, by the owner: it is stored as
 * it is, not dispatched, and the sequence is moved past it (restore.c: where it may
 * be).
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "event.h"
#include "guard.h"
#include "horizon.h"
#include "intake.h"
#include "intake_runs.h"
#include "metadata.h"
#include "positions.h"
#include "pure_call.h"
#include "relations.h"
#include "replication.h"
#include "restore.h"
#include "store.h"
#include "streams.h"
#include "types.h"
#include "validate.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evsource_intake_begin);
PG_FUNCTION_INFO_V1(evsource_intake_row);
PG_FUNCTION_INFO_V1(evsource_intake_end);

/* An INSERT or COPY under way. */
typedef struct Statement
{
	EvsRuns		runs;			/* positions that were drawn */
	CommandId	command;		/* no lower than that of the query it belongs to */
	int64		restored;		/* highest position that came with a row */
	EvsIntake  *intake;			/* whose INSERT this is, if it is append's own */
	MemoryContext context;		/* holds what follows; NULL: nothing yet */
	EvsTypeRun *types;			/* validates its rows */
	EvsRestored *streams;		/* those of restored rows */
	int			nest_level;		/* of the transaction it runs in */
	struct Statement *outer;
} Statement;

static Statement *current = NULL;

static ExecutorFinish_hook_type previous_finish = NULL;

/*
 * Set just before append's own INSERT, taken by its begin trigger.  Triggers of
 * others may come before that, and run INSERTs, and appends, of their own: those
 * are deeper in triggers.
 */
static EvsIntake *expected_intake = NULL;

static int
trigger_depth(void)
{
	return DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH));
}

void
evs_intake_check_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = evs_guard_trigger(fcinfo, "the triggers of evsource.events");

	if (RelationGetRelid(trigger->tg_relation) != evs_catalog()->events)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" is for the triggers of evsource.events only",
						get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("Create no triggers that call it: those that evsource needs are there.")));
}

/* Is this the function of one of the triggers below? */
bool
evs_intake_is_our_trigger(Oid function)
{
	const EvsCatalog *catalog = evs_catalog();

	return function == catalog->intake_begin ||
		function == catalog->intake_row ||
		function == catalog->replicated_row ||
		function == catalog->intake_end;
}

bool
evs_intake_is_running(void)
{
	return current != NULL;
}

void
evs_intake_expect(EvsIntake *intake, text *stream, EvsBatch *batch, int64 expected_version)
{
	intake->stream = stream;
	intake->batch = batch;
	intake->expected_version = expected_version;
	intake->count = 0;
	intake->trigger_depth = trigger_depth();
	intake->nest_level = GetCurrentTransactionNestLevel();
	intake->outer = expected_intake;
	expected_intake = intake;
}

/* Whose INSERT calls the trigger that is running: append's own, or NULL. */
static EvsIntake *
take_expected_intake(void)
{
	EvsIntake  *intake = expected_intake;

	if (intake == NULL || intake->trigger_depth + 1 != trigger_depth())
		return NULL;
	expected_intake = intake->outer;
	return intake;
}

/*
 * Triggers fire in the order of their names: one behind ours could change the row that
 * was validated and numbered, or leave out an event that is counted already.
 */
static void
check_none_behind(const TriggerDesc *triggers)
{
	Oid			intake_row = evs_catalog()->intake_row;
	const Trigger *ours = NULL;

	for (int i = 0; i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_ROW(trigger->tgtype) || !TRIGGER_FOR_BEFORE(trigger->tgtype) ||
			!TRIGGER_FOR_INSERT(trigger->tgtype) || !evs_relation_trigger_fires(trigger))
			continue;
		if (ours != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("trigger \"%s\" of evsource.events would fire too late", trigger->tgname),
					 errdetail("Events are validated and numbered by trigger \"%s\", which comes before it in the order of names.",
							   ours->tgname),
					 errhint("Give it a name that comes before with ALTER TRIGGER ... RENAME TO, or make it an AFTER trigger.")));
		if (trigger->tgfoid == intake_row)
			ours = trigger;
	}
}

/* Nobody would dispatch what is stored by a statement without an end. */
static void
check_will_end(const TriggerDesc *triggers)
{
	Oid			intake_end = evs_catalog()->intake_end;

	for (int i = 0; i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (trigger->tgfoid == intake_end && evs_relation_trigger_fires(trigger))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot store events without the triggers of evsource.events"),
			 errdetail("The one that runs after an INSERT or COPY, \"00_intake_end\", is disabled."),
			 errhint("Enable all triggers of the table.")));
}

/* Before the statement: nothing drawn, nothing restored. */
Datum
evsource_intake_begin(PG_FUNCTION_ARGS)
{
	const TriggerDesc *triggers;
	Statement  *statement;

	evs_intake_check_trigger(fcinfo);
	triggers = ((TriggerData *) fcinfo->context)->tg_relation->trigdesc;
	check_none_behind(triggers);
	check_will_end(triggers);
	statement = MemoryContextAllocZero(TopTransactionContext, sizeof(Statement));
	statement->nest_level = GetCurrentTransactionNestLevel();
	/* used: what it runs has a higher one */
	statement->command = GetCurrentCommandId(true);
	statement->intake = take_expected_intake();
	statement->outer = current;
	current = statement;
	PG_RETURN_POINTER(NULL);
}

bool
evs_intake_defer(const EvsBatch *batch)
{
	if (current == NULL)
		return false;
	for (int i = 0; i < batch->count; i++)
		evs_runs_add(&current->runs, &batch->events[i]);
	return true;
}

/* A stream's later event must not get a position below its restored ones. */
void
evs_intake_pass_restored(void)
{
	for (Statement *statement = current; statement != NULL; statement = statement->outer)
	{
		if (statement->restored > 0)
			evs_positions_pass(statement->restored);
		statement->restored = 0;
	}
}

static void
forget_statement(void)
{
	Statement  *statement = current;

	current = statement->outer;
	if (statement->context != NULL)
		MemoryContextDelete(statement->context);
	evs_runs_free(&statement->runs);
	pfree(statement);
}

/* Tell append what became of a row of its own INSERT. */
static void
tell_intake(EvsIntake *intake, const EvsEvent *row)
{
	if (intake->count < intake->batch->count)
	{
		EvsEvent   *event = &intake->batch->events[intake->count];

		/* its lock and its expected version were the other stream's */
		if (!evs_same_text(row->stream, event->stream))
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
					 errmsg("an event of the append was moved to another stream"),
					 errdetail("A trigger on evsource.events put it into stream \"%s\" instead of stream \"%s\".",
							   text_to_cstring(row->stream), text_to_cstring(event->stream)),
					 errhint("Append to the stream that is meant, or use INSERT.")));
		event->position = row->position;
		event->version = row->version;
		event->recorded_at = row->recorded_at;
		event->has_id = row->has_id;
		event->id = row->id;
	}
	intake->count++;
}

/* A row with a position, from the owner: keep it as it is. */
static void
check_restored_row(const EvsEvent *row, const bool *nulls)
{
	if (!object_ownercheck(RelationRelationId, evs_catalog()->events, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set position, version or recorded_at of an event"),
				 errdetail("Only the owner of evsource.events may store events as they were elsewhere."),
				 errhint("Leave these columns out: evsource assigns them.")));
	if (nulls[EVS_EVENTS_POSITION - 1] || nulls[EVS_EVENTS_VERSION - 1] ||
		nulls[EVS_EVENTS_RECORDED_AT - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position, version and recorded_at of an event must be given together or not at all"),
				 errhint("Leave them all out to append, give them all to restore.")));
	if (row->position < 1 || row->position > EVS_MAX_RESTORED_POSITION ||
		row->version < 1 || row->version > EVS_MAX_RESTORED_POSITION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position or version of a restored event is out of range"),
				 errdetail("It has position %lld and version %lld.",
						   (long long) row->position, (long long) row->version),
				 errhint("Both must be between 1 and %lld: greater numbers are left for later events.",
						 (long long) EVS_MAX_RESTORED_POSITION)));
	evs_check_metadata(row->metadata);
	if (!nulls[EVS_EVENTS_SCHEMA_VERSION - 1])
		(void) evs_check_schema_version(row->schema_version);
}

/* What came with the row; the members of NULL columns are zero.  data is not detoasted. */
static void
row_from_tuple(EvsEvent *row, HeapTuple tuple, TupleDesc desc, bool *nulls)
{
	Datum	   *values = palloc(desc->natts * sizeof(Datum));

#define COLUMN(name) values[EVS_EVENTS_##name - 1]
#define IS_NULL(name) nulls[EVS_EVENTS_##name - 1]
	heap_deform_tuple(tuple, desc, values, nulls);
	memset(row, 0, sizeof(EvsEvent));
	if (!IS_NULL(POSITION))
		row->position = DatumGetInt64(COLUMN(POSITION));
	if (!IS_NULL(VERSION))
		row->version = DatumGetInt64(COLUMN(VERSION));
	if (!IS_NULL(RECORDED_AT))
		row->recorded_at = DatumGetTimestampTz(COLUMN(RECORDED_AT));
	if (!IS_NULL(STREAM))
		row->stream = DatumGetTextPP(COLUMN(STREAM));
	if (!IS_NULL(TYPE))
		row->type = DatumGetTextPP(COLUMN(TYPE));
	if (!IS_NULL(METADATA))
		row->metadata = DatumGetJsonbP(COLUMN(METADATA));
	if (!IS_NULL(DATA))
		row->data = (Jsonb *) DatumGetPointer(COLUMN(DATA));
	row->has_id = !IS_NULL(ID);
	if (row->has_id)
		row->id = *DatumGetUUIDP(COLUMN(ID));
	if (!IS_NULL(SCHEMA_VERSION))
		row->schema_version = DatumGetInt16(COLUMN(SCHEMA_VERSION));

	evs_check_stream(row->stream);
	evs_check_type(row->type);
	evs_check_data(IS_NULL(DATA));
#undef COLUMN
#undef IS_NULL
}

/* What lives as long as the statement. */
static MemoryContext
statement_context(void)
{
	if (current->context == NULL)
		current->context = AllocSetContextCreate(TopTransactionContext, "evsource intake",
												 ALLOCSET_SMALL_SIZES);
	return current->context;
}

/* It is not for each row that the function of a type is made ready. */
static EvsTypeRun *
type_run(void)
{
	MemoryContext caller;

	if (current->types == NULL)
	{
		caller = MemoryContextSwitchTo(statement_context());
		current->types = evs_type_run();
		MemoryContextSwitchTo(caller);
	}
	return current->types;
}

/* Nobody would dispatch what is stored by a statement that has not begun. */
static void
check_statement_began(void)
{
	if (current == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot store events without the triggers of evsource.events"),
				 errdetail("The one that runs before an INSERT or COPY has not run: it is disabled, or the statement names another table."),
				 errhint("Enable all triggers of the table, and insert into evsource.events itself.")));
}

/* A row that brings its place. */
static void
take_restored_row(Relation events, const EvsEvent *row)
{
	evs_pure_check_append();
	if (current->streams == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(statement_context());

		current->streams = evs_restore_begin();
		MemoryContextSwitchTo(caller);
	}

	/* the sequence moves past it before it is there for others */
	evs_restore_row(current->streams, events, row);
	current->restored = Max(current->restored, row->position);
}

/* See that the row's data is what its type says. */
static void
validate(EvsEvent *row)
{
	evs_pure_check_append();
	if (!evs_types_any())
		evs_type_check_undefined(row);
	else
	{
		row->data = DatumGetJsonbP(PointerGetDatum(row->data));
		evs_type_validate(type_run(), row);
	}
}

/*
 * For each row, before it is stored: validate and number it.  The trigger is the
 * last one, so that it sees what others made of the row.
 */
Datum
evsource_intake_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	static int	filled[] = {
		EVS_EVENTS_POSITION, EVS_EVENTS_VERSION, EVS_EVENTS_RECORDED_AT, EVS_EVENTS_METADATA,
		EVS_EVENTS_SCHEMA_VERSION
	};
	Datum		fill[5];
	bool		fill_nulls[5] = {false};
	Relation	events;
	TupleDesc	desc;
	EvsEvent	row;
	bool	   *nulls;

	evs_intake_check_trigger(fcinfo);
	events = trigger->tg_relation;
	desc = RelationGetDescr(events);
	nulls = palloc(desc->natts * sizeof(bool));
	check_statement_began();
	row_from_tuple(&row, trigger->tg_trigtuple, desc, nulls);

	if (!nulls[EVS_EVENTS_POSITION - 1] || !nulls[EVS_EVENTS_VERSION - 1] ||
		!nulls[EVS_EVENTS_RECORDED_AT - 1])
	{
		check_restored_row(&row, nulls);
		evs_replication_refuse("restore events");
		if (row.has_id)
			evs_store_check_server_id(events, &row.id);
		take_restored_row(events, &row);
		return PointerGetDatum(trigger->tg_trigtuple);
	}

	row.metadata = evs_metadata_for_row(events, row.metadata);
	row.version = evs_stream_lock(events, row.stream, 0) + 1;
	if (row.has_id)
		evs_store_check_server_id(events, &row.id);
	validate(&row);
	evs_intake_pass_restored();
	row.position = evs_horizon_draw(1);
	evs_wakeup_event(row.stream, row.type);
	row.recorded_at = GetCurrentTimestamp();

	evs_runs_add(&current->runs, &row);
	if (current->intake != NULL)
		tell_intake(current->intake, &row);

	fill[0] = Int64GetDatum(row.position);
	fill[1] = Int64GetDatum(row.version);
	fill[2] = TimestampTzGetDatum(row.recorded_at);
	fill[3] = PointerGetDatum(row.metadata);
	fill_nulls[3] = row.metadata == NULL;
	fill[4] = Int16GetDatum(row.schema_version);
	fill_nulls[4] = row.schema_version == 0;
	return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_trigtuple, desc, lengthof(filled),
													 filled, fill, fill_nulls));
}

/* After the statement: see that its versions are right, and dispatch what it stored. */
static void
end_statement(Relation events)
{
	Statement  *statement = current;
	Statement  *outer = statement->outer;
	EvsRuns		stored;

	if (statement->intake != NULL && statement->intake->count > 0)
		evs_stream_check_version(events, statement->intake->stream,
								 statement->intake->expected_version,
								 statement->intake->batch->events[0].version - 1);
	evs_intake_pass_restored();
	if (statement->streams != NULL)
		evs_restore_end(statement->streams, events);

	/* from here on the statement is over: handlers may begin others */
	stored = statement->runs;
	memset(&statement->runs, 0, sizeof(EvsRuns));
	forget_statement();
	if (outer != NULL)
		evs_runs_move(&outer->runs, &stored);
	else
		evs_runs_dispatch(&stored);
	evs_runs_free(&stored);
}

Datum
evsource_intake_end(PG_FUNCTION_ARGS)
{
	evs_intake_check_trigger(fcinfo);
	if (current != NULL)
		end_statement(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}

/*
 * Here the executor fires the triggers AFTER.  What the query, or a query within it,
 * has begun and not ended was stopped early: it has no such trigger.
 */
static void
finish_query(QueryDesc *query)
{
	if (previous_finish)
		previous_finish(query);
	else
		standard_ExecutorFinish(query);

	/* of a query that changes nothing this is no command; if triggers wait, so does the end */
	if ((query->operation == CMD_SELECT && !query->plannedstmt->hasModifyingCTE) ||
		(query->estate->es_top_eflags & EXEC_FLAG_SKIP_TRIGGERS) != 0)
		return;
	while (current != NULL && current->command >= query->estate->es_output_cid)
	{
		Relation	events = evs_catalog_open(evs_catalog()->events, RowExclusiveLock);

		end_statement(events);
		table_close(events, NoLock);
	}
}

/* A statement that is left when its (sub)transaction commits has not been ended. */
static void
check_none_left(int nest_level)
{
	for (Statement *statement = current; statement != NULL; statement = statement->outer)
	{
		if (statement->nest_level < nest_level ||
			(statement->runs.count == 0 && statement->streams == NULL))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("an INSERT or COPY into evsource.events has not come to its end"),
				 errdetail("Its last trigger, \"00_intake_end\", has not fired: no inline projection would get what it stored."),
				 errhint("Run the transaction again; change neither session_replication_role nor the triggers of the table while such a statement runs.")));
	}
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine,
					SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_PRE_COMMIT_SUB)
		check_none_left(level);
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;

	/* a statement that failed has no end trigger */
	while (current != NULL && current->nest_level >= level)
		forget_statement();
	while (expected_intake != NULL && expected_intake->nest_level >= level)
		expected_intake = expected_intake->outer;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		check_none_left(0);
	current = NULL;
	expected_intake = NULL;
}

void
evs_intake_init(void)
{
	previous_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = finish_query;
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
