/*
 * state_keys.c - walk the keys of a fold projection.
 *
 * The streams are not listed anywhere.  Their names are the first column of the
 * index on (stream, version): each step descends it for the first name after
 * the last one, whatever the length of the streams between.  A category is the
 * name itself and all names that begin with it and a dash, which are neighbours
 * in the order of bytes: "a-" up to, but not including, "a.".
 *
 * The walk has no memory but the last key: what it opens it closes at each step,
 * so that whoever walks may do anything in between.
 */
#include "state_keys.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "event.h"

/* A range of streams: from is in it, below is not; NULL is no bound. */
typedef struct StreamRange
{
	text	   *from;
	text	   *below;
} StreamRange;

struct EvsKeyWalk
{
	const EvsProjection *projection;
	Snapshot	snapshot;		/* registered */
	MemoryContext context;
	text	   *last;			/* the key that was returned last, or NULL */
	StreamRange *ranges;		/* two for each category, or one of all streams */
	int			nranges;
	int			range;			/* where the walk is */
	bool		in_range;		/* last is of this range */
};

/* "category" followed by these bytes */
static text *
category_bound(const text *category, const char *suffix)
{
	int			length = VARSIZE_ANY_EXHDR(category);
	int			suffix_length = strlen(suffix);
	text	   *bound = palloc(VARHDRSZ + length + suffix_length);

	SET_VARSIZE(bound, VARHDRSZ + length + suffix_length);
	memcpy(VARDATA(bound), VARDATA_ANY(category), length);
	memcpy(VARDATA(bound) + length, suffix, suffix_length);
	return bound;
}

static int
compare_ranges(const void *a, const void *b)
{
	return evs_compare_text(((const StreamRange *) a)->from, ((const StreamRange *) b)->from);
}

static void
make_ranges(EvsKeyWalk *walk)
{
	const EvsFilter *filter = &walk->projection->filter;
	StreamRange *ranges = palloc0(sizeof(StreamRange) * (filter->ncategories * 2 + 1));
	int			count = 0;
	int			kept = 1;

	walk->ranges = ranges;
	walk->nranges = 1;
	if (filter->ncategories == 0)
		return;

	for (int i = 0; i < filter->ncategories; i++)
	{
		text	   *category = filter->categories[i];

		/* the name itself: no name is between it and it with a byte 1 */
		ranges[count++] = (StreamRange) {category, category_bound(category, "\x01")};
		ranges[count++] = (StreamRange) {category_bound(category, "-"),
										 category_bound(category, ".")};
	}

	/* in order, and each once */
	qsort(ranges, count, sizeof(StreamRange), compare_ranges);
	for (int i = 1; i < count; i++)
	{
		if (compare_ranges(&ranges[i], &ranges[kept - 1]) != 0)
			ranges[kept++] = ranges[i];
	}
	walk->nranges = kept;
}

EvsKeyWalk *
evs_key_walk(const EvsProjection *projection, Snapshot snapshot)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evsource keys",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EvsKeyWalk *walk = palloc0(sizeof(EvsKeyWalk));

	walk->projection = projection;
	walk->snapshot = RegisterSnapshot(snapshot);
	walk->context = context;
	if (projection->key_kind == EVS_KEY_STREAM)
		make_ranges(walk);
	MemoryContextSwitchTo(caller);
	return walk;
}

/* The column's value in the first row that the index has for these scan keys. */
static text *
first_in_index(EvsKeyWalk *walk, Oid relid, Oid indexid, AttrNumber column,
			   ScanKey keys, int nkeys)
{
	Relation	relation = table_open(relid, AccessShareLock);
	Relation	index = index_open(indexid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	IndexScanDesc scan = index_beginscan(relation, index, walk->snapshot, NULL, nkeys, 0, SO_NONE);
	text	   *value = NULL;
	MemoryContext caller;

	index_rescan(scan, keys, nkeys, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Datum		datum = slot_getattr(slot, column, &isnull);

		Assert(!isnull);
		caller = MemoryContextSwitchTo(walk->context);
		value = DatumGetTextPCopy(datum);
		MemoryContextSwitchTo(caller);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	table_close(relation, NoLock);
	return value;
}

static text *
next_stream(EvsKeyWalk *walk)
{
	while (walk->range < walk->nranges)
	{
		StreamRange *range = &walk->ranges[walk->range];
		ScanKeyData keys[2];
		int			nkeys = 0;
		text	   *stream;

		/* ScanKeyInit compares by the C collation: that of the column */
		if (walk->in_range)
			ScanKeyInit(&keys[nkeys++], 1, BTGreaterStrategyNumber, F_TEXT_GT,
						PointerGetDatum(walk->last));
		else if (range->from != NULL)
			ScanKeyInit(&keys[nkeys++], 1, BTGreaterEqualStrategyNumber, F_TEXT_GE,
						PointerGetDatum(range->from));
		if (range->below != NULL)
			ScanKeyInit(&keys[nkeys++], 1, BTLessStrategyNumber, F_TEXT_LT,
						PointerGetDatum(range->below));

		stream = first_in_index(walk, evs_catalog()->events, evs_catalog()->events_stream,
								EVS_EVENTS_STREAM, keys, nkeys);
		walk->in_range = stream != NULL;
		if (stream != NULL)
			return stream;
		walk->range++;
	}
	return NULL;
}

static text *
next_row(EvsKeyWalk *walk)
{
	ScanKeyData keys[2];
	int			nkeys = 0;

	ScanKeyInit(&keys[nkeys++], 1, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(walk->projection->name));
	if (walk->last != NULL)
		ScanKeyInit(&keys[nkeys++], 2, BTGreaterStrategyNumber, F_TEXT_GT,
					PointerGetDatum(walk->last));
	return first_in_index(walk, evs_catalog()->snapshots, evs_catalog()->snapshots_pkey,
						  2, keys, nkeys);
}

text *
evs_key_walk_next(EvsKeyWalk *walk)
{
	text	   *next;

	CHECK_FOR_INTERRUPTS();
	next = walk->projection->key_kind == EVS_KEY_STREAM ? next_stream(walk) : next_row(walk);
	if (walk->last != NULL)
		pfree(walk->last);
	walk->last = next;
	return next;
}

void
evs_key_walk_end(EvsKeyWalk *walk)
{
	UnregisterSnapshot(walk->snapshot);
	MemoryContextDelete(walk->context);
}
