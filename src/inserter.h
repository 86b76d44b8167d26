/*
 * inserter.h - what the executor needs to insert into events and its indexes.
 */
#ifndef EVS_INSERTER_H
#define EVS_INSERTER_H

#include "evsource.h"

#include "executor/tuptable.h"
#include "utils/relcache.h"

typedef struct EvsInserter EvsInserter;

extern void evs_inserter_init(void);

/*
 * Make ready to insert the batch, whose events are numbered.  The caller holds
 * RowExclusiveLock on events and ends with evs_inserter_end(), or, when an error
 * came between, with evs_inserter_abandon(); that takes NULL as well.
 */
extern EvsInserter *evs_inserter_begin(Relation events, const EvsBatch *batch);
extern void evs_inserter_end(EvsInserter *inserter);
extern void evs_inserter_abandon(EvsInserter *inserter);

/* A new slot of the table's form, for a heap tuple. */
extern TupleTableSlot *evs_inserter_slot(EvsInserter *inserter);

/* Put the event, as a row, into such a slot; the row is in CurrentMemoryContext. */
extern void evs_inserter_fill(EvsInserter *inserter, TupleTableSlot *slot, const EvsEvent *event);

/* Insert the index entries of events that are stored as the rows of the slots. */
extern void evs_inserter_index(EvsInserter *inserter, const EvsEvent *events,
							   TupleTableSlot *const *slots, int count);

#endif							/* EVS_INSERTER_H */
