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

#include "guard.h"
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

static EvsRowVersion
version_of(HeapTuple row)
{
	EvsRowVersion version = {InvalidCommandId, row->t_self};

	if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmin(row->t_data)))
		version.made_by = HeapTupleHeaderXminFrozen(row->t_data) ? EVS_FROZEN_COMMAND :
			HeapTupleHeaderGetCmin(row->t_data);
	return version;
}

/*
 * What was done to a row; NULL: it was not there before, or is not afterwards.  Tables that
 * are no heaps do not tell the command, nor do rows of COPY FREEZE: it counts as done now.
 */
static EvsCaptureStep
step_of(const EvsCapturePlan *plan, HeapTuple found, HeapTuple left)
{
	EvsCaptureStep step = {EVS_CAPTURE_STAYS, GetCurrentCommandId(false),
		EVS_NO_ROW_VERSION, EVS_NO_ROW_VERSION};

	if (found == NULL)
		step.phase = EVS_CAPTURE_COMES;
	else if (left == NULL)
		step.phase = EVS_CAPTURE_LEAVES;
	if (!plan->is_heap)
		return step;

	if (found != NULL)
		step.found = version_of(found);
	if (left != NULL)
		step.left = version_of(left);
	if (left == NULL)
		step.command = HeapTupleHeaderGetCmax(found->t_data);
	else if (step.left.made_by != EVS_FROZEN_COMMAND)
		step.command = step.left.made_by;
	return step;
}

/* An update of the key: the row leaves its stream, and comes to another one. */
static void
add_moved(const EvsCapturePlan *plan, const EvsCaptureStep *step, const EvsEvent *events)
{
	EvsCaptureStep leaves = *step;
	EvsCaptureStep comes = *step;

	leaves.phase = EVS_CAPTURE_LEAVES;
	leaves.left = EVS_NO_ROW_VERSION;
	comes.phase = EVS_CAPTURE_COMES;
	comes.found = EVS_NO_ROW_VERSION;
	evs_capture_add(plan, &leaves, &events[0]);
	evs_capture_add(plan, &comes, &events[1]);
}

static void
capture_row(EvsCapturePlan *plan, const TriggerData *trigger)
{
	Jsonb	   *metadata = evs_metadata_for(NULL);
	EvsEvent	events[2];
	EvsCaptureStep step;
	int			count = 1;

	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		step = step_of(plan, trigger->tg_trigtuple, trigger->tg_newtuple);
		count = evs_capture_updated(plan, trigger->tg_trigslot, trigger->tg_newslot, events);
	}
	else if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		step = step_of(plan, NULL, trigger->tg_trigtuple);
		evs_capture_inserted(plan, trigger->tg_trigslot, events);
	}
	else
	{
		step = step_of(plan, trigger->tg_trigtuple, NULL);
		evs_capture_deleted(plan, trigger->tg_trigslot, events);
	}

	for (int i = 0; i < count; i++)
		events[i].metadata = metadata;
	if (count == 0)
		evs_capture_unchanged(plan, &step, trigger->tg_newslot);
	else if (count == 1)
		evs_capture_add(plan, &step, &events[0]);
	else
		add_moved(plan, &step, events);
}

static void
capture_truncate(EvsCapturePlan *plan, const TriggerData *trigger)
{
	EvsEvent	event;

	evs_capture_truncate_ends(trigger->tg_relation);
	evs_capture_truncated(plan, trigger->tg_relation, &event);
	event.metadata = evs_metadata_for(NULL);
	evs_capture_add_truncated(plan, &event);
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
	TriggerData *trigger = evs_guard_trigger(fcinfo, "the triggers that evsource.capture_table() creates");
	EvsCapturePlan *plan;

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
