/*
 * members.c - objects that are members of the extension without having been in its script.
 *
 * From PostgreSQL 17 on a relation's row type, and the array type of that, are members
 * where it is one: ALTER EXTENSION adds and removes them with it, and so does pg_upgrade,
 * which adds every member again.  A type that is still a member keeps its relation from
 * being dropped.
 */
#include "evsource.h"

#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "members.h"

/* The types that a relation has brought along; before 14, sequences have one, too. */
static List *
types_of(Oid class, Oid object)
{
	Oid			row = class == RelationRelationId ? get_rel_type_id(object) : InvalidOid;
	Oid			array = OidIsValid(row) ? get_array_type(row) : InvalidOid;
	List	   *types = OidIsValid(row) ? list_make1_oid(row) : NIL;

	return OidIsValid(array) ? lappend_oid(types, array) : types;
}

bool
evs_member_is_ours(Oid class, Oid object)
{
	return getExtensionOfObject(class, object) == get_extension_oid("evsource", false);
}

static void
join_extension(Oid class, Oid object)
{
	ObjectAddress address;
	ObjectAddress extension;

	ObjectAddressSet(address, class, object);
	ObjectAddressSet(extension, ExtensionRelationId, get_extension_oid("evsource", false));
	recordDependencyOn(&address, &extension, DEPENDENCY_EXTENSION);
	recordExtObjInitPriv(object, class);
}

static void
leave_extension(Oid class, Oid object)
{
	(void) deleteDependencyRecordsForClass(class, object, ExtensionRelationId,
										   DEPENDENCY_EXTENSION);
}

void
evs_member_join(Oid class, Oid object)
{
	ListCell   *cell;

	join_extension(class, object);
	if (!EVS_TYPES_ARE_MEMBERS)
		return;
	foreach(cell, types_of(class, object))
		join_extension(TypeRelationId, lfirst_oid(cell));
}

/* The types, too, on any version: somebody may have added them one by one. */
void
evs_member_leave(Oid class, Oid object)
{
	ListCell   *cell;

	leave_extension(class, object);
	foreach(cell, types_of(class, object))
		leave_extension(TypeRelationId, lfirst_oid(cell));
}
