/*
 * registry.c - the rows of evsource.projections and evsource.checkpoints.
 *
 * Roles that register projections have no right on these tables: what is
 * written here is written as the tables' owner by constant statements (query.c),
 * after the caller's rights were checked.
 *
 * Locks: every change of a projection starts with a lock on its name (a tag of
 * our own, held to the end of the transaction), then takes the barrier when
 * appends are concerned, then writes rows.  Appenders never take the first.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "barrier.h"
#include "dispatch.h"
#include "guard.h"
#include "intake.h"
#include "lock_classes.h"
#include "query.h"
#include "registry.h"
#include "restore.h"
#include "rights.h"
#include "snapshots.h"
#include "text_array.h"
#include "wakeup.h"

/* Values for the parameters of a statement, in order. */
typedef struct Arguments
{
	int			count;
	Datum		values[EVS_QUERY_MAX_ARGUMENTS];
	char		nulls[EVS_QUERY_MAX_ARGUMENTS];
} Arguments;

#define DEFINITION_TYPES \
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, \
	TEXTOID, INT8OID, INT4OID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, \
	INT4OID, BOOLOID, BOOLOID, TEXTOID, TEXTOID, BOOLOID, BOOLOID, INT4OID, TEXTARRAYOID, \
	INT4OID, INT8OID, INT8OID, INT4OID

static EvsQuery insert_projection = {
	"insert into evsource.projections"
	" (projection, kind, mode, state, handler, query, categories, types, key,"
	"  start_after, state_version, tables, on_reset, on_error, owner, search_path,"
	"  snapshot_every, snapshot_after_batch, restore_from_snapshot,"
	"  is_compatible, migrate_state, notify, stale, keep_snapshots, path,"
	"  partitions, replay_until, vouched, lapses)"
	" values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
	"  $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)",
	29, {DEFINITION_TYPES}, SPI_OK_INSERT
};

/* Where the log has changed behind it since it was read, it is stale. */
static EvsQuery update_projection = {
	"update evsource.projections set"
	" kind = $2, mode = $3, state = $4, handler = $5, query = $6, categories = $7,"
	" types = $8, key = $9, start_after = $10, state_version = $11, tables = $12,"
	" on_reset = $13, on_error = $14, owner = $15, search_path = $16,"
	" snapshot_every = $17, snapshot_after_batch = $18, restore_from_snapshot = $19,"
	" is_compatible = $20, migrate_state = $21, notify = $22, stale = $23 or lapses <> $29,"
	" keep_snapshots = $24, path = $25, partitions = $26, replay_until = $27,"
	" vouched = $28"
	" where projection = $1",
	29, {DEFINITION_TYPES}, SPI_OK_UPDATE
};

static EvsQuery delete_projection = {
	"delete from evsource.projections where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery mark_stale = {
	"update evsource.projections set stale = true, lapses = lapses + $2"
	" where projection = $1 and (not stale or $2 > 0)",
	2, {TEXTOID, INT4OID}, SPI_OK_UPDATE
};

static EvsQuery select_all_names = {
	"select projection from evsource.projections order by 1", 0, {0}, SPI_OK_SELECT
};

static EvsQuery select_names = {
	"select projection from evsource.projections where mode = $1 order by 1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery select_counted_before = {
	"select projection from evsource.projections p join evsource.checkpoints c using (projection)"
	" where p.mode = 'inline' and p.state = 'active' and c.position < $1 order by 1",
	1, {INT8OID}, SPI_OK_SELECT
};

static EvsQuery insert_checkpoint = {
	"insert into evsource.checkpoints (projection, position, event_count) values ($1, $2, 0)",
	2, {TEXTOID, INT8OID}, SPI_OK_INSERT
};

static EvsQuery delete_checkpoint = {
	"delete from evsource.checkpoints where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery select_checkpoint = {
	"select position, event_count from evsource._checkpoints where projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery update_checkpoint = {
	"update evsource.checkpoints"
	" set position = $2, event_count = $3, updated_at = clock_timestamp()"
	" where projection = $1",
	3, {TEXTOID, INT8OID, INT8OID}, SPI_OK_UPDATE
};

