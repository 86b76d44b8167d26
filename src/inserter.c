/*
 * inserter.c - what the executor needs to insert into events and its indexes.
 *
 * An INSERT looks up the indexes, copies their definitions, and prepares their
 * expressions and predicates each time it runs; for one row that is a fifth of
 * its work.  Here they are prepared once and kept until something changes them.
 * An index that none of the rows belongs into (a partial one) is not opened.  What
 * an index computes from a row is computed once for rows that agree in it.
 *
 * What is kept are definitions, never open relations: each call opens and locks
 * the indexes anew, as an INSERT does.  Definitions cannot
 * change while the caller holds RowExclusiveLock on the table, and whatever did
 * change was made known when it took the lock.  The locks on the indexes stay
 * until the end of the transaction: that is cheaper than releasing them, and
 * who wants them has to wait for the lock on the table anyway.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "optimizer/optimizer.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "event.h"
#include "inserter.h"
#include "relations.h"
#include "stored_row.h"

/* What there is to know of an index, besides what an IndexInfo says. */
typedef struct EventIndex
{
	Oid			oid;
	bool		plain;			/* to insert an entry is all the executor does */
	bool		by_position;	/* positions are among its keys */
	bool		by_version;		/* its last key is the version, and nothing is computed */
	bool		computed;		/* it has expressions or a predicate ... */
	int			ninputs;		/* ... that look at these columns; ... */
	AttrNumber	inputs[EVS_EVENTS_NATTS];
	bool		whole_row;		/* ... or at the whole row */
} EventIndex;

struct EvsInserter
{
	MemoryContext context;
	Oid			events;
	EState	   *estate;
	ResultRelInfo *relinfo;		/* its indexes are open during a call only */
	EventIndex *indexes;		/* of all of relinfo's indexes */
	TupleDesc	desc;			/* a copy: slots must not pin the relcache's */
	TupleDesc	shorter[EVS_EVENTS_NATTS + 1];	/* its first n columns */
	TupleTableSlot *row;		/* the row whose index entries are inserted */
	TupleTableSlot *stored[EVS_INSERTER_ROWS];	/* of the table; NULL: not made yet */
	int			nstored;		/* that hold a row: those that were formed last */
	int			nformed;		/* rows of this call, up to now */
	Datum	   *values;			/* all columns of a row, then those of the next */
	bool	   *nulls;
	ItemPointerData *tids;		/* where the rows are stored */
	Datum	   *one_values;		/* the same when there is one row */
	bool	   *one_nulls;
	ItemPointerData one_tid;
	MemoryContext rows;			/* what many rows take; NULL: not made yet */
};

/* What a session keeps for that: enough for rows of half a kilobyte. */
#define ROWS_SIZES	(EVS_INSERTER_ROWS * 672), ALLOCSET_DEFAULT_INITSIZE, ALLOCSET_DEFAULT_MAXSIZE

/* What is kept between calls; NULL if nothing. */
static EvsInserter *kept = NULL;
static bool kept_is_valid = false;
static bool kept_is_busy = false;

static void
describe_index(EventIndex *index, Relation relation, const IndexInfo *info)
{
	Bitmapset  *columns = NULL;
	int			column = -1;

	index->oid = RelationGetRelid(relation);
	index->plain = info->ii_ExclusionOps == NULL &&
		(!info->ii_Unique || relation->rd_index->indimmediate);
	for (int key = 0; key < info->ii_NumIndexKeyAttrs; key++)
		index->by_position |= info->ii_IndexAttrNumbers[key] == EVS_EVENTS_POSITION;
	index->computed = info->ii_Expressions != NIL || info->ii_Predicate != NIL;

	pull_varattnos((Node *) info->ii_Expressions, 1, &columns);
	pull_varattnos((Node *) info->ii_Predicate, 1, &columns);
	while ((column = bms_next_member(columns, column)) >= 0)
	{
		AttrNumber	number = column + FirstLowInvalidHeapAttributeNumber;

		if (number < 1 || number > EVS_EVENTS_NATTS)
			index->whole_row = true;
		else
			index->inputs[index->ninputs++] = number;
	}
	bms_free(columns);
	index->by_version = relation->rd_rel->relam == BTREE_AM_OID && index->plain &&
		!index->computed && !index->by_position &&
		info->ii_IndexAttrNumbers[info->ii_NumIndexKeyAttrs - 1] == EVS_EVENTS_VERSION;
}

