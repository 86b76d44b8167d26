/*
 * in_use.c - what a dump brings besides events is nothing for a log in use.
 *
 * It says who the store is, and how far who is in the log that was dumped.  In another log
 * ids would be computed otherwise, and projections and cursors would be at events that they
 * have not met.  Tools that restore go on after errors, so it is not enough that events are
 * refused (restore.c): each table of a dump refuses.
 *
 * A log is in use when it holds an event behind those that were restored.  The last of
 * these is in evsource.restored_seq before anybody sees them, whoever restores them, in
 * whatever order; what is drawn later is above it (positions.c).  A log that is not open,
 * or that another server fills, has no event of its own.
 *
 * What evsource itself writes is written as the owner of the tables (query.c), which is
 * not so for who restores.  That is asked first: it happens often.
 */
#include "evsource.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "guard.h"
#include "in_use.h"
#include "positions.h"
#include "reached.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(evsource_refuse_in_use);

/*
 * The last event of a log that is open here, else 0.  Others may be restoring: what they
 * have not committed does not count.
 */
static int64
last_event(void)
{
	Snapshot	snapshot;
	int64		last;

	if (!evs_positions_are_drawn_here())
		return 0;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	last = evs_reached_event(snapshot);
	UnregisterSnapshot(snapshot);
	return last;
}

bool
evs_log_in_use(void)
{
	int64		last = last_event();
	bool		awaits_store;

	return last > evs_positions_restored(&awaits_store);
}

/*
 * Before an INSERT or a COPY into any table of a dump but evsource.events.  Error: 55000.
 * The row of evsource.store comes once with the events that were restored.
 */
Datum
evsource_refuse_in_use(PG_FUNCTION_ARGS)
{
	Relation	table;
	bool		is_store;
	bool		awaits_store;
	int64		last;
	int64		restored;

	table = evs_guard_trigger(fcinfo, "the triggers of evsource's tables")->tg_relation;
	is_store = RelationGetRelid(table) == evs_catalog()->store;
	if (InLocalUserIdChange() || (evs_allow_passed_positions && !is_store))
		return PointerGetDatum(NULL);

	last = last_event();
	restored = evs_positions_restored(&awaits_store);
	if (last > (is_store && !awaits_store ? 0 : restored))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot restore evsource.%s into a log in use", RelationGetRelationName(table)),
				 errdetail("It holds events up to position %lld, with ids and positions of this event store.",
						   (long long) last),
				 errhint("Restore into a new database.")));
	return PointerGetDatum(NULL);
}
