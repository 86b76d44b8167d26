/*
 * catalog.c - the OIDs of evsource's own objects.
 *
 * Looked up by name at first use and kept until any relation among them is
 * invalidated in a way that may mean it is gone: DROP and CREATE EXTENSION give
 * new OIDs to the same names.
 */
#include "evsource.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "event.h"
#include "relations.h"

static EvsCatalog catalog;
static bool catalog_valid = false;
static TupleDesc event_tupdesc = NULL;
static bool event_tupdesc_valid = false;

static Oid
find_relation(Oid schema, const char *name)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"evsource.%s\" does not exist", name),
				 errdetail("The library evsource does not find its own relations in this database."),
				 errhint("If it was renamed or dropped, undo that; do not drop the extension, the log would go with it. If the library is newer than the extension, run ALTER EXTENSION evsource UPDATE.")));
	return relid;
}

void
evs_catalog_no_column(const char *table, const char *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of relation \"evsource.%s\" does not exist", column, table),
			 errdetail("The library evsource is newer than its objects in this database."),
			 errhint("Update them with ALTER EXTENSION evsource UPDATE.")));
}

/*
 * Rows of the log are read and written without the executor, so its columns must
 * be what they were made: their owner can alter them.
 */
static void
check_events(Oid events)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			columns[EVS_EVENTS_NATTS] = {
		{"position", INT8OID}, {"version", INT8OID}, {"recorded_at", TIMESTAMPTZOID},
		{"stream", TEXTOID}, {"type", TEXTOID}, {"data", JSONBOID}, {"metadata", JSONBOID},
		{"id", UUIDOID}, {"occurred_at", TIMESTAMPTZOID}, {"schema_version", INT2OID}
	};

	for (int i = 0; i < EVS_EVENTS_NATTS; i++)
	{
		HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(events), Int16GetDatum(i + 1));
		Form_pg_attribute column;

		if (!HeapTupleIsValid(tuple))
			evs_catalog_no_column("events", columns[i].name);
		column = (Form_pg_attribute) GETSTRUCT(tuple);
		if (column->attisdropped || column->atttypid != columns[i].type)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("column \"%s\" of relation \"evsource.events\" has been altered", columns[i].name),
					 column->attisdropped ?
					 errdetail("It was dropped.") :
					 errdetail("It has type %s, not %s.", format_type_be(column->atttypid),
							   format_type_be(columns[i].type)),
					 errhint("Undo the change. A column that was dropped comes back only when the table is restored from a dump.")));
		ReleaseSysCache(tuple);
	}
}

/* A trigger function takes no arguments, so name and schema identify it. */
static Oid
find_trigger_function(Oid schema, const char *name)
{
	oidvector  *no_arguments = buildoidvector(NULL, 0);

	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(name), PointerGetDatum(no_arguments),
						   ObjectIdGetDatum(schema));
}

/* Does this database have the extension's tables? */
bool
evs_catalog_exists(void)
{
	Oid			schema;

	if (catalog_valid)
		return true;
	schema = get_namespace_oid("evsource", true);
	return OidIsValid(schema) && OidIsValid(get_relname_relid("events", schema));
}

/* Not from the OIDs: these cannot be had while a column of the log is altered. */
Oid
evs_catalog_owner(void)
{
	return evs_relation_owner(find_relation(get_namespace_oid("evsource", false), "projections"));
}

