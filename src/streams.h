/*
 * streams.h - serialise appends to one stream, and know its last version.
 */
#ifndef EVS_STREAMS_H
#define EVS_STREAMS_H

#include "evsource.h"

#include "utils/relcache.h"

/*
 * Lock the stream until the end of the transaction and return its last version
 * (0: it does not exist).  The caller holds RowExclusiveLock on events and has
 * not yet drawn a position for this stream.  "at_least" is the version that the
 * caller expects, 0 when it knows none: being right about it makes this cheaper.
 */
extern int64 evs_stream_lock(Relation events, text *stream, int64 at_least);

#endif							/* EVS_STREAMS_H */
