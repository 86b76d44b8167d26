/*
 * snapshot_history.c - the rows of evsource.snapshot_history.
 *
 * Two things are in it.  A projection with keep_snapshots > 1 keeps the
 * snapshots that newer ones replace: states of the past are computed from the
 * nearest one.  And a stream whose beginning was truncated has a base for each fold
 * over it: its state just before the first event that is left.  A base is not a
 * shortcut, for there are no events to do without it: it stays until the stream
 * is truncated again or the projection is dropped.  One without events says no more
 * than that there was no state: nobody misses it.
 *
 * Whoever writes holds the lock of the key's snapshot: see snapshots.c.  None
 * of this stands in the way of an append of a projection that keeps one.
 */
#include "snapshot_history.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "identity.h"
#include "query.h"

#define ROW_COLUMNS \
	"version, position, last_event_id, event_count, state_version, definition," \
	" saved_at, occurred_at, upto, state"

static EvsQuery read_older = {
	"select " ROW_COLUMNS " from evsource.snapshot_history"
	" where projection = $1 and key = $2 and version < $3 and upto is null"
	"  and occurred_at < $4"
	" order by version desc limit 1",
	4, {TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID}, SPI_OK_SELECT
};

static EvsQuery read_base = {
	"select " ROW_COLUMNS " from evsource.snapshot_history"
	" where projection = $1 and key = $2 and upto is not null",
	2, {TEXTOID, TEXTOID}, SPI_OK_SELECT
};

/* The only row of a result, if there is one, in the caller's memory. */
static bool
take_row(EvsQueryResult *result, EvsSnapshot *row)
{
	bool		found = result->count > 0;
	bool		isnull;

	if (found)
	{
		HeapTuple	tuple = result->rows[0];
		MemoryContext spi_context;

		row->version = evs_query_bigint(result, 0, 1);
		row->position = evs_query_bigint(result, 0, 2);
		row->seen_version = row->version;
		row->seen_position = row->position;
		row->last_event_id = *DatumGetUUIDP(SPI_getbinval(tuple, result->tupdesc, 3, &isnull));
		row->event_count = evs_query_bigint(result, 0, 4);
		row->state_version = evs_query_integer(result, 0, 5);
		row->definition = evs_query_bigint(result, 0, 6);
		row->saved_at = DatumGetTimestampTz(SPI_getbinval(tuple, result->tupdesc, 7, &isnull));
		row->occurred_at = DatumGetTimestampTz(SPI_getbinval(tuple, result->tupdesc, 8, &isnull));
		row->upto = evs_query_bigint(result, 0, 9);
		spi_context = MemoryContextSwitchTo(result->context);
		row->state = DatumGetJsonbPCopy(SPI_getbinval(tuple, result->tupdesc, 10, &isnull));
		MemoryContextSwitchTo(spi_context);
	}
	evs_query_end(result);
	return found;
}

bool
evs_history_read(const char *projection, text *key, int64 below, TimestampTz before,
				 Snapshot snapshot, EvsSnapshot *row)
{
	Datum		values[] = {
		CStringGetTextDatum(projection), PointerGetDatum(key),
		Int64GetDatum(below), TimestampTzGetDatum(before)
	};
	EvsQueryResult result;

	evs_query_begin(&read_older, values, NULL, snapshot, &result);
	return take_row(&result, row);
}

/* What a projection took none of, it may take by another filter or start. */
static bool
is_of_use(const EvsProjection *projection, const EvsSnapshot *base)
{
	return base->event_count > 0 ||
		(base->definition ^ evs_snapshot_base_definition(projection)) >> 32 == 0;
}

bool
evs_history_base(const EvsProjection *projection, text *key, Snapshot snapshot, EvsSnapshot *row)
{
	Datum		values[] = {CStringGetTextDatum(projection->name), PointerGetDatum(key)};
	EvsQueryResult result;

	evs_query_begin(&read_base, values, NULL, snapshot, &result);
	return take_row(&result, row) && is_of_use(projection, row);
}

