/*
 * rebuild_row.c - the rows of evsource.rebuilds: one for a rebuild that was asked
 * for or is under way, and for an old version that is kept.
 *
 * Locks: see evs_rebuild_lock().
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/xid8.h"

#include "barrier.h"
#include "failure.h"
#include "guard.h"
#include "lock_classes.h"
#include "query.h"
#include "rebuild.h"
#include "rebuild_row.h"
#include "shadow.h"
#include "state_truncated.h"

/* Another hash of the name than the registry's makes it another lock. */
#define REBUILD_SEED		PG_UINT64_MAX

/* What another read model would come of, or the same in another place, or another log. */
#define DEFINITION(lapses) \
	"pg_catalog.hashtextextended(pg_catalog.concat_ws('|', p.kind, p.handler, p.query," \
	" p.categories::text, p.types::text, p.start_after, p.state_version, p.tables::text," \
	" p.on_reset, p.owner, p.search_path, " lapses "), 0)"

static EvsQuery select_rebuild = {
	"select r.state, r.background, r.online, r.from_snapshot, r.keep_old, r.tables,"
	" r.shadow, r.shape, coalesce(r.definition = " DEFINITION("p.lapses") ", false), r.kept_stale,"
	" r.position, r.event_count, coalesce(r.total, 0), r.rounds, r.paused, coalesce(r.pid, 0),"
	" case when not r.truncated_both then r.truncated end, r.request, r.sqlstate,"
	" r.started_at is not null"
	" from evsource.rebuilds r join evsource.projections p using (projection)"
	" where projection = $1",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery write_rebuild = {
	"insert into evsource.rebuilds as r (projection, state, background, online, from_snapshot,"
	"  keep_old, tables, shadow, shape, kept_stale, position, event_count, total, rounds, paused)"
	" values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
	" on conflict (projection) do update set state = excluded.state,"
	"  background = excluded.background, online = excluded.online, from_snapshot = excluded.from_snapshot,"
	"  keep_old = excluded.keep_old, tables = excluded.tables, shadow = excluded.shadow, shape = excluded.shape,"
	"  definition = case excluded.state when 'requested' then null else r.definition end,"
	"  started_at = case excluded.state when 'requested' then null else r.started_at end,"
	"  kept_stale = excluded.kept_stale, position = excluded.position, event_count = excluded.event_count,"
	"  total = excluded.total, rounds = excluded.rounds,"
	"  paused = excluded.paused, waits_for = null, updated_at = clock_timestamp(),"
	"  last_error = null, last_error_position = null, sqlstate = null, detail = null, hint = null, context = null",
	15, {TEXTOID, TEXTOID, BOOLOID, BOOLOID, BOOLOID, BOOLOID, TEXTARRAYOID, TEXTOID, TEXTOID,
	BOOLOID, INT8OID, INT8OID, INT8OID, INT4OID, BOOLOID}, SPI_OK_INSERT
};

static EvsQuery delete_rebuild = {
	"delete from evsource.rebuilds where projection = $1",
	1, {TEXTOID}, SPI_OK_DELETE
};

static EvsQuery start_rebuild = {
	"update evsource.rebuilds r set definition = " DEFINITION("$2") ", started_at = clock_timestamp(),"
	" resumed_at = clock_timestamp(), resumed_count = r.event_count,"
	" truncated = null, truncated_both = false, missed = null, missed_in_use = null"
	" from evsource.projections p"
	" where r.projection = $1 and p.projection = $1",
	2, {TEXTOID, INT4OID}, SPI_OK_UPDATE
};

static EvsQuery resume_rebuild = {
	"update evsource.rebuilds set resumed_at = clock_timestamp(), resumed_count = event_count,"
	" pid = pg_backend_pid() where projection = $1",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery renew_rebuild = {
	"update evsource.rebuilds set request = pg_catalog.pg_current_xact_id() where projection = $1",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery note_snapshot = {
	"update evsource.checkpoints set from_snapshot = true where projection = $1",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery select_snapshot = {
	"select from evsource.checkpoints where projection = $1 and from_snapshot",
	1, {TEXTOID}, SPI_OK_SELECT
};

/* Who has the transactions, and who has locks that are in the way of one on the tables. */
static EvsQuery note_blockers = {
	"with b as (select array_agg(distinct l.pid order by l.pid) as pids from pg_catalog.pg_locks l"
	"  where l.granted and l.pid <> pg_backend_pid() and"
	"   (l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock' and l.pid = any ($2)"
	"    or l.locktype = 'relation' and l.relation = any ($3)"
	"       and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())"
	"       and ($4 or l.mode not in ('AccessShareLock', 'RowShareLock'))))"
	" update evsource.rebuilds r set waits_for = b.pids from b"
	" where r.projection = $1 and r.waits_for is distinct from b.pids",
	4, {TEXTOID, INT4ARRAYOID, OIDARRAYOID, BOOLOID}, SPI_OK_UPDATE
};

static EvsQuery keep_parts = {
	"update evsource.rebuilds set parts = ("
	"  select case when min(s.position) < max(s.position) then array_agg(s.position order by s.partition) end"
	"  from evsource.partitions s where s.projection = $1)"
	" where projection = $1",
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery select_parts = {
	"select parts::text, cardinality(parts) from evsource.rebuilds"
	" where projection = $1 and parts is not null",
	1, {TEXTOID}, SPI_OK_SELECT
};

static EvsQuery restore_parts = {
	"update evsource.partitions"
	" set position = ($2::bigint[])[partition + 1], updated_at = clock_timestamp()"
	" where projection = $1",
	2, {TEXTOID, TEXTOID}, SPI_OK_UPDATE
};

/* It has not ended: with an error, or with an old version that is to be kept. */
#define UNDER_WAY "(state in ('requested', 'building') or state = 'kept' and not keep_old)"

static EvsQuery fail_rebuild = {
	"update evsource.rebuilds set state = case state when 'kept' then state else 'failed' end,"
	"  keep_old = keep_old or state = 'kept', pid = null, waits_for = null, updated_at = clock_timestamp(),"
	"  last_error_position = nullif($2, 0), sqlstate = $3, last_error = $4, detail = $5, hint = $6, context = $7"
	" where projection = $1 and request = $8 and " UNDER_WAY,
	8, {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, XID8OID}, SPI_OK_UPDATE
};

static EvsQuery note_trouble = {
	"update evsource.rebuilds set"
	"  last_error_position = nullif($2, 0), sqlstate = $3, last_error = $4, detail = $5, hint = $6, context = $7"
	" where projection = $1 and request = $8 and " UNDER_WAY,
	8, {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, XID8OID}, SPI_OK_UPDATE
};

static EvsQuery clear_trouble = {
	"update evsource.rebuilds set last_error = null, last_error_position = null,"
	"  sqlstate = null, detail = null, hint = null, context = null"
	" where projection = $1 and last_error is not null and " UNDER_WAY,
	1, {TEXTOID}, SPI_OK_UPDATE
};

static EvsQuery select_owned = {
	"select r.projection from evsource.rebuilds r join pg_catalog.pg_namespace n on n.nspname = r.shadow"
	" where exists (select from pg_catalog.pg_class c where c.relnamespace = n.oid and c.relowner = any ($1))"
	" order by 1",
	1, {OIDARRAYOID}, SPI_OK_SELECT
};

static EvsQuery select_requested = {
	"select projection from evsource.rebuilds"
	" where background and state in ('requested', 'building') or state = 'kept' and not keep_old"
	" order by 1",
	0, {InvalidOid}, SPI_OK_SELECT
};

static const char *const state_names[] = {
	[EVS_REBUILD_REQUESTED] = "requested",
	[EVS_REBUILD_BUILDING] = "building",
	[EVS_REBUILD_FAILED] = "failed",
	[EVS_REBUILD_KEPT] = "kept",
};

void
evs_rebuild_locktag(LOCKTAG *tag, const char *name)
{
	uint64		hash = DatumGetUInt64(hash_any_extended((const unsigned char *) name,
														strlen(name), REBUILD_SEED));

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, EVS_LOCK_NAME);
}

void
evs_rebuild_lock(const char *name)
{
	LOCKTAG		tag;

	evs_rebuild_locktag(&tag, name);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	evs_guard_check_there(name);
}

bool
evs_rebuild_try_lock(const char *name)
{
	LOCKTAG		tag;

	evs_rebuild_locktag(&tag, name);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* ---- reading ---- */

static char *
get_text(const EvsQueryResult *result, int column)
{
	return SPI_getvalue(result->rows[0], result->tupdesc, column);
}

static Datum
get_value(const EvsQueryResult *result, int column, bool *is_null)
{
	return heap_getattr(result->rows[0], column, result->tupdesc, is_null);
}

static List *
get_names(const EvsQueryResult *result, int column)
{
	bool		is_null;
	Datum		value = get_value(result, column, &is_null);
	Datum	   *elements;
	int			count;
	List	   *names = NIL;

	if (is_null)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		names = lappend(names, TextDatumGetCString(elements[i]));
	return names;
}

static EvsRebuildState
get_state(const EvsQueryResult *result)
{
	char	   *state = get_text(result, 1);

	for (int i = 0; i < lengthof(state_names); i++)
		if (strcmp(state, state_names[i]) == 0)
			return (EvsRebuildState) i;
	elog(ERROR, "unknown state of a rebuild: \"%s\"", state);
}

static void
read_row(const EvsQueryResult *result, EvsRebuild *rebuild)
{
	bool		is_null;

	rebuild->state = get_state(result);
	rebuild->background = DatumGetBool(get_value(result, 2, &is_null));
	rebuild->online = DatumGetBool(get_value(result, 3, &is_null));
	rebuild->is_chosen = !is_null;
	rebuild->from_snapshot = DatumGetBool(get_value(result, 4, &is_null));
	rebuild->keep_old = DatumGetBool(get_value(result, 5, &is_null));
	rebuild->tables = get_names(result, 6);
	rebuild->shadow = get_text(result, 7);
	rebuild->shape = get_text(result, 8);
	rebuild->same_definition = DatumGetBool(get_value(result, 9, &is_null));
	rebuild->kept_stale = DatumGetBool(get_value(result, 10, &is_null));
	rebuild->checkpoint.position = DatumGetInt64(get_value(result, 11, &is_null));
	rebuild->checkpoint.event_count = DatumGetInt64(get_value(result, 12, &is_null));
	rebuild->total = DatumGetInt64(get_value(result, 13, &is_null));
	rebuild->rounds = DatumGetInt32(get_value(result, 14, &is_null));
	rebuild->paused = DatumGetBool(get_value(result, 15, &is_null));
	rebuild->pid = DatumGetInt32(get_value(result, 16, &is_null));
	rebuild->truncated = get_text(result, 17);
	rebuild->request = U64FromFullTransactionId(DatumGetFullTransactionId(get_value(result, 18, &is_null)));
	rebuild->trouble = get_text(result, 19);
	rebuild->started = DatumGetBool(get_value(result, 20, &is_null));
}

bool
evs_rebuild_read(const char *name, EvsRebuild *rebuild)
{
	Datum		values[] = {CStringGetTextDatum(name)};
	EvsQueryResult result;
	bool		found;

	memset(rebuild, 0, sizeof(EvsRebuild));
	rebuild->name = name;

	evs_query_begin(&select_rebuild, values, NULL, InvalidSnapshot, &result);
	found = result.count == 1;
	if (found)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(result.context);

		read_row(&result, rebuild);
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(&result);
	return found;
}

List *
evs_rebuilds_requested(void)
{
	return evs_query_texts(&select_requested, NULL, NULL);
}

/* ---- writing ---- */

static Datum
text_or_null(const char *value, char *null)
{
	*null = value == NULL ? 'n' : ' ';
	return value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
}

static Datum
names_or_null(List *names, char *null)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(names), 1));
	int			count = 0;
	ListCell   *cell;

	*null = names == NIL ? 'n' : ' ';
	foreach(cell, names)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

void
evs_rebuild_write(const EvsRebuild *rebuild)
{
	Datum		values[15];
	char		nulls[15];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(rebuild->name);
	values[1] = CStringGetTextDatum(state_names[rebuild->state]);
	values[2] = BoolGetDatum(rebuild->background);
	values[3] = BoolGetDatum(rebuild->online);
	nulls[3] = rebuild->is_chosen ? ' ' : 'n';
	values[4] = BoolGetDatum(rebuild->from_snapshot);
	values[5] = BoolGetDatum(rebuild->keep_old);
	values[6] = names_or_null(rebuild->tables, &nulls[6]);
	values[7] = text_or_null(rebuild->shadow, &nulls[7]);
	values[8] = text_or_null(rebuild->shape, &nulls[8]);
	values[9] = BoolGetDatum(rebuild->kept_stale);
	values[10] = Int64GetDatum(rebuild->checkpoint.position);
	values[11] = Int64GetDatum(rebuild->checkpoint.event_count);
	values[12] = Int64GetDatum(rebuild->total);
	values[13] = Int32GetDatum(rebuild->rounds);
	values[14] = BoolGetDatum(rebuild->paused);
	(void) evs_query_run(&write_rebuild, values, nulls);
}

void
evs_rebuild_delete(const char *name)
{
	(void) evs_query_run_by_name(&delete_rebuild, name);
	evs_crash_mark_clear(name, EVS_CRASH_REBUILD);
}

void
evs_rebuild_start(const EvsRebuild *rebuild, const EvsProjection *projection)
{
	Datum		values[] = {
		CStringGetTextDatum(rebuild->name), Int32GetDatum(projection->lapses)
	};

	evs_rebuild_write(rebuild);
	(void) evs_query_run(&start_rebuild, values, NULL);
}

void
evs_rebuild_resume(const char *name)
{
	(void) evs_query_run_by_name(&resume_rebuild, name);
}

void
evs_rebuild_renew(const char *name)
{
	(void) evs_query_run_by_name(&renew_rebuild, name);
}

void
evs_rebuild_note_snapshot(const char *name)
{
	(void) evs_query_run_by_name(&note_snapshot, name);
}

bool
evs_rebuild_has_snapshot(const char *name)
{
	Datum		values[] = {CStringGetTextDatum(name)};
	EvsQueryResult result;
	bool		found;

	evs_query_begin(&select_snapshot, values, NULL, InvalidSnapshot, &result);
	found = result.count > 0;
	evs_query_end(&result);
	return found;
}

static void
write_blockers(const char *name, Datum *pids, int npids, List *relations, bool with_readers)
{
	Datum	   *oids = palloc(sizeof(Datum) * Max(list_length(relations), 1));
	int			count = 0;
	ListCell   *cell;
	Datum		values[4];

	foreach(cell, relations)
		oids[count++] = ObjectIdGetDatum(lfirst_oid(cell));
	values[0] = CStringGetTextDatum(name);
	values[1] = PointerGetDatum(construct_array(pids, npids, INT4OID, sizeof(int32), true,
												TYPALIGN_INT));
	values[2] = PointerGetDatum(construct_array(oids, count, OIDOID, sizeof(Oid), true,
												TYPALIGN_INT));
	values[3] = BoolGetDatum(with_readers);
	(void) evs_query_run(&note_blockers, values, NULL);
}

void
evs_rebuild_waits_for_transactions(const char *name, const VirtualTransactionId *transactions,
								   int count)
{
	Datum	   *pids = palloc(sizeof(Datum) * count);
	int			npids = 0;

	for (int i = 0; i < count; i++)
	{
		PGPROC	   *process = evs_vxid_get_proc(&transactions[i]);

		if (process != NULL)
			pids[npids++] = Int32GetDatum(process->pid);
	}
	write_blockers(name, pids, npids, NIL, false);
}

void
evs_rebuild_waits_for_relations(const char *name, List *relations, bool with_readers)
{
	write_blockers(name, NULL, 0, relations, with_readers);
}

void
evs_rebuild_keep_parts(const char *name)
{
	(void) evs_query_run_by_name(&keep_parts, name);
}

char *
evs_rebuild_parts(const char *name, int *count)
{
	Datum		values[] = {CStringGetTextDatum(name)};
	EvsQueryResult result;
	char	   *parts = NULL;

	evs_query_begin(&select_parts, values, NULL, InvalidSnapshot, &result);
	if (result.count == 1)
	{
		bool		is_null;

		parts = MemoryContextStrdup(result.context, get_text(&result, 1));
		*count = DatumGetInt32(get_value(&result, 2, &is_null));
	}
	evs_query_end(&result);
	return parts;
}

void
evs_rebuild_restore_parts(const char *name, const char *parts)
{
	Datum		values[] = {CStringGetTextDatum(name), CStringGetTextDatum(parts)};

	(void) evs_query_run(&restore_parts, values, NULL);
}

static bool
record_error(EvsQuery *query, const char *name, uint64 request, int64 position,
			 const ErrorData *error)
{
	EvsErrorText text;
	Datum		values[8] = {CStringGetTextDatum(name), Int64GetDatum(position)};
	char		nulls[8] = {' ', ' ', [7] = ' '};

	evs_error_text(error, &text);
	memcpy(&values[2], text.values, sizeof(text.values));
	memcpy(&nulls[2], text.nulls, sizeof(text.nulls));
	values[7] = FullTransactionIdGetDatum(FullTransactionIdFromU64(request));
	return evs_query_run(query, values, nulls) > 0;
}

bool
evs_rebuild_fail(const char *name, uint64 request, int64 position, const ErrorData *error)
{
	return record_error(&fail_rebuild, name, request, position, error);
}

void
evs_rebuild_note_trouble(const char *name, uint64 request, int64 position,
						 const ErrorData *error)
{
	(void) record_error(&note_trouble, name, request, position, error);
}

void
evs_rebuild_clear_trouble(const char *name)
{
	(void) evs_query_run_by_name(&clear_trouble, name);
}

/* Who reads its tables, or those that they refer to, queues behind us: not for long. */
static void
drop_shadow(const EvsRebuild *rebuild)
{
	EvsBarrier	barrier;

	evs_barrier_begin(&barrier, rebuild->state == EVS_REBUILD_KEPT ?
					  "drop the old version of projection" : "drop the new version of projection",
					  rebuild->name, "used its tables or those that they refer to");
	barrier.appends_go_on = true;
	barrier.tables = evs_shadow_dropped(rebuild->shadow);
	while (!evs_barrier_attempt(&barrier, NULL, NULL))
		;
	evs_shadow_drop(rebuild->shadow);
}

List *
evs_rebuild_dropped(const char *name)
{
	EvsRebuild	rebuild;

	if (!evs_rebuild_read(name, &rebuild) || rebuild.shadow == NULL)
		return NIL;
	return evs_shadow_dropped(rebuild.shadow);
}

void
evs_rebuild_forget(const char *name)
{
	EvsRebuild	rebuild;

	if (!evs_rebuild_read(name, &rebuild))
		return;
	if (rebuild.shadow != NULL)
	{
		drop_shadow(&rebuild);
		evs_troubles_clear(rebuild.shadow);
	}
	if (rebuild.state == EVS_REBUILD_KEPT && rebuild.truncated != NULL)
		evs_truncated_warn(name, rebuild.truncated);
	evs_rebuild_delete(name);
}

/* The tables come last, and all at once: who waits for anything else has locked none. */
static void
forget_all(List *names, Oid role)
{
	EvsBarrier	barrier;
	ListCell   *cell;

	foreach(cell, names)
		evs_rebuild_lock(lfirst(cell));
	foreach(cell, names)
		evs_registry_lock(lfirst(cell));
	evs_barrier_begin(&barrier, "drop what rebuilds have made for role",
					  GetUserNameFromId(role, false),
					  "used these tables or those that they refer to");
	barrier.appends_go_on = true;
	foreach(cell, names)
		barrier.tables = list_concat(barrier.tables, evs_rebuild_dropped(lfirst(cell)));
	while (!evs_barrier_attempt(&barrier, NULL, NULL))
		;
	foreach(cell, names)
		evs_rebuild_forget(lfirst(cell));
}

void
evs_rebuild_forget_owned(List *roles)
{
	Datum	   *oids = palloc(sizeof(Datum) * list_length(roles));
	int			count = 0;
	Datum		values[1];
	List	   *names;
	ListCell   *cell;

	foreach(cell, roles)
		oids[count++] = ObjectIdGetDatum(lfirst_oid(cell));
	values[0] = PointerGetDatum(construct_array(oids, count, OIDOID, sizeof(Oid), true,
												TYPALIGN_INT));
	names = evs_query_texts(&select_owned, values, NULL);
	if (names != NIL)
		forget_all(names, linitial_oid(roles));
}
