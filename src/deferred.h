/*
 * deferred.h - triggers that are to fire at the commit, which a handler cannot have.
 */
#ifndef EVS_DEFERRED_H
#define EVS_DEFERRED_H

#include "evsource.h"

/* Warn that writing this table of a read model is going to fail, or may, if so. */
extern void evs_deferred_warn(Oid table);

/* In an error context callback: a hint for the error that a handler gets who has done it. */
extern void evs_deferred_hint(void);

#endif							/* EVS_DEFERRED_H */