/*
 * What is at or below it cannot be computed from the events any more, nor be
 * confirmed by them: it goes, and the base takes its place.
 */
static EvsQuery clear_below = {
	"with newest as ("
	"  delete from evsource.snapshots"
	"  where projection = $1 and key = $2 and version <= $3 returning key),"
	" newest_parts as ("
	"  delete from evsource.snapshot_parts p using newest n"
	"  where p.projection = $1 and p.key = n.key)"
	" delete from evsource.snapshot_history"
	" where projection = $1 and key = $2 and (upto is not null or version <= $3)",
	3, {TEXTOID, TEXTOID, INT8OID}, SPI_OK_DELETE, .by_index = true
};

static EvsQuery insert_base = {
	"insert into evsource.snapshot_history"
	" (projection, key, version, position, last_event_id, event_count,"
	"  state_version, definition, saved_at, occurred_at, upto, state)"
	" values ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp(), $9, $10, $11)",
	11, {TEXTOID, TEXTOID, INT8OID, INT8OID, UUIDOID, INT8OID, INT4OID, INT8OID,
		TIMESTAMPTZOID, INT8OID, JSONBOID},
	SPI_OK_INSERT
};

void
evs_history_set_base(const EvsProjection *projection, text *key, const EvsState *state,
					 int64 upto)
{
	EvsState	nothing = {.state = state->state, .has_id = true, .occurred_at = DT_NOBEGIN};
	Datum		below[] = {
		CStringGetTextDatum(projection->name), PointerGetDatum(key), Int64GetDatum(upto)
	};
	const EvsState *base = state->event_count > 0 ? state : &nothing;
	Datum		values[] = {
		below[0],
		below[1],
		Int64GetDatum(base->version),
		Int64GetDatum(base->position),
		UUIDPGetDatum(evs_snapshot_last_event_id(base)),
		Int64GetDatum(base->event_count),
		Int32GetDatum(projection->state_version),
		Int64GetDatum(evs_snapshot_base_definition(projection)),
		TimestampTzGetDatum(base->occurred_at),
		Int64GetDatum(upto),
		JsonbPGetDatum(base->state)
	};

	(void) evs_query_run(&clear_below, below, NULL);
	(void) evs_query_run(&insert_base, values, NULL);
}

static EvsQuery count_base_events = {
	"select coalesce(sum(event_count), 0)::bigint from evsource.snapshot_history"
	" where projection = $1 and upto is not null",
	1, {TEXTOID}, SPI_OK_SELECT
};

int64
evs_history_base_events(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	return DatumGetInt64(evs_query_value(&count_base_events, values, NULL, InvalidSnapshot,
										 Int64GetDatum(0)));
}

static EvsQuery find_bases = {
	"select key from evsource.snapshot_history"
	" where projection = $1 and upto is not null and event_count > 0"
	" order by key",
	1, {TEXTOID}, SPI_OK_SELECT
};

List *
evs_history_base_keys(const char *projection)
{
	Datum		values[] = {CStringGetTextDatum(projection)};

	return evs_query_texts(&find_bases, values, NULL);
}

/* As evs_snapshot_problem(), of a base. */
static const char *
base_problem(EvsProjection *projection, text *key, char **message)
{
	EvsSnapshot row;

	*message = NULL;
	if (projection->kind != EVS_KIND_FOLD || projection->key_kind != EVS_KEY_STREAM)
		return "is that of a fold keyed by stream";
	if (!evs_history_base(projection, key, InvalidSnapshot, &row))
		return NULL;
	return evs_snapshot_problem(projection, &row, message);
}

