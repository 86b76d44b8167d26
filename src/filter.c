/*
 * filter.c - which events somebody wants: make such a filter, and copy it.  scan.c
 * compares events with it.
 */
#include "evsource.h"

#include "utils/array.h"

#include "scan.h"
#include "text_array.h"

/*
 * The elements of a filter's text[], in CurrentMemoryContext.  name is the SQL
 * parameter, for the errors: 22004 for a NULL in it, 22023 when it is empty or
 * has more than one dimension.
 */
static text **
filter_elements(ArrayType *array, const char *name, int *count)
{
	text	  **texts;

	evs_text_array_parameter(array, name, &texts, count);
	if (*count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("array \"%s\" must not be empty", name),
				 errhint("Pass NULL to leave them unrestricted.")));
	return texts;
}

/*
 * Fill a filter from the SQL parameters categories and types, NULL meaning
 * "all".  The texts may point into the arrays.
 */
void
evs_filter_from_arrays(EvsFilter *filter, ArrayType *categories, ArrayType *types)
{
	memset(filter, 0, sizeof(EvsFilter));
	if (categories != NULL)
		filter->categories = filter_elements(categories, "categories",
											 &filter->ncategories);
	if (types != NULL)
		filter->types = filter_elements(types, "types", &filter->ntypes);
}

static text **
copy_texts(MemoryContext context, text *const *values, int count)
{
	text	  **copies = MemoryContextAlloc(context, sizeof(text *) * Max(count, 1));

	for (int i = 0; i < count; i++)
	{
		copies[i] = MemoryContextAlloc(context, VARSIZE_ANY(values[i]));
		memcpy(copies[i], values[i], VARSIZE_ANY(values[i]));
	}
	return copies;
}

EvsFilter
evs_filter_copy(MemoryContext context, const EvsFilter *filter)
{
	EvsFilter	copy = *filter;

	copy.categories = copy_texts(context, filter->categories, filter->ncategories);
	copy.types = copy_texts(context, filter->types, filter->ntypes);
	return copy;
}
