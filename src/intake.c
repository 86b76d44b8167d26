/*
 * intake.c - INSERT and COPY into evsource.events as appends.
 *
 * A row trigger validates and numbers each row, in the order that append.c
 * keeps: stream lock, version, bound, position.  A column default would draw the
 * position before the lock and could turn a stream's order around.
 *
 * A statement trigger dispatches what the statement stored.  It remembers the
 * positions that were drawn and reads the rows back: cheaper than a transition
 * table, and rows that ON CONFLICT or another trigger left out are not there.
 *
 * A row that comes with a position is a restore, by the owner: it is stored as
 * it is, not dispatched, and the sequence is moved past it.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "dispatch.h"
#include "event.h"
#include "horizon.h"
#include "intake.h"
#include "metadata.h"
#include "scan.h"
#include "store.h"
#include "streams.h"
#include "validate.h"

PG_FUNCTION_INFO_V1(evsource_intake_begin);
PG_FUNCTION_INFO_V1(evsource_intake_row);
PG_FUNCTION_INFO_V1(evsource_intake_end);
PG_FUNCTION_INFO_V1(evsource_immutable);

/* events read back and dispatched at a time */
#define DISPATCH_BATCH 10000

/* Positions drawn without anybody else's between them. */
typedef struct Run
{
	int64		first;
	int64		last;
} Run;

/* An INSERT or COPY under way.  Statements nest: triggers and handlers insert. */
typedef struct Statement
{
	Run		   *runs;
	int			nruns;
	int			maxruns;
	int64		restored;		/* highest position that came with a row */
	EvsIntake  *intake;			/* whose INSERT this is, if it is append's own */
	int			nest_level;		/* of the transaction it runs in */
	struct Statement *outer;
} Statement;

static Statement *current = NULL;

/* set just before append's own INSERT, taken by its begin trigger */
static EvsIntake *expected_intake = NULL;

static void
check_called_as_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called as a trigger",
						get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("It is for the triggers of evsource.events only.")));
	if (RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation) != evs_catalog()->events)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" is for the triggers of evsource.events only",
						get_func_name(fcinfo->flinfo->fn_oid))));
}

/* Is this the function of one of the triggers below? */
bool
evs_intake_is_our_trigger(Oid function)
{
	const EvsCatalog *catalog = evs_catalog();

	return function == catalog->intake_begin ||
		function == catalog->intake_row ||
		function == catalog->intake_end;
}

bool
evs_intake_is_running(void)
{
	return current != NULL;
}

void
evs_intake_expect(EvsIntake *intake, EvsBatch *batch)
{
	intake->batch = batch;
	intake->count = 0;
	expected_intake = intake;
}

/* Before the statement: nothing drawn, nothing restored. */
Datum
evsource_intake_begin(PG_FUNCTION_ARGS)
{
	Statement  *statement;

	check_called_as_trigger(fcinfo);
	statement = MemoryContextAllocZero(TopTransactionContext, sizeof(Statement));
	statement->nest_level = GetCurrentTransactionNestLevel();
	statement->intake = expected_intake;
	expected_intake = NULL;
	statement->outer = current;
	current = statement;
	PG_RETURN_POINTER(NULL);
}

static void
remember_position(int64 position)
{
	Run		   *last = current->nruns > 0 ? &current->runs[current->nruns - 1] : NULL;

	if (last != NULL && last->last + 1 == position)
	{
		last->last = position;
		return;
	}
	if (current->nruns == current->maxruns)
	{
		current->maxruns = Max(16, current->maxruns * 2);
		if (current->runs == NULL)
			current->runs = MemoryContextAlloc(TopTransactionContext,
											   current->maxruns * sizeof(Run));
		else
			current->runs = repalloc_huge(current->runs, current->maxruns * sizeof(Run));
	}
	current->runs[current->nruns].first = position;
	current->runs[current->nruns].last = position;
	current->nruns++;
}

/* Tell append what its own INSERT gave to a row of the batch. */
static void
tell_intake(EvsIntake *intake, int64 position, int64 version, TimestampTz recorded_at)
{
	if (intake->count < intake->batch->count)
	{
		EvsEvent   *event = &intake->batch->events[intake->count];

		event->position = position;
		event->version = version;
		event->recorded_at = recorded_at;
	}
	intake->count++;
}

/* A row with a position, from the owner: keep it as it is. */
static void
check_restored_row(const bool *nulls, int64 position, int64 version)
{
	if (!object_ownercheck(RelationRelationId, evs_catalog()->events, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set position, version or recorded_at of an event"),
				 errdetail("Only the owner of evsource.events may store events as they were elsewhere."),
				 errhint("Leave these columns out: the log gives them.")));
	if (nulls[EVS_EVENTS_POSITION - 1] || nulls[EVS_EVENTS_VERSION - 1] ||
		nulls[EVS_EVENTS_RECORDED_AT - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position, version and recorded_at of an event must be given together or not at all"),
				 errhint("Leave them all out to append, give them all to restore.")));
	if (position < 1 || position > EVS_MAX_POSITION || version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position or version of a restored event is out of range"),
				 errdetail("It has position %lld and version %lld.",
						   (long long) position, (long long) version),
				 errhint("Both begin at 1.")));
}

/*
 * For each row, before it is stored: validate and number it.
 */
