/*
 * capture_owners.c - let the owners of captured tables add partitions.
 *
 * A partition gets its trigger from the table, but PostgreSQL asks who adds the
 * partition for the right to execute the function.  To have it gives no access: see
 * capture_guard.c.  So it is granted to whoever owns a captured partitioned table, when
 * that is captured, and when a table gets another owner or a partition.  No event trigger
 * fires for REASSIGN OWNED: it can only be seen where the library is loaded.
 *
 * PostgreSQL takes no lock to grant: two who do so at the same time would collide on the
 * function's row.  So who has somebody to grant it to locks the function, and looks again.
 */
#include "capture.h"

#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"

#include "catalog.h"
#include "identity.h"
#include "query.h"

void
evs_capture_let_owners_add_partitions(Oid relid)
{
	static EvsQuery find = {
		"select distinct pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner))"
		" from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid"
		" where t.tgfoid = $1 and c.relkind = 'p'"
		" and ($2 = 0::pg_catalog.oid or c.oid in (select p.relid from pg_catalog.pg_partition_tree($2) p))"
		" and not pg_catalog.has_function_privilege(c.relowner, $1, 'execute') order by 1",
		2, {OIDOID, REGCLASSOID}, SPI_OK_SELECT
	};
	Oid			function = evs_catalog()->capture;
	Datum		values[] = {ObjectIdGetDatum(function), ObjectIdGetDatum(relid)};
	List	   *owners;
	EvsIdentity identity;
	ListCell   *cell;

	if (evs_query_texts_latest(&find, values, NULL) == NIL)
		return;
	LockDatabaseObject(ProcedureRelationId, function, 0, ExclusiveLock);
	owners = evs_query_texts_latest(&find, values, NULL);
	if (owners == NIL)
		return;
	evs_identity_enter_role(&identity, evs_query_owner(), "pg_catalog, pg_temp");
	foreach(cell, owners)
		evs_query_command(psprintf("grant execute on function evsource.capture() to %s",
								   (char *) lfirst(cell)));
	evs_identity_leave(&identity);
}

void
evs_capture_owners_reassigned(void)
{
	CommandCounterIncrement();
	if (evs_catalog_exists())
		evs_capture_let_owners_add_partitions(InvalidOid);
}
