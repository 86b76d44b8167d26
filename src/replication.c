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
 *
 * - A database that becomes a copy may hold a log already: it was made of a standby.
 *   Who followed that log while no subscription filled it went by what had arrived, and
 *   may be past an event that comes later.  Such an event is refused.  Whoever follows the
 *   copy later goes by what is published, which all events to come are above, or is set to
 *   a position by somebody who means it.  So what counts is how far they were when the
 *   first row came for the subscription: that is noted in evsource.followed.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_subscription_rel.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/catcache.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "event.h"
#include "guard.h"
#include "positions.h"
#include "query.h"
#include "replication.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(evsource_replicated_row);

/* for which table the answer below is, InvalidOid: it is to be asked anew */
static Oid	asked_for = InvalidOid;

/* what fills the log, InvalidOid: nothing does; of several subscriptions the oldest */
static Oid	filled_by = InvalidOid;

/* highest position that this transaction has stored for a subscription */
static int64 replicated = 0;

/* up to where somebody followed the log here before it was a copy; -1: it is to be asked */
static int64 followed = -1;

/*
 * The subscription whose table this is; InvalidOid where it belongs to another database:
 * CREATE DATABASE has copied the row of its template.
 */
static Oid
subscription_of(HeapTuple table)
{
	Oid			subscription = ((Form_pg_subscription_rel) GETSTRUCT(table))->srsubid;
	HeapTuple	row = SearchSysCache1(SUBSCRIPTIONOID, ObjectIdGetDatum(subscription));

	if (!HeapTupleIsValid(row))
		return InvalidOid;
	if (((Form_pg_subscription) GETSTRUCT(row))->subdbid != MyDatabaseId)
		subscription = InvalidOid;
	ReleaseSysCache(row);
	return subscription;
}

bool
evs_replication_is_copy(void)
{
	Oid			events = evs_catalog()->events;

	if (asked_for != events)
	{
		CatCList   *list;
		Oid			found = InvalidOid;

		/* the answer may change while it is looked up */
		asked_for = events;
		list = SearchSysCacheList1(SUBSCRIPTIONRELMAP, ObjectIdGetDatum(events));
		for (int i = 0; i < list->n_members; i++)
		{
			Oid			subscription = subscription_of(&list->members[i]->tuple);

			if (OidIsValid(subscription) && (!OidIsValid(found) || subscription < found))
				found = subscription;
		}
		filled_by = found;
		ReleaseSysCacheList(list);
	}
	return OidIsValid(filled_by);
}

/* Is the first copy of a table over, for the worker that applies changes? */
static bool
is_ready(HeapTuple table)
{
	return ((Form_pg_subscription_rel) GETSTRUCT(table))->srsubstate == SUBREL_STATE_READY;
}

