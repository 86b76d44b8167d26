/*
 * fold_builtin.c - fold functions that come with evsource.
 *
 * They are functions like any other, and can be called as such.  As handlers
 * they are called without a function call and a composite value: folder.c finds
 * their routine by their entry point.
 */
#include "folder.h"

#include "access/htup_details.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "event.h"
#include "jsonb_merge.h"

PG_FUNCTION_INFO_V1(evsource_fold_merge);
PG_FUNCTION_INFO_V1(evsource_fold_count);

/* ---- merge: state || data ---- */

static Jsonb *
merge_step(Jsonb *state, const EvsEvent *event)
{
	return evs_jsonb_merge(state, event->data);
}

/* ---- count: {"count": n} ---- */

typedef struct CountState
{
	int64		count;
} CountState;

/* The count in a state; one without it counts from 0. */
static int64
count_of(Jsonb *state)
{
	JsonbValue	key;
	JsonbValue *value;

	if (!JB_ROOT_IS_OBJECT(state))
		return 0;
	key.type = jbvString;
	key.val.string.val = "count";
	key.val.string.len = strlen("count");
	value = findJsonbValueFromContainer(&state->root, JB_FOBJECT, &key);
	if (value == NULL || value->type != jbvNumeric)
		return 0;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8,
											 NumericGetDatum(value->val.numeric)));
}

static Jsonb *
make_count(int64 count)
{
	JsonbParseState *parse = NULL;
	JsonbValue	key;
	JsonbValue	value;

	key.type = jbvString;
	key.val.string.val = "count";
	key.val.string.len = strlen("count");
	value.type = jbvNumeric;
	value.val.numeric =
		DatumGetNumeric(DirectFunctionCall1(int8_numeric, Int64GetDatum(count)));

	pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&parse, WJB_KEY, &key);
	pushJsonbValue(&parse, WJB_VALUE, &value);
	return JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_OBJECT, NULL));
}

static void *
count_expand(Jsonb *state)
{
	CountState *count = palloc(sizeof(CountState));

	count->count = count_of(state);
	return count;
}

static void
count_advance(void *state, const EvsEvent *event)
{
	((CountState *) state)->count++;
}

static Jsonb *
count_flatten(const void *state)
{
	return make_count(((const CountState *) state)->count);
}

/* ---- finding them ---- */

static const EvsFoldRoutine routines[] = {
	{.function = evsource_fold_merge, .step = merge_step},
	{
		.function = evsource_fold_count,
		.expand = count_expand,
		.advance = count_advance,
		.flatten = count_flatten
	}
};

const EvsFoldRoutine *
evs_fold_routine(PGFunction function)
{
	for (int i = 0; i < lengthof(routines); i++)
	{
		if (routines[i].function == function)
			return &routines[i];
	}
	return NULL;
}

/* ---- as functions ---- */

/*
 * evsource.fold_merge(state jsonb, event evsource.event) returns jsonb: the
 * event's data merged into the state, as by ||.
 */
Datum
evsource_fold_merge(PG_FUNCTION_ARGS)
{
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(1);
	bool		isnull;
	Datum		data = GetAttributeByNum(event, EVS_EVENT_DATA, &isnull);

	if (isnull)
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	PG_RETURN_JSONB_P(evs_jsonb_merge(PG_GETARG_JSONB_P(0), DatumGetJsonbP(data)));
}

/*
 * evsource.fold_count(state jsonb, event evsource.event) returns jsonb:
 * {"count": n}, one more than in the state.
 */
Datum
evsource_fold_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(make_count(count_of(PG_GETARG_JSONB_P(0)) + 1));
}
