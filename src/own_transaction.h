/*
 * own_transaction.h - a transaction of a worker's own.
 */
#ifndef EVS_OWN_TRANSACTION_H
#define EVS_OWN_TRANSACTION_H

#include "evsource.h"

/* READ COMMITTED, may write, with a snapshot pushed. */
extern void evs_own_transaction_begin(void);
extern void evs_own_transaction_commit(void);

/* After an error in one: log it, end the transaction, go on in this context. */
extern void evs_own_transaction_give_up(MemoryContext caller);

#endif							/* EVS_OWN_TRANSACTION_H */
