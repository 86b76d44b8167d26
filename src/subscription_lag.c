/*
 * subscription_lag.c - how many events subscriptions lag behind.
 *
 * Nobody moves the cursors of a subscription from which nobody fetches, and there may be
 * a thousand of them: so the events are walked once for all, not once for each.  Of the
 * subscriptions that name categories, each category is walked by its index; for the
 * others the log is, and each event finds by its type who wants it.
 *
 * evsource.subscription_status calls us for a subscription at a time.  Who asks for one
 * of them pays for that one; the second call in a statement counts them all, and those
 * after it find their numbers there.
 *
 * Where cursors cannot be used nothing can be counted; who looks for what is wrong
 * has to be told of that one, and of all others what there is to know.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event.h"
#include "query.h"
#include "scan.h"
#include "subscription.h"
#include "unit.h"

PG_FUNCTION_INFO_V1(evsource_subscription_lag);

/* What is told of a subscription. */
typedef struct Lag
{
	char		name[EVS_MAX_SUBSCRIPTION_NAME + 1];	/* the table's key */
	int64		events;
	TimestampTz oldest;			/* when the first was recorded, if there are any */
	const char *problem;		/* why they cannot be counted, or NULL */
} Lag;

/* A generation of the partitions of a subscription. */
typedef struct Part
{
	Lag		   *lag;
	int			generation;
	EvsFilter	filter;
	int			partitions;
	int			ncursors;		/* that it has */
	int64	   *positions;		/* of each one's cursor; the highest there is where it has none */
	int64		lowest;
	int64		until;
	bool		has_end;		/* all of its cursors have */
	int64		seen;			/* the last event that was looked at */
} Part;

/* That a part wants the events of a category, or of a type; NULL: of any type. */
typedef struct Wish
{
	text	   *word;
	Part	   *part;
} Wish;

typedef struct Wishes
{
	Wish	   *wishes;			/* sorted by word */
	int			count;
} Wishes;

/* A count, as long as it lasts, and what it has found for the statement. */
typedef struct Counting
{
	HTAB	   *lags;
	MemoryContext lasting;		/* where they are */
	bool		has_all;
	Part	   *parts;
	int			nparts;
	Snapshot	snapshot;
	MemoryContext event_context;	/* reset at each event */
} Counting;

/* ---- who wants what ---- */

#define SELECT_CURSORS \
	"select s.subscription, s.categories, s.types, c.generation, c.partitions," \
	" c.partition, c.position, coalesce(c.until, 9223372036854775807)" \
	" from evsource.subscriptions s join evsource.cursors c on c.subscription = s.subscription"

/* NULL, or a copy in CurrentMemoryContext. */
static ArrayType *
array_of(const EvsQueryResult *result, uint64 row, int column)
{
	bool		is_null;
	Datum		datum = SPI_getbinval(result->rows[row], result->tupdesc, column, &is_null);

	return is_null ? NULL : DatumGetArrayTypePCopy(datum);
}

static Lag *
lag_of(HTAB *lags, const char *name)
{
	bool		found;
	Lag		   *lag = hash_search(lags, name, HASH_ENTER, &found);

	if (!found)
	{
		lag->events = 0;
		lag->problem = NULL;
	}
	return lag;
}

/* The last part is of an older generation of the same subscription. */
static bool
follows(const Part *last, const Lag *lag, int generation)
{
	return last != NULL && last->lag == lag && last->generation != generation;
}

/* Nothing of it is counted. */
static void
give_up(Counting *counting, Lag *lag, const char *problem)
{
	lag->problem = MemoryContextStrdup(counting->lasting, problem);
	while (counting->nparts > 0 && counting->parts[counting->nparts - 1].lag == lag)
		counting->nparts--;
}

