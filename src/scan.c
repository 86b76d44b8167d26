/*
 * scan.c - walk the stored events of a stream, a category or the whole log.
 *
 * Everything that reads events in C comes through here: the reading functions,
 * dispatch, rebuild and the folds.  A scan is an index scan of its own on the
 * table, without the executor: what it costs is the index, the row and nothing
 * else.
 *
 * A scan opens events and one of its indexes with AccessShareLock and leaves
 * the locks to the end of the transaction, as a query does.  It reads with the
 * MVCC snapshot it is given and keeps that registered.  Buffer pins and the
 * snapshot belong to the resource owner that was current when the scan began:
 * begin and end a scan in the same (sub)transaction.
 *
 * What a serializable transaction reads counts as read, with the pages of the index
 * that it is on, and another one's append to such a page would be one of its conflicts.
 * Not so what it has stored itself and reads back: nobody else writes there.  PostgreSQL
 * takes no predicate locks for what is read with a snapshot that is not an MVCC one.
 *
 * Privileges and row security are the caller's business.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "alarm.h"
#include "catalog.h"
#include "event.h"
#include "scan.h"
#include "types.h"
#include "unit.h"

/* so much of a row is fetched ahead; further on, reading it makes the processor do so by itself */
#define CACHE_LINE	64
#define MOST_AHEAD	(8 * CACHE_LINE)

/* of so many categories the first event is looked up: that takes as long as to look at some dozens */
#define MOST_LOOKED_UP	8

/* over so many positions a scan goes to the next run, rather than look at what is between */
#define FAR_AWAY	64

struct EvsScan
{
	/* Where */
	Relation	events;
	Relation	index;
	Snapshot	snapshot;		/* registered */
	bool		own;			/* only what this transaction has stored */
	IndexScanDesc index_scan;
	ScanDirection direction;
	bool		in_order;		/* rows come as they were stored */
	TupleTableSlot *slot;		/* the current row */
	bool		keeps_no_page;	/* of an event that is taken only a copy */
	bool		done;			/* an index scan asked again would start again */
	EvsTime		until;			/* it is to end then, if it is set */
	int64		rows;			/* that were looked at, if it is */

	/* Which rows, beyond what the index has decided */
	const EvsFilter *filter;	/* NULL: all */
	bool		any_category;	/* the index has decided the category */
	EvsTypeRun *types;			/* brings old data up; NULL: no type is defined */

	/* Which positions, where it is given them */
	const EvsRun *runs;			/* the one that it is in or before; NULL: any */
	int			nruns;			/* that one and those behind */
	ScanKeyData keys[3];		/* those of a scan of the log */
	int			nkeys;
	int			after;			/* the one for positions above */

	/* Memory */
	MemoryContext context;		/* lives as long as the scan */
	MemoryContext event_context;	/* reset at each event */
};

/*
 * Begin a scan on the given index.  The caller then has all members set but the
 * filter.  A scan key's own datum must be allocated in scan->context.
 */
static EvsScan *
scan_create(Snapshot snapshot)
{
	MemoryContext context;
	EvsScan    *scan;

	Assert(IsMVCCSnapshot(snapshot));

	context = AllocSetContextCreate(CurrentMemoryContext, "evsource scan",
									ALLOCSET_SMALL_SIZES);
	scan = MemoryContextAllocZero(context, sizeof(EvsScan));
	scan->context = context;
	scan->event_context = AllocSetContextCreate(context, "evsource scan event",
												ALLOCSET_DEFAULT_SIZES);
	scan->direction = ForwardScanDirection;

	/*
	 * Lock the table before asking for its indexes: REINDEX CONCURRENTLY gives
	 * them new OIDs, and lets the old ones live as long as we hold this lock.
	 */
	scan->events = evs_catalog_open(evs_catalog()->events, AccessShareLock);
	scan->snapshot = RegisterSnapshot(snapshot);
	if (evs_types_any_now())
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		scan->types = evs_type_run();
		MemoryContextSwitchTo(caller);
	}
	return scan;
}

