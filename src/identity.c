/*
 * identity.c - run as a projection's owner, and come back.
 *
 * The owner's code runs in the appender's session.  It gets the owner's rights
 * and search_path; it cannot become somebody else (the operation is security
 * restricted), and no setting that it changes outlives it.
 */
#include "identity.h"

#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/guc.h"

/*
 * Become the owner until evs_identity_leave(), or until the (sub)transaction
 * aborts.  The search_path is a value as SET would take it.
 *
 * Errors: 42704 when there is no such role.
 */
void
evs_identity_enter(EvsIdentity *identity, const char *owner, const char *search_path)
{
	Oid			role = get_role_oid(owner, true);

	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" does not exist", owner),
				 errdetail("Functions that evsource was given run as that role."),
				 errhint("Create the role again, or give the projection another owner, or define the event type again.")));

	evs_identity_enter_role(identity, role, search_path);
}

void
evs_identity_enter_role(EvsIdentity *identity, Oid role, const char *search_path)
{
	GetUserIdAndSecContext(&identity->saved_user, &identity->saved_security_context);
	SetUserIdAndSecContext(role,
						   identity->saved_security_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);

	/* setting the path makes PostgreSQL resolve it anew: worth avoiding */
	identity->guc_nest_level = NewGUCNestLevel();
	if (strcmp(namespace_search_path, search_path) != 0)
		(void) set_config_option("search_path", search_path,
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* Become again who we were, with all settings as they were. */
void
evs_identity_leave(EvsIdentity *identity)
{
	AtEOXact_GUC(false, identity->guc_nest_level);
	SetUserIdAndSecContext(identity->saved_user, identity->saved_security_context);
}
