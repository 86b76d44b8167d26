/*
 * store_insert.h - put events into the table by an INSERT.
 */
#ifndef EVS_STORE_INSERT_H
#define EVS_STORE_INSERT_H

#include "evsource.h"

/*
 * Store and dispatch the batch through evsource.events' triggers; fills in
 * version, position and recorded_at.  The caller has locked the stream.
 */
extern void evs_store_insert(text *stream, EvsBatch *batch, int64 expected_version);

#endif							/* EVS_STORE_INSERT_H */
