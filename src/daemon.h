/*
 * daemon.h - the background processes that apply async projections.
 *
 *	launcher.c		one for the server (preloaded), or for a database that
 *					start_daemon() was called in: keeps a coordinator for each
 *	coordinator.c	one for a database: finds out what there is to do
 *	staffing.c		keeps as many workers as that needs
 *	worker.c		applies projections
 *	jobs.c			what a worker has to choose from
 *	crew.c			what they know of each other
 *	daemon.c		what they have in common
 */
#ifndef EVS_DAEMON_H
#define EVS_DAEMON_H

#include "evsource.h"

#include "postmaster/bgworker.h"

#include "crew.h"

/* The settings. */
extern bool evs_daemon_enabled;
extern int	evs_max_workers;
extern int	evs_notify_interval;
extern int	evs_publish_interval;

/* Preloaded: have the launcher started with the server. */
extern void evs_launcher_init(void);

/* Start a launcher for one database; false if there is no room for it. */
extern bool evs_launcher_start(Oid database);

/*
 * Fill in what all our background workers have in common.  The name is for
 * people, the type for pg_stat_activity, the function is one of this library.
 */
extern void evs_daemon_describe(BackgroundWorker *worker, const char *type,
								const char *function, const EvsPost *post);

/*
 * How each of them begins: signals, the database (invalid: none), settings that
 * the work depends on.  Returns what it was told.
 */
extern EvsPost evs_daemon_begin(bool with_database);

/*
 * Has the extension been updated, or made anew, since this was first asked?  Then
 * what this process has looked up, planned and loaded may be of the old one, and
 * it makes room for another process.  In a transaction.
 */
extern bool evs_daemon_is_outdated(void);

/*
 * Is the extension, as it is, the work of this transaction?  Then nobody else can see
 * it, or work with it, before that has committed.
 */
extern bool evs_daemon_is_new(void);

/*
 * Does our database allow no connections any more?  Those who are connected stay,
 * others of us cannot come.  In a transaction.
 */
extern bool evs_daemon_is_shut_out(void);

/* What keeps the daemon from working on this database. */
typedef enum EvsDaemonLack
{
	EVS_DAEMON_LACKS_NOTHING,	/* as far as can be seen here */
	EVS_DAEMON_LACKS_ADOPTION,	/* a copy: evsource.adopt() was not called */
	EVS_DAEMON_LACKS_ROOM,		/* no worker, or no process at all, for want of a free one */
	EVS_DAEMON_IS_OFF,			/* evsource.daemon, in this session or for the database */
	EVS_DAEMON_IS_NOT_STARTED	/* not preloaded: it does not come by itself */
} EvsDaemonLack;

extern EvsDaemonLack evs_daemon_lack(void);

/*
 * Is this a copy of another database, or a restored one, that nobody has adopted?
 * It is one before the first projection of another one can be seen in it.
 */
extern bool evs_daemon_is_in_copy(void);

/* Has somebody told this process to end? */
extern bool evs_daemon_was_told_to_leave(void);

/* Worker: may pg_cancel_backend() end what it does now?  The other processes ignore it. */
extern void evs_daemon_allow_cancel(bool allow);

/* Reload the configuration if that was asked for; returns whether it was. */
extern bool evs_daemon_reload(void);

/* Start a transaction as of now, so that it does not seem to be as old as the process. */
extern void evs_daemon_start_transaction(void);

/*
 * Sleep until something happens, with nothing held.  "Nothing to do" is asked in
 * a transaction, when whatever happens afterwards wakes us: see wakeup.h.  With
 * "events", appends wake us; without, changes of projections alone do.  Others
 * can set our latch at any time.  The timeout is in milliseconds.
 */
extern void evs_daemon_sleep(bool events, bool (*nothing_to_do) (void *argument),
							 void *argument, long timeout);

/* The functions that background workers start in. */
extern PGDLLEXPORT void evs_launcher_main(Datum argument);
extern PGDLLEXPORT void evs_coordinator_main(Datum argument);
extern PGDLLEXPORT void evs_worker_main(Datum argument);

#endif							/* EVS_DAEMON_H */
