/*
 * gate.h - keep who has used tables that are to be exchanged from beginning to append.
 */
#ifndef EVS_GATE_H
#define EVS_GATE_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "storage/lock.h"

extern void evs_gate_init(void);

/*
 * For appenders, before they lock the log.
 * Errors: 40001 where the transaction has used tables that are about to be exchanged.
 */
extern void evs_gate_pass(void);

/*
 * Who has used one of these tables and comes to append waits, to the end of the transaction
 * or until evs_gate_refuse().  There is room for some: the first are those that count.  Nothing
 * happens where not all sessions would look, or where another rebuild does it.
 */
extern void evs_gate_close(List *relations);

/* If it is closed, to be kept over the commit: by this lock. */
extern bool evs_gate_is_closed(void);
extern void evs_gate_locktag(LOCKTAG *tag);

/* From here on such a transaction fails instead, which gives the tables back. */
extern void evs_gate_refuse(void);

/* For a caller that ends no transaction with what it has kept. */
extern void evs_gate_open(void);

#endif							/* EVS_GATE_H */