/* All rows of the last part have been seen. */
static void
end_part(Counting *counting)
{
	Part	   *part = counting->nparts == 0 ? NULL : &counting->parts[counting->nparts - 1];
	const char *problem = part == NULL ? NULL :
		evs_missing_cursors_problem(part->ncursors, part->partitions, part->has_end);

	if (problem != NULL)
		give_up(counting, part->lag, problem);
}

/*
 * The part that the row's cursor belongs to: rows of one follow each other.  NULL when the
 * cursors of its subscription cannot be used.
 */
static Part *
part_of(Counting *counting, const EvsQueryResult *result, uint64 row)
{
	Part	   *part = counting->nparts == 0 ? NULL : &counting->parts[counting->nparts - 1];
	Lag		   *lag = lag_of(counting->lags, evs_query_text(result, row, 1));
	int			generation = evs_query_integer(result, row, 4);
	int			partitions = evs_query_integer(result, row, 5);
	bool		is_same = part != NULL && part->lag == lag && part->generation == generation;
	const char *problem = evs_cursor_problem(evs_query_integer(result, row, 6), partitions,
											 is_same ? part->partitions : partitions);

	if (problem == NULL && follows(part, lag, generation) && !part->has_end)
		problem = evs_generation_problem(generation, part->generation);
	if (problem != NULL)
		give_up(counting, lag, problem);
	if (lag->problem != NULL)
		return NULL;
	if (is_same)
		return part;

	end_part(counting);
	part = &counting->parts[counting->nparts++];
	part->lag = lag;
	part->generation = generation;
	evs_filter_from_arrays(&part->filter, array_of(result, row, 2), array_of(result, row, 3));
	part->partitions = partitions;
	part->ncursors = 0;
	part->positions = palloc(sizeof(int64) * part->partitions);
	for (int i = 0; i < part->partitions; i++)
		part->positions[i] = PG_INT64_MAX;
	part->lowest = part->until = PG_INT64_MAX;
	part->has_end = true;
	part->seen = 0;
	return part;
}

/* All subscriptions, or the one of that name. */
static void
load_parts(Counting *counting, const char *name)
{
	static EvsQuery select_all = {
		SELECT_CURSORS " order by s.subscription, c.generation", 0, {0}, SPI_OK_SELECT
	};
	static EvsQuery select_one = {
		SELECT_CURSORS " where s.subscription = $1 order by c.generation", 1, {TEXTOID}, SPI_OK_SELECT
	};
	Datum		values[1];
	EvsQueryResult result;
	MemoryContext context = CurrentMemoryContext;

	if (name != NULL)
		values[0] = CStringGetTextDatum(name);
	evs_query_begin(name == NULL ? &select_all : &select_one, values, NULL, counting->snapshot, &result);
	MemoryContextSwitchTo(context);
	counting->parts = palloc_extended(sizeof(Part) * (result.count + 1), MCXT_ALLOC_HUGE);
	counting->nparts = 0;
	for (uint64 row = 0; row < result.count; row++)
	{
		Part	   *part = part_of(counting, &result, row);
		int64		position = evs_query_bigint(&result, row, 7);
		int64		until = evs_query_bigint(&result, row, 8);

		if (part == NULL)
			continue;
		part->ncursors++;
		part->positions[evs_query_integer(&result, row, 6)] = position;
		part->lowest = Min(part->lowest, position);
		part->until = Min(part->until, until);
		part->has_end &= until != PG_INT64_MAX;
	}
	end_part(counting);
	evs_query_end(&result);
}

static int
compare_words(const text *a, const char *data, int length)
{
	int			shorter = Min(VARSIZE_ANY_EXHDR(a), length);
	int			order = memcmp(VARDATA_ANY(a), data, shorter);

	return order != 0 ? order : (int) VARSIZE_ANY_EXHDR(a) - length;
}

static int
compare_wishes(const void *a, const void *b)
{
	const text *word = ((const Wish *) b)->word;

	return compare_words(((const Wish *) a)->word, VARDATA_ANY(word), VARSIZE_ANY_EXHDR(word));
}

