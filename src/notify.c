/*
 * notify.c - NOTIFY evsource_projection with the projection's name and how far
 * it is, and NOTIFY evsource_events with how far the log can be read.
 *
 * PostgreSQL sends notifications when the transaction commits, one transaction
 * at a time in the whole cluster: so appenders send none unless a projection is
 * made to.  Of events the daemon tells, of many at once.
 */
#include "evsource.h"

#include "catalog/pg_database.h"
#include "commands/async.h"
#include "lib/stringinfo.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"

#include "barrier.h"
#include "notify.h"

#define PROJECTION_CHANNEL	"evsource_projection"

/* From here on (of 1) the queue is left to others. */
#define NEARLY_FULL			0.95

/*
 * When somebody listens and idles in a transaction the queue fills up, and then who
 * notifies cannot commit.  A message is a hint, and nothing to fail for.
 */
static bool
queue_has_room(void)
{
	return DatumGetFloat8(OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE)) < NEARLY_FULL;
}

void
evs_notify(const EvsProjection *projection, int64 position)
{
	StringInfoData payload;

	if (!projection->notify || !queue_has_room())
		return;

	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"projection\": ");
	escape_json(&payload, projection->name);
	appendStringInfo(&payload, ", \"position\": " INT64_FORMAT "}", position);
	Async_Notify(PROJECTION_CHANNEL, payload.data);
	pfree(payload.data);
}

/* As PostgreSQL does at the commit of who notifies, until its end: they take turns. */
static void
take_turn(void *arg)
{
	LockSharedObject(DatabaseRelationId, InvalidOid, 0, AccessExclusiveLock);
}

bool
evs_notify_turn_within(int timeout)
{
	return evs_within(timeout, take_turn, NULL);
}

bool
evs_notify_events(int64 position)
{
	char		payload[MAXINT8LEN + 1];

	if (!queue_has_room())
		return false;
	pg_lltoa(position, payload);
	Async_Notify(EVS_EVENTS_CHANNEL, payload);
	return true;
}
