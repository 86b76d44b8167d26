/*
 * text_array.c - text[] of texts or of names, and back.
 */
#include "text_array.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

static Datum
array_of(Datum *elements, int count)
{
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
}

Datum
evs_text_array(text *const *texts, int count)
{
	Datum	   *elements = palloc(Max(count, 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
		elements[i] = PointerGetDatum(texts[i]);
	return array_of(elements, count);
}

Datum
evs_text_array_of_names(List *names)
{
	Datum	   *elements = palloc(Max(list_length(names), 1) * sizeof(Datum));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, names)
		elements[count++] = CStringGetTextDatum(lfirst(cell));
	return array_of(elements, count);
}

void
evs_text_array_read(Datum array, text ***texts, int *count)
{
	Datum	   *elements;

	deconstruct_array(DatumGetArrayTypePCopy(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, count);
	*texts = palloc(Max(*count, 1) * sizeof(text *));
	for (int i = 0; i < *count; i++)
		(*texts)[i] = DatumGetTextPP(elements[i]);
}

void
evs_text_array_parameter(ArrayType *array, const char *name, text ***texts, int *count)
{
	Datum	   *elements;
	bool	   *nulls;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("array \"%s\" must have one dimension", name),
				 errdetail("It has %d dimensions.", ARR_NDIM(array)),
				 errhint("Pass an array like '{a,b}'.")));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, count);
	*texts = palloc(Max(*count, 1) * sizeof(text *));
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("array \"%s\" must not contain nulls", name),
					 errdetail("Element %d is null.", i + 1),
					 errhint("Leave the nulls out.")));
		(*texts)[i] = DatumGetTextPP(elements[i]);
	}
}

List *
evs_text_array_parameter_names(ArrayType *array, const char *name)
{
	List	   *names = NIL;
	text	  **texts;
	int			count;

	evs_text_array_parameter(array, name, &texts, &count);
	for (int i = 0; i < count; i++)
		names = lappend(names, text_to_cstring(texts[i]));
	return names;
}
