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
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/rls.h"
#include "utils/xml.h"

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

static void
pin(bool is_so, const char *setting, const char *value)
{
	/* most sessions have it so, and setting it takes longer than many a handler */
	if (!is_so)
		(void) set_config_option(setting, value, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * The server's own zone is called so on many systems.
 */
static bool
is_utc(const char *zone)
{
	return zone != NULL && (strcmp(zone, "UTC") == 0 || strcmp(zone, "Etc/UTC") == 0);
}

void
evs_identity_pin_settings(void)
{
	pin(is_utc(pg_get_timezone_name(session_timezone)), "TimeZone", "UTC");
	pin(DateStyle == USE_ISO_DATES && DateOrder == DATEORDER_MDY, "DateStyle", "ISO, MDY");
	pin(IntervalStyle == INTSTYLE_POSTGRES, "IntervalStyle", "postgres");
	pin(extra_float_digits == 1, "extra_float_digits", "1");
	pin(bytea_output == BYTEA_OUTPUT_HEX, "bytea_output", "hex");
	pin(Array_nulls, "array_nulls", "on");
	pin(xmloption == XMLOPTION_CONTENT, "xmloption", "content");
	pin(row_security, "row_security", "on");
	pin(!quote_all_identifiers, "quote_all_identifiers", "off");

	/* by these the text of a query means something else */
	pin(standard_conforming_strings, "standard_conforming_strings", "on");
	pin(backslash_quote == BACKSLASH_QUOTE_SAFE_ENCODING, "backslash_quote", "safe_encoding");
	pin(!Transform_null_equals, "transform_null_equals", "off");
}

/* Become again who we were, with all settings as they were. */
void
evs_identity_leave(EvsIdentity *identity)
{
	AtEOXact_GUC(false, identity->guc_nest_level);
	SetUserIdAndSecContext(identity->saved_user, identity->saved_security_context);
}