/* All of a projection's partitions where its checkpoint is, which has the count. */
static EvsQuery gather_partitions = {
	"update evsource.partitions"
	" set position = $2, event_count = 0, updated_at = clock_timestamp()"
	" where projection = $1",
	2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery start_checkpoint = {
	"update evsource.checkpoints set started_at = clock_timestamp(), total = $2,"
	" resumed_at = clock_timestamp(), resumed_count = event_count, from_snapshot = false"
	" where projection = $1",
	2, {TEXTOID, INT8OID}, SPI_OK_UPDATE
};

static EvsQuery resume_checkpoint = {
	"update evsource.checkpoints set resumed_at = clock_timestamp(), resumed_count = event_count"
	" where projection = $1",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery finish_checkpoint = {
	"update evsource.checkpoints set started_at = null, total = null,"
	" resumed_at = null, resumed_count = null"
	" where projection = $1 and started_at is not null",
	1, {TEXTOID}, SPI_OK_UPDATE
};

/* Snapshots that this definition made, when it made all. */
static EvsQuery count_own_snapshots = {
	"select case when bool_and(definition = $2) then count(*) else 0 end"
	" from evsource.snapshots where projection = $1",
	2, {TEXTOID, INT8OID}, SPI_OK_SELECT
};

/* Two statements, so that the first can use the index on categories. */
static EvsQuery count_categories = {
	"select count(*) from evsource.events"
	" where position > $1 and position <= $2 and evsource.category(stream) = any ($4)"
	" and ($3 is null or type = any ($3))",
	4, {INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID}, SPI_OK_SELECT
};

static EvsQuery count_all = {
	"select count(*) from evsource.events"
	" where position > $1 and position <= $2 and ($3 is null or type = any ($3))",
	3, {INT8OID, INT8OID, TEXTARRAYOID}, SPI_OK_SELECT
};

static EvsQuery count_applied = {
	"select event_count from evsource.projection_status where projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static const char *const kind_names[] = {
	[EVS_KIND_EVENT] = "event",
	[EVS_KIND_BATCH] = "batch",
	[EVS_KIND_QUERY] = "query",
	[EVS_KIND_FOLD] = "fold",
};

static const char *const mode_names[] = {
	[EVS_MODE_INLINE] = "inline",
	[EVS_MODE_ASYNC] = "async",
	[EVS_MODE_MANUAL] = "manual",
};

static const char *const state_names[] = {
	[EVS_PROJECTION_ACTIVE] = "active",
	[EVS_PROJECTION_CATCHING_UP] = "catching_up",
	[EVS_PROJECTION_PAUSED] = "paused",
	[EVS_PROJECTION_FAILED] = "failed",
	[EVS_PROJECTION_REBUILDING] = "rebuilding",
};

const char *
evs_kind_name(EvsKind kind)
{
	return kind_names[kind];
}

const char *
evs_mode_name(EvsMode mode)
{
	return mode_names[mode];
}

const char *
evs_projection_state_name(EvsProjectionState state)
{
	return state_names[state];
}

/*
 * Who may change a projection: its owner (or a member of that role), the owner
 * of the extension, a superuser.
 */
void
evs_registry_check_rights(const EvsProjection *projection)
{
	if (!evs_has_rights_of(projection->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of projection \"%s\"", projection->name),
				 evs_errdetail_owner(projection->owner),
				 errhint("Have its owner or a superuser do it.")));
}

/*
 * While an append is half done, its events are stored and not yet dispatched: a
 * projection that begins or ends between the two would get them twice or never.
 */
static void
check_outside_appends(void)
{
	if (!evs_dispatch_is_running() && !evs_intake_is_running())
		return;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projections cannot be changed or run by a handler or by a trigger on evsource.events"),
			 errhint("Do it in a statement of its own.")));
}

/*
 * Of a partition there is a lock of its own; the projection's has number 0, and
 * evsource.projection_status knows how it is made.
 */
static void
set_locktag(LOCKTAG *tag, const char *name, int number)
{
	uint64		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) name,
														strlen(name), number));

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32),
						 (uint32) hash, EVS_LOCK_NAME);
}

static bool
lock_name(const char *name, int number, LOCKMODE mode, bool dont_wait)
{
	LOCKTAG		tag;

	check_outside_appends();
	set_locktag(&tag, name, number);
	return LockAcquire(&tag, mode, false, dont_wait) != LOCKACQUIRE_NOT_AVAIL;
}

void
evs_registry_locktag(LOCKTAG *tag, const char *name)
{
	set_locktag(tag, name, 0);
}

void
evs_registry_lock(const char *name)
{
	(void) lock_name(name, 0, ExclusiveLock, false);
	evs_guard_check_there(name);
}

