/*
 * role_guard.c - refuse to drop roles that evsource acts as, and warn when one is renamed.
 *
 * Owners are kept by name, so PostgreSQL does not know of them, and no event
 * trigger fires for DROP ROLE.  A role that was granted what it needs cannot be
 * dropped because of these grants; one that has it as a member of another role can.
 * Every append would fail then, for an inline projection is never skipped.
 *
 * It can only be seen where the library is loaded, and in the database where the
 * command runs.  Whoever finds an owner gone says how to go on: dispatch.c.
 */
#include "evsource.h"

#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "query.h"
#include "role_guard.h"

/* more are only counted */
#define NAMED 10

static EvsQuery find_owned = {
	"select 'owner of projection \"' || p.projection || '\"'"
	" from evsource.projections p where p.owner = $1"
	" union all select 'owner of version ' || t.version || ' of event type \"' || t.type || '\"'"
	" from evsource.event_types t where t.owner = $1"
	" union all select 'owner of decider \"' || d.decider || '\"'"
	" from evsource.deciders d where d.owner = $1"
	" union all select 'owner of subscription \"' || s.subscription || '\"'"
	" from evsource.subscriptions s where s.owner = $1"
	" union all select 'captures table ' || c.relation::oid::regclass"
	" from evsource.captures c where c.registrant::oid = $2"
	" order by 1",
	2, {TEXTOID, OIDOID}, SPI_OK_SELECT
};

/* NULL, or what there is that names the role, or knows it by its OID. */
static char *
list_owned(const char *role, Oid oid)
{
	Datum		values[] = {CStringGetTextDatum(role), ObjectIdGetDatum(oid)};
	List	   *owned = evs_query_texts(&find_owned, values, NULL);
	StringInfoData names;
	ListCell   *cell;
	int			named = 0;

	if (owned == NIL)
		return NULL;
	initStringInfo(&names);
	foreach(cell, owned)
	{
		if (named == NAMED)
			break;
		appendStringInfo(&names, "%s%s", named++ > 0 ? "\n" : "", (char *) lfirst(cell));
	}
	if (list_length(owned) > named)
		appendStringInfo(&names, "\nand %d more", list_length(owned) - named);
	return names.data;
}

/* What goes by the OID follows by itself. */
static void
check_rename(const char *role, const char *new_name)
{
	char	   *owned = list_owned(role, InvalidOid);

	if (owned == NULL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("evsource goes on to act as role \"%s\", not as \"%s\"", role, new_name),
			 errdetail_internal("%s", owned),
			 errhint("Give these the new name as their owner before another role gets the old one, as by evsource.alter_projection(projection, owner => ...).")));
}

static void
check_drop(const char *role)
{
	char	   *owned = list_owned(role, get_role_oid(role, true));

	if (owned == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("role \"%s\" cannot be dropped because evsource acts as that role", role),
			 errdetail_internal("%s", owned),
			 errhint("Give these another owner, as by evsource.alter_projection(projection, owner => ...), define them again or capture them (if_exists => 'alter') as another role, or drop them.")));
}

void
evs_role_guard_command(Node *statement)
{
	ListCell   *cell;
	RenameStmt *rename = IsA(statement, RenameStmt) &&
		((RenameStmt *) statement)->renameType == OBJECT_ROLE ? (RenameStmt *) statement : NULL;

	if ((rename == NULL && !IsA(statement, DropRoleStmt)) ||
		!OidIsValid(get_extension_oid("evsource", true)))
		return;
	/* who may not do it is told that, and nothing else */
	if (!has_createrole_privilege(GetUserId()))
		return;
	if (rename != NULL)
	{
		check_rename(rename->subname, rename->newname);
		return;
	}
	foreach(cell, ((DropRoleStmt *) statement)->roles)
	{
		RoleSpec   *role = lfirst(cell);

		if (role->roletype == ROLESPEC_CSTRING && OidIsValid(get_role_oid(role->rolename, true)))
			check_drop(role->rolename);
	}
}
