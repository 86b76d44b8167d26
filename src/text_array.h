/*
 * text_array.h - text[] of texts or of names, and back.
 */
#ifndef EVS_TEXT_ARRAY_H
#define EVS_TEXT_ARRAY_H

#include "evsource.h"

#include "nodes/pg_list.h"

/* The array in CurrentMemoryContext; without elements it is empty, not null. */
extern Datum evs_text_array(text *const *texts, int count);
extern Datum evs_text_array_of_names(List *names);	/* C strings */

/* The elements, none of which is null; they and *texts are in CurrentMemoryContext. */
extern void evs_text_array_read(Datum array, text ***texts, int *count);

#endif							/* EVS_TEXT_ARRAY_H */