/* The OIDs; an error (3F000, 42P01) when the extension is not there. */
const EvsCatalog *
evs_catalog(void)
{
	EvsCatalog	fresh;

	if (catalog_valid)
		return &catalog;

	fresh.schema = get_namespace_oid("evsource", false);
	fresh.events = find_relation(fresh.schema, "events");
	check_events(fresh.events);
	fresh.events_pkey = find_relation(fresh.schema, "events_pkey");
	fresh.events_stream = find_relation(fresh.schema, "events_stream_version_key");
	fresh.events_category = find_relation(fresh.schema, "events_category_idx");
	fresh.events_id = find_relation(fresh.schema, "events_id_key");
	fresh.position_seq = find_relation(fresh.schema, "position_seq");
	fresh.timeline_seq = find_relation(fresh.schema, "timeline_seq");
	fresh.restored_seq = find_relation(fresh.schema, "restored_seq");
	fresh.projections = find_relation(fresh.schema, "projections");
	fresh.event_types = find_relation(fresh.schema, "event_types");
	fresh.event_type_changes = find_relation(fresh.schema, "event_type_changes");
	fresh.snapshots = find_relation(fresh.schema, "snapshots");
	fresh.snapshots_pkey = find_relation(fresh.schema, "snapshots_pkey");
	fresh.snapshot_parts = find_relation(fresh.schema, "snapshot_parts");
	fresh.snapshot_parts_pkey = find_relation(fresh.schema, "snapshot_parts_pkey");
	fresh.snapshot_removals = find_relation(fresh.schema, "snapshot_removals");
	fresh.snapshot_removals_pkey = find_relation(fresh.schema, "snapshot_removals_pkey");
	fresh.store = find_relation(fresh.schema, "store");
	fresh.published = find_relation(fresh.schema, "published");
	fresh.followed = find_relation(fresh.schema, "followed");
	fresh.event_type = get_rel_type_id(find_relation(fresh.schema, "event"));
	fresh.event_array_type = get_array_type(fresh.event_type);
	fresh.deciders = find_relation(fresh.schema, "deciders");
	fresh.commands = find_relation(fresh.schema, "commands");
	fresh.commands_pkey = find_relation(fresh.schema, "commands_pkey");
	fresh.new_event_type = get_rel_type_id(find_relation(fresh.schema, "new_event"));
	fresh.new_event_array_type = get_array_type(fresh.new_event_type);
	fresh.command_result = get_rel_type_id(find_relation(fresh.schema, "command_result"));
	fresh.append_result = get_rel_type_id(find_relation(fresh.schema, "append_result"));
	fresh.append_batch_result = get_rel_type_id(find_relation(fresh.schema, "append_batch_result"));
	fresh.intake_begin = find_trigger_function(fresh.schema, "_intake_begin");
	fresh.intake_row = find_trigger_function(fresh.schema, "_intake_row");
	fresh.intake_end = find_trigger_function(fresh.schema, "_intake_end");
	fresh.replicated_row = find_trigger_function(fresh.schema, "_replicated_row");
	fresh.subscriptions = find_relation(fresh.schema, "subscriptions");
	fresh.subscriptions_pkey = find_relation(fresh.schema, "subscriptions_pkey");
	fresh.cursors = find_relation(fresh.schema, "cursors");
	fresh.cursors_pkey = find_relation(fresh.schema, "cursors_pkey");
	fresh.letters = find_relation(fresh.schema, "subscription_dead_letters");
	fresh.letters_pkey = find_relation(fresh.schema, "subscription_dead_letters_pkey");
	fresh.letters_retry = find_relation(fresh.schema, "subscription_dead_letters_retry_idx");
	fresh.captures = find_relation(fresh.schema, "captures");
	fresh.capture = find_trigger_function(fresh.schema, "capture");
	fresh.capture_partition = find_trigger_function(fresh.schema, "_capture_partition");

	catalog = fresh;
	catalog_valid = true;
	return &catalog;
}

Relation
evs_catalog_open(Oid relid, LOCKMODE lockmode)
{
	LockRelationOid(relid, lockmode);
	/* with the lock we have heard of who has dropped it */
	if (!catalog_valid && !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("extension \"evsource\" has been dropped"),
				 errdetail("Another session has dropped it while this one waited."),
				 errhint("If it has been created again, call again.")));
	return table_open(relid, NoLock);
}

/*
 * The descriptor of evsource.event, with its type's name, not reference-counted.
 * It stays where it is as long as the type is the same: somebody may be using it.
 */
TupleDesc
evs_event_tupdesc(void)
{
	TupleDesc	fresh;

	if (event_tupdesc_valid)
		return event_tupdesc;

	fresh = lookup_rowtype_tupdesc(evs_catalog()->event_type, -1);
	if (event_tupdesc == NULL || !equalTupleDescs(event_tupdesc, fresh))
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		event_tupdesc = CreateTupleDescCopy(fresh);
		MemoryContextSwitchTo(old);
	}
	ReleaseTupleDesc(fresh);
	event_tupdesc_valid = true;
	return event_tupdesc;
}

static void
forget_catalog(void)
{
	catalog_valid = false;
	event_tupdesc_valid = false;
}

static void
relation_changed(Datum arg, Oid relid)
{
	if (!catalog_valid)
		return;
	if (relid == InvalidOid ||
		relid == catalog.events || relid == catalog.events_pkey ||
		relid == catalog.events_stream || relid == catalog.events_category ||
		relid == catalog.events_id || relid == catalog.position_seq ||
		relid == catalog.timeline_seq || relid == catalog.restored_seq ||
		relid == catalog.projections || relid == catalog.event_types ||
		relid == catalog.event_type_changes ||
		relid == catalog.deciders || relid == catalog.commands ||
		relid == catalog.commands_pkey ||
		relid == catalog.snapshots || relid == catalog.snapshots_pkey ||
		relid == catalog.snapshot_parts ||
		relid == catalog.snapshot_parts_pkey || relid == catalog.store ||
		relid == catalog.subscriptions || relid == catalog.subscriptions_pkey ||
		relid == catalog.cursors || relid == catalog.cursors_pkey ||
		relid == catalog.letters || relid == catalog.letters_pkey ||
		relid == catalog.letters_retry ||
		relid == catalog.published || relid == catalog.followed ||
		relid == catalog.captures)
		forget_catalog();
}

static void
namespace_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	forget_catalog();
}

void
evs_catalog_init(void)
{
	evs_relations_watch(relation_changed);
	CacheRegisterSyscacheCallback(NAMESPACEOID, namespace_changed, (Datum) 0);
}
