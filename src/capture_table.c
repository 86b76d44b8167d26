/*
 * capture_table.c - create and drop the triggers that capture a table.
 *
 * A capture is its triggers, and the record of who has registered it
 * (capture_registry.c):
 *
 *	evsource_capture			after each row: captures it
 *	evsource_capture_truncate	after TRUNCATE: captures that
 *	evsource_capture_begin		before a statement: loads the library
 *	evsource_capture_partition	on partitions, the same, and captures TRUNCATE (capture_truncate.c)
 *
 * They are created as the caller, who needs the right to do so (TRIGGER on the
 * table), and is registered as the one who appends.  Creating them takes
 * ShareRowExclusiveLock, dropping them AccessExclusiveLock; writers wait for either
 * until the transaction ends: so a backfill in the same transaction finds every row
 * that the triggers do not see.
 */
#include "capture.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "identity.h"
#include "parameters.h"
#include "query.h"
#include "text_array.h"

PG_FUNCTION_INFO_V1(evsource_capture_table);
PG_FUNCTION_INFO_V1(evsource_release_table);

static const char *const triggers[][3] = {
	{"evsource_capture", "after insert or update or delete", "row"},
	{"evsource_capture_truncate", "after truncate", "statement"},
	{"evsource_capture_begin", "before insert or update or delete or truncate", "statement"},
};

/* Called with the table that a name means, before it is locked. */
static void
check_may_capture(const RangeVar *name, Oid relid, Oid old_relid, void *arg)
{
	AclResult	result;

	if (!OidIsValid(relid))
		return;
	result = pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, get_relkind_objtype(get_rel_relkind(relid)), name->relname);
}

static char *
required_text(FunctionCallInfo fcinfo, int argument, const char *name)
{
	evs_argument_require(fcinfo, argument, name);
	return evs_argument_text(fcinfo, argument);
}

static RangeVar *
table_argument(FunctionCallInfo fcinfo)
{
	char	   *name = required_text(fcinfo, 0, "table_name");

	return makeRangeVarFromNameList(stringToQualifiedNameList(name, NULL));
}

static Relation
open_table(const RangeVar *name, LOCKMODE lock, RangeVarGetRelidCallback check)
{
	return relation_open(RangeVarGetRelidExtended(name, lock, 0, check, NULL), NoLock);
}

static void
check_kind(Relation table)
{
	if (table->rd_rel->relkind != RELKIND_RELATION &&
		table->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", RelationGetRelationName(table)),
				 errhint("Rows of tables can be captured, partitioned or not.")));
	if (RelationGetNamespace(table) == evs_catalog()->schema || IsSystemRelation(table))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("table \"%s\" cannot be captured", RelationGetRelationName(table)),
				 errdetail("It belongs to evsource or to PostgreSQL itself."),
				 errhint("Capture tables of your own.")));
}

/* The names in an array argument; NIL when it is NULL. */
static List *
names_of(FunctionCallInfo fcinfo, int argument, const char *what)
{
	return PG_ARGISNULL(argument) ? NIL :
		evs_text_array_parameter_names(PG_GETARG_ARRAYTYPE_P(argument), what);
}

/* Each name is that of a column, once. */
static void
check_columns(Relation table, List *names)
{
	for (int i = 0; i < list_length(names); i++)
	{
		const char *name = list_nth(names, i);

		if (get_attnum(RelationGetRelid(table), name) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" does not exist", name, RelationGetRelationName(table)),
					 errhint("Name columns of the table, without quotes.")));
		if (strncmp(name, "--", 2) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" cannot be named for capture", name),
					 errdetail("Words that begin with \"--\" have a meaning of their own among a trigger's arguments."),
					 errhint("Rename the column.")));
		for (int other = 0; other < i; other++)
			if (strcmp(list_nth(names, other), name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" is named twice", name),
						 errhint("Name each column once.")));
	}
}

