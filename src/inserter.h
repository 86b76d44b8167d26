/*
 * inserter.h - what the executor needs to insert into events and its indexes.
 */
#ifndef EVS_INSERTER_H
#define EVS_INSERTER_H

#include "evsource.h"

#include "executor/tuptable.h"
#include "utils/relcache.h"

typedef struct EvsInserter EvsInserter;

/* so many rows can be numbered, formed and stored at a time */
#define EVS_INSERTER_ROWS	128

extern void evs_inserter_init(void);

/*
 * Make ready to insert so many rows.  The caller holds RowExclusiveLock on events
 * and ends with evs_inserter_end(), or, when an error came between, with
 * evs_inserter_abandon(); that takes NULL as well.
 */
extern EvsInserter *evs_inserter_begin(Relation events, int count);
extern void evs_inserter_end(EvsInserter *inserter);
extern void evs_inserter_abandon(EvsInserter *inserter);

/*
 * The rows of the next events, EVS_INSERTER_ROWS at most, to be stored in the
 * table.  The events are numbered, and stay; the rows do until the next call.
 */
extern TupleTableSlot **evs_inserter_form(EvsInserter *inserter, const EvsEvent *events, int count);

/*
 * These rows are stored now: insert their entries in the indexes by position.  What
 * all sessions insert there is nearly in order if it is done at once.
 */
extern void evs_inserter_stored(EvsInserter *inserter);

/*
 * All rows are stored: insert their entries in the other indexes.  Index by
 * index, so that the pages and the code of one stay in the processor's caches.
 */
extern void evs_inserter_finish(EvsInserter *inserter);

#endif							/* EVS_INSERTER_H */
