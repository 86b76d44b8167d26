/*
 * inserter.h - what the executor needs to insert into events and its indexes.
 */
#ifndef EVS_INSERTER_H
#define EVS_INSERTER_H

#include "evsource.h"

#include "executor/tuptable.h"
#include "utils/relcache.h"

typedef struct EvsInserter EvsInserter;

/* so many rows are numbered, formed and stored at a time */
#define EVS_INSERTER_ROWS	256

extern void evs_inserter_init(void);

/*
 * Make ready to insert.  The caller holds RowExclusiveLock on events and ends with
 * evs_inserter_end(), or, when an error came between, with
 * evs_inserter_abandon(); that takes NULL as well.
 */
extern EvsInserter *evs_inserter_begin(Relation events);
extern void evs_inserter_end(EvsInserter *inserter);
extern void evs_inserter_abandon(EvsInserter *inserter);

/*
 * The rows of these events, EVS_INSERTER_ROWS at most, to be stored in the table.
 * The events are numbered.  Both stay until the next call, or the end.
 */
extern TupleTableSlot **evs_inserter_form(EvsInserter *inserter, const EvsEvent *events, int count);

/* Insert the index entries of these rows, which are stored now. */
extern void evs_inserter_index(EvsInserter *inserter);

#endif							/* EVS_INSERTER_H */
