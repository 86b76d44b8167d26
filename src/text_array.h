/*
 * text_array.h - text[] of texts or of names, and back.
 */
#ifndef EVS_TEXT_ARRAY_H
#define EVS_TEXT_ARRAY_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "utils/array.h"

/* The array in CurrentMemoryContext; without elements it is empty, not null. */
extern Datum evs_text_array(text *const *texts, int count);
extern Datum evs_text_array_of_names(List *names);	/* C strings */

/* The elements, none of which is null; they and *texts are in CurrentMemoryContext. */
extern void evs_text_array_read(Datum array, text ***texts, int *count);

/*
 * The same of a parameter, with its name for the errors: 22023 for an array of several
 * dimensions, 22004 for a null in it.  The texts may point into the array.
 */
extern void evs_text_array_parameter(ArrayType *array, const char *name, text ***texts, int *count);
extern List *evs_text_array_parameter_names(ArrayType *array, const char *name);	/* C strings */

#endif							/* EVS_TEXT_ARRAY_H */
