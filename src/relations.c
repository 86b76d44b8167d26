/*
 * relations.c - who owns a relation, and when its triggers fire; hear of relations that change.
 *
 * PostgreSQL has room for ten callbacks a session, its own included; a walsender
 * that decodes for pgoutput has taken half of them when it loads us.  So all our
 * rooms share one.
 */
#include "relations.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "commands/trigger.h"
#include "utils/syscache.h"

#define MAX_WATCHERS 24

static RelcacheCallbackFunction watchers[MAX_WATCHERS];
static int	count = 0;

static void
relation_changed(Datum arg, Oid relid)
{
	for (int i = 0; i < count; i++)
		watchers[i] (arg, relid);
}

void
evs_relations_watch(RelcacheCallbackFunction callback)
{
	if (count == MAX_WATCHERS)
		elog(ERROR, "too many rooms watch relations");
	if (count == 0)
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	watchers[count++] = callback;
}

Oid
evs_relation_owner(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relation);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* As PostgreSQL asks before it fires one. */
bool
evs_relation_trigger_fires(const Trigger *trigger)
{
	return trigger->tgenabled == TRIGGER_FIRES_ALWAYS ||
		trigger->tgenabled == (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA ?
							   TRIGGER_FIRES_ON_REPLICA : TRIGGER_FIRES_ON_ORIGIN);
}