/*
 * The definitions of the table's indexes.  Those of access methods other than
 * btree hold more than definitions once they have been used: they must not
 * outlive the call.
 */
static EvsInserter *
make_inserter(Relation events, MemoryContext parent, bool *keepable)
{
	MemoryContext context = AllocSetContextCreate(parent, "evsource inserter",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EvsInserter *inserter = palloc0(sizeof(EvsInserter));
	ResultRelInfo *relinfo = makeNode(ResultRelInfo);

	inserter->context = context;
	inserter->events = RelationGetRelid(events);
	inserter->estate = CreateExecutorState();
	inserter->relinfo = relinfo;
	inserter->desc = CreateTupleDescCopy(RelationGetDescr(events));
	for (int n = EVS_EVENTS_DATA; n <= EVS_EVENTS_NATTS; n++)
	{
		inserter->shorter[n] = CreateTemplateTupleDesc(n);
		for (int column = 1; column <= n; column++)
			TupleDescCopyEntry(inserter->shorter[n], column, inserter->desc, column);
		TupleDescFinalize(inserter->shorter[n]);
	}
	inserter->one_values = palloc(inserter->desc->natts * sizeof(Datum));
	inserter->one_nulls = palloc(inserter->desc->natts * sizeof(bool));
	inserter->row = MakeSingleTupleTableSlot(inserter->desc, &TTSOpsVirtual);
	memset(inserter->row->tts_isnull, true, inserter->desc->natts * sizeof(bool));
	inserter->row->tts_tableOid = inserter->events;

	*keepable = true;
	InitResultRelInfo(relinfo, events, 1, NULL, 0);
	ExecOpenIndices(relinfo, false);
	inserter->indexes = palloc0(Max(relinfo->ri_NumIndices, 1) * sizeof(EventIndex));
	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		Relation	index = relinfo->ri_IndexRelationDescs[i];
		IndexInfo  *info = relinfo->ri_IndexRelationInfo[i];

		describe_index(&inserter->indexes[i], index, info);
		if (index->rd_rel->relam != BTREE_AM_OID)
			*keepable = false;
		if (info->ii_Predicate != NIL)
			info->ii_PredicateState = ExecPrepareQual(info->ii_Predicate, inserter->estate);
		index_close(index, NoLock);
		relinfo->ri_IndexRelationDescs[i] = NULL;
	}
	MemoryContextSwitchTo(old);
	return inserter;
}

/* What is kept, if it may be used; otherwise one that is made now. */
static EvsInserter *
get_inserter(Relation events)
{
	EvsInserter *inserter;
	bool		keepable;

	if (kept != NULL && !kept_is_busy)
	{
		if (kept_is_valid && kept->events == RelationGetRelid(events))
			return kept;
		MemoryContextDelete(kept->context);
		kept = NULL;
	}

	/* before the definitions are read: they may change again at once */
	if (kept == NULL)
		kept_is_valid = true;
	inserter = make_inserter(events, CurrentMemoryContext, &keepable);

	/* one is kept and busy when the function of an index appends itself */
	if (keepable && kept == NULL)
	{
		MemoryContextSetParent(inserter->context, CacheMemoryContext);
		kept = inserter;
	}
	return inserter;
}

/* It is locked until the transaction ends, see the top of this file. */
static Relation
open_index(EvsInserter *inserter, int i)
{
	Relation   *open = &inserter->relinfo->ri_IndexRelationDescs[i];

	if (*open == NULL)
		*open = index_open(inserter->indexes[i].oid, RowExclusiveLock);
	return *open;
}

