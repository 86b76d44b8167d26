/*
 * databases.c - which databases there are, for the launcher, which is in none.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "utils/snapmgr.h"

#include "daemon.h"
#include "databases.h"

static bool
is_of_kind(Form_pg_database database, EvsDatabases kind)
{
	/* DROP DATABASE was interrupted: there is nothing else to do with it */
	if (database->datconnlimit == DATCONNLIMIT_INVALID_DB)
		return false;
	return kind == EVS_DATABASES_OPEN ? database->datallowconn :
		!database->datallowconn && !database->datistemplate;
}

List *
evs_databases_find(EvsDatabases kind, Oid only)
{
	List	   *databases = NIL;
	MemoryContext context = CurrentMemoryContext;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	evs_daemon_start_transaction();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (is_of_kind(database, kind) && (!OidIsValid(only) || database->oid == only))
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			databases = lappend_oid(databases, database->oid);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}
