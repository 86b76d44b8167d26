/*
 * waited.h - what a transaction reads after it has waited.
 */
#ifndef EVS_WAITED_H
#define EVS_WAITED_H

#include "evsource.h"

#include "nodes/parsenodes.h"
#include "storage/proc.h"

extern void evs_waited_init(void);

/* The statement that runs waits. */
extern void evs_waited_note(void);

/*
 * That transaction of another process waits, and keeps its snapshot.  Only where the
 * library is preloaded, so that it will look.
 */
extern void evs_waited_tell(const PGPROC *process, LocalTransactionId transaction);

/* COPY reads a table without the executor. */
extern void evs_waited_before_copy(const CopyStmt *statement);

#endif							/* EVS_WAITED_H */