bool
evs_replication_is_ordered(void)
{
	CatCList   *list = SearchSysCacheList1(SUBSCRIPTIONRELMAP,
										   ObjectIdGetDatum(evs_catalog()->events));
	bool		found = false;
	bool		ordered = true;

	for (int i = 0; ordered && i < list->n_members; i++)
	{
		HeapTuple	events = &list->members[i]->tuple;
		Oid			subscription = subscription_of(events);
		HeapTuple	published;

		if (!OidIsValid(subscription))
			continue;
		found = true;
		published = SearchSysCache2(SUBSCRIPTIONRELMAP,
									ObjectIdGetDatum(evs_catalog()->published),
									ObjectIdGetDatum(subscription));
		ordered = is_ready(events) && HeapTupleIsValid(published) && is_ready(published);
		if (HeapTupleIsValid(published))
			ReleaseSysCache(published);
	}
	ReleaseSysCacheList(list);
	return found && ordered;
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
 * Who follows the log by its positions.  An inline projection does not: what it has stored
 * is what was appended.
 */
#define FOLLOWERS \
	" from (select 'projection' as kind, c.projection as name, c.position" \
	"  from evsource.checkpoints c join evsource.projections p on p.projection = c.projection" \
	"  where p.mode <> 'inline'" \
	" union all select 'projection', c.projection, c.position from evsource.partitions c" \
	" union all select 'subscription', c.subscription, greatest(c.position, c.seen) from evsource.cursors c) f"

/*
 * Nobody waits here for a note that is not committed yet: it may be that of a transaction
 * which is prepared, or applied in parallel, and ends only after this one.  So there may be
 * several.  The lowest is the first, or somebody has begun anew meanwhile.
 */
static EvsQuery select_noted = {
	"select min(position) from evsource.followed where subscription = $1", 1, {OIDOID}, SPI_OK_SELECT
};

/* Where the log is empty nobody has followed it: cursors may have come before the events. */
static EvsQuery note_followed = {
	"insert into evsource.followed (subscription, position)"
	" select $1, coalesce(max(f.position), 0)" FOLLOWERS
	" where exists (select from evsource.events)",
	1, {OIDOID}, SPI_OK_INSERT
};

static EvsQuery select_who_passed = {
	"select pg_catalog.format('%s \"%s\"', f.kind, f.name)" FOLLOWERS
	" where f.position >= $1 order by f.position desc, f.kind, f.name limit 1",
	1, {INT8OID}, SPI_OK_SELECT
};

static int64
noted(void)
{
	Datum		values[] = {ObjectIdGetDatum(filled_by)};

	return DatumGetInt64(evs_query_value_latest(&select_noted, values, NULL, Int64GetDatum(-1)));
}

/* Before a row is stored for the subscription: unless it is noted, how far followers are. */
static void
take_note(void)
{
	Datum		values[] = {ObjectIdGetDatum(filled_by)};

	if (followed >= 0)
		return;
	followed = noted();
	if (followed >= 0)
		return;
	(void) evs_query_run_latest(&note_followed, values, NULL);
	followed = noted();
}

static void
refuse_passed(int64 position)
{
	Datum		values[] = {Int64GetDatum(position)};
	List	   *who;

	if (position > followed || evs_allow_passed_positions)
		return;
	who = evs_query_texts_latest(&select_who_passed, values, NULL);
	if (who != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot store the event at position %lld: %s has passed it",
						(long long) position, (char *) linitial(who)),
				 errdetail("It has followed the log in this database while no subscription filled it, "
						   "and would never meet the event."),
				 errhint("Begin anew before it with evsource.reset_projection or evsource.seek_subscription, or drop it. "
						 "Replication then goes on by itself.")));
}

/*
 * For each row that is stored while session_replication_role is replica: its
 * position is given.  Rows of evsource.published only cause the note, and those of
 * evsource.followed that come from elsewhere are not for this database.
 *
 * The trigger fires for other rows too once somebody has
 * disabled and enabled all triggers of the table, as pg_restore does: those are
 * none of its business.
 */
Datum
evsource_replicated_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = evs_guard_trigger(fcinfo, "the triggers of evsource.events");
	Oid			relid = RelationGetRelid(trigger->tg_relation);
	bool		isnull;
	Datum		position;

	if (relid != evs_catalog()->events && relid != evs_catalog()->published &&
		relid != evs_catalog()->followed)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_replicated_row\" is for the triggers of evsource's own tables only"),
				 errhint("Create no triggers that call it: those that evsource needs are there.")));

	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA)
		return PointerGetDatum(trigger->tg_trigtuple);
	if (relid == evs_catalog()->followed)
		return PointerGetDatum(NULL);
	if (evs_replication_is_copy())
		take_note();
	if (relid == evs_catalog()->published)
		return PointerGetDatum(trigger->tg_trigtuple);

	position = heap_getattr(trigger->tg_trigtuple, EVS_EVENTS_POSITION,
							RelationGetDescr(trigger->tg_relation), &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot append by INSERT or COPY while session_replication_role is replica"),
				 errdetail("The row has no position, and the trigger that gives it does not fire."),
				 errhint("Set session_replication_role to origin, or call evsource.append.")));
	if (evs_replication_is_copy())
		refuse_passed(DatumGetInt64(position));
	replicated = Max(replicated, DatumGetInt64(position));
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* What was noted may not have been kept. */
static void
subtransaction_ends(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		followed = -1;
}

/* Before the events can be seen here, the sequence is past them. */
static void
transaction_ends(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		followed = -1;
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
	followed = -1;
	evs_positions_ask_again();
}

void
evs_replication_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, subscriptions_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(SUBSCRIPTIONOID, subscriptions_changed, (Datum) 0);
}
