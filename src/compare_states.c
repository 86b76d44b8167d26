/*
 * compare_states.c - in what the states of two folds differ.
 *
 * A state is jsonb, and compared as that: 1.0 and 1.00 are the same number.
 */
#include "evsource.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "compare.h"
#include "query.h"
#include "text_array.h"

int64
evs_compare_states(const char *one, const char *other, ArrayType *ignored, int64 limit,
				   EvsReportDifference report, void *argument)
{
	static EvsQuery query = {
		"select coalesce(a.key, b.key), a.state, b.state"
		" from (select key, state, case jsonb_typeof(state) when 'object' then state - $3 else state end as content"
		"  from evsource.snapshots where projection = $1) a"
		" full join (select key, state, case jsonb_typeof(state) when 'object' then state - $3 else state end as content"
		"  from evsource.snapshots where projection = $2) b on a.key = b.key"
		" where a.content is distinct from b.content"
		" order by 1 limit $4",
		4, {TEXTOID, TEXTOID, TEXTARRAYOID, INT8OID}, SPI_OK_SELECT
	};
	Datum		values[] = {
		CStringGetTextDatum(one),
		CStringGetTextDatum(other),
		ignored ? PointerGetDatum(ignored) : evs_text_array_of_names(NIL),
		Int64GetDatum(limit),
	};
	EvsQueryResult result;
	int64		count;

	if (limit <= 0)
		return 0;
	evs_query_begin(&query, values, NULL, GetActiveSnapshot(), &result);
	count = (int64) result.count;
	for (int64 i = 0; i < count; i++)
	{
		Datum		columns[3];
		bool		nulls[3];
		EvsDifference difference = {0};

		heap_deform_tuple(result.rows[i], result.tupdesc, columns, nulls);
		difference.key = DatumGetTextPP(columns[0]);
		difference.one = nulls[1] ? NULL : DatumGetJsonbP(columns[1]);
		difference.other = nulls[2] ? NULL : DatumGetJsonbP(columns[2]);
		report(argument, &difference);
	}
	evs_query_end(&result);
	return count;
}

static Datum
without(Jsonb *state, ArrayType *ignored)
{
	Datum		value = JsonbPGetDatum(state);

	if (ignored == NULL || !JB_ROOT_IS_OBJECT(state))
		return value;
	return DirectFunctionCall2(jsonb_delete_array, value, PointerGetDatum(ignored));
}

bool
evs_same_state(Jsonb *one, Jsonb *other, ArrayType *ignored)
{
	return DatumGetBool(DirectFunctionCall2(jsonb_eq, without(one, ignored),
											without(other, ignored)));
}