/* The columns of the primary key, in its order. */
static List *
primary_key(Relation table)
{
	List	   *indexes = RelationGetIndexList(table);
	List	   *names = NIL;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(cell));
		index = (Form_pg_index) GETSTRUCT(tuple);
		for (int i = 0; index->indisprimary && i < index->indnkeyatts; i++)
			names = lappend(names, get_attname(RelationGetRelid(table), index->indkey.values[i], false));
		ReleaseSysCache(tuple);
	}
	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(table)),
				 errdetail("A row is captured into the stream that its key names."),
				 errhint("Name the key: evsource.capture_table(..., key_columns => array['...']).")));
	return names;
}

/* A trigger of the table that captures its rows; NULL if there is none. */
static Trigger *
capture_trigger(Relation table)
{
	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &table->trigdesc->triggers[i];

		if (trigger->tgfoid == evs_catalog()->capture && TRIGGER_FOR_ROW(trigger->tgtype))
			return trigger;
	}
	return NULL;
}

/* By any of its captures. */
static bool
is_captured_into(Relation table, const char *category)
{
	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &table->trigdesc->triggers[i];

		if (trigger->tgfoid == evs_catalog()->capture && TRIGGER_FOR_ROW(trigger->tgtype) &&
			trigger->tgnargs > 0 && strcmp(trigger->tgargs[0], category) == 0)
			return true;
	}
	return false;
}

static char *
qualified_name(Relation table)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(table)),
									  RelationGetRelationName(table));
}

/* The arguments of the triggers; returns how many. */
static int
arguments_of(const EvsCaptureDefinition *definition, char ***arguments)
{
	List	   *words = list_make1(unconstify(char *, definition->category));
	ListCell   *cell;
	int			count = 0;

	words = list_concat(words, definition->key);
	if (definition->exclude != NIL)
		words = list_concat(lappend(words, EVS_CAPTURE_EXCLUDE), definition->exclude);
	words = lappend(lappend(words, EVS_CAPTURE_AS), unconstify(char *, definition->as));

	*arguments = palloc(list_length(words) * sizeof(char *));
	foreach(cell, words)
		(*arguments)[count++] = lfirst(cell);
	return count;
}

/* A partition whose trigger is disabled, or NULL. */
static char *
disabled_partition(Relation table)
{
	static EvsQuery find = {
		"select pg_catalog.format('%I.%I', n.nspname, c.relname)"
		" from pg_catalog.pg_partition_tree($1) p join pg_catalog.pg_class c on c.oid = p.relid"
		" join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
		" join pg_catalog.pg_trigger t on t.tgrelid = c.oid"
		" where p.level > 0 and t.tgfoid = $2 and t.tgenabled = 'D' order by 1 limit 1",
		2, {REGCLASSOID, OIDOID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		ObjectIdGetDatum(RelationGetRelid(table)), ObjectIdGetDatum(evs_catalog()->capture)
	};
	List	   *names = table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		evs_query_texts(&find, values, NULL) : NIL;

	return names == NIL ? NULL : linitial(names);
}

/* Is it captured by these triggers and no others, with the rights of who asks? */
static bool
is_captured_so(Relation table, const EvsCaptureDefinition *definition)
{
	char	  **arguments;
	int			count = arguments_of(definition, &arguments);
	int			found = 0;
	int			same = 0;

	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &table->trigdesc->triggers[i];

		if (trigger->tgfoid != evs_catalog()->capture)
			continue;
		found++;
		for (int name = 0; name < lengthof(triggers); name++)
			same += strcmp(trigger->tgname, triggers[name][0]) == 0 &&
				trigger->tgenabled != TRIGGER_DISABLED &&
				evs_capture_has_arguments(trigger, arguments, count);
	}
	return found == lengthof(triggers) && same == found && disabled_partition(table) == NULL &&
		evs_capture_registered(RelationGetRelid(table), arguments, count) == GetUserId();
}

/*
 * When the triggers are to fire: as those whose place they take, unless these are
 * disabled.  The one that helps them fires always.
 */
static void
choose_states(Relation table, char *states)
{
	memset(states, TRIGGER_FIRES_ON_ORIGIN, lengthof(triggers));
	states[2] = TRIGGER_FIRES_ALWAYS;
	for (int i = 0; table->trigdesc != NULL && i < table->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &table->trigdesc->triggers[i];

		if (trigger->tgfoid == evs_catalog()->capture && trigger->tgenabled != TRIGGER_DISABLED &&
			!TRIGGER_FOR_BEFORE(trigger->tgtype))
			states[TRIGGER_FOR_ROW(trigger->tgtype) ? 0 : 1] = trigger->tgenabled;
	}
}

