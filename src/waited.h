/*
 * waited.h - what a statement reads after it has waited.
 */
#ifndef EVS_WAITED_H
#define EVS_WAITED_H

#include "evsource.h"

extern void evs_waited_init(void);

/* The statement that runs waits. */
extern void evs_waited_note(void);

#endif							/* EVS_WAITED_H */
