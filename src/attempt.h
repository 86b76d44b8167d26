/*
 * attempt.h - do something that may fail, in a subtransaction.
 */
#ifndef EVS_ATTEMPT_H
#define EVS_ATTEMPT_H

#include "evsource.h"

/*
 * NULL, or the error that the work ended with, in CurrentMemoryContext; then
 * nothing of it remains.  What ends the process is not caught.
 */
extern ErrorData *evs_attempt(void (*work) (void *), void *arg);

/*
 * In a PG_CATCH block, when the process goes on after the error: FlushErrorState(), and
 * let the next CHECK_FOR_INTERRUPTS see what the error kept it from.
 */
extern void evs_attempt_flush(void);

/* Wait before the next one, with nothing held that was not held before. */
extern void evs_attempt_pause(int milliseconds);

#endif							/* EVS_ATTEMPT_H */
