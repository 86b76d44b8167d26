/*
 * notify.c - NOTIFY evsource_projection with the projection's name and how far
 * it is.
 *
 * PostgreSQL sends notifications when the transaction commits, one transaction
 * at a time in the whole cluster: so appenders send none unless a projection is
 * made to.
 */
#include "evsource.h"

#include "commands/async.h"
#include "lib/stringinfo.h"
#include "utils/json.h"

#include "notify.h"

#define CHANNEL		"evsource_projection"

void
evs_notify(const EvsProjection *projection, int64 position)
{
	StringInfoData payload;

	if (!projection->notify)
		return;

	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"projection\": ");
	escape_json(&payload, projection->name);
	appendStringInfo(&payload, ", \"position\": " INT64_FORMAT "}", position);
	Async_Notify(CHANNEL, payload.data);
	pfree(payload.data);
}
