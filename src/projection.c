/*
 * projection.c - registered projections as structs, and the cached list of
 * those that appends dispatch to.
 *
 * The list is read with a latest snapshot of its own, so that an appender who
 * has just got its lock on the log sees what the transaction that held the
 * barrier has committed, whatever its own snapshot says.  A statement trigger
 * on evsource.projections invalidates that table's relcache entry at every
 * change: other sessions hear of it when they next take a lock (which an
 * appender does first), our own session after the command, and again when the
 * change rolls back.
 *
 * An invalidation only marks the list.  It is replaced at the next look, and
 * freed when nobody uses it any more: a handler may well change projections
 * while the dispatcher walks the list.
 */
#include "projection.h"
#include "wakeup.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "guard.h"
#include "query.h"
#include "relations.h"
#include "text_array.h"

static EvsQuery select_one = {
	"select from evsource.projections where projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* One reading of the list. */
typedef struct ProjectionList
{
	MemoryContext context;		/* holds this struct and all it points to */
	List	   *projections;	/* of EvsProjection, by name */
	int			pins;			/* who walks it */
	bool		own_writes;		/* read by a transaction that had written */
} ProjectionList;

/* One user of a list. */
typedef struct Pin
{
	struct Pin *next;
	ProjectionList *list;
	SubTransactionId subid;
} Pin;

/* A row of evsource.projections, taken apart. */
typedef struct ProjectionRow
{
	TupleDesc	tupdesc;
	Datum	   *values;
	bool	   *nulls;
} ProjectionRow;

static ProjectionList *current = NULL;	/* the newest list, if any */
static bool current_is_valid = false;	/* nothing has changed since */
static uint64 invalidations = 0;	/* counts them */
static Oid	projections_relid = InvalidOid; /* the table it was read from */
static Pin *pins = NULL;		/* newest first, in TopMemoryContext */

static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == projections_relid)
	{
		current_is_valid = false;
		invalidations++;
	}
}

static Datum
row_value(const ProjectionRow *row, const char *column, bool *isnull)
{
	int			attnum = SPI_fnumber(row->tupdesc, column);

	if (attnum <= 0)
		evs_catalog_no_column("projections", column);
	*isnull = row->nulls[attnum - 1];
	return row->values[attnum - 1];
}

/* A text column, or NULL. */
static char *
row_text(const ProjectionRow *row, const char *column)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* A text column that the table declares not null. */
static char *
row_required_text(const ProjectionRow *row, const char *column)
{
	char	   *value = row_text(row, column);

	if (value == NULL)
		elog(ERROR, "column \"%s\" of evsource.projections is null", column);
	return value;
}

/* The index of a text column's value among words. */
static int
row_word(const ProjectionRow *row, const char *column,
		 const char *const *words, int nwords)
{
	char	   *value = row_required_text(row, column);

	for (int i = 0; i < nwords; i++)
	{
		if (strcmp(value, words[i]) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid %s \"%s\" in evsource.projections", column, value),
			 errdetail("It stands in the row of projection \"%s\" in evsource.projections.",
					   row_required_text(row, "projection")),
			 errhint("Do not change that table by hand: repair the value, or drop the projection and create it again.")));
	return -1;
}

/* A text[] column as an array of texts; NULL gives none. */
static text **
row_texts(const ProjectionRow *row, const char *column, int *count)
{
	bool		isnull;
	Datum		value = row_value(row, column, &isnull);
	text	  **texts = NULL;

	*count = 0;
	if (!isnull)
		evs_text_array_read(value, &texts, count);
	return texts;
}

void
evs_projection_set_key(EvsProjection *projection, char *key)
{
	projection->key_function = NULL;
	if (strcmp(key, "stream") == 0)
		projection->key_kind = EVS_KEY_STREAM;
	else if (strcmp(key, "global") == 0)
		projection->key_kind = EVS_KEY_GLOBAL;
	else
	{
		projection->key_kind = EVS_KEY_FUNCTION;
		projection->key_function = key;
	}
}