static void
scan_begin(EvsScan *scan, Oid index, ScanKey keys, int nkeys)
{
	MemoryContext old_context = MemoryContextSwitchTo(scan->context);

	scan->index = index_open(index, AccessShareLock);
	scan->slot = table_slot_create(scan->events, NULL);
	scan->index_scan = index_beginscan(scan->events, scan->index,
									   scan->own && IsolationIsSerializable() ?
									   SnapshotSelf : scan->snapshot,
									   NULL, nkeys, 0, SO_NONE);
	index_rescan(scan->index_scan, keys, nkeys, NULL, 0);
	MemoryContextSwitchTo(old_context);
}

/* A copy of a text that lives as long as the scan. */
static Datum
scan_text(EvsScan *scan, const text *value)
{
	text	   *copy = MemoryContextAlloc(scan->context, VARSIZE_ANY(value));

	memcpy(copy, value, VARSIZE_ANY(value));
	return PointerGetDatum(copy);
}

/*
 * One stream, versions from_version to to_version (both inclusive), ascending
 * or, if backward, descending.
 */
EvsScan *
evs_scan_stream(text *stream, int64 from_version, int64 to_version,
				bool backward, Snapshot snapshot)
{
	EvsScan    *scan = scan_create(snapshot);
	ScanKeyData keys[3];
	int			nkeys = 0;

	/* ScanKeyInit compares by the C collation: that of the column */
	ScanKeyInit(&keys[nkeys++], 1, BTEqualStrategyNumber, F_TEXTEQ,
				scan_text(scan, stream));
	if (from_version > 1)
		ScanKeyInit(&keys[nkeys++], 2, BTGreaterEqualStrategyNumber, F_INT8GE,
					Int64GetDatum(from_version));
	if (to_version < PG_INT64_MAX)
		ScanKeyInit(&keys[nkeys++], 2, BTLessEqualStrategyNumber, F_INT8LE,
					Int64GetDatum(to_version));

	scan->direction = backward ? BackwardScanDirection : ForwardScanDirection;
	scan_begin(scan, evs_catalog()->events_stream, keys, nkeys);
	return scan;
}

static EvsScan *begin_log(int64 after, int64 upto, const EvsFilter *filter, Snapshot snapshot,
						  bool own);

/*
 * Move *after to where the first event of one of the filter's categories comes next;
 * false: there is none.  A serializable transaction has read by this, too, that there
 * is nothing before it.
 */
static bool
skip_others(int64 *after, int64 upto, const EvsFilter *filter, Snapshot snapshot, bool own)
{
	bool		found = false;

	for (int i = 0; i < filter->ncategories && *after < upto; i++)
	{
		EvsFilter	one = {.ncategories = 1, .categories = &filter->categories[i]};
		EvsScan    *scan = begin_log(*after, upto, &one, snapshot, own);

		if (evs_scan_next_slot(scan) != NULL)
		{
			found = true;
			upto = evs_scan_passed(scan) - 1;
		}
		evs_scan_end(scan);
	}
	if (found)
		*after = upto;
	return found;
}