/*
 * The indexes that every row belongs into, one right after the other: what opens the
 * first is in the processor's cache for the others.  Later, between one's entries and
 * the next one's, it would have to be fetched again each time.
 */
static void
open_indexes_of_all_rows(EvsInserter *inserter)
{
	for (int i = 0; i < inserter->relinfo->ri_NumIndices; i++)
	{
		const IndexInfo *info = inserter->relinfo->ri_IndexRelationInfo[i];

		if (info->ii_Predicate == NIL && info->ii_ReadyForInserts)
			(void) open_index(inserter, i);
	}
}

/* Room for the values of all rows; a session keeps that for one. */
static void
make_room(EvsInserter *inserter, int count)
{
	int			natts = inserter->desc->natts;
	MemoryContext old = CurrentMemoryContext;

	inserter->nformed = 0;
	if (count > 1)
	{
		if (inserter->rows == NULL)
			inserter->rows = AllocSetContextCreate(inserter->context, "evsource rows", ROWS_SIZES);
		MemoryContextSwitchTo(inserter->rows);
		inserter->values = palloc_extended((Size) count * natts * sizeof(Datum), MCXT_ALLOC_HUGE);
		inserter->nulls = palloc_extended((Size) count * natts * sizeof(bool), MCXT_ALLOC_HUGE);
		inserter->tids = palloc_extended(count * sizeof(ItemPointerData), MCXT_ALLOC_HUGE);
	}
	else
	{
		inserter->values = inserter->one_values;
		inserter->nulls = inserter->one_nulls;
		inserter->tids = &inserter->one_tid;
	}
	/* columns that are not ours are dropped ones */
	memset(inserter->nulls, true, count * natts * sizeof(bool));
	MemoryContextSwitchTo(old);
}

EvsInserter *
evs_inserter_begin(Relation events, int count)
{
	EvsInserter *inserter = get_inserter(events);
	ResultRelInfo *relinfo = inserter->relinfo;

	relinfo->ri_RelationDesc = events;
	for (int i = 0; i < relinfo->ri_NumIndices; i++)
		relinfo->ri_IndexRelationDescs[i] = NULL;
	/* which may fail: nothing is to be freed then */
	open_indexes_of_all_rows(inserter);
	make_room(inserter, count);
	if (inserter == kept)
		kept_is_busy = true;
	return inserter;
}

static void
clear_rows(EvsInserter *inserter)
{
	while (inserter->nstored > 0)
		ExecClearTuple(inserter->stored[--inserter->nstored]);
}

void
evs_inserter_end(EvsInserter *inserter)
{
	ResultRelInfo *relinfo = inserter->relinfo;

	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		Relation	index = relinfo->ri_IndexRelationDescs[i];

		if (index == NULL)
			continue;
		index_insert_cleanup(index, relinfo->ri_IndexRelationInfo[i]);
		index_close(index, NoLock);
	}
	ExecClearTuple(inserter->row);
	clear_rows(inserter);
	if (inserter->rows != NULL)
		MemoryContextReset(inserter->rows);
	if (inserter == kept)
		kept_is_busy = false;
	else
		MemoryContextDelete(inserter->context);
}

/* After an error: the memory is freed by its owner, or at the next call. */
void
evs_inserter_abandon(EvsInserter *inserter)
{
	if (inserter != NULL && inserter == kept)
	{
		kept_is_valid = false;
		kept_is_busy = false;
	}
}

static Datum *
values_of(const EvsInserter *inserter, int n)
{
	return inserter->values + n * inserter->desc->natts;
}

static bool *
nulls_of(const EvsInserter *inserter, int n)
{
	return inserter->nulls + n * inserter->desc->natts;
}

/* The slot of the chunk's n-th row. */
static TupleTableSlot *
stored_slot(EvsInserter *inserter, int n)
{
	if (inserter->stored[n] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(inserter->context);

		inserter->stored[n] = MakeSingleTupleTableSlot(inserter->desc, &TTSOpsHeapTuple);
		MemoryContextSwitchTo(old);
	}
	return inserter->stored[n];
}

