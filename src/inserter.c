/*
 * inserter.c - what the executor needs to insert into events and its indexes.
 *
 * An INSERT looks up the indexes, copies their definitions, and prepares their
 * expressions and predicates each time it runs; for one row that is a fifth of
 * its work.  Here they are prepared once and kept until something changes them.
 * An index that none of the rows belongs into (a partial one) is not opened.
 *
 * What is kept are definitions, never open relations: each call opens and locks
 * the indexes anew, in the way and the order of an INSERT.  Definitions cannot
 * change while the caller holds RowExclusiveLock on the table, and whatever did
 * change was made known when it took the lock.  The locks on the indexes stay
 * until the end of the transaction: that is cheaper than releasing them, and
 * who wants them has to wait for the lock on the table anyway.
 */
#include "evsource.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "event.h"
#include "inserter.h"
#include "relations.h"

struct EvsInserter
{
	MemoryContext context;
	Oid			events;
	EState	   *estate;
	ResultRelInfo *relinfo;		/* its indexes are open during a call only */
	Oid		   *indexes;		/* of all of relinfo's indexes */
	TupleDesc	desc;			/* a copy: slots must not pin the relcache's */
	TupleDesc	shorter[EVS_EVENTS_NATTS + 1];	/* its first n columns */
	TupleTableSlot *row;		/* the row whose index entries are inserted */
	TupleTableSlot *stored[EVS_INSERTER_ROWS];	/* of the table; NULL: not made yet */
	int			nstored;		/* that hold a row */
	MemoryContext rows;			/* where many rows are formed; NULL: not made yet */
};

/* What a session keeps for that: enough for rows of half a kilobyte. */
#define ROWS_SIZES	(EVS_INSERTER_ROWS * 576), ALLOCSET_DEFAULT_INITSIZE, ALLOCSET_DEFAULT_MAXSIZE

/* What is kept between calls; NULL if nothing. */
static EvsInserter *kept = NULL;
static bool kept_is_valid = false;
static bool kept_is_busy = false;

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
	}
	inserter->row = MakeSingleTupleTableSlot(inserter->desc, &TTSOpsVirtual);
	memset(inserter->row->tts_isnull, true, inserter->desc->natts * sizeof(bool));
	inserter->row->tts_tableOid = inserter->events;

	*keepable = true;
	InitResultRelInfo(relinfo, events, 1, NULL, 0);
	ExecOpenIndices(relinfo, false);
	inserter->indexes = palloc(Max(relinfo->ri_NumIndices, 1) * sizeof(Oid));
	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		Relation	index = relinfo->ri_IndexRelationDescs[i];
		IndexInfo  *info = relinfo->ri_IndexRelationInfo[i];

		inserter->indexes[i] = RelationGetRelid(index);
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

static void
put_row(EvsInserter *inserter, const EvsEvent *event)
{
	TupleTableSlot *row = inserter->row;

	ExecClearTuple(row);
	evs_event_stored_values(event, row->tts_values, row->tts_isnull);
	ExecStoreVirtualTuple(row);
	GetPerTupleExprContext(inserter->estate)->ecxt_scantuple = row;
}