static EvsScan *
begin_log(int64 after, int64 upto, const EvsFilter *filter, Snapshot snapshot, bool own)
{
	EvsScan    *scan = scan_create(snapshot);
	bool		by_category = filter != NULL && filter->ncategories == 1;
	bool		few = filter != NULL && filter->ncategories > 1 &&
		filter->ncategories <= MOST_LOOKED_UP;
	bool		empty = few && !skip_others(&after, upto, filter, scan->snapshot, own);
	Oid			index;
	ScanKey		keys = scan->keys;
	AttrNumber	column = 1;
	int			nkeys = 0;

	scan->own = own;
	if (by_category)
	{
		index = evs_catalog()->events_category;
		ScanKeyInit(&keys[nkeys++], column++, BTEqualStrategyNumber, F_TEXTEQ,
					scan_text(scan, filter->categories[0]));
	}
	else
		index = evs_catalog()->events_pkey;

	scan->after = nkeys;
	ScanKeyInit(&keys[nkeys++], column, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
	if (upto < PG_INT64_MAX)
		ScanKeyInit(&keys[nkeys++], column, BTLessEqualStrategyNumber, F_INT8LE,
					Int64GetDatum(upto));

	scan->any_category = by_category;
	if (filter != NULL &&
		(filter->ntypes > 0 || filter->partitions > 1 ||
		 (filter->ncategories > 0 && !by_category)))
		scan->filter = filter;

	scan->nkeys = nkeys;
	scan_begin(scan, index, keys, nkeys);
	scan->in_order = TTS_IS_BUFFERTUPLE(scan->slot);
	scan->done = empty;
	return scan;
}

EvsScan *
evs_scan_log(int64 after, int64 upto, const EvsFilter *filter, Snapshot snapshot)
{
	return begin_log(after, upto, filter, snapshot, false);
}

/*
 * What this transaction has stored at positions that it has drawn: in these runs, of which
 * there is one at least.
 */
EvsScan *
evs_scan_own(const EvsRun *runs, int count, const EvsFilter *filter, Snapshot snapshot)
{
	EvsScan    *scan = begin_log(runs[0].first - 1, runs[count - 1].last, filter, snapshot, true);

	scan->runs = runs;
	scan->nruns = count;
	return scan;
}

/* The event to which a client gave this id: one or none. */
EvsScan *
evs_scan_id(const pg_uuid_t *id, Snapshot snapshot)
{
	EvsScan    *scan = scan_create(snapshot);
	pg_uuid_t  *copy = MemoryContextAlloc(scan->context, sizeof(pg_uuid_t));
	ScanKeyData key;

	*copy = *id;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(copy));
	scan_begin(scan, evs_catalog()->events_id, &key, 1);
	return scan;
}

static bool
text_is_one_of(text *const *values, int count, const char *data, int length)
{
	for (int i = 0; i < count; i++)
	{
		if (VARSIZE_ANY_EXHDR(values[i]) == length &&
			memcmp(VARDATA_ANY(values[i]), data, length) == 0)
			return true;
	}
	return false;
}

static bool
filter_accepts(const EvsFilter *filter, bool any_category,
			   const text *stream, const text *type)
{
	if (filter->ntypes > 0 &&
		!text_is_one_of(filter->types, filter->ntypes,
						VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)))
		return false;

	if (filter->ncategories > 0 && !any_category)
	{
		const char *name = VARDATA_ANY(stream);

		if (!text_is_one_of(filter->categories, filter->ncategories, name,
							evs_category_length(name, VARSIZE_ANY_EXHDR(stream))))
			return false;
	}
	return filter->partitions <= 1 ||
		evs_partition_of(stream, filter->partitions) == filter->partition;
}

/* Does the filter (NULL = everything) let this event through? */
bool
evs_filter_accepts(const EvsFilter *filter, const EvsEvent *event)
{
	return filter == NULL ||
		filter_accepts(filter, false, event->stream, event->type);
}

/* The same for the row that the scan is on, looking at no other column. */
static bool
row_is_accepted(EvsScan *scan, const EvsFilter *filter, bool any_category)
{
	MemoryContext old_context;
	text	   *stream;
	text	   *type;
	bool		accepted;

	/* a long type may be stored compressed */
	old_context = MemoryContextSwitchTo(scan->event_context);
	slot_getsomeattrs(scan->slot, EVS_EVENTS_TYPE);
	stream = DatumGetTextPP(scan->slot->tts_values[EVS_EVENTS_STREAM - 1]);
	type = DatumGetTextPP(scan->slot->tts_values[EVS_EVENTS_TYPE - 1]);
	accepted = filter_accepts(filter, any_category, stream, type);
	MemoryContextSwitchTo(old_context);
	return accepted;
}

