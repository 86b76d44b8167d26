/*
 * rebuild_readers.h - wait until all snapshots see what a rebuild has committed.
 */
#ifndef EVS_REBUILD_READERS_H
#define EVS_REBUILD_READERS_H

#include "evsource.h"
#include "procedure.h"

/*
 * From here on: every snapshot that does not see this transaction is old.  By then
 * so many events are applied; while they are no more, what it sees is the same.
 */
extern void evs_rebuild_readers_begin(EvsProcedure *procedure, int64 events);

/* Forget them, and the transaction. */
extern void evs_rebuild_readers_forget(EvsProcedure *procedure);

/*
 * Are they gone?  Of a transaction that has ended.  But for those of sessions that sleep
 * in evsource's own calls and, while the projection is held still, of those who cannot go
 * on before it is let go.  If not, it is noted who has them; and whether it is in vain to
 * wait for them, for they wait for us.  If one of them comes to tables that were taken
 * before, tables_taken is no more: let go of these.
 */
extern bool evs_rebuild_readers_gone(EvsProcedure *procedure, bool still, List *taken);

#endif							/* EVS_REBUILD_READERS_H */
