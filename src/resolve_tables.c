/*
 * resolve_tables.c - from the names of tables to what is stored of them, and back.
 *
 * A table of a read model is its rows and those of its partitions; tables that
 * inherit from it are others.
 */
#include "evsource.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "catalog.h"
#include "deferred.h"
#include "resolve.h"

static Oid
find_table(const char *name)
{
	List	   *names = stringToQualifiedNameList(name, NULL);

	return RangeVarGetRelid(makeRangeVarFromNameList(names), AccessShareLock, false);
}

List *
evs_resolve_with_partitions(Oid table, LOCKMODE lock)
{
	return get_rel_relkind(table) == RELKIND_PARTITIONED_TABLE ?
		find_all_inheritors(table, lock, NULL) : list_make1_oid(table);
}

char *
evs_resolve_only(const char *table)
{
	List	   *names = stringToQualifiedNameList(table, NULL);
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, true);

	/* there is nothing in a partitioned table itself */
	return psprintf("%s%s", get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? "" : "only ",
					table);
}

/* The checkpoint outlives a crash, which empties the table or a partition of it. */
static void
warn_of_unlogged(Oid table)
{
	ListCell   *cell;

	foreach(cell, evs_resolve_with_partitions(table, AccessShareLock))
	{
		if (get_rel_persistence(lfirst_oid(cell)) != RELPERSISTENCE_UNLOGGED)
			continue;
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("table \"%s\" is unlogged", get_rel_name(lfirst_oid(cell))),
				 errdetail("A crash of the server empties it, and the projection goes on after the events that it has applied."),
				 errhint("ALTER TABLE ... SET LOGGED, or rebuild the projection after each crash.")));
		break;
	}
}

char *
evs_resolve_table(const char *name)
{
	Oid			table = find_table(name);
	Oid			schema = get_rel_namespace(table);
	char		relkind = get_rel_relkind(table);
	int			nest_level;
	char	   *qualified;

	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", name),
				 errhint("The tables of a projection are those that a reset empties.")));
	if (isAnyTempNamespace(schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" is temporary", name),
				 errhint("A projection is applied in many sessions: give it a permanent table.")));
	if (schema == evs_catalog()->schema || table < FirstNormalObjectId)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" is %s own", name,
						schema == evs_catalog()->schema ? "evsource's" : "PostgreSQL's"),
				 errhint("The tables of a projection are those that a reset empties.")));
	warn_of_unlogged(table);
	evs_deferred_warn(table);

	nest_level = evs_quote_as_needed();
	qualified = quote_qualified_identifier(get_namespace_name(schema), get_rel_name(table));
	AtEOXact_GUC(true, nest_level);
	return qualified;
}

/* The error is for who renamed a table, or its schema, under the projection. */
void
evs_resolve_check_tables(const EvsProjection *projection)
{
	ListCell   *cell;

	foreach(cell, projection->tables)
	{
		List	   *names = stringToQualifiedNameList(lfirst(cell), NULL);

		if (!OidIsValid(RangeVarGetRelid(makeRangeVarFromNameList(names), NoLock, true)))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table %s of projection \"%s\" does not exist",
							(char *) lfirst(cell), projection->name),
					 errdetail("It may have been renamed or moved to another schema."),
					 errhint("Tell the projection what its tables are: evsource.alter_projection(%s, tables => ...).",
							 quote_literal_cstr(projection->name))));
	}
}
