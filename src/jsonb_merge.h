/*
 * jsonb_merge.h - what the operator || does with two objects, at the price of
 * copying them.
 */
#ifndef EVS_JSONB_MERGE_H
#define EVS_JSONB_MERGE_H

#include "evsource.h"

/* to || with, a new value in CurrentMemoryContext. */
extern Jsonb *evs_jsonb_merge(Jsonb *to, Jsonb *with);

#endif							/* EVS_JSONB_MERGE_H */
