/*
 * capture_guard.c - nobody captures with rights that are not theirs.
 *
 * A capture trigger says itself which role appends (capture_definition.c), or
 * leaves it to the table's owner.  So who creates one must be able to act as that
 * role.  PostgreSQL asks for the right to create triggers on the table and to
 * execute the function; this event trigger asks for the rest.  It follows that
 * the right to execute evsource.capture() gives nothing to a role that it does
 * not have anyway: a role that adds partitions may be granted it.
 *
 * Triggers that partitions get from their table are no commands of their own.
 * Event triggers can be turned off by superusers only, who may do anything.
 */
#include "capture.h"

#include "catalog/namespace.h"
#include "commands/event_trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "relations.h"

PG_FUNCTION_INFO_V1(evsource_guard_captures);

static void
check_trigger(const CreateTrigStmt *statement)
{
	char	  **arguments = palloc(Max(list_length(statement->args), 1) * sizeof(char *));
	int			count = 0;
	EvsCaptureDefinition definition;
	ListCell   *cell;
	Oid			role;

	foreach(cell, statement->args)
		arguments[count++] = strVal(lfirst(cell));
	evs_capture_parse(arguments, count, &definition);

	/* a superuser restores a dump, perhaps before it restores the roles */
	if (superuser())
		return;
	role = definition.registrant != NULL ? get_role_oid(definition.registrant, false) :
		evs_relation_owner(RangeVarGetRelid(statement->relation, NoLock, false));
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to capture with the rights of role \"%s\"",
						GetUserNameFromId(role, false)),
				 errdetail("Trigger \"%s\" would append events as that role.", statement->trigname),
				 errhint("Call evsource.capture_table(): it captures with the rights of its caller.")));
}

/*
 * evsource._guard_captures() returns event_trigger, after CREATE TRIGGER.
 *
 * Errors: 42501, and 22023 for arguments that evsource.capture does not take.
 */
Datum
evsource_guard_captures(PG_FUNCTION_ARGS)
{
	CreateTrigStmt *statement;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called as an event trigger",
						get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("It is for the event trigger evsource_guard_captures only.")));

	statement = (CreateTrigStmt *) ((EventTriggerData *) fcinfo->context)->parsetree;
	if (IsA(statement, CreateTrigStmt) && evs_catalog_exists() &&
		LookupFuncName(statement->funcname, 0, NULL, true) == evs_catalog()->capture)
		check_trigger(statement);
	PG_RETURN_NULL();
}