/* The row as a struct, all of it in CurrentMemoryContext. */
static EvsProjection *
read_projection(TupleDesc tupdesc, HeapTuple tuple)
{
	static const char *const kinds[] = {"event", "batch", "query", "fold"};
	static const char *const modes[] = {"inline", "async", "manual"};
	static const char *const states[] = {"active", "catching_up", "paused", "failed", "rebuilding"};
	static const char *const reactions[] = {"stop", "dead_letter"};
	EvsProjection *projection = palloc0(sizeof(EvsProjection));
	ProjectionRow row;
	text	  **tables;
	int			ntables;
	bool		isnull;

	row.tupdesc = tupdesc;
	row.values = palloc(sizeof(Datum) * tupdesc->natts);
	row.nulls = palloc(sizeof(bool) * tupdesc->natts);
	heap_deform_tuple(tuple, tupdesc, row.values, row.nulls);

	projection->context = CurrentMemoryContext;
	projection->name = row_required_text(&row, "projection");
	projection->kind = row_word(&row, "kind", kinds, lengthof(kinds));
	projection->mode = row_word(&row, "mode", modes, lengthof(modes));
	projection->state = row_word(&row, "state", states, lengthof(states));
	projection->handler = row_text(&row, "handler");
	projection->query = row_text(&row, "query");
	if ((projection->kind == EVS_KIND_QUERY ? projection->query : projection->handler) == NULL)
		elog(ERROR, "projection \"%s\" has nothing to run", projection->name);
	projection->filter.categories = row_texts(&row, "categories", &projection->filter.ncategories);
	projection->filter.types = row_texts(&row, "types", &projection->filter.ntypes);

	evs_projection_set_key(projection, row_required_text(&row, "key"));

	projection->start_after = DatumGetInt64(row_value(&row, "start_after", &isnull));
	projection->state_version = DatumGetInt32(row_value(&row, "state_version", &isnull));
	projection->owner = row_required_text(&row, "owner");
	projection->search_path = row_required_text(&row, "search_path");
	projection->policy.snapshot_every =
		DatumGetInt32(row_value(&row, "snapshot_every", &isnull));
	projection->policy.snapshot_after_batch =
		DatumGetBool(row_value(&row, "snapshot_after_batch", &isnull));
	projection->policy.restore_from_snapshot =
		DatumGetBool(row_value(&row, "restore_from_snapshot", &isnull));
	projection->policy.keep_snapshots =
		DatumGetInt32(row_value(&row, "keep_snapshots", &isnull));
	projection->path = row_texts(&row, "path", &projection->npath);
	projection->is_compatible = row_text(&row, "is_compatible");
	projection->migrate_state = row_text(&row, "migrate_state");
	tables = row_texts(&row, "tables", &ntables);
	for (int i = 0; i < ntables; i++)
		projection->tables = lappend(projection->tables, text_to_cstring(tables[i]));
	projection->on_reset = row_text(&row, "on_reset");
	projection->dead_letter = row_word(&row, "on_error", reactions, lengthof(reactions)) == 1;
	projection->notify = DatumGetBool(row_value(&row, "notify", &isnull));
	projection->stale = DatumGetBool(row_value(&row, "stale", &isnull));
	projection->lapses = DatumGetInt32(row_value(&row, "lapses", &isnull));
	projection->partitions = DatumGetInt32(row_value(&row, "partitions", &isnull));
	projection->replay_until = DatumGetInt64(row_value(&row, "replay_until", &isnull));
	projection->vouched = DatumGetInt64(row_value(&row, "vouched", &isnull));
	projection->changed_by = HeapTupleHeaderGetXmin(tuple->t_data);

	pfree(row.values);
	pfree(row.nulls);
	return projection;
}

/*
 * Read the projections that a scan key selects, as they are at this moment,
 * into CurrentMemoryContext.
 */
static List *
read_projections(Relation relation, ScanKey key, int nkeys)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, nkeys, key);
	List	   *projections = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		projections = lappend(projections,
							  read_projection(RelationGetDescr(relation), tuple));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	return projections;
}

bool
evs_projection_exists(const char *name, Snapshot snapshot)
{
	Datum		values[] = {CStringGetTextDatum(name)};
	EvsQueryResult result;
	bool		exists;

	evs_query_begin(&select_one, values, NULL, snapshot, &result);
	exists = result.count > 0;
	evs_query_end(&result);
	return exists;
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(((EvsProjection *) lfirst(a))->name,
				  ((EvsProjection *) lfirst(b))->name);
}

/* Let go of a list that is not the current one once nobody walks it. */
static void
free_if_unused(ProjectionList *list)
{
	if (list != current && list->pins == 0)
		MemoryContextDelete(list->context);
}

