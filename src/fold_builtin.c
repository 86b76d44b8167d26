/*
 * fold_builtin.c - fold functions that come with evsource.
 *
 * They are functions like any other, and can be called as such.  As handlers
 * they are called without a function call and a composite value: folder.c finds
 * their routine by their entry point.
 */
#include "folder.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "event.h"
#include "jsonb_merge.h"
#include "text_array.h"

PG_FUNCTION_INFO_V1(evsource_fold_merge);
PG_FUNCTION_INFO_V1(evsource_fold_count);
PG_FUNCTION_INFO_V1(evsource_fold_sum);

/* ---- states of one number ---- */

/* The number under a state's key, or NULL; it is a part of the state. */
static Numeric
number_in(Jsonb *state, const char *name)
{
	JsonbValue	key;
	JsonbValue *value;

	if (!JB_ROOT_IS_OBJECT(state))
		return NULL;
	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	value = findJsonbValueFromContainer(&state->root, JB_FOBJECT, &key);
	return value != NULL && value->type == jbvNumeric ? value->val.numeric : NULL;
}

/* {"name": number} */
static Jsonb *
make_number(const char *name, Numeric number)
{
	JsonbInState parse = {0};
	JsonbValue	key;
	JsonbValue	value;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	value.type = jbvNumeric;
	value.val.numeric = number;

	pushJsonbValue(&parse, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&parse, WJB_KEY, &key);
	pushJsonbValue(&parse, WJB_VALUE, &value);
	pushJsonbValue(&parse, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(parse.result);
}

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
	Numeric		count = number_in(state, "count");

	return count == NULL ? 0 :
		DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(count)));
}

static int64
one_more(int64 count)
{
	if (count == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("count of events is out of range"),
				 errdetail("It is " INT64_FORMAT " already.", count),
				 errhint("Use a handler of your own that keeps the count in a numeric.")));
	return count + 1;
}

static Jsonb *
make_count(int64 count)
{
	return make_number("count",
					   DatumGetNumeric(DirectFunctionCall1(int8_numeric, Int64GetDatum(count))));
}

static void *
count_expand(Jsonb *state, const EvsProjection *projection)
{
	CountState *count = palloc(sizeof(CountState));

	count->count = count_of(state);
	return count;
}

static void
count_advance(void *state, const EvsEvent *event)
{
	CountState *count = state;

	count->count = one_more(count->count);
}

static Jsonb *
count_flatten(const void *state)
{
	return make_count(((const CountState *) state)->count);
}

/* ---- sum: {"sum": n} of what stands at a path in the data ---- */

typedef struct SumState
{
	Numeric		sum;			/* a chunk of its own */
	MemoryContext context;		/* holds it */
	text	  **path;
	int			npath;
} SumState;

/* "{total,net}", for messages */
static char *
path_text(text **path, int npath)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < npath; i++)
		appendStringInfo(&text, "%s%s", i == 0 ? "{" : ",", text_to_cstring(path[i]));
	appendStringInfoChar(&text, '}');
	return text.data;
}

/*
 * What stands at the path, as data #> path finds it.  False: nothing, or null.
 */
static bool
find_at_path(Jsonb *data, text **path, int npath, JsonbValue *found)
{
	JsonbContainer *container = &data->root;

	for (int i = 0; i < npath; i++)
	{
		text	   *step = path[i];
		JsonbValue *value;

		if (i > 0)
		{
			if (found->type != jbvBinary)
				return false;
			container = found->val.binary.data;
		}
		if (JsonContainerIsObject(container))
			value = getKeyJsonValueFromContainer(container, VARDATA_ANY(step),
												 VARSIZE_ANY_EXHDR(step), found);
		else if (JsonContainerIsArray(container) && !JsonContainerIsScalar(container))
		{
			char	   *digits = text_to_cstring(step);
			char	   *end;
			long		index = strtol(digits, &end, 10);

			if (end == digits || *end != '\0')
				return false;
			if (index < 0)
				index += JsonContainerSize(container);
			value = index < 0 || index > PG_UINT32_MAX ? NULL :
				getIthJsonbValueFromContainer(container, index);
			if (value != NULL)
				*found = *value;
		}
		else
			return false;
		if (value == NULL)
			return false;
	}
	return found->type != jbvNull;
}

/* sum + what the event has at the path, in CurrentMemoryContext; or the sum itself. */
static Numeric
add_from(Numeric sum, Jsonb *data, text **path, int npath)
{
	JsonbValue	value = {.type = jbvNull};

	if (!find_at_path(data, path, npath, &value))
		return sum;
	if (value.type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("evsource.fold_sum requires a number"),
				 errdetail("It stands at the path %s of the event's data.", path_text(path, npath)),
				 errhint("Numbers in JSON have no quotes around them.")));
	return DatumGetNumeric(DirectFunctionCall2(numeric_add, NumericGetDatum(sum),
											   NumericGetDatum(value.val.numeric)));
}

static Numeric
zero(void)
{
	return DatumGetNumeric(DirectFunctionCall1(int8_numeric, Int64GetDatum(0)));
}

static void *
sum_expand(Jsonb *state, const EvsProjection *projection)
{
	SumState   *expanded = palloc(sizeof(SumState));
	Numeric		sum = number_in(state, "sum");

	expanded->sum = sum ? DatumGetNumericCopy(NumericGetDatum(sum)) : zero();
	expanded->context = CurrentMemoryContext;
	expanded->path = projection->path;
	expanded->npath = projection->npath;
	return expanded;
}

/* A run may be of a million events: each sum gives its memory to the next. */
static void
sum_advance(void *state, const EvsEvent *event)
{
	SumState   *expanded = state;
	MemoryContext caller = MemoryContextSwitchTo(expanded->context);
	Numeric		sum = add_from(expanded->sum, event->data, expanded->path, expanded->npath);

	if (sum != expanded->sum)
	{
		pfree(expanded->sum);
		expanded->sum = sum;
	}
	MemoryContextSwitchTo(caller);
}

static Jsonb *
sum_flatten(const void *state)
{
	return make_number("sum", ((const SumState *) state)->sum);
}

/* ---- finding them ---- */

static const EvsFoldRoutine routines[] = {
	{.function = evsource_fold_merge, .step = merge_step},
	{
		.function = evsource_fold_count,
		.expand = count_expand,
		.advance = count_advance,
		.flatten = count_flatten
	},
	{
		.function = evsource_fold_sum,
		.expand = sum_expand,
		.advance = sum_advance,
		.flatten = sum_flatten
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
	PG_RETURN_JSONB_P(make_count(one_more(count_of(PG_GETARG_JSONB_P(0)))));
}

/*
 * evsource.fold_sum(state jsonb, event evsource.event, path text[]) returns
 * jsonb: {"sum": n}, what stands at the path of the event's data added to the
 * sum in the state.  Where there is nothing, or null, nothing is added.
 *
 * Errors: 22023 when it is no number, 22004 for a null in the path.
 */
Datum
evsource_fold_sum(PG_FUNCTION_ARGS)
{
	Numeric		sum = number_in(PG_GETARG_JSONB_P(0), "sum");
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(1);
	text	  **path;
	int			npath;
	bool		isnull;
	Datum		data = GetAttributeByNum(event, EVS_EVENT_DATA, &isnull);

	evs_text_array_parameter(PG_GETARG_ARRAYTYPE_P(2), "path", &path, &npath);
	if (sum == NULL)
		sum = zero();
	if (!isnull && npath > 0)
		sum = add_from(sum, DatumGetJsonbP(data), path, npath);
	PG_RETURN_JSONB_P(make_number("sum", sum));
}
