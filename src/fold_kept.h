/*
 * fold_kept.h - states that are to be saved once a whole batch is folded.
 */
#ifndef EVS_FOLD_KEPT_H
#define EVS_FOLD_KEPT_H

#include "evsource.h"
#include "snapshots.h"

typedef struct EvsKeptStates EvsKeptStates;

/* In CurrentMemoryContext.  What is kept has to be saved, or is forgotten with the context. */
extern EvsKeptStates *evs_kept_create(void);

/*
 * Keep a copy of a state; its key lives as long as the batch.  False: that is as much as
 * memory is there for, and all of it should be saved.
 */
extern bool evs_kept_add(EvsKeptStates *kept, text *key, const EvsState *state);

/* Give all of them to the writer, in their order. */
extern void evs_kept_save(EvsKeptStates *kept, EvsSnapshotWriter *writer);

#endif							/* EVS_FOLD_KEPT_H */
