/*
 * utility.c - commands that evsource has to know of: one hook for all of them.
 *
 * COMMIT PREPARED and ROLLBACK PREPARED end a transaction in a session that had
 * no part in it: no transaction callback tells what it did, so whoever waits is
 * woken.
 *
 * DROP DATABASE, and what else needs a database without sessions, would wait for
 * the daemon's processes and give up.  So they are asked to leave.  First the
 * database is locked as the command locks it, which keeps new ones out until the
 * command is over; nobody is asked by a command that the user may not run.
 *
 * CREATE DATABASE may make one that has the extension already, and ALTER DATABASE
 * ... ALLOW_CONNECTIONS opens one: the launcher is to look at it.  So it is when ALTER
 * DATABASE ... SET, or ALTER ROLE ALL, turns the daemon on.
 *
 * ALTER EXTENSION ... UPDATE may change what the daemon's processes have looked
 * up: they are woken, and make room for others (evs_daemon_is_outdated()).  After
 * CREATE EXTENSION somebody may listen who did so in vain before.
 *
 * LISTEN for events needs the daemon, which does not know of listeners otherwise.
 *
 * DROP ROLE is refused for roles that evsource acts as, and a rename warned of: see
 * role_guard.c.
 *
 * COPY FROM fires triggers without the executor: what they capture is appended
 * when it is through.  COPY TO reads without it, which not every table allows: see waited.c.
 *
 * REASSIGN OWNED gives captured tables other owners, who are to add partitions: see
 * capture_owners.c.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "capture.h"
#include "crew.h"
#include "listen.h"
#include "role_guard.h"
#include "utility.h"
#include "waited.h"
#include "wakeup.h"

static ProcessUtility_hook_type previous_hook = NULL;

static bool
ends_prepared_transaction(Node *statement)
{
	if (!IsA(statement, TransactionStmt))
		return false;
	switch (((TransactionStmt *) statement)->kind)
	{
		case TRANS_STMT_COMMIT_PREPARED:
		case TRANS_STMT_ROLLBACK_PREPARED:
			return true;
		default:
			return false;
	}
}

static char *
option_value(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst(cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* Which database a command needs for itself, and how it locks it; NULL: none. */
static const char *
needs_database(Node *statement, LOCKMODE *lockmode)
{
	const char *template;

	*lockmode = AccessExclusiveLock;
	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) statement)->dbname;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) statement)->subname;
			break;
		case T_AlterDatabaseStmt:
			if (option_value(((AlterDatabaseStmt *) statement)->options, "tablespace") != NULL)
				return ((AlterDatabaseStmt *) statement)->dbname;
			break;
		case T_CreatedbStmt:
			*lockmode = ShareLock;
			template = option_value(((CreatedbStmt *) statement)->options, "template");
			return template != NULL ? template : "template1";
		default:
			break;
	}
	return NULL;
}

/* A template may be copied by everybody who may create databases. */
static bool
may_copy(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		allowed;

	if (!HeapTupleIsValid(tuple))
		return false;
	allowed = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	if (!allowed)
		return false;

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	allowed = HeapTupleIsValid(tuple) && ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return allowed;
}

/* Ask the daemon out of a database that the command needs for itself. */
static void
clear_database(Node *statement)
{
	LOCKMODE	lockmode;
	const char *name = needs_database(statement, &lockmode);
	Oid			database = name == NULL ? InvalidOid : get_database_oid(name, true);

	if (!OidIsValid(database) || database == MyDatabaseId ||
		!evs_crew_is_in(database) ||
		!(object_ownercheck(DatabaseRelationId, database, GetUserId()) ||
		  (IsA(statement, CreatedbStmt) && may_copy(database))))
		return;
	LockSharedObject(DatabaseRelationId, database, 0, lockmode);
	evs_crew_clear_database(database);
}

/* Is there another version of evsource after this command? */
static bool
changes_us(Node *statement)
{
	const char *name = IsA(statement, AlterExtensionStmt) ? ((AlterExtensionStmt *) statement)->extname :
		IsA(statement, CreateExtensionStmt) ? ((CreateExtensionStmt *) statement)->extname : "";

	return strcmp(name, "evsource") == 0;
}

/* May it turn the daemon on for a database? */
static bool
turns_daemon_on(VariableSetStmt *setting)
{
	const char *value;
	bool		on;

	if (setting->kind == VAR_RESET_ALL)
		return true;
	if (setting->name == NULL || pg_strcasecmp(setting->name, "evsource.daemon") != 0)
		return false;
	/* NULL: the default again; what is no value is an error of the command's */
	value = ExtractSetVariableArgs(setting);
	return value == NULL || (parse_bool(value, &on) && on);
}

/*
 * May the daemon come to a database after this command, and could not before?  To which:
 * NULL is for all.
 */
static bool
opens_database(Node *statement, const char **name)
{
	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
			*name = ((CreatedbStmt *) statement)->dbname;
			return true;
		case T_AlterDatabaseStmt:
			*name = ((AlterDatabaseStmt *) statement)->dbname;
			return option_value(((AlterDatabaseStmt *) statement)->options,
								"allow_connections") != NULL;
		case T_AlterDatabaseSetStmt:
			*name = ((AlterDatabaseSetStmt *) statement)->dbname;
			return turns_daemon_on(((AlterDatabaseSetStmt *) statement)->setstmt);
		case T_AlterRoleSetStmt:
			/* of all roles; those of a single one the daemon does not obey */
			*name = ((AlterRoleSetStmt *) statement)->database;
			return ((AlterRoleSetStmt *) statement)->role == NULL &&
				turns_daemon_on(((AlterRoleSetStmt *) statement)->setstmt);
		default:
			return false;
	}
}

static bool
is_copy_from(Node *statement)
{
	return IsA(statement, CopyStmt) && ((CopyStmt *) statement)->is_from;
}

static void
run(EVS_PROCESS_UTILITY_PARAMETERS)
{
	if (previous_hook)
		previous_hook(EVS_PROCESS_UTILITY_ARGUMENTS);
	else
		standard_ProcessUtility(EVS_PROCESS_UTILITY_ARGUMENTS);
}

static void
run_copy(EVS_PROCESS_UTILITY_PARAMETERS)
{
	evs_capture_statement_begins();
	PG_TRY();
	{
		run(EVS_PROCESS_UTILITY_ARGUMENTS);
	}
	PG_CATCH();
	{
		evs_capture_statement_fails();
		PG_RE_THROW();
	}
	PG_END_TRY();
	evs_capture_statement_ends();
}

static void
process_utility(EVS_PROCESS_UTILITY_PARAMETERS)
{
	Node	   *statement = pstmt->utilityStmt;
	bool		ends_prepared = ends_prepared_transaction(statement);
	const char *opened = NULL;
	bool		opens = opens_database(statement, &opened);

	clear_database(statement);
	evs_role_guard_command(statement);

	if (IsA(statement, CopyStmt))
		evs_waited_before_copy((CopyStmt *) statement);
	if (is_copy_from(statement))
		run_copy(EVS_PROCESS_UTILITY_ARGUMENTS);
	else
		run(EVS_PROCESS_UTILITY_ARGUMENTS);

	if (ends_prepared)
		evs_wakeup_prepared_ended();
	if (changes_us(statement))
		evs_wakeup_changed();
	evs_listen_command(statement);
	if (IsA(statement, ReassignOwnedStmt))
		evs_capture_owners_reassigned();
	if (opens)
	{
		CommandCounterIncrement();
		evs_wakeup_database_opened(opened == NULL ? EVS_ALL_DATABASES :
								   get_database_oid(opened, true));
	}
}

void
evs_utility_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
