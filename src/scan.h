/*
 * scan.h - walk the stored events of a stream, a category or the whole log.
 *
 * No privilege is checked here: the caller has done it (read.c as the invoker,
 * dispatch as the projection's owner).
 */
#ifndef EVS_SCAN_H
#define EVS_SCAN_H

#include "evsource.h"
#include "clock.h"

#include "executor/tuptable.h"
#include "utils/array.h"
#include "utils/relcache.h"
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
 * names exactly one category, and to find the first event when it names a few.
 * The filter must live as long as the scan.
 */
extern EvsScan *evs_scan_log(int64 after, int64 upto,
							 const EvsFilter *filter, Snapshot snapshot);

/* Positions first to last. */
typedef struct EvsRun
{
	int64		first;
	int64		last;
} EvsRun;

/*
 * What this transaction has stored at positions that it has drawn: those in the runs, one at
 * least, which are in the order of positions and live as long as the scan.  To read it back is
 * no conflict with other serializable transactions.
 */
extern EvsScan *evs_scan_own(const EvsRun *runs, int count, const EvsFilter *filter,
							 Snapshot snapshot);

/* The event to which a client gave this id (not: one that the server made). */
extern EvsScan *evs_scan_id(const pg_uuid_t *id, Snapshot snapshot);

/*
 * The next event, its data brought to the newest version of its type.  Its
 * pointers are valid until the next call on this scan.
 */
extern bool evs_scan_next(EvsScan *scan, EvsEvent *event);

/*
 * The same for a caller that wants what the filter lets through after a position.
 * Of another event it gets version and position, and passed is true: the data is
 * neither fetched nor upcast, which may fail.
 */
extern bool evs_scan_next_or_pass(EvsScan *scan, const EvsFilter *filter, int64 after,
								  EvsEvent *event, bool *passed);
extern void evs_scan_end(EvsScan *scan);

/*
 * Let go of the page of the table that the scan is on, with the event that it has given:
 * VACUUM waits for whoever keeps one.  The second one does so after each event, too, which
 * is a copy then.  Both are for callers that are about to do what may take long.
 */
extern void evs_scan_let_go(EvsScan *scan);
extern void evs_scan_keep_no_page(EvsScan *scan);

/* From here on the data is what is stored. */
extern void evs_scan_as_stored(EvsScan *scan);

/* The next row as it is stored, or NULL; and the table it comes from. */
extern TupleTableSlot *evs_scan_next_slot(EvsScan *scan);
extern Relation evs_scan_relation(EvsScan *scan);

/*
 * Copy what the scan still has, up to max_events or memory_kb, whichever is
 * reached first, into CurrentMemoryContext.  A count of 0 means: at its end.
 * bounded: no more than one after the alarm (alarm.h) has rung, for upcasters may be slow.
 */
extern EvsBatch *evs_scan_batch(EvsScan *scan, int max_events, int memory_kb, bool bounded);

/* Has the scan been asked for more than it had? */
extern bool evs_scan_is_done(const EvsScan *scan);

/*
 * End the scan soon after this time, wherever it is, though never among its first
 * rows: EVS_SCAN_STRETCH of them are looked at in any case.  It is not done then, and
 * has passed the events up to a position.
 */
#define EVS_SCAN_STRETCH	2048

extern void evs_scan_until(EvsScan *scan, EvsTime until);
extern int64 evs_scan_passed(EvsScan *scan);

/* Does the filter (NULL = everything) let this event through? */
extern bool evs_filter_accepts(const EvsFilter *filter, const EvsEvent *event);

/*
 * A filter from the SQL parameters categories and types, NULL meaning "all".
 * Errors: 22004 for a NULL element, 22023 for an empty array or one with more
 * than one dimension.  The texts may point into the arrays.
 */
extern void evs_filter_from_arrays(EvsFilter *filter, ArrayType *categories,
								   ArrayType *types);

/* All of it in another context. */
extern EvsFilter evs_filter_copy(MemoryContext context, const EvsFilter *filter);

#endif							/* EVS_SCAN_H */