/* Make a fresh list the current one. */
static void
load_current(void)
{
	ProjectionList *old = current;
	ProjectionList *list;
	MemoryContext context;
	MemoryContext caller;
	Relation	relation;
	uint64		before;
	List	   *rows;
	ListCell   *cell;

	relation = evs_catalog_open(evs_catalog()->projections, AccessShareLock);
	projections_relid = RelationGetRelid(relation);
	before = invalidations;

	/* until it is complete an error takes it away with the caller's memory */
	context = AllocSetContextCreate(CurrentMemoryContext, "evsource projections",
									ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(context);
	list = palloc0(sizeof(ProjectionList));
	list->context = context;
	list->own_writes = TransactionIdIsValid(GetTopTransactionIdIfAny());
	rows = read_projections(relation, NULL, 0);
	foreach(cell, rows)
	{
		EvsProjection *projection = lfirst(cell);

		if (projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE)
			list->projections = lappend(list->projections, projection);
	}
	list_sort(list->projections, compare_names);
	MemoryContextSwitchTo(caller);
	table_close(relation, AccessShareLock);

	MemoryContextSetParent(context, TopMemoryContext);
	current = list;
	current_is_valid = (invalidations == before);
	if (old != NULL)
		free_if_unused(old);
}

List *
evs_projections_inline(void)
{
	Pin		   *pin;

	if (!current_is_valid)
		load_current();
	if (current->projections == NIL)
		return NIL;

	pin = MemoryContextAlloc(TopMemoryContext, sizeof(Pin));
	pin->next = pins;
	pin->list = current;
	pin->subid = GetCurrentSubTransactionId();
	pins = pin;
	current->pins++;
	return current->projections;
}

/* Take a pin out of the chain. */
static void
unpin(Pin **link)
{
	Pin		   *pin = *link;
	ProjectionList *list = pin->list;

	*link = pin->next;
	pfree(pin);
	list->pins--;
	free_if_unused(list);
}

void
evs_projections_release(List *projections)
{
	if (projections == NIL)
		return;
	for (Pin **link = &pins; *link != NULL; link = &(*link)->next)
	{
		if ((*link)->list->projections == projections)
		{
			unpin(link);
			return;
		}
	}
	elog(ERROR, "list of projections is not in use");
}

bool
evs_projections_have_inline(void)
{
	if (!current_is_valid)
		load_current();
	return current->projections != NIL;
}

EvsProjection *
evs_projection_load(const char *name, bool missing_ok)
{
	Relation	relation = evs_catalog_open(evs_catalog()->projections, AccessShareLock);
	ScanKeyData key;
	List	   *projections;

	ScanKeyInit(&key, SPI_fnumber(RelationGetDescr(relation), "projection"),
				BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
	projections = read_projections(relation, &key, 1);
	table_close(relation, AccessShareLock);

	if (projections == NIL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", name),
				 errhint("See evsource.projections for those that exist.")));
	return projections == NIL ? NULL : linitial(projections);
}

/*
 * Rows that the transaction itself has written are gone when it rolls back,
 * and the invalidation that says so may not have been sent yet (by a trigger
 * that had still to fire).
 */
static void
forget_own_writes(void)
{
	if (current != NULL && current->own_writes)
		current_is_valid = false;
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (current != NULL)
				current->own_writes = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_own_writes();
			break;
		default:
			return;
	}
	while (pins != NULL)
		unpin(&pins);
}

/* What an aborted subtransaction was walking when it failed is walked no more. */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid,
				 SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (pins != NULL && pins->subid == subid)
		unpin(&pins);
	forget_own_writes();
}

void
evs_projection_init(void)
{
	evs_relations_watch(relcache_callback);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/*
 * evsource._changed() returns trigger
 *
 * Tells every session that the trigger's table has changed: evsource.projections
 * for the list here, evsource.store for the ids in event.c.  Who waits is woken,
 * since what it waits for may never come.
 */
PG_FUNCTION_INFO_V1(evsource_changed);
Datum
evsource_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = evs_guard_trigger(fcinfo, "the triggers of evsource's tables");

	CacheInvalidateRelcache(trigger->tg_relation);
	evs_wakeup_changed();
	return PointerGetDatum(NULL);
}
