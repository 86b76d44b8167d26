/*
 * capture_truncate.c - TRUNCATE of partitions.
 *
 * TRUNCATE of a captured table is one event.  TRUNCATE of one of its partitions cannot
 * be: no stream tells in which partition its row is.  So each row is deleted, as DELETE
 * would do it, by a trigger BEFORE TRUNCATE (and the rest) on every partition that has rows:
 *
 *	evsource_capture_partition		execute function evsource._capture_partition()
 *
 * It has no arguments: the partition's row triggers, which come from the captured table,
 * say what is captured.  PostgreSQL gives no such trigger to partitions that are added
 * later; the event trigger of capture_guard.c does.  It fires always, and asks itself
 * whether the row triggers would: so it is captured on a subscriber where they are.
 *
 * TRUNCATE of the table fires it, too.  The table comes before its partitions, and its
 * own trigger BEFORE TRUNCATE leaves word that the event of the whole will tell it.
 */
#include "capture.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "catalog.h"
#include "guard.h"
#include "identity.h"
#include "metadata.h"
#include "query.h"
#include "relations.h"

PG_FUNCTION_INFO_V1(evsource_capture_partition);

#define TRIGGER_NAME	"evsource_capture_partition"

/* tables that are being truncated; the memory is the transaction's */
static List *truncated = NIL;

/* Does a capture of this very table tell that it is truncated? */
static bool
is_told(const TriggerDesc *triggers, const Trigger *capture)
{
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (trigger->tgfoid == evs_catalog()->capture && TRIGGER_FOR_TRUNCATE(trigger->tgtype) &&
			!TRIGGER_FOR_ROW(trigger->tgtype) && !TRIGGER_FOR_BEFORE(trigger->tgtype) &&
			evs_relation_trigger_fires(trigger) &&
			evs_capture_has_arguments(trigger, capture->tgargs, capture->tgnargs))
			return true;
	}
	return false;
}

void
evs_capture_truncate_begins(const TriggerData *trigger)
{
	MemoryContext old;

	/* else nothing would tell that it ends */
	if (!is_told(trigger->tg_relation->trigdesc, trigger->tg_trigger))
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	truncated = list_append_unique_oid(truncated, RelationGetRelid(trigger->tg_relation));
	MemoryContextSwitchTo(old);
}

void
evs_capture_truncate_ends(Relation table)
{
	truncated = list_delete_oid(truncated, RelationGetRelid(table));
}

static void
transaction_ends(XactEvent event, void *arg)
{
	truncated = NIL;
}

/* A statement that failed does not end; to forget too much does no harm. */
static void
subtransaction_ends(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	list_free(truncated);
	truncated = NIL;
}

void
evs_capture_truncate_init(void)
{
	RegisterXactCallback(transaction_ends, NULL);
	RegisterSubXactCallback(subtransaction_ends, NULL);
}

/* Is a table that this one is a partition of truncated by the same statement? */
static bool
is_truncated_with_its_table(Relation table)
{
	ListCell   *cell;

	if (truncated == NIL || !table->rd_rel->relispartition)
		return false;
	foreach(cell, get_partition_ancestors(RelationGetRelid(table)))
		if (list_member_oid(truncated, lfirst_oid(cell)))
			return true;
	return false;
}

/* What is made of the rows of a partition. */
typedef struct Deletion
{
	EvsCapturePlan *plan;
	Jsonb	   *metadata;
} Deletion;

static void
delete_row(TupleTableSlot *row, void *argument)
{
	Deletion   *deletion = argument;
	EvsEvent	event;

	evs_capture_deleted(deletion->plan, row, &event);
	event.metadata = deletion->metadata;
	evs_capture_add_truncated(deletion->plan, &event);
	evs_capture_added();
}

/* By each trigger that captures its rows, and does not tell the truncation itself. */
static void
capture_partition(const TriggerData *trigger)
{
	Relation	table = trigger->tg_relation;
	TriggerDesc *triggers = CopyTriggerDesc(table->trigdesc);
	Deletion	deletion;

	for (int i = 0; i < triggers->numtriggers; i++)
	{
		TriggerData row_trigger = *trigger;

		row_trigger.tg_trigger = &triggers->triggers[i];
		if (row_trigger.tg_trigger->tgfoid != evs_catalog()->capture ||
			!TRIGGER_FOR_ROW(row_trigger.tg_trigger->tgtype) ||
			!TRIGGER_FOR_DELETE(row_trigger.tg_trigger->tgtype) ||
			!evs_relation_trigger_fires(row_trigger.tg_trigger) ||
			is_told(triggers, row_trigger.tg_trigger))
			continue;
		deletion.plan = evs_capture_plan(&row_trigger);
		evs_capture_check_registrant(deletion.plan, &row_trigger);
		deletion.metadata = evs_metadata_for(NULL);
		evs_capture_each_row(table, delete_row, &deletion);
	}
}

