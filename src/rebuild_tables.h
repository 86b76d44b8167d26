/*
 * rebuild_tables.h - lock the tables that an online rebuild is to exchange.
 */
#ifndef EVS_REBUILD_TABLES_H
#define EVS_REBUILD_TABLES_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "storage/lock.h"

#include "procedure.h"

/*
 * How long (ms) may be waited for something while appends wait for us?  Less, once one of
 * those who were in the way was found to wait for us.
 */
extern int	evs_tables_moment(const EvsProcedure *procedure);

/*
 * Another attempt begins.  Were those who wait for us spared for as long as that is to be
 * done?  Then it insists.
 */
extern void evs_tables_attempt(EvsProcedure *procedure);

/*
 * Lock them, against readers, too: behind the barrier, or before it.  False: it was not
 * to be had, none is locked, and this was counted as an attempt.
 */
extern bool evs_tables_take(EvsProcedure *procedure, List *relations);
extern bool evs_tables_take_first(EvsProcedure *procedure, List *relations);

/*
 * A transaction that waits for tables that were taken first: note it, to see what becomes of
 * it if it is let in.  Was its session seen to append then, and to wait for us once more?
 */
extern void evs_tables_note(EvsProcedure *procedure, const VirtualTransactionId *transaction,
							int pid);
extern bool evs_tables_appends(const EvsProcedure *procedure, int pid);

/* Forget whom. */
extern void evs_tables_forget(EvsProcedure *procedure);

/* Keep those that were taken first over the commit. */
extern void evs_tables_hold(List *relations);

/* The locks that there are but for ours on these tables, and for who waits for them. */
extern LockData *evs_tables_without(const LockData *locks, const List *relations);

#endif							/* EVS_REBUILD_TABLES_H */
