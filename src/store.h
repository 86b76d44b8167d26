/*
 * store.h - put events into the table.
 */
#ifndef EVS_STORE_H
#define EVS_STORE_H

#include "evsource.h"

#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"

/*
 * May events be written to the table directly?  No when somebody put triggers,
 * rules, policies, constraints or columns of their own on it: then an INSERT has
 * to run.
 */
extern bool evs_store_is_direct(Relation events);

/* Do policies say which rows of it are the current user's? */
extern bool evs_store_is_secured(Relation events);

/* Has the client given the version of the type of any event? */
extern bool evs_store_has_versions(const EvsBatch *batch);

/*
 * Number the batch after "version" of its one stream, draw its positions, and
 * store it.  The stream is locked; the caller holds RowExclusiveLock and has
 * checked privileges.  Fills in version, position and recorded_at.  Raises VE001
 * if the stream has a later version after all and that is not what is expected.
 */
extern void evs_store_batch(Relation events, EvsBatch *batch, int64 version,
							int64 expected_version);

/* The same for events of several locked streams, which have their versions. */
extern void evs_store_numbered(Relation events, EvsBatch *batch);

/*
 * In a PG_CATCH block around a statement: rethrow the error, in the terms of the log
 * (VE002, 40001) if it is what a unique index said in its own.
 */
extern void evs_store_rethrow(MemoryContext context, const char *statement);

/* May an error name this version of the stream: is it one that the user could read? */
extern bool evs_store_may_tell_version(Relation events, text *stream, int64 version);

/* Raise VE002 if the id is one that this store made for a stored event. */
extern void evs_store_check_server_id(Relation events, const pg_uuid_t *id);

/*
 * Put the first row that the keys find into the slot, and see that it is there to
 * stay: another transaction that is adding it is waited for, as the index would
 * wait if it was to be added once more.  Returns false if there is none.
 */
extern bool evs_store_fetch(Relation table, Relation index, ScanKey keys, int nkeys,
							TupleTableSlot *slot);

/*
 * Look up a stored event by id, the client's or the server's; NULL if none.  Waits
 * for a transaction that is storing it.
 */
extern EvsEvent *evs_store_find(Relation events, const pg_uuid_t *id);

/* The same for the first of a client's ids in a range, both ends included. */
extern EvsEvent *evs_store_find_between(Relation events, const pg_uuid_t *first,
										const pg_uuid_t *last);

#endif							/* EVS_STORE_H */
