/*
 * own_transaction.h - a transaction of a worker's own.
 */
#ifndef EVS_OWN_TRANSACTION_H
#define EVS_OWN_TRANSACTION_H

#include "evsource.h"

/* READ COMMITTED, may write, with a snapshot pushed. */
extern void evs_own_transaction_begin(void);
extern void evs_own_transaction_commit(void);

#endif							/* EVS_OWN_TRANSACTION_H */