/* The record first: it is looked for when a trigger is created. */
static void
create_triggers(Relation table, const EvsCaptureDefinition *definition, const char *states)
{
	StringInfoData list;
	char	  **arguments;
	int			count = arguments_of(definition, &arguments);

	evs_capture_register(RelationGetRelid(table), arguments, count, GetUserId());
	initStringInfo(&list);
	for (int i = 0; i < count; i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", quote_literal_cstr(arguments[i]));
	for (int i = 0; i < lengthof(triggers); i++)
		evs_query_command(psprintf("create trigger %s %s on %s for each %s execute function evsource.capture(%s)",
								   triggers[i][0], triggers[i][1], qualified_name(table),
								   triggers[i][2], list.data));
	for (int i = 0; i < lengthof(triggers); i++)
		if (states[i] != TRIGGER_FIRES_ON_ORIGIN)
			evs_capture_set_state(table, triggers[i][0], states[i]);
}

/* What a capture needs beyond its triggers, and may lack after a while. */
static void
provide_for_partitions(Relation table)
{
	evs_capture_watch_partitions(RelationGetRelid(table));
	if (table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		evs_capture_let_owners_add_partitions(RelationGetRelid(table));
}

/*
 * A trigger that has a name which one of ours would get: a partition that is captured by
 * itself has it already, and others may have their own of that name.
 */
static void
check_names(Relation table)
{
	static EvsQuery find = {
		"select pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(t.tgname),"
		" c.oid <> $1 and t.tgfoid = $2"
		" from (select $1 as id union select relid from pg_catalog.pg_partition_tree($1)) p"
		" join pg_catalog.pg_class c on c.oid = p.id join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
		" join pg_catalog.pg_trigger t on t.tgrelid = c.oid and t.tgparentid = 0"
		" where case when c.oid = $1 then t.tgname in ('evsource_capture', 'evsource_capture_truncate', 'evsource_capture_begin')"
		"  else t.tgname = 'evsource_capture' or t.tgname = 'evsource_capture_partition' and t.tgfoid <> $3 end"
		" order by c.oid <> $1, 1 limit 1",
		3, {REGCLASSOID, OIDOID, OIDOID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		ObjectIdGetDatum(RelationGetRelid(table)), ObjectIdGetDatum(evs_catalog()->capture),
		ObjectIdGetDatum(evs_catalog()->capture_partition)
	};
	EvsQueryResult result;
	char	   *owner;
	char	   *name;
	bool		is_ours;

	evs_query_begin(&find, values, NULL, InvalidSnapshot, &result);
	is_ours = result.count > 0 && evs_query_boolean(&result, 0, 3);
	owner = result.count > 0 ? evs_query_text(&result, 0, 1) : NULL;
	name = result.count > 0 ? evs_query_text(&result, 0, 2) : NULL;
	evs_query_end(&result);
	if (is_ours)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("a partition of table \"%s\" is already captured", RelationGetRelationName(table)),
				 errdetail("Partition %s is captured by itself.", owner),
				 errhint("Release it: select evsource.release_table(%s);", quote_literal_cstr(owner))));
	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("cannot create the triggers that capture table \"%s\"", RelationGetRelationName(table)),
				 errdetail("Table %s has a trigger of its own that is called %s.", owner, name),
				 errhint("Rename it: ALTER TRIGGER %s ON %s RENAME TO ...;", name, owner)));
}

/*
 * Called with the table that a name means, before it is locked.  Who registered a
 * capture may end it, and the table's owner.  Several captures of a table end
 * together, so they take the right to end each of them.
 */
