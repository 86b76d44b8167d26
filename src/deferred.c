/*
 * deferred.c - triggers that are to fire at the commit, which a handler cannot have.
 *
 * At the commit they would run as whoever appends, and no longer as the owner of the
 * projection.  PostgreSQL refuses that when the handler writes the table, which may be
 * long after the projection was created; so that is said before, and there the way out.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"

#include "deferred.h"
#include "query.h"

/*
 * Of the table and its partitions.  The triggers by which a foreign key watches the table
 * that it refers to are no reason: they fire when its keys change, and few do.  A unique
 * key's fires only where it meets the same key: all goes well until it is needed.
 */
static EvsQuery find_deferred = {
	"select unnest(array[what, tab]) from ("
	" select coalesce(c.conname, t.tgname)::text as what, t.tgrelid::regclass::text as tab"
	" from pg_trigger t left join pg_constraint c on c.oid = t.tgconstraint"
	" where (t.tgrelid = $1 or t.tgrelid in (select relid from pg_partition_tree($1)))"
	"  and t.tginitdeferred and t.tgenabled in ('O', 'A')"
	"  and (c.contype <> 'f' or c.conrelid = t.tgrelid) is not false"
	" order by t.tgrelid <> $1, 1 limit 1) d",
	1, {OIDOID}, SPI_OK_SELECT
};

void
evs_deferred_warn(Oid table)
{
	Datum		values[] = {ObjectIdGetDatum(table)};
	List	   *found = evs_query_texts(&find_deferred, values, NULL);

	if (found == NIL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("constraint \"%s\" of table %s is initially deferred",
					(char *) linitial(found), (char *) lsecond(found)),
			 errdetail("A handler cannot write what the constraint would be checked for at the commit, with the rights of whoever appends."),
			 errhint("Make it INITIALLY IMMEDIATE or NOT DEFERRABLE.")));
}

void
evs_deferred_hint(void)
{
	MemoryContext caller;
	ErrorData  *error;
	bool		is_it;

	if (geterrcode() != ERRCODE_INSUFFICIENT_PRIVILEGE)
		return;
	caller = MemoryContextSwitchTo(TopTransactionContext);
	error = CopyErrorData();
	is_it = error->hint == NULL && error->message_id != NULL &&
		strcmp(error->message_id,
			   "cannot fire deferred trigger within security-restricted operation") == 0;
	FreeErrorData(error);
	MemoryContextSwitchTo(caller);
	if (is_it)
		errhint("Make the constraint INITIALLY IMMEDIATE or NOT DEFERRABLE, or run SET CONSTRAINTS ALL IMMEDIATE before the append.");
}
