/*
 * capture_backfill.c - an event for each row that a table has already.
 *
 * The caller holds ShareRowExclusiveLock on the table and on its partitions, and
 * has created the triggers: whoever changes a row now waits for our transaction,
 * and is captured.  So the rows are read with a snapshot of this moment, whatever
 * the transaction's own snapshot is.
 *
 * They are inserts as any other, with {"backfill": true} in the metadata.  If the
 * category has events already, the table was captured before, and nobody knows
 * what happened to it meanwhile: so the backfill begins with a truncate.  Not if they may
 * be events of another table that is captured into the category.
 */
#include "capture.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "append.h"
#include "event.h"
#include "metadata.h"
#include "query.h"

/* events appended at a time; fewer if they do not fit into work_mem */
#define AT_ONCE 4096

typedef struct Backfill
{
	MemoryContext context;		/* holds the events of a batch */
	EvsEvent   *events;
	int			count;
	int64		total;
	EvsCapturePlan *plan;		/* of the table that is read */
	Jsonb	   *metadata;
} Backfill;

static void
append_batch(Backfill *backfill)
{
	EvsBatch	batch = {backfill->events, backfill->count};
	MemoryContext old = MemoryContextSwitchTo(backfill->context);

	evs_append_many(&batch);
	MemoryContextSwitchTo(old);
	MemoryContextReset(backfill->context);
	backfill->total += backfill->count;
	backfill->count = 0;
}

static void
insert_row(TupleTableSlot *row, void *argument)
{
	Backfill   *backfill = argument;
	MemoryContext old;
	EvsEvent	event;

	evs_capture_inserted(backfill->plan, row, &event);
	event.metadata = backfill->metadata;
	old = MemoryContextSwitchTo(backfill->context);
	evs_event_copy(&backfill->events[backfill->count++], &event);
	MemoryContextSwitchTo(old);

	if (backfill->count == AT_ONCE ||
		MemoryContextMemAllocated(backfill->context, true) > (Size) work_mem * 1024)
		append_batch(backfill);
}

/* The rows of a table that is no partitioned one. */
static void
backfill_rows(Backfill *backfill, Relation table, const EvsCaptureDefinition *definition)
{
	backfill->plan = evs_capture_make_plan(table, definition);
	evs_capture_each_row(table, insert_row, backfill);
	append_batch(backfill);
	MemoryContextDelete(backfill->plan->context);
}

/* SELECT on the table, without policies that hide rows. */
static void
check_may_read(Relation table)
{
	AclResult	result = pg_class_aclcheck(RelationGetRelid(table), GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, get_relkind_objtype(table->rd_rel->relkind),
					   RelationGetRelationName(table));
	if (check_enable_rls(RelationGetRelid(table), InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("backfill would be affected by row security of table \"%s\"",
						RelationGetRelationName(table)),
				 errdetail("Every row has to be read."),
				 errhint("Capture the table as a role that policies do not apply to.")));
}

static bool
category_exists(const char *category)
{
	static EvsQuery find = {
		"select from evsource.events where evsource.category(stream) = $1 limit 1",
		1, {TEXTOID}, SPI_OK_SELECT
	};

	return evs_query_run_by_name(&find, category) > 0;
}

static void
append_truncated(Backfill *backfill, Relation table, const EvsCaptureDefinition *definition)
{
	EvsCapturePlan *plan = evs_capture_make_plan(table, definition);
	EvsEvent	event;
	EvsBatch	batch = {&event, 1};

	evs_capture_truncated(plan, table, &event);
	event.metadata = backfill->metadata;
	evs_append_many(&batch);
	MemoryContextDelete(plan->context);
}

/* Their rows could be read, but another server's locks do not keep writers away. */
static void
check_no_foreign(Relation table, List *tables)
{
	ListCell   *cell;

	foreach(cell, tables)
		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table \"%s\" cannot be backfilled", RelationGetRelationName(table)),
					 errdetail("Partition \"%s\" is a foreign table, whose rows others can change meanwhile.",
							   get_rel_name(lfirst_oid(cell))),
					 errhint("Detach the partition, or capture the table without a backfill and append events for its rows yourself.")));
}

int64
evs_capture_backfill(Relation table, const EvsCaptureDefinition *definition, bool has_category)
{
	Backfill	backfill = {0};
	List	   *tables;
	ListCell   *cell;

	check_may_read(table);
	backfill.context = AllocSetContextCreate(CurrentMemoryContext, "evsource backfill",
											 ALLOCSET_DEFAULT_SIZES);
	backfill.events = palloc(AT_ONCE * sizeof(EvsEvent));
	backfill.metadata = evs_metadata_for(DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
																			CStringGetDatum("{\"backfill\": true}"))));
	/* the rows of other tables that inherit from this one are not captured */
	tables = table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		find_all_inheritors(RelationGetRelid(table), ShareRowExclusiveLock, NULL) :
		list_make1_oid(RelationGetRelid(table));
	check_no_foreign(table, tables);
	if (has_category && category_exists(definition->category))
		append_truncated(&backfill, table, definition);

	foreach(cell, tables)
	{
		Relation	one = table_open(lfirst_oid(cell), NoLock);

		if (one->rd_rel->relkind == RELKIND_RELATION)
			backfill_rows(&backfill, one, definition);
		table_close(one, NoLock);
	}
	MemoryContextDelete(backfill.context);
	return backfill.total;
}
