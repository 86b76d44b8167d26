/*
 * swap.h - exchange what two tables hold.
 */
#ifndef EVS_SWAP_H
#define EVS_SWAP_H

#include "evsource.h"

#include "nodes/pg_list.h"

/*
 * Exchange the storage of two tables of the same shape, of their indexes and
 * their sequences, which are paired by name.  The caller holds
 * AccessExclusiveLock on both tables and has created neither in this
 * transaction.
 *
 * Errors: 55000 when they are not of the same shape, 55006 when one of them is
 * in use by the caller's own session.
 */
extern void evs_swap_tables(Oid left, Oid right);

/* The sequences of a table's columns, which go with it. */
extern List *evs_swap_sequences(Oid table);

#endif							/* EVS_SWAP_H */
