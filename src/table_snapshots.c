/*
 * table_snapshots.c - the tables of a projection, saved as they are at a position.
 *
 * Which snapshots there are, and which of them can be used; their rows are
 * table_rows.c's.
 *
 * Locks: the projection's name, then the barrier if it is inline, then the
 * tables.  While the tables of an inline projection are saved appends wait.
 */
#include "table_snapshots.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "alter.h"
#include "apply.h"
#include "attempt.h"
#include "failure.h"
#include "folder.h"
#include "identity.h"
#include "query.h"
#include "replay.h"
#include "resolve.h"
#include "snapshots.h"
#include "table_rows.h"
#include "text_array.h"

static EvsQuery parked = {
	"select from evsource.parked_keys where projection = $1 limit 1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery insert_snapshot = {
	"insert into evsource.table_snapshots"
	" (projection, position, event_count, state_version, definition, saved_at, shape, rows)"
	" values ($1, $2, $3, $4, $5, clock_timestamp(), $6, $7)",
	7, {TEXTOID, INT8OID, INT8OID, INT4OID, INT8OID, TEXTOID, INT8OID}, SPI_OK_INSERT
};

static EvsQuery select_snapshots = {
	"select position, event_count, state_version, definition, shape, rows, truncated is not null"
	" from evsource.table_snapshots where projection = $1 order by position desc",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* all but the newest $2, and one of this position that is of no use any more */
static EvsQuery delete_older = {
	"with gone as ("
	"  delete from evsource.table_snapshots where projection = $1 and (position = $3 or position in ("
	"   select position from evsource.table_snapshots where projection = $1"
	"   order by position desc offset $2)) returning position)"
	" delete from evsource.table_snapshot_rows"
	" where projection = $1 and position in (select position from gone)",
	3, {TEXTOID, INT4OID, INT8OID}, SPI_OK_DELETE
};

static EvsQuery delete_foreign = {
	"with gone as ("
	"  delete from evsource.table_snapshots"
	"  where projection = $1 and " EVS_SNAPSHOT_FOREIGN " returning position)"
	" delete from evsource.table_snapshot_rows"
	" where projection = $1 and position in (select position from gone)",
	4, {TEXTOID, INT4OID, INT8OID, BOOLOID}, SPI_OK_DELETE
};

static EvsQuery delete_rows = {
	"delete from evsource.table_snapshot_rows where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery delete_snapshots = {
	"delete from evsource.table_snapshots where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery find_stale = {
	"select stale from evsource.projections where projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* ---- saving ---- */

static void
refuse_stale(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot save the tables of projection \"%s\"", name),
			 errdetail("It is stale: they do not match its definition and the log."),
			 errhint("Rebuild it first: CALL evsource.rebuild_projection('%s').", name)));
}

/* a table whose rows are another's, too; and that one, if it is among the tables */
static EvsQuery find_shared = {
	"select t.name, p.name from unnest($1) t (name) left join unnest($1) p (name)"
	"  on p.name <> t.name and p.name::regclass in (select relid from pg_partition_ancestors(t.name::regclass))"
	" where p.name is not null or exists (select from pg_inherits i join pg_class c on c.oid = i.inhparent"
	"  where c.oid = t.name::regclass and c.relkind <> 'p')"
	" order by 1, 2 limit 1",
	1, {TEXTARRAYOID}, SPI_OK_SELECT
};

/* Each row is to be of one table only. */
static void
check_unshared(const EvsProjection *projection)
{
	Datum		values[] = {evs_text_array_of_names(projection->tables)};
	EvsQueryResult result;
	char	   *table = NULL;
	char	   *parent = NULL;

	evs_resolve_check_tables(projection);
	evs_query_begin(&find_shared, values, NULL, InvalidSnapshot, &result);
	if (result.count > 0)
	{
		table = evs_query_text(&result, 0, 1);
		parent = evs_query_text(&result, 0, 2);
	}
	evs_query_end(&result);
	if (parent != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot save the tables of projection \"%s\"", projection->name),
				 errdetail("Table %s is a partition of %s: its rows would be saved twice.", table, parent),
				 errhint("Name only the table that is partitioned: evsource.alter_projection('%s', tables => ...).",
						 projection->name)));
	if (table != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot save the tables of projection \"%s\"", projection->name),
				 errdetail("Other tables inherit from table %s: it would come back with their rows as its own.", table),
				 errhint("Rebuild the projection without saved tables: CALL evsource.rebuild_projection('%s').",
						 projection->name)));
}

static void
check_savable(const EvsProjection *projection)
{
	if (projection->on_reset != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot save the tables of projection \"%s\"", projection->name),
				 errdetail("Its function %s may empty more than its tables, and a snapshot of them would not bring that back.",
						   projection->on_reset),
				 errhint("Rebuild the projection from the log instead, or do without on_reset.")));
	if (projection->stale)
		refuse_stale(projection->name);

	if (evs_query_run_by_name(&parked, projection->name) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot save the tables of projection \"%s\"", projection->name),
				 errdetail("It has parked events, which they do not include."),
				 errhint("See evsource.dead_letters.")));

	check_unshared(projection);
	evs_table_rows_check_sequences(projection);
	(void) evs_table_rows_order(projection);
}

