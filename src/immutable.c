/*
 * immutable.c - events do not change.
 *
 * The trigger immutable refuses the statements, and names what was tried.  A statement on
 * another table that reaches events, as one on a parent does, fires triggers of rows only:
 * immutable_row refuses it.  That one follows the other, so that who repairs the log by
 * hand has one trigger to disable.
 */
#include "evsource.h"

#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "replication/logicalworker.h"
#include "utils/rel.h"

#include "immutable.h"
#include "intake.h"
#include "relations.h"

PG_FUNCTION_INFO_V1(evsource_immutable);

static bool deletes_allowed = false;

void
evs_immutable_allow_deletes(bool allowed)
{
	deletes_allowed = allowed;
}

/* Does the trigger of statements fire, which calls the same function? */
static bool
is_guarded(const TriggerData *trigger)
{
	const TriggerDesc *all = trigger->tg_relation->trigdesc;

	for (int i = 0; i < all->numtriggers; i++)
		if (all->triggers[i].tgfoid == trigger->tg_trigger->tgfoid &&
			!TRIGGER_FOR_ROW(all->triggers[i].tgtype) &&
			evs_relation_trigger_fires(&all->triggers[i]))
			return true;
	return false;
}

/*
 * UPDATE, DELETE and TRUNCATE of events: VE003, but for what truncates a stream.  A
 * subscription follows its original, and would be stuck otherwise.  A row is refused where
 * the statement would be, if it named this table.
 */
Datum
evsource_immutable(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	evs_intake_check_trigger(fcinfo);
	if ((deletes_allowed && TRIGGER_FIRED_BY_DELETE(trigger->tg_event)) || IsLogicalWorker() ||
		!is_guarded(trigger))
		PG_RETURN_POINTER(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple :
						  trigger->tg_trigtuple);
	ereport(ERROR,
			(errcode(ERRCODE_EVS_EVENTS_ARE_IMMUTABLE),
			 errmsg("events are immutable"),
			 errdetail("%s of evsource.events is not allowed.",
					   TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "UPDATE" :
					   TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? "DELETE" : "TRUNCATE"),
			 errhint("Append an event that corrects the earlier one.")));
	PG_RETURN_POINTER(NULL);
}

static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine,
					SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		deletes_allowed = false;
}

static void
transaction_ends(XactEvent event, void *arg)
{
	deletes_allowed = false;
}

void
evs_immutable_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}