/*
 * The slots own the rows: who stores a row that its slot does not own copies it.
 */
TupleTableSlot **
evs_inserter_form(EvsInserter *inserter, const EvsEvent *events, int count)
{
	MemoryContext old = CurrentMemoryContext;
	HeapTuple	row = NULL;

	Assert(count <= EVS_INSERTER_ROWS);
	clear_rows(inserter);
	if (inserter->tids != &inserter->one_tid)
		MemoryContextSwitchTo(inserter->rows);
	for (int i = 0; i < count; i++)
	{
		int			n = inserter->nformed++;

		evs_event_stored_values(&events[i], values_of(inserter, n), nulls_of(inserter, n));
		row = evs_stored_row(inserter->shorter, values_of(inserter, n), nulls_of(inserter, n),
							 row, row != NULL ? values_of(inserter, n - 1) : NULL);
		ExecStoreHeapTuple(row, stored_slot(inserter, i), true);
		inserter->nstored++;
	}
	MemoryContextSwitchTo(old);
	return inserter->stored;
}

/* Make the n-th row the one that expressions see. */
static void
put_row(EvsInserter *inserter, int n)
{
	TupleTableSlot *row = inserter->row;

	ExecClearTuple(row);
	row->tts_values = values_of(inserter, n);
	row->tts_isnull = nulls_of(inserter, n);
	row->tts_tid = inserter->tids[n];
	ExecStoreVirtualTuple(row);
	GetPerTupleExprContext(inserter->estate)->ecxt_scantuple = row;
}

/*
 * Has the n-th row the same values as the row before it wherever the index looks
 * to compute something?  What an index computes is immutable, so it comes to the
 * same.  (Not all equal values are found, only those that are at the same place.)
 */
static bool
has_same_inputs(const EvsInserter *inserter, const EventIndex *index, int n)
{
	const Datum *values = values_of(inserter, n);
	const bool *nulls = nulls_of(inserter, n);
	const Datum *before = values_of(inserter, n - 1);
	const bool *nulls_before = nulls_of(inserter, n - 1);

	for (int i = 0; i < index->ninputs; i++)
	{
		int			column = index->inputs[i] - 1;

		if (nulls[column] != nulls_before[column] ||
			(!nulls[column] && values[column] != before[column]))
			return false;
	}
	return !index->whole_row;
}

/* An entry whose columns are those of the n-th row; what is computed is there already. */
static void
insert_entry(EvsInserter *inserter, int i, int n, Datum *values, bool *nulls)
{
	IndexInfo  *info = inserter->relinfo->ri_IndexRelationInfo[i];

	for (int key = 0; key < info->ii_NumIndexAttrs; key++)
	{
		int			column = info->ii_IndexAttrNumbers[key] - 1;

		if (column < 0)
			continue;
		values[key] = values_of(inserter, n)[column];
		nulls[key] = nulls_of(inserter, n)[column];
	}
	(void) index_insert(open_index(inserter, i), values, nulls, &inserter->tids[n],
						inserter->relinfo->ri_RelationDesc,
						info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, info);
}

/*
 * The entries of rows in one index.  What it computes, whether a row belongs into
 * it or a category, is most often the same for one row after the other.
 */
static void
insert_plain_entries(EvsInserter *inserter, int i, int first)
{
	const EventIndex *index = &inserter->indexes[i];
	IndexInfo  *info = inserter->relinfo->ri_IndexRelationInfo[i];
	ExprContext *econtext = GetPerTupleExprContext(inserter->estate);
	MemoryContext old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	bool		belongs = true;

	for (int n = first; n < inserter->nformed; n++)
	{
		CHECK_FOR_INTERRUPTS();
		if (index->computed && (n == first || !has_same_inputs(inserter, index, n)))
		{
			ResetExprContext(econtext);
			put_row(inserter, n);
			belongs = info->ii_Predicate == NIL || ExecQual(info->ii_PredicateState, econtext);
			if (belongs)
				FormIndexDatum(info, inserter->row, inserter->estate, values, nulls);
		}
		else if (!index->computed && n % EVS_INSERTER_ROWS == 0)
			ResetExprContext(econtext);
		if (belongs)
			insert_entry(inserter, i, n, values, nulls);
	}
	ResetExprContext(econtext);
	MemoryContextSwitchTo(old);
}

