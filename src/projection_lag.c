/*
 * projection_lag.c - how many events a projection has yet to apply.
 *
 * Whoever watches asks every few seconds, and a projection may be millions of events
 * behind.  So they are counted only up to a limit of events that are looked at.  How
 * many there are behind it is estimated: as many for each position up to the end of
 * the log as in the part that was counted.
 *
 * No estimate makes something of nothing, or nothing of something: where the
 * projection takes none of the events up to the limit, we go on to the first that it
 * takes.  That is also the one whose age is told.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event.h"
#include "query.h"
#include "scan.h"
#include "unit.h"

PG_FUNCTION_INFO_V1(evsource_projection_lag);

/* What the projection takes, and from where on. */
typedef struct Wanted
{
	EvsFilter	filter;
	int64		after;
	int			partitions;
	int64	   *positions;		/* of each; the highest there is where it has none */
} Wanted;

/* What was seen of the log. */
typedef struct Count
{
	int64		looked_at;		/* events */
	int64		first;			/* position of the first */
	int64		last;			/* and of the last of them */
	int64		accepted;		/* by the filter, applied or not */
	int64		lag;			/* not applied */
	TimestampTz oldest;			/* when the first of these was recorded */
	bool		has_more;		/* there are events behind */
} Count;

/* NULL, or a copy in CurrentMemoryContext. */
static ArrayType *
array_of(const EvsQueryResult *result, int column)
{
	bool		is_null;
	Datum		datum = SPI_getbinval(result->rows[0], result->tupdesc, column, &is_null);

	return is_null ? NULL : DatumGetArrayTypePCopy(datum);
}

static void
load_partitions(Wanted *wanted, Datum name, Snapshot snapshot)
{
	static EvsQuery select_partitions = {
		"select q.partition, q.position from evsource.partitions q where q.projection = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {name};
	EvsQueryResult result;

	for (int i = 0; i < wanted->partitions; i++)
		wanted->positions[i] = wanted->partitions == 1 ? wanted->after : PG_INT64_MAX;
	if (wanted->partitions == 1)
		return;

	evs_query_begin(&select_partitions, values, NULL, snapshot, &result);
	for (uint64 row = 0; row < result.count; row++)
	{
		int			partition = evs_query_integer(&result, row, 1);

		if (partition >= 0 && partition < wanted->partitions)
			wanted->positions[partition] = evs_query_bigint(&result, row, 2);
	}
	evs_query_end(&result);
}

/* False: there is no such projection. */
static bool
load(Wanted *wanted, Datum name, Snapshot snapshot)
{
	static EvsQuery select_projection = {
		"select p.categories, p.types, greatest(c.position, p.start_after), p.partitions"
		" from evsource.projections p join evsource._checkpoints c using (projection)"
		" where p.projection = $1",
		1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[] = {name};
	EvsQueryResult result;
	MemoryContext context = CurrentMemoryContext;
	bool		found;

	memset(wanted, 0, sizeof(Wanted));
	evs_query_begin(&select_projection, values, NULL, snapshot, &result);
	MemoryContextSwitchTo(context);
	found = result.count > 0;
	if (found)
	{
		evs_filter_from_arrays(&wanted->filter, array_of(&result, 1), array_of(&result, 2));
		wanted->after = evs_query_bigint(&result, 0, 3);
		wanted->partitions = evs_query_integer(&result, 0, 4);
		wanted->positions = palloc(sizeof(int64) * wanted->partitions);
	}
	evs_query_end(&result);
	if (found)
		load_partitions(wanted, name, snapshot);
	return found;
}

static void
count_event(Count *count, const Wanted *wanted, TupleTableSlot *slot)
{
	EvsEvent	event;

	slot_getsomeattrs(slot, EVS_EVENTS_TYPE);
	event.position = DatumGetInt64(slot->tts_values[EVS_EVENTS_POSITION - 1]);
	event.stream = DatumGetTextPP(slot->tts_values[EVS_EVENTS_STREAM - 1]);
	event.type = DatumGetTextPP(slot->tts_values[EVS_EVENTS_TYPE - 1]);

	if (count->looked_at++ == 0)
		count->first = event.position;
	count->last = event.position;
	if (!evs_filter_accepts(&wanted->filter, &event))
		return;
	count->accepted++;
	if (wanted->partitions > 1 &&
		event.position <= wanted->positions[evs_partition_of(event.stream, wanted->partitions)])
		return;
	if (count->lag++ == 0)
		count->oldest = DatumGetTimestampTz(slot->tts_values[EVS_EVENTS_RECORDED_AT - 1]);
}

static void
count_events(Count *count, const Wanted *wanted, int64 at_most, Snapshot snapshot)
{
	EvsFilter	category = {.ncategories = 1, .categories = wanted->filter.categories};
	EvsScan    *scan = evs_scan_log(wanted->after, PG_INT64_MAX,
									wanted->filter.ncategories == 1 ? &category : NULL, snapshot);
	MemoryContext event_context = AllocSetContextCreate(CurrentMemoryContext, "evsource lag event",
														ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(event_context);
	TupleTableSlot *slot;

	memset(count, 0, sizeof(Count));
	while (!count->has_more && (slot = evs_scan_next_slot(scan)) != NULL)
	{
		if (count->looked_at >= at_most && count->lag > 0)
			count->has_more = true;
		else
			count_event(count, wanted, slot);
		MemoryContextReset(event_context);
	}
	MemoryContextSwitchTo(caller);
	evs_scan_end(scan);
}

/* How many more it takes, behind those that were counted. */
static int64
estimate(const Count *count, const Wanted *wanted, Snapshot snapshot)
{
	static EvsQuery select_end = {
		"select max(e.position) from evsource.events e", 0, {0}, SPI_OK_SELECT
	};
	int64		end = DatumGetInt64(evs_query_value(&select_end, NULL, NULL, snapshot, Int64GetDatum(0)));
	double		density = (double) count->accepted / (count->last - count->first + 1);
	double		positions = 0;

	for (int i = 0; i < wanted->partitions; i++)
		positions += Max(end - Max(count->last, wanted->positions[i]), 0);
	return (int64) (density * positions / wanted->partitions + 0.5);
}

/*
 * evsource._projection_lag(projection, at_most, out lag, out estimated, out lag_seconds)
 *
 * Counts among so many events; null when there is no such projection.  No rights are
 * checked: who may call it may read evsource.projections, too.
 */
Datum
evsource_projection_lag(PG_FUNCTION_ARGS)
{
	Datum		name = PG_GETARG_DATUM(0);
	int64		at_most = PG_GETARG_INT64(1);
	Snapshot	snapshot = GetActiveSnapshot();
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	Wanted		wanted;
	Count		count;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!load(&wanted, name, snapshot))
		PG_RETURN_NULL();
	count_events(&count, &wanted, at_most, snapshot);
	if (count.has_more)
		count.lag += estimate(&count, &wanted, snapshot);

	values[0] = Int64GetDatum(count.lag);
	values[1] = BoolGetDatum(count.has_more);
	values[2] = Float8GetDatum(count.lag == 0 ? 0 :
							   (GetCurrentTimestamp() - count.oldest) / (double) USECS_PER_SEC);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
