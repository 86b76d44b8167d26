/*
 * snapshot_history.h - the snapshots before the newest one, and the bases of
 * streams whose beginning is gone: the rows of evsource.snapshot_history.
 */
#ifndef EVS_SNAPSHOT_HISTORY_H
#define EVS_SNAPSHOT_HISTORY_H

#include "evsource.h"
#include "snapshots.h"

/*
 * The newest kept snapshot of a stream that is below this version and whose
 * events all occurred before this time (DT_NOEND: whenever); false if there is
 * none.
 */
extern bool evs_history_read(const char *projection, text *key, int64 below,
							 TimestampTz before, Snapshot snapshot, EvsSnapshot *row);

/*
 * The state of a stream just before its first event that is left, and in
 * row->upto the version of the last one that is gone; without events: there was
 * none.  False: its beginning is not gone, or it is not known what the projection would
 * have taken of it.
 */
extern bool evs_history_base(const EvsProjection *projection, text *key, Snapshot snapshot,
							 EvsSnapshot *row);

/* Make this state the base; upto is the version of the last event to go. */
extern void evs_history_set_base(const EvsProjection *projection, text *key,
								 const EvsState *state, int64 upto);

/* The streams of which it has a base with events, in order (char *). */
extern List *evs_history_base_keys(const char *projection);

/* How many truncated events the bases of a projection stand for. */
extern int64 evs_history_base_events(const char *projection);

/*
 * 55000 if a base of the projection cannot be used with the definition that it is
 * to have: each is brought up, to see whether that can be done.
 */
extern void evs_history_check_bases(EvsProjection *projection);

/*
 * The snapshots of these keys (a text[]) are about to be replaced: keep them;
 * and when they were, drop those that are more than the policy keeps.
 */
extern void evs_history_keep(const EvsProjection *projection, Datum keys);
extern void evs_history_trim(const EvsProjection *projection, Datum keys);

/* Drop the snapshots of all keys that are more than the policy keeps. */
extern void evs_history_trim_all(const EvsProjection *projection);

/* Remove all of a projection, or all but its bases; returns how many there were. */
extern int64 evs_history_clear(const char *projection, bool bases);

#endif							/* EVS_SNAPSHOT_HISTORY_H */