static void
add_wishes(Wishes *to, Part *part, text **words, int count)
{
	for (int i = 0; i < count; i++)
	{
		to->wishes[to->count].word = words[i];
		to->wishes[to->count++].part = part;
	}
}

static void
allocate(Wishes *wishes, int count)
{
	wishes->wishes = palloc_extended(sizeof(Wish) * (count + 1), MCXT_ALLOC_HUGE);
	wishes->count = 0;
}

/* Those who name categories, those who name only types, and the others. */
static void
collect(Counting *counting, Wishes *categories, Wishes *types, Wishes *others)
{
	int			ncategories = 0;
	int			ntypes = 0;

	for (int i = 0; i < counting->nparts; i++)
	{
		ncategories += counting->parts[i].filter.ncategories;
		ntypes += counting->parts[i].filter.ntypes;
	}
	allocate(categories, ncategories);
	allocate(types, ntypes);
	allocate(others, counting->nparts);
	for (int i = 0; i < counting->nparts; i++)
	{
		Part	   *part = &counting->parts[i];
		EvsFilter  *filter = &part->filter;
		text	   *any = NULL;

		if (filter->ncategories > 0)
			add_wishes(categories, part, filter->categories, filter->ncategories);
		else if (filter->ntypes > 0)
			add_wishes(types, part, filter->types, filter->ntypes);
		else
			add_wishes(others, part, &any, 1);
	}
	qsort(categories->wishes, categories->count, sizeof(Wish), compare_wishes);
	qsort(types->wishes, types->count, sizeof(Wish), compare_wishes);
}

static int64
lowest_of(const Wishes *wishes)
{
	int64		lowest = PG_INT64_MAX;

	for (int i = 0; i < wishes->count; i++)
		lowest = Min(lowest, wishes->wishes[i].part->lowest);
	return lowest;
}

/* Those of one word, from the first on. */
static Wishes
wishes_of_word(const Wishes *wishes, int first)
{
	Wishes		same = {&wishes->wishes[first], 1};

	while (first + same.count < wishes->count &&
		   compare_wishes(&same.wishes[0], &same.wishes[same.count]) == 0)
		same.count++;
	return same;
}

/* Those of an event's type. */
static Wishes
wishes_of_type(const Wishes *types, const text *type)
{
	int			low = 0;
	int			high = types->count;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (compare_words(types->wishes[middle].word, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == types->count ||
		compare_words(types->wishes[low].word, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)) != 0)
		return (Wishes) {NULL, 0};
	return wishes_of_word(types, low);
}

/* ---- counting ---- */

static void
count_event(Part *part, const EvsEvent *event)
{
	Lag		   *lag = part->lag;

	/* who names a word twice sees an event twice */
	if (event->position <= part->lowest || event->position > part->until ||
		event->position == part->seen || !evs_filter_accepts(&part->filter, event))
		return;
	part->seen = event->position;
	if (event->position <= part->positions[evs_partition_of(event->stream, part->partitions)])
		return;
	if (lag->events++ == 0 || event->recorded_at < lag->oldest)
		lag->oldest = event->recorded_at;
}

static void
count_for(const Wishes *wishes, const EvsEvent *event)
{
	for (int i = 0; i < wishes->count; i++)
		count_event(wishes->wishes[i].part, event);
}

/* The next event, without its data. */
static bool
next_event(Counting *counting, EvsScan *scan, EvsEvent *event)
{
	TupleTableSlot *slot = evs_scan_next_slot(scan);
	MemoryContext caller;

	if (slot == NULL)
		return false;
	MemoryContextReset(counting->event_context);
	caller = MemoryContextSwitchTo(counting->event_context);
	slot_getsomeattrs(slot, EVS_EVENTS_TYPE);
	event->position = DatumGetInt64(slot->tts_values[EVS_EVENTS_POSITION - 1]);
	event->recorded_at = DatumGetTimestampTz(slot->tts_values[EVS_EVENTS_RECORDED_AT - 1]);
	event->stream = DatumGetTextPP(slot->tts_values[EVS_EVENTS_STREAM - 1]);
	event->type = DatumGetTextPP(slot->tts_values[EVS_EVENTS_TYPE - 1]);
	MemoryContextSwitchTo(caller);
	return true;
}

