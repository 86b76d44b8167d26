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
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "event.h"
#include "inserter.h"

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
};

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

TupleTableSlot *
evs_inserter_slot(EvsInserter *inserter)
{
	return MakeSingleTupleTableSlot(inserter->desc, &TTSOpsHeapTuple);
}

/*
 * A row ends with its last value that is not null, as if the columns behind it
 * had been added later: with none to mark as null, most rows need no bitmap, and
 * are 8 bytes shorter.
 */
void
evs_inserter_fill(EvsInserter *inserter, TupleTableSlot *slot, const EvsEvent *event)
{
	Datum		values[EVS_EVENTS_NATTS];
	bool		nulls[EVS_EVENTS_NATTS];
	int			natts = EVS_EVENTS_NATTS;

	evs_event_stored_values(event, values, nulls);
	while (nulls[natts - 1])
		natts--;
	ExecStoreHeapTuple(heap_form_tuple(inserter->shorter[natts], values, nulls), slot, false);
}

static void
insert_entries(EvsInserter *inserter, const EvsEvent *event, ItemPointer tid)
{
	put_row(inserter, event);
	inserter->row->tts_tid = *tid;
	list_free(evs_insert_index_tuples(inserter->relinfo, inserter->row, inserter->estate));
	ResetPerTupleExprContext(inserter->estate);
}

/*
 * Index by index, all rows into the one before the next: the pages and the code
 * of one index stay in the processor's caches.
 */
void
evs_inserter_index(EvsInserter *inserter, const EvsEvent *events,
				   TupleTableSlot *const *slots, int count)
{
	ResultRelInfo *relinfo = inserter->relinfo;
	Relation   *open = relinfo->ri_IndexRelationDescs;
	Relation   *one;

	if (count == 1)
	{
		insert_entries(inserter, events, &slots[0]->tts_tid);
		return;
	}

	one = palloc0(Max(relinfo->ri_NumIndices, 1) * sizeof(Relation));
	relinfo->ri_IndexRelationDescs = one;
	for (int i = 0; i < relinfo->ri_NumIndices; i++)
	{
		if (open[i] == NULL)
			continue;
		one[i] = open[i];
		for (int row = 0; row < count; row++)
			insert_entries(inserter, &events[row], &slots[row]->tts_tid);
		one[i] = NULL;
	}
	relinfo->ri_IndexRelationDescs = open;
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
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
}
