/*
 * old_snapshots.h - wait until all snapshots see what a rebuild has committed.
 */
#ifndef EVS_OLD_SNAPSHOTS_H
#define EVS_OLD_SNAPSHOTS_H

#include "evsource.h"
#include "procedure.h"

/*
 * From here on: every snapshot that does not see this transaction is old.  By then
 * so many events are applied; while they are no more, what it sees is the same.
 */
extern void evs_old_snapshots_begin(EvsProcedure *procedure, int64 events);

/* Forget them, and the transaction. */
extern void evs_old_snapshots_forget(EvsProcedure *procedure);

/*
 * Are they gone?  Of a transaction that has ended.  But for those of transactions
 * that wait to append, if that is what we keep them from.  If not, it is noted who has them.
 */
extern bool evs_old_snapshots_gone(EvsProcedure *procedure, bool but_appenders);

#endif							/* EVS_OLD_SNAPSHOTS_H */