Datum
evsource_intake_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	static int	filled[] = {
		EVS_EVENTS_POSITION, EVS_EVENTS_VERSION, EVS_EVENTS_RECORDED_AT, EVS_EVENTS_METADATA
	};
	Datum	   *values;
	bool	   *nulls;
	Datum		fill[4];
	bool		fill_nulls[4] = {false};
	Relation	events;
	TupleDesc	desc;
	text	   *stream;
	text	   *type;
	Jsonb	   *metadata;
	int64		version;
	int64		position;
	TimestampTz now;
	HeapTuple	tuple;

	check_called_as_trigger(fcinfo);
	events = trigger->tg_relation;
	desc = RelationGetDescr(events);
	values = palloc(desc->natts * sizeof(Datum));
	nulls = palloc(desc->natts * sizeof(bool));
	heap_deform_tuple(trigger->tg_trigtuple, desc, values, nulls);

	stream = nulls[EVS_EVENTS_STREAM - 1] ? NULL : DatumGetTextPP(values[EVS_EVENTS_STREAM - 1]);
	type = nulls[EVS_EVENTS_TYPE - 1] ? NULL : DatumGetTextPP(values[EVS_EVENTS_TYPE - 1]);
	metadata = nulls[EVS_EVENTS_METADATA - 1] ? NULL :
		DatumGetJsonbP(values[EVS_EVENTS_METADATA - 1]);
	evs_check_stream(stream);
	evs_check_type(type);

	if (!nulls[EVS_EVENTS_POSITION - 1] || !nulls[EVS_EVENTS_VERSION - 1] ||
		!nulls[EVS_EVENTS_RECORDED_AT - 1])
	{
		position = DatumGetInt64(values[EVS_EVENTS_POSITION - 1]);
		version = DatumGetInt64(values[EVS_EVENTS_VERSION - 1]);
		check_restored_row(nulls, position, version);

		/* the sequence moves past it before it is there for others */
		evs_horizon_publish();
		if (current != NULL)
			current->restored = Max(current->restored, position);
		return PointerGetDatum(trigger->tg_trigtuple);
	}

	metadata = evs_metadata_for(metadata);
	version = evs_stream_lock(events, stream, 0) + 1;
	if (!nulls[EVS_EVENTS_ID - 1])
		evs_store_check_server_id(events, DatumGetUUIDP(values[EVS_EVENTS_ID - 1]));
	position = evs_horizon_draw(1);
	now = GetCurrentTimestamp();

	if (current != NULL)
	{
		remember_position(position);
		if (current->intake != NULL)
			tell_intake(current->intake, position, version, now);
	}

	fill[0] = Int64GetDatum(position);
	fill[1] = Int64GetDatum(version);
	fill[2] = TimestampTzGetDatum(now);
	fill[3] = PointerGetDatum(metadata);
	fill_nulls[3] = metadata == NULL;
	tuple = heap_modify_tuple_by_cols(trigger->tg_trigtuple, desc, lengthof(filled),
									  filled, fill, fill_nulls);
	return PointerGetDatum(tuple);
}

/* Later draws must be above what was restored. */
static void
move_sequence_past(int64 position)
{
	Oid			sequence = evs_catalog()->position_seq;

	/* a higher draw between the two lines can only be lost by going back */
	LockRelationOid(sequence, ShareRowExclusiveLock);
	if (evs_horizon_last_position() < position)
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(position));
}

/* Read back what the statement stored, and dispatch it in batches. */
static void
dispatch_runs(const Statement *statement)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "evsource intake dispatch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int64		after = 0;
	int			i = 0;

	while (i < statement->nruns)
	{
		Snapshot	snapshot;
		EvsScan    *scan;
		EvsBatch   *batch;

		after = Max(after, statement->runs[i].first - 1);
		CHECK_FOR_INTERRUPTS();
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		scan = evs_scan_log(after, statement->runs[i].last, NULL, snapshot);
		batch = evs_scan_batch(scan, DISPATCH_BATCH, work_mem);
		evs_scan_end(scan);
		UnregisterSnapshot(snapshot);

		if (batch->count > 0)
		{
			after = batch->events[batch->count - 1].position;
			evs_dispatch_inline(batch);
		}
		if (batch->count == 0 || after >= statement->runs[i].last)
			i++;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* After the statement. */
Datum
evsource_intake_end(PG_FUNCTION_ARGS)
{
	Statement  *statement;

	check_called_as_trigger(fcinfo);
	statement = current;
	if (statement == NULL)
		PG_RETURN_POINTER(NULL);
	current = statement->outer;

	if (statement->restored > 0)
		move_sequence_past(statement->restored);
	if (statement->nruns > 0)
	{
		/* the scan below must see the rows of this very command */
		CommandCounterIncrement();
		if (evs_dispatch_wanted())
			dispatch_runs(statement);
		pfree(statement->runs);
	}
	pfree(statement);
	PG_RETURN_POINTER(NULL);
}

/* UPDATE, DELETE and TRUNCATE of events: VE003. */
Datum
evsource_immutable(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	check_called_as_trigger(fcinfo);
	ereport(ERROR,
			(errcode(ERRCODE_EVS_EVENTS_ARE_IMMUTABLE),
			 errmsg("events are immutable"),
			 errdetail("%s of evsource.events is not allowed.",
					   TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "UPDATE" :
					   TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? "DELETE" : "TRUNCATE"),
			 errhint("Append an event that corrects the earlier one.")));
	PG_RETURN_POINTER(NULL);
}

/* A statement that failed inside a savepoint has no end trigger. */
static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine,
					SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (current != NULL && current->nest_level >= GetCurrentTransactionNestLevel())
		current = current->outer;
	expected_intake = NULL;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	current = NULL;
	expected_intake = NULL;
}

void
evs_intake_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
