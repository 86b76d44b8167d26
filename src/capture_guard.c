/*
 * capture_guard.c - nobody captures with rights that are not theirs.
 *
 * A trigger by hand is registered when it is created (capture_registry.c): for the
 * role that it names, or for the table's owner.  Its creator must be able to act as
 * that role.  PostgreSQL asks for the right to create triggers on the table and to
 * execute the function; this event trigger asks for the rest.  It follows that the
 * right to execute evsource.capture() gives nothing to a role that it does not have
 * anyway: a role that adds partitions may be granted it.
 *
 * The event trigger looks at the triggers that a command has made, not at the
 * command: CREATE SCHEMA may hold CREATE TRIGGER.  What it does not see is not
 * registered, and is refused when it fires.
 *
 * A dump has the records before the triggers, and they stay.  Where it has none (a dump
 * of the schema only, of one table), the triggers are registered as if by hand.
 *
 * A column that a capture excludes keeps its name as long as that: with another, and its
 * name given to another column, it would be captured.
 *
 * Triggers that partitions get from their table are no commands of their own.  What
 * they do not get, a partition that is added gets here (capture_truncate.c).
 */
#include "capture.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "guard.h"
#include "query.h"
#include "relations.h"

PG_FUNCTION_INFO_V1(evsource_guard_captures);

/* The role that would append; InvalidOid when it is not there (yet). */
static Oid
role_asked_for(Oid relid, const EvsCaptureDefinition *definition)
{
	if (definition->as == NULL)
		return evs_relation_owner(relid);
	/* a superuser restores a dump, perhaps before it restores the roles */
	return get_role_oid(definition->as, superuser());
}

static void
check_trigger(Relation table, const Trigger *trigger)
{
	EvsCaptureDefinition definition;
	Oid			relid = RelationGetRelid(table);
	Oid			registered = evs_capture_registered(relid, trigger->tgargs, trigger->tgnargs);
	Oid			role;

	evs_capture_parse(trigger->tgargs, trigger->tgnargs, &definition);
	role = OidIsValid(registered) ? registered : role_asked_for(relid, &definition);
	if (!OidIsValid(role))
		return;
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to capture with the rights of role \"%s\"",
						GetUserNameFromId(role, true)),
				 errdetail("Trigger \"%s\" would append events as that role.", trigger->tgname),
				 errhint("Call evsource.capture_table(): it captures with the rights of its caller.")));
	if (OidIsValid(registered))
		return;
	/* one that a dump brings back may be out of date: it is refused when it fires */
	evs_capture_check_excluded(table, definition.exclude);
	evs_capture_register(relid, trigger->tgargs, trigger->tgnargs, role);
}

/* The capture triggers of a table among those that were created. */
static void
check_table(Oid relid, List *created)
{
	/* whoever created them has it locked */
	Relation	table = table_open(relid, NoLock);

	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &table->trigdesc->triggers[i];

		if (trigger->tgfoid == evs_catalog()->capture && list_member_oid(created, trigger->tgoid))
			check_trigger(table, trigger);
	}
	table_close(table, NoLock);
}

static void
check_created(void)
{
	static EvsQuery find = {
		"select t.oid, t.tgrelid from pg_catalog.pg_event_trigger_ddl_commands() c"
		" join pg_catalog.pg_trigger t on t.oid = c.objid"
		" where c.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass",
		0, {0}, SPI_OK_SELECT
	};
	EvsQueryResult result;
	List	   *created = NIL;
	List	   *tables = NIL;
	ListCell   *cell;

	evs_query_begin(&find, NULL, NULL, InvalidSnapshot, &result);
	for (uint64 row = 0; row < result.count; row++)
	{
		MemoryContext old = MemoryContextSwitchTo(result.context);
		bool		isnull;

		created = lappend_oid(created, DatumGetObjectId(SPI_getbinval(result.rows[row], result.tupdesc, 1, &isnull)));
		tables = list_append_unique_oid(tables, DatumGetObjectId(SPI_getbinval(result.rows[row], result.tupdesc, 2, &isnull)));
		MemoryContextSwitchTo(old);
	}
	evs_query_end(&result);

	foreach(cell, tables)
		check_table(lfirst_oid(cell), created);
}

static bool
alters_table(Node *command, AlterTableType how)
{
	ListCell   *cell;

	if (IsA(command, AlterTableStmt))
		foreach(cell, ((AlterTableStmt *) command)->cmds)
			if (lfirst_node(AlterTableCmd, cell)->subtype == how)
				return true;
	return false;
}