bool
evs_table_snapshot_save(EvsProjection *projection)
{
	EvsCheckpoint checkpoint;
	EvsTableSnapshot newest;
	List	   *tables;
	Datum		older[3];
	Datum		values[7];

	check_savable(projection);
	values[0] = CStringGetTextDatum(projection->name);
	(void) evs_snapshot_lock(projection->name, NULL, EVS_SNAPSHOT_LOCK_ALL);
	if (projection->mode == EVS_MODE_INLINE && projection->state == EVS_PROJECTION_ACTIVE)
		evs_replay_settle(projection);
	/* an import that was waited for may have come in behind it */
	if (DatumGetBool(evs_query_value_latest(&find_stale, values, NULL, BoolGetDatum(false))))
		refuse_stale(projection->name);
	/* the tables are of one position */
	evs_apply_gather(projection);
	evs_checkpoint_read(projection->name, &checkpoint);
	if (evs_table_snapshot_find(projection, &newest) &&
		newest.checkpoint.position == checkpoint.position &&
		newest.state_version == projection->state_version)
		return false;

	tables = evs_table_rows_describe(projection);
	older[0] = values[0];
	older[1] = Int32GetDatum(projection->policy.keep_snapshots - 1);
	older[2] = Int64GetDatum(checkpoint.position);
	(void) evs_query_run(&delete_older, older, NULL);
	ereport(DEBUG1,
			(errmsg("saving the tables of projection \"%s\" at position " INT64_FORMAT,
					projection->name, checkpoint.position)));
	values[1] = Int64GetDatum(checkpoint.position);
	values[2] = Int64GetDatum(checkpoint.event_count);
	values[3] = Int32GetDatum(projection->state_version);
	values[4] = Int64GetDatum(evs_snapshot_definition(projection));
	values[5] = CStringGetTextDatum(evs_table_rows_shape(tables));
	values[6] = Int64GetDatum(evs_table_rows_save(projection, checkpoint.position, tables));
	(void) evs_query_run(&insert_snapshot, values, NULL);
	return true;
}

/* ---- restoring ---- */

/* May the tables be what this one says? */
static bool
is_usable(EvsProjection *projection, const EvsTableSnapshot *saved, const char *shape)
{
	EvsProjection plain = *projection;
	EvsSnapshot row = {
		.version = 1,
		.position = Max(saved->checkpoint.position, 1),
		.event_count = 1,
		.state_version = saved->state_version,
		.definition = saved->definition,
		.state = evs_initial_state()
	};
	text	   *key = cstring_to_text("tables");

	/* a state can be brought up, tables cannot */
	plain.migrate_state = NULL;
	if (saved->truncated)
	{
		evs_snapshot_reject(projection, key, "is older than events that were truncated", NULL);
		return false;
	}
	if (strcmp(saved->shape, shape) != 0)
	{
		evs_snapshot_reject(projection, key, "is of tables with other columns or sequences", NULL);
		return false;
	}
	return evs_snapshot_accept(&plain, key, &row);
}

bool
evs_table_snapshot_find(EvsProjection *projection, EvsTableSnapshot *found)
{
	Datum		values[] = {CStringGetTextDatum(projection->name)};
	EvsQueryResult result;
	List	   *all = NIL;
	ListCell   *cell;
	char	   *shape;
	bool		usable = false;
	EvsIdentity identity;

	evs_query_begin(&select_snapshots, values, NULL, InvalidSnapshot, &result);
	for (uint64 i = 0; i < result.count; i++)
	{
		EvsTableSnapshot *saved = MemoryContextAlloc(result.context, sizeof(EvsTableSnapshot));
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);

		saved->checkpoint.position = evs_query_bigint(&result, i, 1);
		saved->checkpoint.event_count = evs_query_bigint(&result, i, 2);
		saved->state_version = evs_query_integer(&result, i, 3);
		saved->definition = evs_query_bigint(&result, i, 4);
		saved->shape = evs_query_text(&result, i, 5);
		saved->rows = evs_query_bigint(&result, i, 6);
		saved->truncated = evs_query_boolean(&result, i, 7);
		all = lappend(all, saved);
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);
	if (all == NIL)
		return false;

	shape = evs_table_rows_shape(evs_table_rows_describe(projection));
	evs_identity_enter(&identity, projection->owner, projection->search_path);
	foreach(cell, all)
	{
		*found = *(EvsTableSnapshot *) lfirst(cell);
		usable = is_usable(projection, found, shape);
		if (usable)
			break;
	}
	evs_identity_leave(&identity);
	return usable;
}

/* What is to be put back. */
typedef struct Loading
{
	EvsProjection *projection;
	const EvsTableSnapshot *saved;
} Loading;

static void
load(void *arg)
{
	Loading    *loading = arg;

	evs_reset_tables(loading->projection);
	evs_table_rows_load(loading->projection, loading->saved->checkpoint.position);
	CommandCounterIncrement();
}

ErrorData *
evs_table_snapshot_load(EvsProjection *projection, const EvsTableSnapshot *saved)
{
	Loading		loading = {projection, saved};
	ErrorData  *error;

	ereport(DEBUG1,
			(errmsg("restoring the tables of projection \"%s\" as of position " INT64_FORMAT,
					projection->name, saved->checkpoint.position)));
	error = evs_attempt(load, &loading);
	if (error == NULL)
		return NULL;
	if (evs_failure_is_transient(error->sqlerrcode))
		ReThrowError(error);
	evs_snapshot_reject(projection, cstring_to_text("tables"),
						psprintf("cannot be put back into the tables: SQLSTATE %s",
								 unpack_sql_state(error->sqlerrcode)),
						error->message);
	return error;
}

int64
evs_table_snapshots_clear(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	/* also those that were saved since the transaction's snapshot */
	(void) evs_query_run_latest(&delete_rows, values, NULL);
	return evs_query_run_latest(&delete_snapshots, values, NULL);
}

void
evs_table_snapshots_clear_foreign(const EvsProjection *projection)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name),
		Int32GetDatum(projection->state_version),
		Int64GetDatum(evs_snapshot_definition_before(projection)),
		BoolGetDatum(evs_snapshot_vouches(projection))
	};

	(void) evs_query_run_latest(&delete_foreign, values, NULL);
}
