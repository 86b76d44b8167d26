/*
 * capture_plan.c - how a table's rows become events, prepared once a session.
 *
 * A plan is kept for each trigger that has fired; a partition has a trigger of
 * its own.  What changes the table or its triggers makes its plan invalid.  Such a
 * plan may be in use further up (who appends may run handlers that change captured
 * tables): when the next one is made it is let go, with the end of the transaction.
 */
#include "capture.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "query.h"
#include "relations.h"

/* attgenerated of a column that is not stored: PostgreSQL 18 */
#define GENERATED_VIRTUAL 'v'

typedef struct Kept
{
	Oid			trigger;		/* hash key */
	Oid			relid;
	bool		valid;
	EvsCapturePlan *plan;
} Kept;

static HTAB *kept_plans = NULL;

/* the table of records, as it was when the newest plan was made */
static Oid	captures = InvalidOid;

/*
 * The beginning of the types' names: "order_line" gives "OrderLine".  Letters
 * beyond ASCII stay as they are: their capitals would depend on the locale.
 */
static char *
type_prefix(const char *category)
{
	StringInfoData name;
	bool		begins = true;

	initStringInfo(&name);
	for (const char *c = category; *c != '\0'; c++)
	{
		bool		is_letter = IS_HIGHBIT_SET(*c) || isalnum((unsigned char) *c);

		if (is_letter)
			appendStringInfoChar(&name, begins && !IS_HIGHBIT_SET(*c) ?
								 pg_ascii_toupper((unsigned char) *c) : *c);
		begins = !is_letter;
	}
	return name.len > 0 ? name.data : pstrdup(category);
}

static bool
contains(List *names, const char *name)
{
	ListCell   *cell;

	foreach(cell, names)
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	return false;
}

/*
 * A name that no column has any more is that of a column which has another name now,
 * for all we know: its values must not come into the log.
 */
void
evs_capture_check_excluded(Relation table, List *exclude)
{
	ListCell   *cell;

	foreach(cell, exclude)
		if (get_attnum(RelationGetRelid(table), lfirst(cell)) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("excluded column \"%s\" of captured table \"%s\" does not exist",
							(char *) lfirst(cell), RelationGetRelationName(table)),
					 errdetail("If it has another name now, its values would be stored in events, which are never changed."),
					 errhint("Name the excluded columns again: evsource.capture_table(..., exclude_columns => array['...'], if_exists => 'alter').")));
}

/* The columns that are captured: what is there, and stored, and not excluded. */
static void
take_columns(EvsCapturePlan *plan, TupleDesc desc, List *exclude)
{
	plan->columns = palloc0(Max(desc->natts, 1) * sizeof(EvsCaptureColumn));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		EvsCaptureColumn *column = &plan->columns[plan->ncolumns];

		if (attribute->attisdropped || attribute->attgenerated == GENERATED_VIRTUAL ||
			contains(exclude, NameStr(attribute->attname)))
			continue;
		column->number = attribute->attnum;
		column->name = pstrdup(NameStr(attribute->attname));
		column->name_length = strlen(column->name);
		column->form = evs_json_form(attribute->atttypid);
		column->typlen = attribute->attlen;
		column->typbyval = attribute->attbyval;
		plan->ncolumns++;
	}
}

static void
take_key(EvsCapturePlan *plan, Relation table, List *key)
{
	ListCell   *cell;

	plan->keys = palloc(list_length(key) * sizeof(int));
	foreach(cell, key)
	{
		const char *name = lfirst(cell);
		int			found = 0;

		while (found < plan->ncolumns && strcmp(plan->columns[found].name, name) != 0)
			found++;
		if (found == plan->ncolumns)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" of captured table \"%s\" does not exist or is not captured",
							name, RelationGetRelationName(table)),
					 errhint("Capture the table again with evsource.capture_table(..., if_exists => 'alter') after a change of its key.")));
		if (!evs_json_is_scalar(plan->columns[found].form))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" of table \"%s\" cannot be part of a key",
							name, RelationGetRelationName(table)),
					 errdetail("The name of a stream is made of the key: arrays, JSON and composite types have too many forms for it."),
					 errhint("Name columns whose values are short texts or numbers.")));
		plan->keys[plan->nkeys++] = found;
	}
}

/* Is a column of the table, by its number, part of the key? */
static bool
is_of_key(const EvsCapturePlan *plan, AttrNumber number)
{
	for (int i = 0; i < plan->nkeys; i++)
		if (plan->columns[plan->keys[i]].number == number)
			return true;
	return false;
}

/*
 * The table whose capture a trigger belongs to: another than its own, if it has come to
 * a partition from there.
 */
static Oid
captured_table(Relation table, Oid trigger)
{
	static EvsQuery find = {
		"with recursive t as ("
		" select tgparentid, tgrelid from pg_catalog.pg_trigger where oid = $1"
		" union all select p.tgparentid, p.tgrelid from t join pg_catalog.pg_trigger p on p.oid = t.tgparentid)"
		" select tgrelid from t where tgparentid = 0",
		1, {OIDOID}, SPI_OK_SELECT
	};
	Datum		value = ObjectIdGetDatum(trigger);

	if (!table->rd_rel->relispartition)
		return RelationGetRelid(table);
	return DatumGetObjectId(evs_query_value_latest(&find, &value, NULL,
												   ObjectIdGetDatum(InvalidOid)));
}

