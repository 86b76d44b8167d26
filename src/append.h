/*
 * append.h - append events to one stream.
 */
#ifndef EVS_APPEND_H
#define EVS_APPEND_H

#include "evsource.h"
#include "streams.h"
#include "utils/relcache.h"

typedef struct EvsAppended
{
	int64		first_version;	/* of the batch; 0 when the batch is empty */
	int64		version;		/* of its last event: the stream's version */
	bool		version_is_hidden;	/* its user may not know it: nothing was appended */
	int64		position;		/* of its last event; 0 when the batch is empty */
	pg_uuid_t	id;				/* of its last event */
	bool		stored;			/* false: nothing new, see design "Append" */
} EvsAppended;

/*
 * Append the batch to the stream and dispatch it to inline projections.  The
 * caller has validated names and shapes; privileges are checked here.
 */
extern void evs_append(text *stream, EvsBatch *batch, int64 expected_version,
					   EvsAppended *appended);

/*
 * Append events of any number of streams, each in its order, whatever versions
 * their streams have (append_many.c).  They are new: their ids are the server's.
 */
extern void evs_append_many(EvsBatch *batch);

/*
 * Before events are appended that are not in the order of their streams' names: lock the
 * streams in that order, if they are no more than are locked at once.
 */
extern void evs_append_lock_ahead(EvsEvent *appended, int count);

/*
 * The steps that both share, under the lock on the log: 42501 unless the current
 * user may append, 55000 while a validator runs; that the data is what its type
 * says; and, when the events are stored, to hand them to the projections.
 */
extern void evs_append_check(Relation events, const EvsBatch *batch);
extern void evs_append_validate(EvsBatch *batch);
extern void evs_append_dispatch(EvsBatch *batch);

/* Check expected_version as an argument; 22023 for a negative other than -4. */
extern int64 evs_expected_version(FunctionCallInfo fcinfo, int argument);

/* The row (first_version, version, position, stored) of a batch. */
extern Datum evs_append_result(const EvsAppended *appended);

#endif							/* EVS_APPEND_H */