bool
evs_registry_try_lock(const char *name)
{
	return lock_name(name, 0, ExclusiveLock, true);
}

bool
evs_registry_try_share(const char *name, int partition)
{
	return lock_name(name, 0, ShareLock, true) &&
		lock_name(name, partition + 1, ExclusiveLock, true);
}

EvsProjection *
evs_registry_open(const char *name)
{
	EvsProjection *projection;

	evs_registry_lock(name);
	projection = evs_projection_load(name, false);
	evs_registry_check_rights(projection);

	return projection;
}

/*
 * Arguments.
 */
static void
add(Arguments *arguments, Datum value, bool is_null)
{
	Assert(arguments->count < EVS_QUERY_MAX_ARGUMENTS);
	arguments->values[arguments->count] = value;
	arguments->nulls[arguments->count] = is_null ? 'n' : ' ';
	arguments->count++;
}

static void
add_text(Arguments *arguments, const char *value)
{
	add(arguments, value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
}

static void
add_texts(Arguments *arguments, text **values, int count)
{
	add(arguments, evs_text_array(values, count), count == 0);
}

static void
add_bigint(Arguments *arguments, int64 value)
{
	add(arguments, Int64GetDatum(value), false);
}

static void
add_integer(Arguments *arguments, int32 value)
{
	add(arguments, Int32GetDatum(value), false);
}

static void
add_bool(Arguments *arguments, bool value)
{
	add(arguments, BoolGetDatum(value), false);
}

/* Run a statement that is to change exactly one row. */
static void
change_row(EvsQuery *query, Arguments *arguments)
{
	uint64		count = evs_query_run(query, arguments->values, arguments->nulls);

	evs_require_seen("projection", count > 0);
	if (count != 1)
		elog(ERROR, "%llu rows changed: %s", (unsigned long long) count, query->sql);
}

/* A column of the result's only row, which is passed by value and not null. */
static Datum
only_row(const EvsQueryResult *result, int column)
{
	bool		is_null;
	Datum		value;

	evs_require_seen("projection", result->count > 0);
	if (result->count != 1)
		elog(ERROR, "expected one row, found %llu", (unsigned long long) result->count);
	value = heap_getattr(result->rows[0], column, result->tupdesc, &is_null);
	Assert(!is_null);

	return value;
}

/*
 * Definitions.
 */
static void
add_definition(Arguments *arguments, const EvsProjection *projection)
{
	add_text(arguments, projection->name);
	add_text(arguments, kind_names[projection->kind]);
	add_text(arguments, mode_names[projection->mode]);
	add_text(arguments, state_names[projection->state]);
	add_text(arguments, projection->handler);
	add_text(arguments, projection->query);
	add_texts(arguments, projection->filter.categories, projection->filter.ncategories);
	add_texts(arguments, projection->filter.types, projection->filter.ntypes);
	add_text(arguments,
			 projection->key_kind == EVS_KEY_STREAM ? "stream" :
			 projection->key_kind == EVS_KEY_GLOBAL ? "global" :
			 projection->key_function);
	add_bigint(arguments, projection->start_after);
	add_integer(arguments, projection->state_version);
	add(arguments, evs_text_array_of_names(projection->tables), projection->tables == NIL);
	add_text(arguments, projection->on_reset);
	add_text(arguments, projection->dead_letter ? "dead_letter" : "stop");
	add_text(arguments, projection->owner);
	add_text(arguments, projection->search_path);
	add_integer(arguments, projection->policy.snapshot_every);
	add_bool(arguments, projection->policy.snapshot_after_batch);
	add_bool(arguments, projection->policy.restore_from_snapshot);
	add_text(arguments, projection->is_compatible);
	add_text(arguments, projection->migrate_state);
	add_bool(arguments, projection->notify);
	add_bool(arguments, projection->stale);
	add_integer(arguments, projection->policy.keep_snapshots);
	add_texts(arguments, projection->path, projection->npath);
	add_integer(arguments, projection->partitions);
	add_bigint(arguments, projection->replay_until);
	add_bigint(arguments, projection->vouched);
	add_integer(arguments, projection->lapses);
}

void
evs_registry_insert(const EvsProjection *projection)
{
	Arguments	arguments = {0};

	add_definition(&arguments, projection);
	change_row(&insert_projection, &arguments);

	arguments.count = 0;
	add_text(&arguments, projection->name);
	add_bigint(&arguments, projection->start_after);
	change_row(&insert_checkpoint, &arguments);
}

void
evs_registry_update(const EvsProjection *projection)
{
	Arguments	arguments = {0};

	add_definition(&arguments, projection);
	change_row(&update_projection, &arguments);
}

void
evs_registry_delete(const char *name)
{
	Arguments	arguments = {0};

	add_text(&arguments, name);
	change_row(&delete_projection, &arguments);
	change_row(&delete_checkpoint, &arguments);
}

void
evs_registry_mark_stale(const char *name, bool lapsed)
{
	Arguments	arguments = {0};

	add_text(&arguments, name);
	add_integer(&arguments, lapsed ? 1 : 0);
	(void) evs_query_run_latest(&mark_stale, arguments.values, arguments.nulls);
}

List *
evs_registry_all_names(void)
{
	return evs_query_texts_latest(&select_all_names, NULL, NULL);
}

List *
evs_registry_names(EvsMode mode)
{
	Arguments	arguments = {0};

	add_text(&arguments, mode_names[mode]);
	return evs_query_texts(&select_names, arguments.values, arguments.nulls);
}

List *
evs_registry_counted_before(int64 position)
{
	Arguments	arguments = {0};

	add_bigint(&arguments, position);
	return evs_query_texts(&select_counted_before, arguments.values, arguments.nulls);
}

/*
 * Checkpoints.
 */

void
evs_checkpoint_read(const char *name, EvsCheckpoint *checkpoint)
{
	Arguments	arguments = {0};
	EvsQueryResult result;

	add_text(&arguments, name);
	evs_query_begin(&select_checkpoint, arguments.values, arguments.nulls,
					InvalidSnapshot, &result);
	checkpoint->position = DatumGetInt64(only_row(&result, 1));
	checkpoint->event_count = DatumGetInt64(only_row(&result, 2));
	evs_query_end(&result);
}

void
evs_checkpoint_write(const char *name, const EvsCheckpoint *checkpoint)
{
	Arguments	arguments = {0};

	add_text(&arguments, name);
	add_bigint(&arguments, checkpoint->position);
	add_bigint(&arguments, checkpoint->event_count);
	change_row(&update_checkpoint, &arguments);
	arguments.count = 2;
	(void) evs_query_run(&gather_partitions, arguments.values, arguments.nulls);
	evs_restore_followed(checkpoint->position);
	evs_wakeup_projection(name);
}

void
evs_checkpoint_start(const char *name, int64 total)
{
	Arguments	arguments = {0};

	add_text(&arguments, name);
	add_bigint(&arguments, total);
	change_row(&start_checkpoint, &arguments);
}

void
evs_checkpoint_resume(const char *name)
{
	Arguments	arguments = {0};

	add_text(&arguments, name);
	change_row(&resume_checkpoint, &arguments);
}

void
evs_checkpoint_finish(const char *name)
{
	(void) evs_query_run_by_name(&finish_checkpoint, name);
}

/*
 * Counting.
 */
static int64
count(EvsQuery *query, Arguments *arguments)
{
	EvsQueryResult result;
	int64		events;

	evs_query_begin(query, arguments->values, arguments->nulls, InvalidSnapshot, &result);
	events = DatumGetInt64(only_row(&result, 1));
	evs_query_end(&result);

	return events;
}

int64
evs_registry_count(const EvsFilter *filter, int64 after, int64 upto)
{
	Arguments	arguments = {0};

	if (after >= upto)
		return 0;

	add_bigint(&arguments, after);
	add_bigint(&arguments, upto);
	add_texts(&arguments, filter->types, filter->ntypes);
	if (filter->ncategories > 0)
		add_texts(&arguments, filter->categories, filter->ncategories);

	return DatumGetInt64(evs_query_value_latest(filter->ncategories > 0 ? &count_categories : &count_all,
												arguments.values, arguments.nulls, Int64GetDatum(0)));
}

int64
evs_registry_event_count(const char *name)
{
	Arguments	arguments = {0};

	add_text(&arguments, name);
	return count(&count_applied, &arguments);
}

bool
evs_registry_snapshots_fit(const EvsProjection *projection)
{
	Arguments	arguments = {0};

	add_text(&arguments, projection->name);
	add_bigint(&arguments, evs_snapshot_definition(projection));
	return count(&count_own_snapshots, &arguments) > 0;
}
