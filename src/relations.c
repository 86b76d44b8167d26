/*
 * relations.c - who owns a relation, what goes with it, when its triggers fire, who has it
 * locked; hear of relations that change.
 *
 * PostgreSQL has room for ten callbacks a session, its own included; a walsender
 * that decodes for pgoutput has taken half of them when it loads us.  So all our
 * rooms share one.
 */
#include "relations.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/fmgroids.h"
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

Oid
evs_relation_toast(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			toast;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	toast = ((Form_pg_class) GETSTRUCT(tuple))->reltoastrelid;
	ReleaseSysCache(tuple);
	return toast;
}

bool
evs_relation_is_locked(Oid relation, LOCKMODE first, LOCKMODE last)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
	for (LOCKMODE mode = first; mode <= last; mode++)
		if (LockHeldByMe(&tag, mode, false))
			return true;
	return false;
}

List *
evs_relation_references(Oid relation)
{
	Relation	pg_constraint = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *references = NIL;

	ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relation));
	scan = systable_beginscan(pg_constraint, ConstraintRelidTypidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);

		if (form->contype == CONSTRAINT_FOREIGN)
			references = list_append_unique_oid(references, form->confrelid);
	}
	systable_endscan(scan);
	table_close(pg_constraint, AccessShareLock);
	return references;
}