void
evs_history_check_bases(EvsProjection *projection)
{
	List	   *keys = evs_history_base_keys(projection->name);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource bases",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EvsIdentity identity;
	ListCell   *cell;

	evs_identity_enter(&identity, projection->owner, projection->search_path);
	evs_identity_pin_settings();
	foreach(cell, keys)
	{
		const char *problem;
		char	   *message;

		CHECK_FOR_INTERRUPTS();
		problem = base_problem(projection, cstring_to_text(lfirst(cell)), &message);
		if (problem != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot alter projection \"%s\": its states of truncated events could no longer be used",
							projection->name),
					 errdetail("Stream \"%s\" was truncated; of its first events only the state that they made is left. It %s%s%s.",
							   (char *) lfirst(cell), problem,
							   message ? ": " : "", message ? message : ""),
					 errhint("For another handler or state version, give a new state_version together with migrate_state or is_compatible; for another filter or start, create another projection.")));
		MemoryContextReset(context);
	}
	evs_identity_leave(&identity);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* ---- keeping ---- */

/* In a loop over the keys: the other plans read more, the longer the table has become since. */
static EvsQuery keep = {
	"insert into evsource.snapshot_history"
	" (projection, key, version, position, last_event_id, event_count,"
	"  state_version, definition, saved_at, occurred_at, state)"
	" select s.* from unnest($2) n (key) cross join lateral ("
	"  select projection, key, version, position, last_event_id, event_count,"
	"   state_version, definition, saved_at, occurred_at,"
	"   coalesce(state, evsource._parts_state(projection, key)) as state"
	"  from evsource.snapshots where projection = $1 and key = n.key offset 0) s"
	" where s.state is not null"
	" on conflict (projection, key, version) do nothing",
	2, {TEXTOID, TEXTARRAYOID}, SPI_OK_INSERT, .by_index = true
};

/*
 * What is below those that are kept is found by walking these, once a key; so is what
 * is not before the newest one.  The rows are then fetched by where they are.
 */
#define TRIM(keys) \
	"delete from evsource.snapshot_history where ctid = any (array(" \
	" select old.place from " keys " n (key)" \
	"  cross join lateral (" \
	"   select (select version from evsource.snapshots where projection = $1 and key = n.key)" \
	"   offset 0) s (version)" \
	"  cross join lateral (" \
	"   (select k.ctid from evsource.snapshot_history k" \
	"    where k.projection = $1 and k.key = n.key and k.upto is null and k.version < s.version" \
	"    order by k.version desc offset $2)" \
	"   union all" \
	"   select k.ctid from evsource.snapshot_history k" \
	"   where k.projection = $1 and k.key = n.key and k.upto is null" \
	"    and k.version >= coalesce(s.version, 0)) old (place)))"

static EvsQuery trim = {
	TRIM("unnest($3)"), 3, {TEXTOID, INT4OID, TEXTARRAYOID}, SPI_OK_DELETE, .by_index = true
};

static EvsQuery trim_all = {
	TRIM("(select distinct key from evsource.snapshot_history where projection = $1)"),
	2, {TEXTOID, INT4OID}, SPI_OK_DELETE
};

void
evs_history_keep(const EvsProjection *projection, Datum keys)
{
	Datum		values[] = {CStringGetTextDatum(projection->name), keys};

	(void) evs_query_run_latest(&keep, values, NULL);
}

void
evs_history_trim(const EvsProjection *projection, Datum keys)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name),
		Int32GetDatum(projection->policy.keep_snapshots - 1), keys
	};

	(void) evs_query_run_latest(&trim, values, NULL);
}

void
evs_history_trim_all(const EvsProjection *projection)
{
	Datum		values[] = {
		CStringGetTextDatum(projection->name),
		Int32GetDatum(projection->policy.keep_snapshots - 1)
	};

	(void) evs_query_run(&trim_all, values, NULL);
}

/* ---- removing ---- */

static EvsQuery clear = {
	"delete from evsource.snapshot_history where projection = $1 and (upto is null or $2)",
	2, {TEXTOID, BOOLOID}, SPI_OK_DELETE
};

int64
evs_history_clear(const char *projection, bool bases)
{
	Datum		values[] = {CStringGetTextDatum(projection), BoolGetDatum(bases)};

	return evs_query_run_latest(&clear, values, NULL);
}
