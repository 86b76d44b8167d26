/*
 * waited.h - what a transaction reads after it has waited.
 */
#ifndef EVS_WAITED_H
#define EVS_WAITED_H

#include "evsource.h"

#include "nodes/parsenodes.h"

extern void evs_waited_init(void);

/* The statement that runs waits. */
extern void evs_waited_note(void);

/*
 * Snapshots that do not see this transaction may outlive an exchange of what it has built.
 * Before the exchange, and only where the library is preloaded, so that all will look.
 */
extern void evs_waited_overtake(TransactionId built);

/* COPY reads a table without the executor. */
extern void evs_waited_before_copy(const CopyStmt *statement);

#endif							/* EVS_WAITED_H */