static void
count_category(Counting *counting, const Wishes *wishes)
{
	EvsFilter	category = {.ncategories = 1, .categories = &wishes->wishes[0].word};
	EvsScan    *scan = evs_scan_log(lowest_of(wishes), PG_INT64_MAX, &category, counting->snapshot);
	EvsEvent	event;

	while (next_event(counting, scan, &event))
		count_for(wishes, &event);
	evs_scan_end(scan);
}

static void
count_log(Counting *counting, const Wishes *types, const Wishes *others)
{
	int64		after = Min(lowest_of(types), lowest_of(others));
	EvsScan    *scan = evs_scan_log(after, PG_INT64_MAX, NULL, counting->snapshot);
	EvsEvent	event;

	while (next_event(counting, scan, &event))
	{
		Wishes		wanted = wishes_of_type(types, event.type);

		count_for(&wanted, &event);
		count_for(others, &event);
	}
	evs_scan_end(scan);
}

static HTAB *
create_lags(MemoryContext context)
{
	HASHCTL		control = {.keysize = sizeof(((Lag *) NULL)->name), .entrysize = sizeof(Lag), .hcxt = context};

	return hash_create("evsource subscription lags", 128, &control,
					   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/* The lag of one subscription, or of all (NULL), in a table that lives in the context. */
static void
count_lags(Counting *counting, const char *name, MemoryContext context)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "evsource subscription lag",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(work);
	Wishes		categories;
	Wishes		types;
	Wishes		others;

	counting->lags = create_lags(context);
	counting->lasting = context;
	counting->snapshot = GetActiveSnapshot();
	counting->event_context = AllocSetContextCreate(work, "evsource subscription lag event",
													ALLOCSET_SMALL_SIZES);
	load_parts(counting, name);
	collect(counting, &categories, &types, &others);
	for (int i = 0; i < categories.count;)
	{
		Wishes		same = wishes_of_word(&categories, i);

		CHECK_FOR_INTERRUPTS();
		count_category(counting, &same);
		i += same.count;
	}
	if (types.count + others.count > 0)
		count_log(counting, &types, &others);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(work);
}

/* What stays from call to call of a statement. */
static Counting *
counting_of(FunctionCallInfo fcinfo)
{
	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Counting));
	return fcinfo->flinfo->fn_extra;
}

/*
 * evsource._subscription_lag(subscription, out lag, out lag_seconds, out problem)
 *
 * No rights are checked: who may call it may read evsource.subscriptions, too.
 */
Datum
evsource_subscription_lag(PG_FUNCTION_ARGS)
{
	Counting   *counting = counting_of(fcinfo);
	bool		is_first = counting->lags == NULL;
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	TupleDesc	desc;
	Datum		values[3] = {Int64GetDatum(0), Float8GetDatum(0)};
	bool		nulls[3] = {false, false, true};
	Lag		   *lag;
	const char *problem;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!counting->has_all)
	{
		count_lags(counting, is_first ? name : NULL, fcinfo->flinfo->fn_mcxt);
		counting->has_all = !is_first;
	}
	lag = hash_search(counting->lags, name, HASH_FIND, NULL);
	problem = lag == NULL ? evs_no_cursors_problem() : lag->problem;
	if (problem != NULL)
	{
		nulls[0] = nulls[1] = true;
		nulls[2] = false;
		values[2] = CStringGetTextDatum(problem);
	}
	else if (lag->events > 0)
	{
		values[0] = Int64GetDatum(lag->events);
		values[1] = Float8GetDatum((GetCurrentTimestamp() - lag->oldest) / (double) USECS_PER_SEC);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
