/*
 * capture_names.c - tables and roles that a row means, whatever they are called.
 *
 * evsource._table_name and evsource._role_name are OIDs in a row and names in text.
 * So a record follows who renames its table or its role, and a dump brings it to
 * where they have other OIDs.  They differ from regclass and regrole in what they
 * do with names that are not known: those become nobody's, which is written as the
 * empty name.  A dump without one of the tables, or one that is restored where a
 * role is not, still brings the other records.
 */
#include "evsource.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

PG_FUNCTION_INFO_V1(evsource_role_name_in);
PG_FUNCTION_INFO_V1(evsource_role_name_out);
PG_FUNCTION_INFO_V1(evsource_table_name_in);
PG_FUNCTION_INFO_V1(evsource_table_name_out);

Datum
evsource_role_name_in(PG_FUNCTION_ARGS)
{
	PG_RETURN_OID(get_role_oid(PG_GETARG_CSTRING(0), true));
}

Datum
evsource_role_name_out(PG_FUNCTION_ARGS)
{
	char	   *name = GetUserNameFromId(PG_GETARG_OID(0), true);

	PG_RETURN_CSTRING(name != NULL ? name : pstrdup(""));
}

/* With its schema: what a name alone means depends on the search_path. */
Datum
evsource_table_name_in(PG_FUNCTION_ARGS)
{
	char	   *name = PG_GETARG_CSTRING(0);
	List	   *parts = name[0] == '\0' ? NIL : stringToQualifiedNameList(name, NULL);
	Oid			schema;

	if (list_length(parts) != 2)
		PG_RETURN_OID(InvalidOid);
	schema = get_namespace_oid(strVal(linitial(parts)), true);
	PG_RETURN_OID(OidIsValid(schema) ? get_relname_relid(strVal(lsecond(parts)), schema) : InvalidOid);
}

Datum
evsource_table_name_out(PG_FUNCTION_ARGS)
{
	Oid			table = PG_GETARG_OID(0);
	char	   *name = get_rel_name(table);
	char	   *schema = name == NULL ? NULL : get_namespace_name(get_rel_namespace(table));

	PG_RETURN_CSTRING(schema != NULL ? quote_qualified_identifier(schema, name) : pstrdup(""));
}
