/*
 * rebuild_look.c - can the tables of an online rebuild still be exchanged?
 *
 * What is in the way, and whether they are what they were when their like was made, is asked
 * with the tables locked before they are exchanged: nobody changes them any more then.  But
 * what somebody did to them while the log was applied would be found out hours later.  So it
 * is asked on the way as well, whenever PostgreSQL tells its sessions that one of the tables
 * has changed: to ask takes as long as hundreds of events.
 */
#include "evsource.h"

#include "catalog/namespace.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/regproc.h"

#include "barrier.h"
#include "rebuild_online.h"
#include "relations.h"
#include "shadow.h"

/* So many changes are remembered.  After more, any table may be among those that changed. */
#define MANY_CHANGES	64

/* The relations that have changed, one after the other; InvalidOid: any may have. */
static Oid	changed[MANY_CHANGES];

/* How many there were, counted from 1, so that 0 is before all of them. */
static uint64 changes = 1;
static bool watching = false;

static void
relation_changed(Datum argument, Oid relation)
{
	changed[changes++ % MANY_CHANGES] = relation;
}

static Oid
find_table(const char *name)
{
	List	   *names = stringToQualifiedNameList(name, NULL);

	return RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, true);
}

/* Has one of the tables changed since there were so many changes? */
static bool
has_changed(List *tables, uint64 since)
{
	ListCell   *cell;

	if (since == 0 || changes - since > MANY_CHANGES)
		return true;
	foreach(cell, since == changes ? NIL : tables)
	{
		Oid			table = find_table(lfirst(cell));

		for (uint64 i = since; i < changes; i++)
			if (changed[i % MANY_CHANGES] == table || changed[i % MANY_CHANGES] == InvalidOid)
				return true;
	}
	return false;
}

List *
evs_online_find_changed(const EvsProjection *projection, const char *obstacle)
{
	List	   *tables = NIL;
	ListCell   *cell;

	if (strncmp(obstacle, "index ", strlen("index ")) != 0)
		return NIL;
	foreach(cell, projection->tables)
	{
		Oid			table = find_table(lfirst(cell));

		if (ConditionalLockRelationOid(table, ShareUpdateExclusiveLock))
			UnlockRelationOid(table, ShareUpdateExclusiveLock);
		else
			tables = lappend_oid(tables, table);
	}
	return tables;
}

/* Only of tables that can have a shadow a shape can be told. */
void
evs_online_check_again(const EvsRebuild *rebuild, EvsProjection *projection)
{
	const char *obstacle = evs_shadow_obstacle(projection, true);

	if (obstacle != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot complete the online rebuild of projection \"%s\"", rebuild->name),
				 errdetail("Online it is not possible any more: %s.", obstacle),
				 errhint("Remove what is in the way and call again: it continues where it stopped; or rebuild in place, with online => false.")));
}

/* A look at the tables. */
typedef struct Look
{
	const EvsRebuild *rebuild;
	EvsProjection *projection;
	bool		same;
} Look;

static void
look(void *arg)
{
	Look	   *look = arg;
	const EvsRebuild *rebuild = look->rebuild;
	const char *obstacle = evs_shadow_obstacle(look->projection, true);

	if (obstacle == NULL)
		look->same = strcmp(evs_shadow_shape(rebuild->tables, rebuild->shadow), rebuild->shape) == 0;
	else if (evs_online_find_changed(look->projection, obstacle) == NIL)
		/* it may have passed in between */
		evs_online_check_again(rebuild, look->projection);
}

bool
evs_online_look(EvsProcedure *procedure, const EvsRebuild *rebuild, EvsProjection *projection)
{
	Look		now = {rebuild, projection, true};
	uint64		seen;

	if (!watching)
	{
		evs_relations_watch(relation_changed);
		watching = true;
	}
	if (!has_changed(rebuild->tables, procedure->looked_at))
		return true;
	seen = changes;
	/* who changes them just then will change them once more, or is seen the next time */
	if (evs_within(EVS_GLANCE, look, &now))
		procedure->looked_at = seen;
	return now.same;
}