static void
check_may_release(const RangeVar *name, Oid relid, Oid old_relid, void *arg)
{
	static EvsQuery find = {
		"select from pg_catalog.pg_trigger t left join evsource.captures c"
		" on c.relation::pg_catalog.oid = t.tgrelid and c.arguments = evsource._trigger_arguments(t.oid)"
		" where t.tgrelid = $1 and t.tgfoid = $2 and t.tgparentid = 0"
		" having pg_catalog.bool_and(coalesce(pg_catalog.pg_has_role($3, c.registrant::pg_catalog.oid, 'usage'), false))",
		3, {OIDOID, OIDOID, OIDOID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		ObjectIdGetDatum(relid), ObjectIdGetDatum(evs_catalog()->capture), ObjectIdGetDatum(GetUserId())
	};

	if (!OidIsValid(relid) || object_ownercheck(RelationRelationId, relid, GetUserId()))
		return;
	if (evs_query_run_latest(&find, values, NULL) == 0)
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)), name->relname);
}

/*
 * Drop the triggers that capture the table, whatever they are called.  Those of the
 * table that it is a partition of stay.
 */
static void
release(Relation table)
{
	static EvsQuery find = {
		"select t.tgname from pg_catalog.pg_trigger t"
		" where t.tgrelid = $1 and t.tgfoid = $2 and t.tgparentid = 0 order by t.tgname",
		2, {OIDOID, OIDOID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		ObjectIdGetDatum(RelationGetRelid(table)), ObjectIdGetDatum(evs_catalog()->capture)
	};
	List	   *names = evs_query_texts_latest(&find, values, NULL);
	char	   *table_name = qualified_name(table);
	EvsIdentity identity;
	ListCell   *cell;

	evs_capture_require_seen(RelationGetRelid(table));
	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is captured as a partition", RelationGetRelationName(table)),
				 errhint("Release the table that it is a partition of, or detach it.")));

	/* PostgreSQL asks for the table's owner */
	evs_identity_enter_role(&identity, evs_query_owner(), "pg_catalog, pg_temp");
	foreach(cell, names)
		evs_query_command(psprintf("drop trigger %s on %s", quote_identifier(lfirst(cell)), table_name));
	evs_identity_leave(&identity);
	evs_capture_leave_partitions(RelationGetRelid(table));
	evs_capture_unregister(RelationGetRelid(table));
}

static void
refuse_captured(Relation table, const Trigger *trigger)
{
	EvsCaptureDefinition definition;

	evs_capture_parse(trigger->tgargs, trigger->tgnargs, &definition);
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("table \"%s\" is already captured", RelationGetRelationName(table)),
			 errdetail("Trigger \"%s\" captures it into category \"%s\".",
					   trigger->tgname, definition.category),
			 errhint("Use if_exists => 'alter' to change how it is captured, or 'keep' to leave it as it is.")));
}

/* The capture that there is stays. */
static void
keep(Relation table, bool backfill)
{
	const Trigger *trigger = capture_trigger(table);
	char	   *partition = disabled_partition(table);

	if (trigger->tgenabled == TRIGGER_DISABLED)
		ereport(NOTICE,
				(errmsg("table \"%s\" is already captured, but its trigger is disabled", RelationGetRelationName(table)),
				 errdetail("Trigger \"%s\" is disabled.", trigger->tgname),
				 errhint("Enable it, or capture the table with if_exists => 'alter'.")));
	else if (partition != NULL)
		ereport(NOTICE,
				(errmsg("table \"%s\" is already captured, but one of its partitions is not",
						RelationGetRelationName(table)),
				 errdetail("The trigger of partition %s is disabled.", partition),
				 errhint("Enable it, or capture the table with if_exists => 'alter'.")));
	if (backfill)
		ereport(NOTICE,
				(errmsg("table \"%s\" is already captured, nothing is backfilled",
						RelationGetRelationName(table)),
				 errhint("To write every row again, release the table and capture it, in one transaction.")));
	provide_for_partitions(table);
}

/* What the caller says of the table, or what is taken where nothing is said. */
static void
define(FunctionCallInfo fcinfo, Relation table, EvsCaptureDefinition *definition)
{
	check_kind(table);
	definition->category = PG_ARGISNULL(1) ? pstrdup(RelationGetRelationName(table)) :
		text_to_cstring(PG_GETARG_TEXT_PP(1));
	evs_capture_check_category(definition->category);
	definition->key = names_of(fcinfo, 2, "key_columns");
	if (definition->key == NIL)
		definition->key = primary_key(table);
	definition->exclude = names_of(fcinfo, 3, "exclude_columns");
	check_columns(table, list_concat_copy(definition->key, definition->exclude));
	definition->as = GetUserNameFromId(GetUserId(), false);
}

