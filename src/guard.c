/*
 * guard.c - refuse to drop a log that holds events, unless
 * evsource.allow_drop is on.
 *
 * Whatever drops the extension (DROP EXTENSION, with or without CASCADE, DROP
 * SCHEMA, DROP OWNED, DROP EXTENSION plpgsql CASCADE) drops evsource.events
 * before it drops the extension itself, and PostgreSQL tells the object access
 * hook before each object that it drops.  At that moment the table is whole and
 * held by AccessExclusiveLock: who appends has either committed or not begun.
 * So this one place sees all routes, and looks at the table and not at the
 * command.
 *
 * A session that has not used evsource yet has not loaded this library and has
 * no hook.  The event trigger evsource_guard_log (guard.sql) calls a function here
 * when a command starts that may drop the extension: the call loads the library.
 *
 * The same event trigger comes before DROP OWNED, for what it would stumble over.
 * Before DROP EXTENSION evsource, DROP SCHEMA evsource CASCADE and DROP OWNED BY its
 * owner it refuses what is to be refused before anybody has to wait; before these
 * and ALTER EXTENSION ... UPDATE it asks the daemon to leave, for a handler may take
 * its time with locks on what is dropped or altered.  A drop then waits for
 * those who work on projections in sessions of their own.  A handler may run in the daemon, and
 * would end its own process again and again: so none of these is for handlers.
 * And it refuses to rename the schema and what is in it, to make a table unlogged, and to move
 * one elsewhere.
 *
 * The same hook sees each parent that a table gets, by INHERITS, INHERIT or as a
 * partition.  A table of evsource gets none and becomes none: what is done to the parent
 * is done to its children, too, but the triggers of statements are asked for the parent
 * only, and those of evsource keep events as they are, dispatch them, and tell sessions of
 * changes.  For this the event trigger comes before the commands that make inheritance.
 *
 * Only the tables that belong to the extension are guarded: after ALTER
 * EXTENSION evsource DROP TABLE a table's owner may do anything with it.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "commands/user.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "crew.h"
#include "dispatch.h"
#include "guard.h"
#include "rebuild_row.h"
#include "registry.h"
#include "settings.h"
#include "shadow.h"

PG_FUNCTION_INFO_V1(evsource_guard_log);

/* the error says how many events there are, as far as this */
#define COUNT_UP_TO 1000

static object_access_hook_type previous_hook = NULL;

/* Is this one in schema evsource, and a member of our extension? */
static bool
is_our_relation(Oid relid)
{
	char	   *schema = get_namespace_name(get_rel_namespace(relid));
	Oid			extension;

	if (schema == NULL || strcmp(schema, "evsource") != 0)
		return false;
	extension = get_extension_oid("evsource", true);
	return OidIsValid(extension) &&
		getExtensionOfObject(RelationRelationId, relid) == extension;
}

static bool
is_ours(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_RELATION && is_our_relation(relid);
}

static bool
is_the_log(Oid relid)
{
	char	   *name = get_rel_name(relid);

	return name != NULL && strcmp(name, "events") == 0 && is_ours(relid);
}

/*
 * How many events, but no more than COUNT_UP_TO + 1.  Its indexes may be gone
 * already, and policies do not count: the heap is asked.
 */
static int
count_events(Oid relid)
{
	Relation	events = table_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(events, snapshot, 0, NULL, SO_NONE);
	TupleTableSlot *slot = table_slot_create(events, NULL);
	int			count = 0;

	while (count <= COUNT_UP_TO && table_scan_getnextslot(scan, ForwardScanDirection, slot))
		count++;

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(events, NoLock);
	return count;
}

static void
refuse_to_drop_events(Oid relid)
{
	int			count = count_events(relid);

	if (count == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot drop extension evsource because its log holds events"),
			 count <= COUNT_UP_TO ?
			 errdetail_plural("There is %d event in evsource.events.",
							  "There are %d events in evsource.events.", count, count) :
			 errdetail("There are more than %d events in evsource.events.", COUNT_UP_TO),
			 errhint("Save them with pg_dump if you need them; then SET evsource.allow_drop = on, and drop the extension again.")));
}