static bool
scan_accepts(EvsScan *scan)
{
	bool		accepted = scan->filter == NULL ||
		row_is_accepted(scan, scan->filter, scan->any_category);

	if (!accepted)
		MemoryContextReset(scan->event_context);
	return accepted;
}

void
evs_scan_until(EvsScan *scan, EvsTime until)
{
	scan->until = until;
}

/* The position of the row that the scan is on. */
int64
evs_scan_passed(EvsScan *scan)
{
	slot_getsomeattrs(scan->slot, EVS_EVENTS_POSITION);
	return DatumGetInt64(scan->slot->tts_values[EVS_EVENTS_POSITION - 1]);
}

/* Pass over the runs that end before this position; behind the last one the scan is done. */
static void
pass_runs(EvsScan *scan, int64 position)
{
	while (scan->nruns > 0 && scan->runs->last < position)
	{
		scan->runs++;
		scan->nruns--;
	}
	if (scan->nruns == 0)
		scan->done = true;
}

/* The next row is to be the first one that is not before the run. */
static void
leap_to_run(EvsScan *scan)
{
	scan->keys[scan->after].sk_argument = Int64GetDatum(scan->runs->first - 1);
	index_rescan(scan->index_scan, scan->keys, scan->nkeys, NULL, 0);
}

/*
 * The scan has come to a row: move the runs on to it.  False: it is in none of them, and the
 * scan has moved on to the next one, if that is far.
 */
static bool
follow_runs(EvsScan *scan)
{
	int64		position = evs_scan_passed(scan);

	pass_runs(scan, position);
	if (scan->done)
		return false;
	if (position >= scan->runs->first)
		return true;
	if (scan->runs->first - position > FAR_AWAY)
		leap_to_run(scan);
	return false;
}

/* Asked before each row: the clock is looked at now and then. */
static bool
is_late(EvsScan *scan)
{
	return evs_clock_is_set(scan->until) && scan->rows++ % EVS_SCAN_STRETCH == EVS_SCAN_STRETCH - 1 &&
		evs_clock_is_over(scan->until);
}

/*
 * Have the processor fetch the next row of the page into its cache while this one is
 * at work: to wait for memory would take longer than to call a handler with it.  In
 * the order of the log the next row is the next event, more often than not; where it
 * is not, this does no harm, nor would an address where there is nothing.
 *
 * Always inline: GCC takes a function that only prefetches for one that does nothing.
 */
static pg_attribute_always_inline void
fetch_ahead(const EvsScan *scan)
{
	Page		page = BufferGetPage(((BufferHeapTupleTableSlot *) scan->slot)->buffer);
	OffsetNumber next = OffsetNumberNext(ItemPointerGetOffsetNumber(&scan->slot->tts_tid));
	ItemId		item = PageGetItemId(page, next);
	const char *row;
	const char *end;

	if (next > PageGetMaxOffsetNumber(page))
		return;
	row = (const char *) page + ItemIdGetOffset(item);
	end = row + Min(ItemIdGetLength(item), MOST_AHEAD);
	for (; row < end; row += CACHE_LINE)
		__builtin_prefetch(row);
}

/*
 * The next event as the row that is stored (columns of evsource.events), or
 * NULL.  The slot is the scan's own and changes with the next call.
 */
TupleTableSlot *
evs_scan_next_slot(EvsScan *scan)
{
	MemoryContext old_context;
	bool		found = false;

	MemoryContextReset(scan->event_context);

	/* an index allocates what it keeps for the scan when it first needs it */
	old_context = MemoryContextSwitchTo(scan->context);
	while (!found && !scan->done)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_late(scan))
			break;
		if (index_getnext_slot(scan->index_scan, scan->direction, scan->slot))
		{
			if (scan->in_order)
				fetch_ahead(scan);
			found = (scan->runs == NULL || follow_runs(scan)) && scan_accepts(scan);
		}
		else
			scan->done = true;
	}
	MemoryContextSwitchTo(old_context);
	return found ? scan->slot : NULL;
}

