/*
 * wakeup.h - wait until something was committed, and wake those who wait.
 *
 * Two things can be waited for: events of this database, and one projection's
 * checkpoint.  Waking is a latch: no polling, no NOTIFY, and next to nothing
 * while nobody waits.
 */
#ifndef EVS_WAKEUP_H
#define EVS_WAKEUP_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "storage/lock.h"

#include "shmem.h"

/*
 * Whoever commits.  All of it is done when the transaction ends: after it has
 * become visible and has released its locks.
 */

/*
 * This bound was withdrawn: the safe position may have risen.  Called by the
 * transaction callback of horizon.c, on commit and on abort.
 */
extern void evs_wakeup_appended(int64 bound);

/* This transaction appends an event, of this stream and type. */
extern void evs_wakeup_event(const text *stream, const text *type);

/* Or events that nobody looks at. */
extern void evs_wakeup_any_event(void);

/* This transaction lets a cursor of a subscription go: one who waits for it may have it. */
extern void evs_wakeup_subscription(const char *subscription);

/* This transaction changes a subscription: all who wait for it are to look at it. */
extern void evs_wakeup_subscription_changed(const char *subscription);

/* This transaction has locked one: others can have it when it is rolled back. */
extern void evs_wakeup_holds_cursor(const char *subscription);
extern bool evs_wakeup_holds_any_cursor(void);

/* This transaction moves the checkpoint of a projection. */
extern void evs_wakeup_projection(const char *projection);

/*
 * Does anybody wait for that?  Who has registered for events and asks this misses
 * nobody who registers and then calls evs_wakeup_followers().
 */
extern bool evs_wakeup_is_awaited(const char *projection);

/* Wake those who wait for events, now, to have them ask that. */
extern void evs_wakeup_followers(void);

/* This transaction changes what projections there are: wake all who wait. */
extern void evs_wakeup_changed(void);

/* Has it, so far?  Preloaded, the daemon is to look at it when it has committed. */
extern bool evs_wakeup_has_changed(void);

/* This transaction begins or ends to listen: the daemon is to look at it. */
extern void evs_wakeup_daemon(void);

/* This transaction creates a database, or opens it: the launcher is to look at it. */
extern void evs_wakeup_database_opened(Oid database);

/* Wake all who wait in this database, now, to have them see who needs it. */
extern void evs_wakeup_everybody(void);

/* A prepared transaction was committed or rolled back, just now. */
extern void evs_wakeup_prepared_ended(void);

/*
 * Whoever waits.
 *
 * A process waits for one thing at a time:
 *
 *	evs_wakeup_register_...()	from now on our latch is set
 *	look						whether there is still something to wait for
 *	evs_wakeup_sleep()			if so; then look again
 *	evs_wakeup_unregister()		on every way out
 *
 * Who looks before it has registered loses a wake-up.  It has to look with a
 * snapshot that is taken after it has registered (GetLatestSnapshot()), or by
 * evs_horizon_safe_position().  Waking up means only that looking is worth it.
 *
 * Without shared memory the registration belongs to the transaction and the
 * process must be in the same transaction while it sleeps: see
 * evs_wakeup_needs_transaction().  With shared memory it needs none.
 *
 * Errors: 55000 when the library is another than the one that runs the server's
 * shared memory; XX000 when the process has registered already.
 */
extern void evs_wakeup_register_events(void);

/* The daemon, for what concerns it alone. */
extern void evs_wakeup_register_daemon(void);

/*
 * For a subscription, and for events: of a few kinds, or all.  Such a registration
 * lets the process sleep while others append; but the events that it wants may be
 * committed and not yet safe to read, because of an open append of any other.  Who
 * finds that must want all until it is over, but of those that do not hold it back
 * none.  And a subscription may be changed meanwhile.
 */
typedef struct EvsWanted
{
	int			nkinds;			/* 0: all */
	uint32		kinds[EVS_WAITER_KINDS];
} EvsWanted;

/* What a filter lets through, or more if that cannot be told by few kinds. */
extern void evs_wakeup_wanted(const EvsFilter *filter, EvsWanted *wanted);

/*
 * Of those that wait for one subscription one is woken, and one that leaves has another
 * look in its place: see wakeup_group.c.  So each tells when it looks, and what came of
 * that: whether, having found nothing, it watches what will be there at some time to come.
 * False: it was woken meanwhile, and is to look again.
 */
extern void evs_wakeup_looks(void);
extern bool evs_wakeup_found_nothing(bool watches);

extern void evs_wakeup_register_subscription(const char *subscription, const EvsWanted *wanted);

/*
 * Having looked: what to be woken by from now on.  0: by what is wanted.  Else events of
 * these positions are held back: by any append whose bound is that or lower, when it
 * ends.  True: something else did so before, look again.  If not, a caller that has given
 * a bound asks evs_horizon_is_held() once more before it sleeps.
 */
extern bool evs_wakeup_want(const EvsWanted *wanted, int64 held_at);
extern void evs_wakeup_unregister(void);
extern bool evs_wakeup_needs_transaction(void);

/*
 * Sleep until the latch is set, or until so many milliseconds have passed (-1:
 * for ever), or until it is time to look all the same: where it cannot be
 * guaranteed that everybody who should wake us has loaded the library, a second
 * is the limit.  Takes interrupts, so it may not return.
 */
extern void evs_wakeup_sleep(long timeout, uint32 wait_event);

/*
 * All of it, for a session that waits for a projection: sleep until the condition holds, and return true;
 * or false when the timeout (in milliseconds, -1: none) is over.  The condition
 * is looked at first with the registration in force, then whenever we are woken.
 */
typedef bool (*EvsWakeupCondition) (void *argument);

extern bool evs_wakeup_wait_projection(const char *projection,
									   EvsWakeupCondition condition, void *argument,
									   long timeout);

/* The processes that have registered, in this database.  By the locks that there are, if it must be. */
extern List *evs_wakeup_sleepers(const LockData *locks);

/*
 * What pg_stat_activity shows as wait_event while we sleep: our own name where
 * the server allows it (17), else "Extension".  The name is a constant; each of
 * them is asked for once and kept by the caller.
 */
extern uint32 evs_wakeup_wait_event(const char *name);

extern void evs_wakeup_init(void);

#endif							/* EVS_WAKEUP_H */