/* Has the command that is running made this the child's parent, or taken that back? */
static bool
is_parent_now(Oid child, Oid parent)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(child));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, SnapshotSelf, 1, &key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent == parent;
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return found;
}

static void
refuse_inheritance(Oid child, Oid parent)
{
	bool		as_child = is_ours(child);

	if ((!as_child && !is_ours(parent)) || !is_parent_now(child, parent))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("table evsource.%s cannot be part of an inheritance tree or a partition",
					get_rel_name(as_child ? child : parent)),
			 as_child ?
			 errdetail("Statements on table \"%s\" would reach its rows, and pass by its triggers.",
					   get_rel_name(parent)) :
			 errdetail("The other table's rows would appear in it."),
			 errhint("To read both tables together, create a view with UNION ALL.")));
}

static void
refuse_handlers(bool drops)
{
	evs_dispatch_refuse(drops ? "drop extension evsource" : "alter extension evsource",
						"It may run in a process of the daemon, which has to leave first, and would come back to it.",
						drops ? "Drop the extension in a session of its own." :
						"Alter the extension in a session of its own.");
}

static void
check_may_drop(Oid events)
{
	if (IsBinaryUpgrade || !is_the_log(events))
		return;
	refuse_handlers(true);
	if (!evs_allow_drop)
		refuse_to_drop_events(events);
}

/* Called before any object is dropped and when a table gets or loses a parent, among other occasions. */
static void
object_access(ObjectAccessType access, Oid class, Oid object, int subobject, void *arg)
{
	if (previous_hook)
		previous_hook(access, class, object, subobject, arg);

	if (access == OAT_DROP && class == RelationRelationId && subobject == 0)
		check_may_drop(object);
	if (access == OAT_POST_ALTER && class == InheritsRelationId && !IsBinaryUpgrade)
		refuse_inheritance(object, ((ObjectAccessPostAlter *) arg)->auxiliary_id);
}

/* By its own name, or that of its schema. */
static bool
drops_by_name(const DropStmt *drop)
{
	ListCell   *cell;

	if (drop->removeType != OBJECT_EXTENSION &&
		(drop->removeType != OBJECT_SCHEMA || drop->behavior != DROP_CASCADE))
		return false;
	foreach(cell, drop->objects)
	{
		if (strcmp(strVal(lfirst(cell)), "evsource") == 0)
			return true;
	}
	return false;
}

static bool
drops_by_owner(const DropOwnedStmt *drop)
{
	Oid			extension = get_extension_oid("evsource", false);
	ListCell   *cell;

	foreach(cell, roleSpecsToIds(drop->roles))
	{
		if (object_ownercheck(ExtensionRelationId, extension, lfirst_oid(cell)))
			return true;
	}
	return false;
}

static bool
drops_extension(Node *statement)
{
	if (IsA(statement, DropStmt))
		return drops_by_name((DropStmt *) statement);
	return IsA(statement, DropOwnedStmt) && drops_by_owner((DropOwnedStmt *) statement);
}

static bool
updates_extension(Node *statement)
{
	return IsA(statement, AlterExtensionStmt) &&
		strcmp(((AlterExtensionStmt *) statement)->extname, "evsource") == 0;
}

static const char *
kind_of(Oid relid)
{
	switch (get_rel_relkind(relid))
	{
		case RELKIND_SEQUENCE:
			return "sequence";
		case RELKIND_VIEW:
			return "view";
		default:
			return "table";
	}
}

/* Everything in it names it: functions, and what the guard itself looks for. */
static void
refuse_to_rename_schema(const char *name)
{
	bool		is_shadow = evs_shadow_is_name(name) &&
		getExtensionOfObject(NamespaceRelationId, get_namespace_oid(name, true)) ==
		get_extension_oid("evsource", false);

	if (!is_shadow && strcmp(name, "evsource") != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot rename schema %s", quote_identifier(name)),
			 is_shadow ?
			 errdetail("A rebuild has built what is in it or keeps it, and evsource drops it by that name.") :
			 errdetail("The functions of extension evsource find its tables by that name."),
			 is_shadow ?
			 errhint("To keep the rows of its tables, copy them: CREATE TABLE ... AS TABLE ...") :
			 errhint("To use the name for something else, drop the extension first.")));
}

