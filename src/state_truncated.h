/*
 * state_truncated.h - read models, and states of folds that are not keyed by stream,
 * when events that made them are gone.
 */
#ifndef EVS_STATE_TRUNCATED_H
#define EVS_STATE_TRUNCATED_H

#include "evsource.h"
#include "projection.h"
#include "snapshots.h"

#include "utils/snapshot.h"

/*
 * The events of a stream before this version are about to go: note it, if the
 * projection takes any of them.  The caller has the lock on its name, and the rebuild's:
 * a version beside the read model may have them, too.
 */
extern void evs_truncated_note(const EvsProjection *projection, text *stream, int64 before);

/* All is made anew, of what is left: a warning, if that is less. */
extern void evs_truncated_forget(const EvsProjection *projection);

/* That warning, for whoever drops the version that has been replaced. */
extern void evs_truncated_warn(const char *projection, const char *stream);

/*
 * The read model is exchanged for the version beside it: so is what they stand for.
 * The caller has the locks on the rebuild and on the name.
 */
extern void evs_truncated_exchange(const char *projection);

/* A warning, if the version that has come into use so never had events that are gone. */
extern void evs_truncated_warn_missed(const char *projection);

/*
 * 55000 if that would lose something, for a caller who meant to begin with tables that
 * were saved.
 */
extern void evs_truncated_check_replay(const EvsProjection *projection);

/* A stream whose truncated events may be in it; NULL: there is none. */
extern char *evs_truncated_stream(const char *projection, Snapshot snapshot);

/*
 * 22023: its state of the past is not known.  55000: its row cannot be used, and
 * nothing takes its place.
 */
pg_noreturn extern void evs_truncated_past(const EvsProjection *projection, text *key,
										   const EvsSnapshot *row, const char *stream);
pg_noreturn extern void evs_truncated_useless(const EvsProjection *projection, text *key,
											  const EvsSnapshot *row, const char *stream);

/*
 * 55000 if a state that stands for truncated events cannot be used with the
 * definition that the projection is to have: each is brought up, to see whether
 * that can be done.
 */
extern void evs_truncated_check(const EvsProjection *old, EvsProjection *new);

#endif							/* EVS_STATE_TRUNCATED_H */