/* Can the command have added a partition to a table?  Most that come here have not. */
static bool
may_add_partition(Node *command)
{
	if (IsA(command, CreateStmt))
		return ((CreateStmt *) command)->partbound != NULL;
	return IsA(command, CreateSchemaStmt) || alters_table(command, AT_AttachPartition);
}

/* What partitions need that are added, and who owns the tables that were changed. */
static void
provide_for_partitions(bool adds)
{
	static EvsQuery find = {
		"select distinct c.objid from pg_catalog.pg_event_trigger_ddl_commands() c"
		" where c.classid = 'pg_catalog.pg_class'::pg_catalog.regclass",
		0, {0}, SPI_OK_SELECT
	};
	ListCell   *cell;

	foreach(cell, evs_query_oids(&find, NULL, NULL))
	{
		if (adds)
			evs_capture_watch_partitions(lfirst_oid(cell));
		evs_capture_let_owners_add_partitions(lfirst_oid(cell));
	}
}

static void
check_not_excluded(Relation table, const char *column)
{
	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &table->trigdesc->triggers[i];
		EvsCaptureDefinition definition;
		ListCell   *cell;

		if (trigger->tgfoid != evs_catalog()->capture)
			continue;
		evs_capture_parse(trigger->tgargs, trigger->tgnargs, &definition);
		foreach(cell, definition.exclude)
			if (strcmp(lfirst(cell), column) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("cannot rename column \"%s\" of captured table \"%s\"",
								column, RelationGetRelationName(table)),
						 errdetail("Trigger \"%s\" excludes the column by its name. Under another name its values would be stored in events, which are never changed.",
								   trigger->tgname),
						 errhint("In one transaction, end the capture with evsource.release_table(), rename the column, and capture the table again.")));
	}
}

static void
check_heirs(Oid relid, const char *column)
{
	ListCell   *cell;

	foreach(cell, find_all_inheritors(relid, NoLock, NULL))
	{
		Relation	table = relation_open(lfirst_oid(cell), NoLock);

		check_not_excluded(table, column);
		relation_close(table, NoLock);
	}
}

/* The tables whose columns are the attributes of a type. */
static List *
typed_tables(Oid relid)
{
	static EvsQuery find = {
		"select oid from pg_catalog.pg_class where reloftype = $1",
		1, {OIDOID}, SPI_OK_SELECT
	};
	Datum		type = ObjectIdGetDatum(get_rel_type_id(relid));

	return evs_query_oids(&find, &type, NULL);
}

/* The column has its new name already, also where it is inherited. */
static void
check_renamed(const RenameStmt *command)
{
	Oid			relid = RangeVarGetRelid(command->relation, NoLock, true);
	ListCell   *cell;

	if (!OidIsValid(relid))
		return;
	if (command->renameType == OBJECT_COLUMN)
		check_heirs(relid, command->subname);
	else
		foreach(cell, typed_tables(relid))
			check_heirs(lfirst_oid(cell), command->subname);
}

static bool
renames_column(Node *command)
{
	return IsA(command, RenameStmt) &&
		(((RenameStmt *) command)->renameType == OBJECT_COLUMN ||
		 ((RenameStmt *) command)->renameType == OBJECT_ATTRIBUTE);
}

/*
 * evsource._guard_captures() returns event_trigger, after commands that create
 * triggers or partitions, rename columns or change owners, and those that drop triggers or tables.
 *
 * Errors: 42501, 22023 for arguments that evsource.capture does not take, and 42703
 * for an excluded column that is not there; 55000 when one is renamed.
 */
Datum
evsource_guard_captures(PG_FUNCTION_ARGS)
{
	EventTriggerData *data = evs_guard_event(fcinfo, "the event triggers of evsource");

	if (!evs_catalog_exists())
		PG_RETURN_NULL();
	if (strcmp(data->event, "sql_drop") == 0)
		evs_capture_forget_dropped();
	else
	{
		bool		adds = may_add_partition(data->parsetree);

		if (adds || alters_table(data->parsetree, AT_ChangeOwner))
			provide_for_partitions(adds);
		if (renames_column(data->parsetree))
			check_renamed((RenameStmt *) data->parsetree);
		if (!IsA(data->parsetree, CreateStmt) && !IsA(data->parsetree, AlterTableStmt))
			check_created();
	}
	PG_RETURN_NULL();
}