static void
refuse_to_rename_relation(Oid relid)
{
	if (!is_our_relation(relid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s evsource.%s cannot be renamed", kind_of(relid), get_rel_name(relid)),
			 errdetail("The functions of extension evsource find it by that name."),
			 errhint("To read it by another name, create a view.")));
}

static void
refuse_to_rename(Node *statement)
{
	const RenameStmt *rename = (RenameStmt *) statement;

	if (!IsA(statement, RenameStmt))
		return;
	if (rename->renameType == OBJECT_SCHEMA)
		refuse_to_rename_schema(rename->subname);
	else if ((rename->renameType == OBJECT_TABLE || rename->renameType == OBJECT_SEQUENCE ||
			  rename->renameType == OBJECT_VIEW) && !creating_extension)
		refuse_to_rename_relation(RangeVarGetRelid(rename->relation, NoLock, true));
}

/* A crash would empty it, or begin it anew. */
static void
refuse_to_unlog(Node *statement)
{
	const AlterTableStmt *alter = (AlterTableStmt *) statement;
	ListCell   *cell;

	if (!IsA(statement, AlterTableStmt))
		return;
	foreach(cell, alter->cmds)
	{
		Oid			relid;

		if (lfirst_node(AlterTableCmd, cell)->subtype != AT_SetUnLogged)
			continue;
		relid = RangeVarGetRelid(alter->relation, NoLock, true);
		if (is_our_relation(relid))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s evsource.%s cannot be unlogged", kind_of(relid), get_rel_name(relid)),
					 errdetail("A crash of the server would empty it."),
					 errhint("Where the last commits may be lost in a crash, set synchronous_commit to off.")));
	}
}

/*
 * What belongs to the extension is found by its name.  The tables of a rebuild belong to it,
 * too, whoever owns them: elsewhere nobody would drop them, nor could their owner.
 */
static void
refuse_to_move(Node *statement)
{
	const AlterObjectSchemaStmt *move = (AlterObjectSchemaStmt *) statement;
	Oid			relid;
	char	   *schema;
	char	   *name;

	if (!IsA(statement, AlterObjectSchemaStmt) || move->relation == NULL || creating_extension)
		return;
	relid = RangeVarGetRelid(move->relation, NoLock, true);
	if (!OidIsValid(relid) ||
		getExtensionOfObject(RelationRelationId, relid) != get_extension_oid("evsource", false))
		return;
	schema = get_namespace_name(get_rel_namespace(relid));
	/* not a table that somebody has added to the extension */
	if (strcmp(schema, "evsource") != 0 && !evs_shadow_is_name(schema))
		return;
	name = quote_qualified_identifier(schema, get_rel_name(relid));
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s %s cannot be moved to another schema", kind_of(relid), name),
			 evs_shadow_is_name(schema) ?
			 errdetail("A rebuild has built it or keeps it, and evsource drops it with its schema.") :
			 errdetail("The functions of extension evsource find it by that name."),
			 evs_shadow_is_name(schema) ?
			 errhint("To keep its rows, copy them: CREATE TABLE ... AS TABLE %s.", name) :
			 errhint("To read it by another name, create a view.")));
}

static bool
owns_extension(void)
{
	return object_ownercheck(ExtensionRelationId, get_extension_oid("evsource", false),
							 GetUserId());
}

/*
 * DROP OWNED BY an owner of tables: what a rebuild has built or kept for that
 * role is the extension's, and would be in the way.
 */
static void
drop_rebuilds(Node *statement)
{
	List	   *roles;
	ListCell   *cell;

	if (!IsA(statement, DropOwnedStmt))
		return;
	roles = roleSpecsToIds(((DropOwnedStmt *) statement)->roles);
	foreach(cell, roles)
		if (!has_privs_of_role(GetUserId(), lfirst_oid(cell)))
			return;
	evs_rebuild_forget_owned(roles);
}