/*
 * evsource._capture_partition() returns trigger, BEFORE ... FOR EACH STATEMENT.  Of other
 * statements than TRUNCATE it loads the library, as evsource_capture_begin does where
 * they name the partitioned table.
 *
 * Errors: 39P01 as another trigger, and those of evsource.capture.
 */
Datum
evsource_capture_partition(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = evs_guard_trigger(fcinfo, "the triggers that evsource.capture_table() creates");

	if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function evsource._capture_partition is for triggers BEFORE a statement"),
				 errhint("evsource.capture_table() creates them.")));
	if (!TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		evs_capture_statement_unseen();
		PG_RETURN_POINTER(NULL);
	}
	if (is_truncated_with_its_table(trigger->tg_relation))
		PG_RETURN_POINTER(NULL);

	/* a statement whose end no hook tells */
	evs_capture_statement_begins();
	PG_TRY();
	{
		capture_partition(trigger);
	}
	PG_CATCH();
	{
		evs_capture_statement_fails();
		PG_RE_THROW();
	}
	PG_END_TRY();
	evs_capture_statement_ends();
	PG_RETURN_POINTER(NULL);
}

/* Run a command on each table that a query names, as evsource's owner. */
static void
run_on_each(const char *command, EvsQuery *query, Oid relid)
{
	Datum		values[] = {
		ObjectIdGetDatum(relid), ObjectIdGetDatum(evs_catalog()->capture),
		ObjectIdGetDatum(evs_catalog()->capture_partition)
	};
	List	   *names = evs_query_texts(query, values, NULL);
	EvsIdentity identity;
	ListCell   *cell;

	if (names == NIL)
		return;
	evs_identity_enter_role(&identity, evs_query_owner(), "pg_catalog, pg_temp");
	foreach(cell, names)
		evs_query_command(psprintf(command, (char *) lfirst(cell)));
	evs_identity_leave(&identity);
}

void
evs_capture_watch_partitions(Oid relid)
{
	static EvsQuery find = {
		"select pg_catalog.format('%I.%I', n.nspname, k.relname)"
		" from pg_catalog.pg_partition_tree($1) p join pg_catalog.pg_class k on k.oid = p.relid"
		" join pg_catalog.pg_namespace n on n.oid = k.relnamespace"
		" where p.isleaf and k.relkind = 'r' and k.relispartition"
		" and exists (select from pg_catalog.pg_trigger t where t.tgrelid = k.oid and t.tgfoid = $2 and t.tgparentid <> 0)"
		" and not exists (select from pg_catalog.pg_trigger t where t.tgrelid = k.oid and t.tgfoid = $3)"
		" order by 1",
		3, {REGCLASSOID, OIDOID, OIDOID}, SPI_OK_SELECT
	};
	static EvsQuery find_new = {
		"select t.tgrelid from pg_catalog.pg_partition_tree($1) p"
		" join pg_catalog.pg_trigger t on t.tgrelid = p.relid"
		" where t.tgfoid = $2 and t.tgname = $3 and t.tgenabled = 'O' order by 1",
		3, {REGCLASSOID, OIDOID, NAMEOID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		ObjectIdGetDatum(relid), ObjectIdGetDatum(evs_catalog()->capture_partition),
		DirectFunctionCall1(namein, CStringGetDatum(TRIGGER_NAME))
	};
	ListCell   *cell;

	run_on_each("create trigger " TRIGGER_NAME " before insert or update or delete or truncate on %s"
				" for each statement execute function evsource._capture_partition()", &find, relid);
	foreach(cell, evs_query_oids(&find_new, values, NULL))
	{
		Relation	partition = table_open(lfirst_oid(cell), ShareRowExclusiveLock);

		evs_capture_set_state(partition, TRIGGER_NAME, TRIGGER_FIRES_ALWAYS);
		table_close(partition, NoLock);
	}
}

void
evs_capture_leave_partitions(Oid relid)
{
	static EvsQuery find = {
		"select pg_catalog.format('%I on %I.%I', b.tgname, n.nspname, k.relname)"
		" from pg_catalog.pg_partition_tree($1) p join pg_catalog.pg_class k on k.oid = p.relid"
		" join pg_catalog.pg_namespace n on n.oid = k.relnamespace"
		" join pg_catalog.pg_trigger b on b.tgrelid = k.oid and b.tgfoid = $3"
		" where not exists (select from pg_catalog.pg_trigger t where t.tgrelid = k.oid and t.tgfoid = $2 and t.tgparentid <> 0)"
		" order by 1",
		3, {REGCLASSOID, OIDOID, OIDOID}, SPI_OK_SELECT
	};

	run_on_each("drop trigger %s", &find, relid);
}
