/*
 * rebuild_online.h - what the two halves of an online rebuild share: building
 * (rebuild_online.c) and the exchange (rebuild_exchange.c).
 */
#ifndef EVS_REBUILD_ONLINE_H
#define EVS_REBUILD_ONLINE_H

#include "evsource.h"
#include "rebuild_row.h"
#include "shadow.h"

/* Do appends keep the old version up to date? */
extern bool evs_online_is_live(const EvsProjection *projection);

/*
 * Is the new version, once it is in place, one that appends keep up to date?
 */
extern bool evs_online_will_live(const EvsProjection *projection);

/* Tell whoever asks the daemon for a rebuild if it will be in place, as far as can be seen now. */
extern void evs_online_foresee(const EvsRebuild *rebuild);

/* The projection as the new version sees it. */
extern EvsProjection *evs_online_redirect(const EvsRebuild *rebuild,
										  const EvsProjection *projection,
										  EvsShadowWatch *watch);

/* Apply a batch to the new version.  Errors: 55000 when the handler uses the old one. */
extern int64 evs_online_apply(EvsProcedure *procedure, EvsRebuild *rebuild,
							  EvsProjection *redirected, EvsShadowWatch *watch, int64 upto);

/*
 * Lock what is locked when a version is dropped, or say that it was not to be had.
 * Errors: 55P03 when that was said too often.
 */
extern bool evs_online_lock_dropped(EvsProcedure *procedure, const EvsRebuild *rebuild);

/*
 * The tables that somebody changes, if what is in the way may be gone when that is done: an
 * index is not valid while it is made or rebuilt CONCURRENTLY, which holds a lock.
 */
extern List *evs_online_find_changed(const EvsProjection *projection, const char *obstacle);

/* Can the tables still be exchanged?  Error: 55000 when something is in the way. */
extern void evs_online_check_again(const EvsRebuild *rebuild, EvsProjection *projection);

/*
 * The same now and then on the way, so that it is not found out at the end.  False: the tables
 * are others than when it began.  Who is at work on them just then is not waited for.
 */
extern bool evs_online_look(EvsProcedure *procedure, const EvsRebuild *rebuild,
							EvsProjection *projection);

/* What was built is of no use any more: begin anew. */
extern EvsOutcome evs_online_start_over(EvsProcedure *procedure, EvsRebuild *rebuild);

/*
 * The new version has come to the end and no reader is left who does not see it:
 * hold the projection still and bring it to where the old one is.
 */
extern EvsOutcome evs_exchange_settle(EvsProcedure *procedure, EvsRebuild *rebuild);

/* The projection has been held still since the last transaction: go on. */
extern EvsOutcome evs_exchange_go_on(EvsProcedure *procedure, EvsRebuild *rebuild);

#endif							/* EVS_REBUILD_ONLINE_H */
