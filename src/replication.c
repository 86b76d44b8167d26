/*
 * replication.c - a log that is a copy, filled by logical replication.
 *
 * Where a subscription of PostgreSQL fills evsource.events, its worker stores
 * rows that have everything already: position, version, time.  No trigger of an
 * append fires, and nothing is dispatched.  This file sees to the rest:
 *
 * - Nobody else appends there: positions would collide with those to come.  Asked
 *   before a session's first position, and again when subscriptions change
 *   (positions.c), so it costs an append nothing.
 *
 * - A transaction that stores such rows moves the sequence past them before it
 *   commits, and has the next position that is drawn here leave a gap.  So the
 *   log can go on here when the subscription is dropped: no position is handed
 *   out twice, not even one that never arrived.
 *
 * - What is safe to read is what the original has published: its open appends are
 *   not known here.  The worker of a subscription applies transactions in the
 *   order of their commits, so the row that says "safe up to here" comes after all
 *   those events; but while a table is being copied at first, it has a worker and
 *   an order of its own.  Until then nothing is safe.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_subscription_rel.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/catcache.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "event.h"
#include "guard.h"
#include "positions.h"
#include "replication.h"

PG_FUNCTION_INFO_V1(evsource_replicated_row);

/* for which table the answer below is, InvalidOid: it is to be asked anew */
static Oid	asked_for = InvalidOid;
static bool is_copy = false;

/* highest position that this transaction has stored for a subscription */
static int64 replicated = 0;

bool
evs_replication_is_copy(void)
{
	Oid			events = evs_catalog()->events;

	if (asked_for != events)
	{
		CatCList   *subscriptions;

		/* the answer may change while it is looked up */
		asked_for = events;
		subscriptions = SearchSysCacheList1(SUBSCRIPTIONRELMAP, ObjectIdGetDatum(events));
		is_copy = subscriptions->n_members > 0;
		ReleaseSysCacheList(subscriptions);
	}
	return is_copy;
}

/* Is the first copy of a table over, for the worker that applies changes? */
static bool
is_ready(HeapTuple subscription)
{
	return ((Form_pg_subscription_rel) GETSTRUCT(subscription))->srsubstate == SUBREL_STATE_READY;
}

bool
evs_replication_is_ordered(void)
{
	CatCList   *list = SearchSysCacheList1(SUBSCRIPTIONRELMAP,
										   ObjectIdGetDatum(evs_catalog()->events));
	bool		ordered = list->n_members > 0;

	for (int i = 0; ordered && i < list->n_members; i++)
	{
		HeapTuple	events = &list->members[i]->tuple;
		Oid			subscription = ((Form_pg_subscription_rel) GETSTRUCT(events))->srsubid;
		HeapTuple	published = SearchSysCache2(SUBSCRIPTIONRELMAP,
												ObjectIdGetDatum(evs_catalog()->published),
												ObjectIdGetDatum(subscription));

		ordered = is_ready(events) && HeapTupleIsValid(published) && is_ready(published);
		if (HeapTupleIsValid(published))
			ReleaseSysCache(published);
	}
	ReleaseSysCacheList(list);
	return ordered;
}

void
evs_replication_refuse(const char *action)
{
	if (evs_replication_is_copy())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot %s in a copy of the log", action),
				 errdetail("A subscription fills evsource.events in this database."),
				 errhint("Do it in the database that the events come from. "
						 "If the log is to go on here, drop the subscription first.")));
}

/*
 * For each row that is stored while session_replication_role is replica: its
 * position is given.  The trigger fires for other rows too once somebody has
 * disabled and enabled all triggers of the table, as pg_restore does: those are
 * none of its business.
 */
Datum
evsource_replicated_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = evs_guard_trigger(fcinfo, "the triggers of evsource.events");
	bool		isnull;
	Datum		position;

	if (RelationGetRelid(trigger->tg_relation) != evs_catalog()->events)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_replicated_row\" is for the triggers of evsource.events only"),
				 errhint("Create no triggers that call it: those that evsource needs are there.")));

	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA)
		return PointerGetDatum(trigger->tg_trigtuple);

	position = heap_getattr(trigger->tg_trigtuple, EVS_EVENTS_POSITION,
							RelationGetDescr(trigger->tg_relation), &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot append by INSERT or COPY while session_replication_role is replica"),
				 errdetail("The row has no position, and the trigger that gives it does not fire."),
				 errhint("Set session_replication_role to origin, or call evsource.append.")));
	replicated = Max(replicated, DatumGetInt64(position));
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* Before the events can be seen here, the sequence is past them. */
static void
transaction_ends(XactEvent event, void *arg)
{
	if (replicated == 0)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (evs_catalog_exists())
				evs_positions_come_from_elsewhere(replicated);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			replicated = 0;
			break;
		default:
			break;
	}
}

static void
subscriptions_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	asked_for = InvalidOid;
	evs_positions_ask_again();
}

void
evs_replication_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, subscriptions_changed, (Datum) 0);
}
