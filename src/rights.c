/*
 * rights.c - what the current user may do, beyond the privileges on one object.
 *
 * Projections, deciders, event types and subscriptions belong to roles, by name: a
 * role may be gone.  Whoever owns evsource may do what their owners may.
 */
#include "rights.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/rls.h"

#include "catalog.h"
#include "query.h"
#include "store.h"

bool
evs_has_rights_of(const char *role)
{
	Oid			owner = get_role_oid(role, true);

	return (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner)) ||
		has_privs_of_role(GetUserId(), evs_query_owner());
}

int
evs_errdetail_owner(const char *owner)
{
	if (OidIsValid(get_role_oid(owner, true)))
		return errdetail("Its owner is role \"%s\".", owner);
	return errdetail("Its owner, role \"%s\", does not exist.", owner);
}

bool
evs_may_read_all(void)
{
	Oid			events = evs_catalog()->events;

	return pg_class_aclcheck(events, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(events, InvalidOid, true) != RLS_ENABLED;
}

bool
evs_may_read_event(Relation events, const EvsEvent *event)
{
	return pg_class_aclcheck(RelationGetRelid(events), GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		evs_store_may_tell_version(events, event->stream, event->version);
}

void
evs_check_new_owner(const char *what, const char *owner)
{
	if (!member_can_set_role(GetUserId(), get_role_oid(owner, false)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot give %s to role \"%s\"", what, owner),
				 errdetail("You must be able to become the new owner."),
				 errhint("See SET ROLE.")));
}