/* The same for an index that has more to do than that: as an INSERT does it. */
static void
insert_entries(EvsInserter *inserter, int i, int first)
{
	ResultRelInfo *relinfo = inserter->relinfo;
	Relation   *open = relinfo->ri_IndexRelationDescs;
	Relation   *one = palloc0(relinfo->ri_NumIndices * sizeof(Relation));

	one[i] = open_index(inserter, i);
	relinfo->ri_IndexRelationDescs = one;
	for (int n = first; n < inserter->nformed; n++)
	{
		CHECK_FOR_INTERRUPTS();
		put_row(inserter, n);
		list_free(evs_insert_index_tuples(relinfo, inserter->row, inserter->estate));
		ResetPerTupleExprContext(inserter->estate);
	}
	relinfo->ri_IndexRelationDescs = open;
	pfree(one);
}

/* Some more events than fit into a page of that index. */
#define LONG_BATCH	256

/*
 * The entries of a long batch in an index by stream and version.  They come in
 * order, somewhere in the middle of the index: where that is so, a full page is
 * split in halves, and the left one would stay a half.  So five of nine go first,
 * and the others fill the halves to nine tenths.  At the right end of the index
 * PostgreSQL knows better, and remembers that it is there.
 */
static void
insert_long_batch(EvsInserter *inserter, int i)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	insert_entry(inserter, i, 0, values, nulls);
	if (RelationGetTargetBlock(open_index(inserter, i)) != InvalidBlockNumber)
	{
		insert_plain_entries(inserter, i, 1);
		return;
	}
	for (int pass = 0; pass < 2; pass++)
	{
		for (int n = 1; n < inserter->nformed; n++)
		{
			CHECK_FOR_INTERRUPTS();
			if (n % 9 % 2 == pass)
				insert_entry(inserter, i, n, values, nulls);
		}
	}
}

/* The indexes by position, or the others: the rows from this one on. */
static void
insert_into(EvsInserter *inserter, bool by_position, int first)
{
	for (int i = 0; i < inserter->relinfo->ri_NumIndices; i++)
	{
		const EventIndex *index = &inserter->indexes[i];

		if (index->by_position != by_position ||
			!inserter->relinfo->ri_IndexRelationInfo[i]->ii_ReadyForInserts)
			continue;
		if (!index->plain)
			insert_entries(inserter, i, first);
		else if (index->by_version && inserter->nformed > LONG_BATCH)
			insert_long_batch(inserter, i);
		else
			insert_plain_entries(inserter, i, first);
	}
}

void
evs_inserter_stored(EvsInserter *inserter)
{
	int			first = inserter->nformed - inserter->nstored;

	for (int i = 0; i < inserter->nstored; i++)
		inserter->tids[first + i] = inserter->stored[i]->tts_tid;
	insert_into(inserter, true, first);
}

void
evs_inserter_finish(EvsInserter *inserter)
{
	insert_into(inserter, false, 0);
}

static void
relation_changed(Datum arg, Oid relid)
{
	if (kept == NULL || relid == InvalidOid || relid == kept->events)
		kept_is_valid = false;
	for (int i = 0; kept_is_valid && i < kept->relinfo->ri_NumIndices; i++)
		kept_is_valid = relid != kept->indexes[i].oid;
}

/* An expression or predicate may call the function that changed. */
static void
function_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	kept_is_valid = false;
}

void
evs_inserter_init(void)
{
	evs_relations_watch(relation_changed);
	CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
}