/* Is an index of a table, or of its partition, valid for all of the captured table? */
static bool
covers(Oid index, const Form_pg_index form, Oid captured)
{
	ListCell   *cell;

	if (form->indrelid == captured)
		return form->indisvalid;
	foreach(cell, get_partition_ancestors(index))
		if (IndexGetRelation(lfirst_oid(cell), true) == captured)
			return get_index_isvalid(lfirst_oid(cell));
	return false;
}

/* Does a unique index see to it that no two rows of the captured table have the same key? */
static bool
is_unique(const EvsCapturePlan *plan, Relation table, Oid captured)
{
	List	   *indexes = RelationGetIndexList(table);
	bool		unique = false;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index index;
		bool		fits;

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for index %u", lfirst_oid(cell));
		index = (Form_pg_index) GETSTRUCT(tuple);
		fits = index->indisunique && index->indimmediate &&
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL) &&
			covers(lfirst_oid(cell), index, captured);
		/* an expression is column 0, which no key has */
		for (int i = 0; fits && i < index->indnkeyatts; i++)
			fits = is_of_key(plan, index->indkey.values[i]);
		unique |= fits;
		ReleaseSysCache(tuple);
	}
	return unique;
}

EvsCapturePlan *
evs_capture_make_plan(Relation table, const EvsCaptureDefinition *definition)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource capture plan",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EvsCapturePlan *plan = palloc0(sizeof(EvsCapturePlan));
	char	   *prefix = type_prefix(definition->category);

	plan->context = context;
	plan->relid = RelationGetRelid(table);
	plan->is_heap = table->rd_tableam == GetHeapamTableAmRoutine();
	plan->category = pstrdup(definition->category);
	plan->inserted = cstring_to_text(psprintf("%sInserted", prefix));
	plan->updated = cstring_to_text(psprintf("%sUpdated", prefix));
	plan->deleted = cstring_to_text(psprintf("%sDeleted", prefix));
	plan->truncated = cstring_to_text(psprintf("%sTruncated", prefix));
	evs_capture_check_excluded(table, definition->exclude);
	take_columns(plan, RelationGetDescr(table), definition->exclude);
	take_key(plan, table, definition->key);
	plan->repeats_keys = !is_unique(plan, table, RelationGetRelid(table));
	MemoryContextSwitchTo(old);
	return plan;
}

/* Also those of triggers that will never fire again. */
static void
let_invalid_go(void)
{
	HASH_SEQ_STATUS status;
	Kept	   *kept;

	hash_seq_init(&status, kept_plans);
	while ((kept = hash_seq_search(&status)) != NULL)
	{
		/* one without a plan is being made */
		if (kept->valid || kept->plan == NULL)
			continue;
		MemoryContextSetParent(kept->plan->context, TopTransactionContext);
		(void) hash_search(kept_plans, &kept->trigger, HASH_REMOVE, NULL);
	}
}

EvsCapturePlan *
evs_capture_plan(const TriggerData *trigger)
{
	Oid			oid = trigger->tg_trigger->tgoid;
	EvsCaptureDefinition definition;
	EvsCapturePlan *plan;
	Kept	   *kept;

	if (kept_plans == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(Kept)};

		kept_plans = hash_create("evsource capture plans", 64, &control, HASH_ELEM | HASH_BLOBS);
	}
	kept = hash_search(kept_plans, &oid, HASH_FIND, NULL);
	if (kept != NULL && kept->valid)
		return kept->plan;

	/* before the new one is made: the table may change again meanwhile */
	let_invalid_go();
	kept = hash_search(kept_plans, &oid, HASH_ENTER, NULL);
	kept->relid = RelationGetRelid(trigger->tg_relation);
	kept->plan = NULL;
	kept->valid = true;

	PG_TRY();
	{
		captures = evs_catalog()->captures;
		evs_capture_parse(trigger->tg_trigger->tgargs, trigger->tg_trigger->tgnargs, &definition);
		plan = evs_capture_make_plan(trigger->tg_relation, &definition);
		plan->shares_streams = plan->repeats_keys ||
			!is_unique(plan, trigger->tg_relation, captured_table(trigger->tg_relation, oid));
		plan->registrant = evs_capture_registered(RelationGetRelid(trigger->tg_relation),
												  trigger->tg_trigger->tgargs,
												  trigger->tg_trigger->tgnargs);
	}
	PG_CATCH();
	{
		kept->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();

	MemoryContextSetParent(plan->context, CacheMemoryContext);
	kept->plan = plan;
	return plan;
}

void
evs_capture_check_registrant(const EvsCapturePlan *plan, const TriggerData *trigger)
{
	if (!OidIsValid(plan->registrant))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to capture changes of table \"%s\"",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("No role is registered for trigger \"%s\": it was created while the event trigger evsource_guard_captures was off, or restored where its role was missing.",
						   trigger->tg_trigger->tgname),
				 errhint("Capture the table again: evsource.capture_table(..., if_exists => 'alter').")));
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(plan->registrant)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the role that captures table \"%s\" does not exist",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Trigger \"%s\" appends with its rights.", trigger->tg_trigger->tgname),
				 errhint("Capture the table as another role: evsource.capture_table(..., if_exists => 'alter').")));
}

static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Kept	   *kept;

	if (kept_plans == NULL)
		return;
	hash_seq_init(&status, kept_plans);
	while ((kept = hash_seq_search(&status)) != NULL)
		if (relid == InvalidOid || relid == kept->relid || relid == captures)
			kept->valid = false;
}

void
evs_capture_plan_init(void)
{
	evs_relations_watch(relation_changed);
}
