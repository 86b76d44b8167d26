/*
 * capture.c - the trigger function: changes of a table become events.
 *
 *	evsource.capture('category', 'key column', ...)
 *
 * As an AFTER ROW trigger it captures each row that is inserted, updated or
 * deleted, as an AFTER STATEMENT trigger TRUNCATE.  As a BEFORE STATEMENT trigger
 * it loads this library, whose hooks must be there when the row triggers fire
 * (capture_pending.c), and leaves word of a TRUNCATE (capture_truncate.c).
 *
 * Values are converted with the rights of who runs the statement, as in any
 * trigger; the events are appended with the rights of who registered the capture.
 */
#include "capture.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "utils/rel.h"

#include "metadata.h"

PG_FUNCTION_INFO_V1(evsource_capture);

static void
refuse_trigger(const TriggerData *trigger)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("trigger \"%s\" cannot capture changes", trigger->tg_trigger->tgname),
			 errdetail("evsource.capture is for triggers AFTER INSERT, UPDATE or DELETE FOR EACH ROW, and AFTER TRUNCATE FOR EACH STATEMENT."),
			 errhint("evsource.capture_table() creates them.")));
}

/*
 * The command that made this row version, or, if the row was deleted, the one
 * that did that.  Other kinds of tables do not tell: they count as changed now.
 */
static CommandId
command_of(const EvsCapturePlan *plan, HeapTuple tuple, bool deleted)
{
	if (!plan->is_heap)
		return GetCurrentCommandId(false);
	if (deleted)
		return HeapTupleHeaderGetCmax(tuple->t_data);
	/* COPY FREEZE */
	if (HeapTupleHeaderXminFrozen(tuple->t_data))
		return GetCurrentCommandId(false);
	return HeapTupleHeaderGetCmin(tuple->t_data);
}

/* The command of this transaction that made the row before it was changed. */
static CommandId
maker_of(const EvsCapturePlan *plan, HeapTuple old_row)
{
	if (!plan->is_heap ||
		!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(old_row->t_data)))
		return InvalidCommandId;
	return HeapTupleHeaderGetCmin(old_row->t_data);
}

static void
capture_row(EvsCapturePlan *plan, const TriggerData *trigger)
{
	Jsonb	   *metadata = evs_metadata_for(NULL);
	EvsEvent	events[2];
	EvsCapturePhase phase = EVS_CAPTURE_STAYS;
	int			count = 1;
	CommandId	command;
	CommandId	made_by = InvalidCommandId;

	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		command = command_of(plan, trigger->tg_newtuple, false);
		made_by = maker_of(plan, trigger->tg_trigtuple);
		count = evs_capture_updated(plan, trigger->tg_trigslot, trigger->tg_newslot, events);
		if (count == 0)
			evs_capture_unchanged(plan, command, made_by, trigger->tg_newslot);
	}
	else if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		command = command_of(plan, trigger->tg_trigtuple, false);
		evs_capture_inserted(plan, trigger->tg_trigslot, events);
		phase = EVS_CAPTURE_COMES;
	}
	else
	{
		command = command_of(plan, trigger->tg_trigtuple, true);
		made_by = maker_of(plan, trigger->tg_trigtuple);
		evs_capture_deleted(plan, trigger->tg_trigslot, events);
		phase = EVS_CAPTURE_LEAVES;
	}

	for (int i = 0; i < count; i++)
	{
		if (count == 2)
			phase = i == 0 ? EVS_CAPTURE_LEAVES : EVS_CAPTURE_COMES;
		events[i].metadata = metadata;
		evs_capture_add(plan, command, phase == EVS_CAPTURE_COMES ? InvalidCommandId : made_by,
						phase, &events[i]);
	}
}

static void
capture_truncate(EvsCapturePlan *plan, const TriggerData *trigger)
{
	EvsEvent	event;

	evs_capture_truncate_ends(trigger->tg_relation);
	evs_capture_truncated(plan, trigger->tg_relation, &event);
	event.metadata = evs_metadata_for(NULL);
	evs_capture_add(plan, GetCurrentCommandId(false), InvalidCommandId, EVS_CAPTURE_LEAVES, &event);
}

/*
 * evsource.capture('category', 'key column', ... [, '--exclude', 'column', ...]
 *		[, '--as', 'role']) returns trigger
 *
 * Errors: 39P01 as a trigger of another kind, 22023 for other arguments, 42703
 * when a column is gone that is of the key or excluded, 23502 when one is null, 42704 when the role is gone,
 * 42501 when nobody has registered the trigger or the role may not append, and what
 * an append raises.
 */
Datum
evsource_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	EvsCapturePlan *plan;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function evsource.capture was not called as a trigger"),
				 errhint("Create its triggers with evsource.capture_table().")));
	if (TRIGGER_FIRED_BEFORE(trigger->tg_event) && TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
	{
		if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
			evs_capture_truncate_begins(trigger);
		else
			evs_capture_statement_unseen();
		PG_RETURN_POINTER(NULL);
	}
	if (!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		TRIGGER_FIRED_FOR_ROW(trigger->tg_event) == TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		refuse_trigger(trigger);

	plan = evs_capture_plan(trigger);
	evs_capture_check_registrant(plan, trigger);
	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		capture_row(plan, trigger);
	else
		capture_truncate(plan, trigger);
	evs_capture_added();
	PG_RETURN_POINTER(NULL);
}