/* With a snapshot that is not an MVCC one it may be among the versions of a row. */
static void
let_go_of_page(EvsScan *scan)
{
	if (IsMVCCSnapshot(scan->index_scan->xs_snapshot))
		evs_index_scan_let_go(scan->index_scan);
}

void
evs_scan_let_go(EvsScan *scan)
{
	ExecClearTuple(scan->slot);
	let_go_of_page(scan);
}

void
evs_scan_keep_no_page(EvsScan *scan)
{
	scan->keeps_no_page = true;
	evs_scan_let_go(scan);
}

/* The row that the scan is on, upcast. */
static void
take_event(EvsScan *scan, EvsEvent *event)
{
	MemoryContext old_context = MemoryContextSwitchTo(scan->event_context);

	if (scan->keeps_no_page)
	{
		ExecMaterializeSlot(scan->slot);
		let_go_of_page(scan);
	}
	evs_event_from_slot(event, scan->slot);
	if (scan->types != NULL)
		evs_type_upcast(scan->types, event);
	MemoryContextSwitchTo(old_context);
}

bool
evs_scan_next(EvsScan *scan, EvsEvent *event)
{
	if (evs_scan_next_slot(scan) == NULL)
		return false;
	take_event(scan, event);
	return true;
}

bool
evs_scan_next_or_pass(EvsScan *scan, const EvsFilter *filter, int64 after,
					  EvsEvent *event, bool *passed)
{
	if (evs_scan_next_slot(scan) == NULL)
		return false;
	*passed = evs_scan_passed(scan) <= after || !row_is_accepted(scan, filter, false);
	if (*passed)
	{
		slot_getsomeattrs(scan->slot, EVS_EVENTS_VERSION);
		event->version = DatumGetInt64(scan->slot->tts_values[EVS_EVENTS_VERSION - 1]);
		event->position = evs_scan_passed(scan);
	}
	else
		take_event(scan, event);
	return true;
}

void
evs_scan_as_stored(EvsScan *scan)
{
	scan->types = NULL;
}

EvsBatch *
evs_scan_batch(EvsScan *scan, int max_events, int memory_kb, bool bounded)
{
	EvsBatch   *batch = palloc0(sizeof(EvsBatch));
	Size		max_size = (Size) memory_kb * 1024;
	Size		size = 0;
	int			allocated = Min(max_events, 128);
	EvsEvent	event;

	if (max_events <= 0)
		return batch;
	batch->events = palloc(allocated * sizeof(EvsEvent));

	while (batch->count < max_events && size < max_size &&
		   !(bounded && batch->count > 0 && evs_alarm_rang()) && evs_scan_next(scan, &event))
	{
		if (batch->count == allocated)
		{
			allocated = Min((int64) allocated * 2, max_events);
			batch->events = repalloc_huge(batch->events,
										  allocated * sizeof(EvsEvent));
		}
		evs_event_copy(&batch->events[batch->count++], &event);
		size += evs_event_size(&event);
	}
	return batch;
}

/* Has the scan given all it has? */
bool
evs_scan_is_done(const EvsScan *scan)
{
	return scan->done;
}

/* The table that the scan reads. */
Relation
evs_scan_relation(EvsScan *scan)
{
	return scan->events;
}

void
evs_scan_end(EvsScan *scan)
{
	ExecDropSingleTupleTableSlot(scan->slot);
	index_endscan(scan->index_scan);
	index_close(scan->index, NoLock);
	UnregisterSnapshot(scan->snapshot);
	table_close(scan->events, NoLock);
	MemoryContextDelete(scan->context);
}