/*
 * What it takes to alter a capture: nothing, if it would be the same; to drop triggers
 * first, or to create some.  The lock for that is not taken after another: who holds a
 * lock and asks for a stronger one deadlocks with whoever reads.
 */
static LOCKMODE
lock_to_alter(FunctionCallInfo fcinfo, const RangeVar *name, bool backfill)
{
	Relation	table = open_table(name, AccessShareLock, check_may_capture);
	EvsCaptureDefinition definition = {0};
	LOCKMODE	lock = capture_trigger(table) != NULL ? AccessExclusiveLock : ShareRowExclusiveLock;

	define(fcinfo, table, &definition);
	if (is_captured_so(table, &definition))
	{
		keep(table, backfill);
		lock = NoLock;
	}
	relation_close(table, AccessShareLock);
	return lock;
}

/*
 * evsource.capture_table(table_name text, category text, key_columns text[],
 *		exclude_columns text[], backfill boolean, if_exists text) returns bigint:
 * how many rows the backfill wrote.
 *
 * Errors: 42P01 and 42809 when it is no table, 42501 without the right to create
 * triggers on it, 42710 when it is captured, its category is in use, or a trigger's name
 * is; 42704 without a primary key, 42703 and 22023 for columns and categories that do
 * not fit; 0A000 for a backfill of foreign partitions.
 */
Datum
evsource_capture_table(PG_FUNCTION_ARGS)
{
	static const char *const words[] = {"error", "keep", "alter"};
	RangeVar   *name = table_argument(fcinfo);
	int			choice = evs_parameter_word("if_exists", required_text(fcinfo, 5, "if_exists"),
											words, lengthof(words));
	bool		backfill = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	LOCKMODE	lock = choice == 2 ? lock_to_alter(fcinfo, name, backfill) : ShareRowExclusiveLock;
	Relation	table;
	EvsCaptureDefinition definition = {0};
	EvsCapturePlan *plan;
	Trigger    *captured;
	char		states[lengthof(triggers)];
	bool		is_own = false;
	bool		is_alone;
	int64		count = 0;

	if (lock == NoLock)
		PG_RETURN_INT64(0);
	table = open_table(name, lock, check_may_capture);
	define(fcinfo, table, &definition);
	/* refuses what a trigger would refuse when it fires */
	plan = evs_capture_make_plan(table, &definition);

	choose_states(table, states);
	captured = capture_trigger(table);
	if (captured != NULL)
	{
		if (choice == 0)
			refuse_captured(table, captured);
		if (choice == 1)
		{
			keep(table, backfill);
			relation_close(table, NoLock);
			PG_RETURN_INT64(0);
		}
		check_may_release(name, RelationGetRelid(table), InvalidOid, NULL);
		is_own = is_captured_into(table, definition.category);
		release(table);
	}

	is_alone = evs_capture_claim_category(table, plan, !PG_ARGISNULL(1), is_own);
	check_names(table);
	create_triggers(table, &definition, states);
	provide_for_partitions(table);
	if (backfill)
		count = evs_capture_backfill(table, &definition, is_alone || is_own);
	relation_close(table, NoLock);
	PG_RETURN_INT64(count);
}

/*
 * evsource.release_table(table_name text) returns void: no longer capture it.
 *
 * Errors: 42P01 when there is no such table, 42704 when it is not captured, 42809 when
 * it is as a partition, 42501 unless the caller owns the table or captured it.
 */
Datum
evsource_release_table(PG_FUNCTION_ARGS)
{
	Relation	table = open_table(table_argument(fcinfo), AccessExclusiveLock, check_may_release);

	if (capture_trigger(table) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not captured", RelationGetRelationName(table)),
				 errhint("The view evsource.captured_tables shows which tables are.")));
	release(table);
	relation_close(table, NoLock);
	PG_RETURN_VOID();
}
