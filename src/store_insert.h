/*
 * store_insert.h - put events into the table by an INSERT.
 */
#ifndef EVS_STORE_INSERT_H
#define EVS_STORE_INSERT_H

#include "evsource.h"

#include "utils/relcache.h"

/*
 * Store and dispatch the batch through evsource.events' triggers, which lock the
 * stream; fills in version, position and recorded_at.
 */
extern void evs_store_insert(text *stream, EvsBatch *batch, int64 expected_version);

/*
 * Do the policies of row security let the user insert these events, as far as can be
 * said before triggers of others have changed them?  Stores nothing, locks no stream.
 */
extern bool evs_store_insert_passes(Relation events, text *stream, const EvsBatch *batch);

#endif							/* EVS_STORE_INSERT_H */