/* Does any event of the batch belong into the index? */
static bool
index_is_wanted(EvsInserter *inserter, const IndexInfo *info, const EvsBatch *batch)
{
	ExprContext *econtext = GetPerTupleExprContext(inserter->estate);
	bool		wanted = info->ii_Predicate == NIL;

	if (!info->ii_ReadyForInserts)
		return false;
	for (int i = 0; i < batch->count && !wanted; i++)
	{
		put_row(inserter, &batch->events[i]);
		wanted = ExecQual(info->ii_PredicateState, econtext);
		ResetExprContext(econtext);
	}
	return wanted;
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

EvsInserter *
evs_inserter_begin(Relation events, const EvsBatch *batch)
{
	EvsInserter *inserter = get_inserter(events);
	ResultRelInfo *relinfo = inserter->relinfo;

	relinfo->ri_RelationDesc = events;
	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		relinfo->ri_IndexRelationDescs[i] = NULL;
		if (index_is_wanted(inserter, relinfo->ri_IndexRelationInfo[i], batch))
			relinfo->ri_IndexRelationDescs[i] = index_open(inserter->indexes[i], RowExclusiveLock);
	}
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

/*
 * A row ends with its last value that is not null, as if the columns behind it
 * had been added later: with none to mark as null, most rows need no bitmap, and
 * are 8 bytes shorter.
 */
static HeapTuple
form_row(EvsInserter *inserter, const EvsEvent *event)
{
	Datum		values[EVS_EVENTS_NATTS];
	bool		nulls[EVS_EVENTS_NATTS];
	int			natts = EVS_EVENTS_NATTS;

	evs_event_stored_values(event, values, nulls);
	while (nulls[natts - 1])
		natts--;
	return heap_form_tuple(inserter->shorter[natts], values, nulls);
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

	Assert(count <= EVS_INSERTER_ROWS);
	clear_rows(inserter);
	if (count > 1)
	{
		if (inserter->rows == NULL)
			inserter->rows = AllocSetContextCreate(inserter->context, "evsource rows", ROWS_SIZES);
		MemoryContextSwitchTo(inserter->rows);
	}
	for (int i = 0; i < count; i++)
	{
		ExecStoreHeapTuple(form_row(inserter, &events[i]), stored_slot(inserter, i), true);
		inserter->nstored++;
	}
	MemoryContextSwitchTo(old);
	return inserter->stored;
}

/* What the executor does with an entry of the index is to insert it. */
static bool
is_plain(Relation index, const IndexInfo *info)
{
	return info->ii_ExclusionOps == NULL &&
		(!info->ii_Unique || index->rd_index->indimmediate);
}

/* The entries of all rows in one index. */
static void
insert_plain_entries(EvsInserter *inserter, Relation index, IndexInfo *info,
					 const EvsEvent *events)
{
	Relation	table = inserter->relinfo->ri_RelationDesc;
	IndexUniqueCheck check = info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;
	ExprContext *econtext = GetPerTupleExprContext(inserter->estate);
	MemoryContext old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < inserter->nstored; i++)
	{
		put_row(inserter, &events[i]);
		if (info->ii_Predicate == NIL || ExecQual(info->ii_PredicateState, econtext))
		{
			FormIndexDatum(info, inserter->row, inserter->estate, values, nulls);
			(void) index_insert(index, values, nulls, &inserter->stored[i]->tts_tid,
								table, check, false, info);
		}
		/* an access method cleans up after itself, expressions do not */
		if (info->ii_Predicate != NIL || info->ii_Expressions != NIL)
			ResetExprContext(econtext);
	}
	ResetExprContext(econtext);
	MemoryContextSwitchTo(old);
}

/* What is open of the indexes, as an INSERT does it. */
static void
insert_entries(EvsInserter *inserter, const EvsEvent *events)
{
	for (int i = 0; i < inserter->nstored; i++)
	{
		put_row(inserter, &events[i]);
		inserter->row->tts_tid = inserter->stored[i]->tts_tid;
		list_free(evs_insert_index_tuples(inserter->relinfo, inserter->row, inserter->estate));
		ResetPerTupleExprContext(inserter->estate);
	}
}

/*
 * Index by index, all rows into the one before the next: the pages and the code
 * of one index stay in the processor's caches.
 */
void
evs_inserter_index(EvsInserter *inserter, const EvsEvent *events)
{
	ResultRelInfo *relinfo = inserter->relinfo;
	Relation   *open = relinfo->ri_IndexRelationDescs;
	Relation   *one = palloc0(Max(relinfo->ri_NumIndices, 1) * sizeof(Relation));

	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		IndexInfo  *info = relinfo->ri_IndexRelationInfo[i];

		if (open[i] == NULL)
			continue;
		if (is_plain(open[i], info))
		{
			insert_plain_entries(inserter, open[i], info, events);
			continue;
		}
		one[i] = open[i];
		relinfo->ri_IndexRelationDescs = one;
		insert_entries(inserter, events);
		relinfo->ri_IndexRelationDescs = open;
		one[i] = NULL;
	}
	pfree(one);
}

static void
relation_changed(Datum arg, Oid relid)
{
	if (kept == NULL || relid == InvalidOid || relid == kept->events)
		kept_is_valid = false;
	for (int i = 0; kept_is_valid && i < kept->relinfo->ri_NumIndices; i++)
		kept_is_valid = relid != kept->indexes[i];
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