/* Those who work hold these, or some of them, and in no certain order. */
typedef struct WorkLock
{
	LOCKTAG		tag;
	LOCKMODE	mode;
} WorkLock;

/* The log, and of each projection its rebuild's lock and its name. */
static WorkLock *
list_locks(int *count)
{
	Oid			events = get_relname_relid("events", get_namespace_oid("evsource", true));
	List	   *names = evs_registry_all_names();
	WorkLock   *locks;
	int			n = 0;
	ListCell   *cell;

	locks = palloc(sizeof(WorkLock) * (1 + 2 * list_length(names)));
	if (OidIsValid(events))
	{
		SET_LOCKTAG_RELATION(locks[n].tag, MyDatabaseId, events);
		locks[n++].mode = AccessExclusiveLock;
	}
	foreach(cell, names)
	{
		evs_rebuild_locktag(&locks[n].tag, lfirst(cell));
		locks[n++].mode = ExclusiveLock;
		evs_registry_locktag(&locks[n].tag, lfirst(cell));
		locks[n++].mode = ExclusiveLock;
	}
	*count = n;
	return locks;
}

/*
 * Wait for the first, in the queue, and take what is free of the others.  Returns how
 * many it got: all, or up to one that somebody has; then none is kept.
 */
static int
take_locks(const WorkLock *locks, int count, int first)
{
	int			got = 0;

	(void) LockAcquire(&locks[first].tag, locks[first].mode, false, false);
	while (got < count &&
		   (got == first ||
			LockAcquire(&locks[got].tag, locks[got].mode, false, true) != LOCKACQUIRE_NOT_AVAIL))
		got++;
	if (got < count)
	{
		for (int i = 0; i < got; i++)
			if (i != first)
				(void) LockRelease(&locks[i].tag, locks[i].mode, false);
		(void) LockRelease(&locks[first].tag, locks[first].mode, false);
	}
	return got;
}

/*
 * Wait for those who append and who run, rebuild or change a projection, while nothing
 * is held that they may need before they end.  Who does so in several transactions
 * has no time for the next one: we are in the queue already, and keep all to the end.
 */
static void
wait_for_work(void)
{
	int			count;
	WorkLock   *locks = list_locks(&count);
	int			missing = 0;

	while (missing < count)
	{
		CHECK_FOR_INTERRUPTS();
		missing = take_locks(locks, count, missing);
	}
}

void
evs_guard_check_there(const char *name)
{
	AcceptInvalidationMessages();
	if (!evs_catalog_exists())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", name),
				 errdetail("Extension evsource was dropped while its projections were waited for."),
				 errhint("Create the extension and the projection again.")));
}

EventTriggerData *
evs_guard_event(FunctionCallInfo fcinfo, const char *triggers)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called as an event trigger",
						get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("It is for %s only.", triggers)));
	return (EventTriggerData *) fcinfo->context;
}

TriggerData *
evs_guard_trigger(FunctionCallInfo fcinfo, const char *triggers)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called as a trigger",
						get_func_name(fcinfo->flinfo->fn_oid)),
				 errhint("It is for %s only.", triggers)));
	return (TriggerData *) fcinfo->context;
}

/*
 * evsource._guard_log() returns event_trigger: that it is called is most of what it
 * is for, see the top of this file.
 */
Datum
evsource_guard_log(PG_FUNCTION_ARGS)
{
	Node	   *statement;
	bool		drops;

	statement = evs_guard_event(fcinfo, "the event trigger evsource_guard_log")->parsetree;
	refuse_to_rename(statement);
	refuse_to_unlog(statement);
	refuse_to_move(statement);
	drop_rebuilds(statement);
	drops = drops_extension(statement);
	if ((drops || updates_extension(statement)) && owns_extension())
	{
		refuse_handlers(drops);
		if (drops)
			check_may_drop(get_relname_relid("events", get_namespace_oid("evsource", true)));
		evs_crew_make_room();
		if (drops)
			wait_for_work();
	}
	PG_RETURN_NULL();
}

void
evs_guard_init(void)
{
	previous_hook = object_access_hook;
	object_access_hook = object_access;
}
