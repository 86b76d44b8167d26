/*
 * streams.h - serialise appends to one stream, and know its last version.
 */
#ifndef EVS_STREAMS_H
#define EVS_STREAMS_H

#include "evsource.h"

#include "storage/itemptr.h"
#include "utils/relcache.h"

extern void evs_streams_init(void);

/* expected_version of an append */
#define EVS_EXPECTED_ANY	PG_INT64_MIN	/* whatever it is */
#define EVS_EXPECTED_EXISTS	(-4)			/* at least one event */

/*
 * Lock the stream until the end of the transaction and return its last version
 * (0: it does not exist).  The caller holds RowExclusiveLock on events and has
 * not yet drawn a position for this stream.  "at_least" is the version that the
 * caller expects, 0 when it knows none: being right about it makes this cheaper.
 */
extern int64 evs_stream_lock(Relation events, text *stream, int64 at_least);

/* The same, and the position of its last event, 0 for none. */
extern int64 evs_stream_lock_last(Relation events, text *stream, int64 *position);

/* The most streams that evs_stream_lock_many() takes. */
#define EVS_STREAMS_AT_ONCE	64

/*
 * The same for several streams, of different names and in the order of their
 * bytes, so that sessions take them in one order.  Their events have to be in
 * the table before a stream is locked again.
 */
extern void evs_stream_lock_many(Relation events, text *const *streams,
								 int64 *versions, int count);

extern uint64 evs_stream_hash(const text *stream);

/*
 * evs_stream_lock() at less cost, for who is going to store the next version: lock the
 * stream and return true if it certainly has the version.  It may have later
 * ones, and then storing the next is a unique violation.  False: do it as above.
 */
extern bool evs_stream_lock_behind(Relation events, text *stream, int64 version);

/* Remember where this session stored an event that may be its stream's last. */
extern void evs_stream_remember(const EvsEvent *event, ItemPointer tid);

/*
 * VE001 if the stream's actual version is not what an append expects; the error
 * names it to who may know it.
 */
extern void evs_stream_check_version(Relation events, text *stream,
									 int64 expected, int64 actual);

/* 40001: the transaction's own snapshot does not see all of the stream. */
extern void evs_stream_report_newer(const text *stream);

#endif							/* EVS_STREAMS_H */
