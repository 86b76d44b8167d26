/*
 * scan.h - walk the stored events of a stream, a category or the whole log.
 *
 * No privilege is checked here: the caller has done it (read.c as the invoker,
 * dispatch as the projection's owner).
 */
#ifndef EVS_SCAN_H
#define EVS_SCAN_H

#include "evsource.h"

#include "utils/snapshot.h"

typedef struct EvsScan EvsScan;

/*
 * One stream, versions from..to (both inclusive), ascending or, if backward,
 * descending.
 */
extern EvsScan *evs_scan_stream(text *stream, int64 from_version,
								int64 to_version, bool backward,
								Snapshot snapshot);

/*
 * The log in order of position: after < position <= upto, only what the filter
 * lets through (NULL = everything).  Uses the category index when the filter
 * names exactly one category.
 */
extern EvsScan *evs_scan_log(int64 after, int64 upto,
							 const EvsFilter *filter, Snapshot snapshot);

/* The next event.  Its pointers are valid until the next call on this scan. */
extern bool evs_scan_next(EvsScan *scan, EvsEvent *event);
extern void evs_scan_end(EvsScan *scan);

/* Copies up to max_events of what the scan still has into memory of its own. */
extern EvsBatch *evs_scan_batch(EvsScan *scan, int max_events);

/* Does the filter (NULL = everything) let this event through? */
extern bool evs_filter_accepts(const EvsFilter *filter, const EvsEvent *event);

#endif							/* EVS_SCAN_H */
