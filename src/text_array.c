/*
 * text_array.c - text[] of texts or of names, and back.
 */
#include "text_array.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
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
